// What stands between matrix products; kernels/operations.py states the arithmetic.
#pragma once

#include "statistics.h"

namespace cotejar {

// Up to 16 queries that share a key/value head, and all keys that any of them sees.
struct AttentionTile {
    const float* query[16];  // E floats each
    float* context[16];      // E floats each
    int64_t first[16];       // positions first..last, both included, are seen
    int64_t last[16];
    int num_queries;
    int64_t head_size;
    const float* keys;    // of position 0, of this head
    const float* values;  // likewise
    int64_t stride;       // floats from one position to the next
    double* wide;         // scratch: (16 + 2 * 8) * E
    double* scores;       // scratch: 16 a position, and of 16 positions more
    float* weights;       // likewise
};

struct Operations {
    void (*rms_norm)(const float* values, const float* weight, int64_t width, double eps,
                     float* out);
    // Pair i is values first + i * step and second + i * step.
    void (*rotate)(const float* values, const float* cosine, const float* sine, int64_t pairs,
                   int64_t first, int64_t second, int64_t step, float* out);
    void (*silu)(const float* values, int64_t count, float* out);
    void (*multiply)(const float* a, const float* b, int64_t count, float* out);
    void (*add)(const float* a, const float* b, int64_t count, float* out);
    void (*attend)(const AttentionTile& tile);
    void (*attend_f32)(const AttentionTile& tile);
    // Rows of 16 values side by side, and rows of 16 that are `stride` apart in a longer array.
    void (*add_rows)(const float* apart, int64_t stride, const float* beside, int64_t rows,
                     float* sums_beside);
    void (*store_rows)(const float* beside, int64_t rows, int64_t stride, float* apart);
    // A tile of rows of `width`, each 16 columns to the lanes of their block; what is left over
    // to none.
    void (*start_lanes)(SumLanes& lanes);
    void (*add_rows_to_lanes)(const float* values, int64_t rows, int64_t width, SumLanes* lanes,
                              Extremes& extremes);
    // False where the sums do not tell enough: measure the block itself.
    bool (*finish_lanes)(const SumLanes& lanes, int64_t count, BlockSums& block);
    // The greatest as an integer that orders as floats do, both zeros alike, and whether all are
    // finite: a NaN or an infinity has every bit of its exponent set.
    bool (*greatest)(const float* values, int64_t count, int32_t& order);
};

// See `greatest`.
static inline int32_t order_of(float value) {
    const float no_minus_zero = value + 0.0f;
    int32_t bits;
    __builtin_memcpy(&bits, &no_minus_zero, sizeof bits);
    return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

}  // namespace cotejar
