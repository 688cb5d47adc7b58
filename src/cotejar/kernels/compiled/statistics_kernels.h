// Included once by each isa_*.cpp and compiled with its flags; see isa.h.
#pragma once

#include "statistics.h"
#include "vectors.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace cotejar {
namespace {

inline double folded(double* lanes) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// Sums and extremes of 16 lanes. Least and greatest are a < b ? a : b and a > b ? a : b, which
// with NaN too are one instruction each. The square of a float32 is exact in a double, so a
// fused sum has the same bits.
#if defined(__AVX512F__)

struct Running {
    __m512 least, greatest;
    __m512i zeros = _mm512_setzero_si512();
    __m512d sums[2] = {}, squares[2] = {};

    explicit Running(float first) : least(_mm512_set1_ps(first)), greatest(least) {}

    void add(const float* at) {
        add_extremes(at);
        add_sums(at);
    }
    void add_extremes(const float* at) {
        const __m512 x = _mm512_loadu_ps(at);
        least = _mm512_min_ps(x, least);
        greatest = _mm512_max_ps(x, greatest);
    }
    void add_sums(const float* at) {
        const __m512 x = _mm512_loadu_ps(at);
        const __mmask16 is_zero = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ);
        zeros = _mm512_mask_add_epi32(zeros, is_zero, zeros, _mm512_set1_epi32(1));
        for (int half = 0; half < 2; half++) {
            const __m512d wide = _mm512_cvtps_pd(_mm256_loadu_ps(at + 8 * half));
            sums[half] = _mm512_add_pd(sums[half], wide);
            squares[half] = _mm512_fmadd_pd(wide, wide, squares[half]);
        }
    }
};

#else

// In pieces of 32 bytes: of longer vectors the compiler makes a detour through memory.
typedef float Floats4 __attribute__((vector_size(16)));
typedef int32_t Ints8 __attribute__((vector_size(32)));
typedef double Doubles4 __attribute__((vector_size(32)));

#if defined(__AVX__)
inline HalfFloats lesser(HalfFloats a, HalfFloats b) {
    return reinterpret_cast<HalfFloats>(
        _mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline HalfFloats greater(HalfFloats a, HalfFloats b) {
    return reinterpret_cast<HalfFloats>(
        _mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
#else
inline HalfFloats lesser(HalfFloats a, HalfFloats b) { return a < b ? a : b; }
inline HalfFloats greater(HalfFloats a, HalfFloats b) { return a > b ? a : b; }
#endif

struct Running {
    HalfFloats least[2], greatest[2];
    Ints8 zeros[2] = {};
    Doubles4 sums[4] = {}, squares[4] = {};

    explicit Running(float first) {
        for (int half = 0; half < 2; half++) least[half] = greatest[half] = HalfFloats{} + first;
    }

    void add(const float* at) {
        add_extremes(at);
        add_sums(at);
    }
    void add_extremes(const float* at) {
        for (int half = 0; half < 2; half++) {
            HalfFloats x;
            __builtin_memcpy(&x, at + 8 * half, sizeof x);
            least[half] = lesser(x, least[half]);
            greatest[half] = greater(x, greatest[half]);
        }
    }
    void add_sums(const float* at) {
        for (int half = 0; half < 2; half++) {
            HalfFloats x;
            __builtin_memcpy(&x, at + 8 * half, sizeof x);
            zeros[half] -= x == 0.0f;
        }
        for (int quarter = 0; quarter < 4; quarter++) {
            Floats4 x;
            __builtin_memcpy(&x, at + 4 * quarter, sizeof x);
            const Doubles4 wide = __builtin_convertvector(x, Doubles4);
            sums[quarter] += wide;
            squares[quarter] += wide * wide;
        }
    }
};

#endif

// The finite values alone, in two passes.
inline void measure_slowly(const float* values, int64_t count, Moments& moments) {
    double sum = 0.0;
    int64_t finite = 0;
    for (int64_t i = 0; i < count; i++) {
        const double x = static_cast<double>(values[i]);
        if (x != x) {
            moments.nan_count++;
        } else if (x - x != 0.0) {
            moments.inf_count++;
        } else {
            finite++;
            sum += x;
            moments.least = x < moments.least ? x : moments.least;
            moments.greatest = x > moments.greatest ? x : moments.greatest;
        }
    }
    if (finite == 0) return;
    moments.mean = sum / static_cast<double>(finite);
    for (int64_t i = 0; i < count; i++) {
        const double deviation = static_cast<double>(values[i]) - moments.mean;
        if (deviation - deviation == 0.0) moments.squared_deviations += deviation * deviation;
    }
}

// Below this share of the sum of squares, the deviations may be rounding alone.
constexpr double CANCELLED = 1e-4;

void measure_chunk(const float* values, int64_t count, Moments& moments) {
    const double infinite = __builtin_inf();
    moments = {count, 0, 0, 0, infinite, -infinite, 0.0, 0.0};
    if (count == 0) return;
    Running running(values[0]);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) running.add(values + i);
    if (i < count) {  // the rest, filled up with its own first value, which moves no extreme
        float x[LANES];
        for (int lane = 0; lane < LANES; lane++) x[lane] = values[i];
        __builtin_memcpy(x, values + i, static_cast<size_t>(count - i) * sizeof(float));
        running.add_extremes(x);
        for (int64_t lane = count - i; lane < LANES; lane++) x[lane] = 0.0f;  // moves no sum
        running.add_sums(x);
        moments.zero_count -= LANES - (count - i);
    }
    float least[LANES], greatest[LANES];
    int32_t zeros[LANES];
    double sums[LANES], squares[LANES];
    __builtin_memcpy(least, &running.least, sizeof least);
    __builtin_memcpy(greatest, &running.greatest, sizeof greatest);
    __builtin_memcpy(zeros, &running.zeros, sizeof zeros);
    __builtin_memcpy(sums, running.sums, sizeof sums);
    __builtin_memcpy(squares, running.squares, sizeof squares);
    const double n = static_cast<double>(count), sum = folded(sums), square = folded(squares);
    const double deviations = square - sum * sum / n;
    for (int lane = 0; lane < LANES; lane++) moments.zero_count += zeros[lane];
    if (sum - sum != 0.0 || deviations < CANCELLED * square)
        return measure_slowly(values, count, moments);
    for (int lane = 0; lane < LANES; lane++) {
        const double low = least[lane], high = greatest[lane];
        moments.least = low < moments.least ? low : moments.least;
        moments.greatest = high > moments.greatest ? high : moments.greatest;
    }
    moments.mean = sum / n;
    moments.squared_deviations = deviations;
}

}  // namespace
}  // namespace cotejar
