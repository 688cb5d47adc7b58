// Statistics of activations in one pass over memory; trace/stats.py says what they mean.
#pragma once

#include <cstdint>

namespace cotejar {

struct Moments {
    int64_t count, nan_count, inf_count, zero_count;
    double least, greatest;  // of the finite values: +inf and -inf where there are none
    double mean, squared_deviations;
};

// Of at most MOMENTS_CHUNK values; longer arrays are merged from chunks, in order.
static constexpr int64_t MOMENTS_CHUNK = 4096;
using MeasureChunk = void (*)(const float* values, int64_t count, Moments& moments);

static inline int64_t chunks_of(int64_t count) {
    return count > MOMENTS_CHUNK ? (count + MOMENTS_CHUNK - 1) / MOMENTS_CHUNK : 1;
}

// Of chunks in order.
Moments merged(const Moments* chunks, int64_t num_chunks);

struct Isa;
Moments measure(const Isa& isa, const float* values, int64_t count);

}  // namespace cotejar
