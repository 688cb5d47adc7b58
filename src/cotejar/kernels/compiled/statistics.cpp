#include "statistics.h"

#include <algorithm>

#include "failure.h"
#include "isa.h"
#include "thread_pool.h"

namespace cotejar {

namespace {

thread_local Scratch chunk_scratch;

// Chan, Golub and LeVeque (1979); `a` comes before `b`.
void merge(Moments& a, const Moments& b) {
    const double n_a = static_cast<double>(a.count - a.nan_count - a.inf_count);
    const double n_b = static_cast<double>(b.count - b.nan_count - b.inf_count);
    const double delta = b.mean - a.mean;
    const double share = n_a + n_b > 0.0 ? n_b / (n_a + n_b) : 0.0;
    a.count += b.count;
    a.nan_count += b.nan_count;
    a.inf_count += b.inf_count;
    a.zero_count += b.zero_count;
    a.least = std::min(a.least, b.least);
    a.greatest = std::max(a.greatest, b.greatest);
    a.mean += delta * share;
    a.squared_deviations += b.squared_deviations + delta * delta * n_a * share;
}

}  // namespace

Moments merged(const Moments* chunks, int64_t num_chunks) {
    Moments whole = chunks[0];
    for (int64_t chunk = 1; chunk < num_chunks; chunk++) merge(whole, chunks[chunk]);
    return whole;
}

Moments measure(const Isa& isa, const float* values, int64_t count) {
    const int64_t chunks = chunks_of(count);
    Moments* moments = chunk_scratch.array<Moments>(static_cast<size_t>(chunks));
    auto work = [&](int part, int parts) {
        const Range mine = range_of_part(chunks, part, parts);
        for (int64_t chunk = mine.begin; chunk < mine.end; chunk++) {
            const int64_t first = chunk * MOMENTS_CHUNK;
            isa.measure_chunk(values + first, std::min(MOMENTS_CHUNK, count - first),
                              moments[chunk]);
        }
    };
    if (chunks < 8)
        work(0, 1);
    else
        parallel(chunks, work);
    return merged(moments, chunks);
}

}  // namespace cotejar
