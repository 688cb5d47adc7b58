// The operations of operations.h in vectors of 64 bytes, which the compiler splits where the
// CPU's are shorter. Included once by each isa_*.cpp and compiled with its flags; everything
// here has internal linkage (see isa.h). Every lane does what the scalar formula says, so the
// bits are the same everywhere.
#pragma once

#include "attention_kernels.h"
#include "exponential.h"
#include "fused_attention_kernels.h"
#include "fused_token_kernels.h"
#include "one_token_kernels.h"
#include "operations.h"
#include "statistics_kernels.h"
#include "vectors.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace cotejar {
namespace {

// x * sigmoid(x) of N vectors.
template <int N>
inline void silu_some(const float* values, float* out) {
    Floats powers[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) powers[i] = -load_floats(values + LANES * i);
    exponentials_or_some_nan<N>(powers);  // of a NaN and a NaN the quotient is the first
#pragma GCC unroll 4
    for (int i = 0; i < N; i++)
        store_floats(out + LANES * i, load_floats(values + LANES * i) / (1.0f + powers[i]));
}

void silu(const float* values, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES) silu_some<4>(values + i, out + i);
    for (; i + LANES <= count; i += LANES) silu_some<1>(values + i, out + i);
    if (i == count) return;
    alignas(64) float rest[LANES] = {};
    __builtin_memcpy(rest, values + i, static_cast<size_t>(count - i) * sizeof(float));
    silu_some<1>(rest, rest);
    __builtin_memcpy(out + i, rest, static_cast<size_t>(count - i) * sizeof(float));
}

// The compiler's own vectors.
bool greatest(const float* values, int64_t count, int32_t& order) {
    constexpr int32_t EXPONENT = 0x7F800000;
    int32_t most = order_of(-__builtin_inff()), exponent = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t here = order_of(values[i]);
        int32_t bits;
        __builtin_memcpy(&bits, values + i, sizeof bits);
        most = here > most ? here : most;
        exponent = (bits & EXPONENT) > exponent ? bits & EXPONENT : exponent;
    }
    order = most;
    return exponent != EXPONENT;
}

void multiply(const float* a, const float* b, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i++) out[i] = a[i] * b[i];
}

void add(const float* a, const float* b, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i++) out[i] = a[i] + b[i];
}

void add_rows(const float* apart, int64_t stride, const float* beside, int64_t rows,
              float* sums_beside) {
    for (int64_t row = 0; row < rows; row++)
        store_floats(sums_beside + row * LANES,
                     load_floats(apart + row * stride) + load_floats(beside + row * LANES));
}

void store_rows(const float* beside, int64_t rows, int64_t stride, float* apart) {
    for (int64_t row = 0; row < rows; row++)
        store_floats(apart + row * stride, load_floats(beside + row * LANES));
}

// --- norm and rotation -------------------------------------------------------------------

void rms_norm(const float* values, const float* weight, int64_t width, double eps, float* out) {
    double lanes[LANES] = {};
    Doubles low = {}, high = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        const Doubles a = load_doubles(values + i), b = load_doubles(values + i + 8);
        low += a * a;
        high += b * b;
    }
    __builtin_memcpy(lanes, &low, sizeof low);
    __builtin_memcpy(lanes + 8, &high, sizeof high);
    for (int lane = 0; i + lane < width; lane++) {
        const double value = static_cast<double>(values[i + lane]);
        lanes[lane] += value * value;
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    const double mean = lanes[0] / static_cast<double>(width);
    const float scale = static_cast<float>(1.0 / __builtin_sqrt(mean + eps));
    for (int64_t j = 0; j < width; j++) out[j] = (values[j] * scale) * weight[j];
}

#if defined(__AVX512F__)
// Eight neighbouring pairs.
inline void rotate_eight(const float* values, const float* cosine, const float* sine,
                         float* out) {
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512 cosines =
        _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(cosine)));
    const __m512 sines =
        _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(sine)));
    const __m512 pairs = _mm512_loadu_ps(values);
    const __m512 by_cosine = _mm512_mul_ps(pairs, cosines);
    const __m512 by_sine = _mm512_mul_ps(_mm512_permute_ps(pairs, 0xB1), sines);
    const __m512 sums = _mm512_add_ps(by_sine, by_cosine);
    _mm512_storeu_ps(out, _mm512_mask_sub_ps(sums, 0x5555, by_cosine, by_sine));
}
#endif

void rotate(const float* values, const float* cosine, const float* sine, int64_t pairs,
            int64_t first, int64_t second, int64_t step, float* out) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; step == 2 && second == first + 1 && i + 8 <= pairs; i += 8)
        rotate_eight(values + first + 2 * i, cosine + i, sine + i, out + first + 2 * i);
#endif
    for (; i < pairs; i++) {
        const float a = values[first + i * step], b = values[second + i * step];
        out[first + i * step] = a * cosine[i] - b * sine[i];
        out[second + i * step] = a * sine[i] + b * cosine[i];
    }
}

// --- attention ---------------------------------------------------------------------------

void attend(const AttentionTile& tile) {
    if (tile.num_queries > 8) return attend_n<2>(tile);
    if (!all_see_the_same(tile)) return attend_n<1>(tile);
    switch (tile.num_queries) {
        case 1: return attend_one_token<1>(tile);
        case 2: return attend_one_token<2>(tile);
        case 3: return attend_one_token<3>(tile);
        case 4: return attend_one_token<4>(tile);
        case 5: return attend_one_token<5>(tile);
        case 6: return attend_one_token<6>(tile);
        case 7: return attend_one_token<7>(tile);
        default: return attend_one_token<8>(tile);
    }
}

// Where a query sees a score that is NaN, or its greatest is infinite, its sum of weights is
// NaN, and so is all of its context: there is no other greatest to look for, as `attend` does.
void attend_f32(const AttentionTile& tile) {
    if (tile.num_queries <= FEW_QUERIES && all_see_the_same(tile))
        attend_token<FEW_QUERIES>(tile);
    else
        attend_tile(tile);
}

constexpr Operations OPERATIONS = {
    rms_norm,   rotate,   silu,       multiply,    add,               attend,
    attend_f32, add_rows, store_rows, start_lanes, add_rows_to_lanes, finish_lanes, greatest};

}  // namespace
}  // namespace cotejar
