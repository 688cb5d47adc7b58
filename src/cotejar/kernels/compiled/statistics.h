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

struct Isa;
Moments measure(const Isa& isa, const float* values, int64_t count);

}  // namespace cotejar
