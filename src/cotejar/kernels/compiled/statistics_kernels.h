// Included once by each isa_*.cpp and compiled with its flags; see isa.h.
#pragma once

#include "statistics.h"
#include "vectors.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace cotejar {
namespace {

// Sums and extremes of 16 lanes. Least and greatest are a < b ? a : b and a > b ? a : b, which
// with NaN too are one instruction each. The square of a float32 is exact in a double, so a
// fused sum has the same bits. Lanes are folded by halves, l and l + 8, + 4, + 2, + 1.
#if defined(__AVX512F__)

struct Running {
    __m512 least, greatest, nearest;
    __m512d sums[2], squares[2];

    explicit Running(const MomentLanes& lanes)
        : least(_mm512_load_ps(lanes.least)),
          greatest(_mm512_load_ps(lanes.greatest)),
          nearest(_mm512_load_ps(lanes.nearest)),
          sums{_mm512_load_pd(lanes.sums), _mm512_load_pd(lanes.sums + 8)},
          squares{_mm512_load_pd(lanes.squares), _mm512_load_pd(lanes.squares + 8)} {}

    void keep(MomentLanes& lanes) const {
        _mm512_store_ps(lanes.least, least);
        _mm512_store_ps(lanes.greatest, greatest);
        _mm512_store_ps(lanes.nearest, nearest);
        for (int half = 0; half < 2; half++) {
            _mm512_store_pd(lanes.sums + 8 * half, sums[half]);
            _mm512_store_pd(lanes.squares + 8 * half, squares[half]);
        }
    }
    void add_extremes(const float* at) {
        const __m512 x = _mm512_loadu_ps(at);
        least = _mm512_min_ps(x, least);
        greatest = _mm512_max_ps(x, greatest);
        nearest = _mm512_range_ps(x, nearest, 0b1010);  // the lesser magnitude
    }
    void add_sums(const float* at) {
        for (int half = 0; half < 2; half++) {
            const __m512d wide = _mm512_cvtps_pd(_mm256_loadu_ps(at + 8 * half));
            sums[half] = _mm512_add_pd(sums[half], wide);
            squares[half] = _mm512_fmadd_pd(wide, wide, squares[half]);
        }
    }

    bool has_zero() const {
        return _mm512_cmp_ps_mask(nearest, _mm512_setzero_ps(), _CMP_EQ_OQ) != 0;
    }
    double folded_sum() const { return folded(_mm512_add_pd(sums[0], sums[1])); }
    double folded_squares() const { return folded(_mm512_add_pd(squares[0], squares[1])); }
    float folded_least() const {
        const __m256 eight = _mm256_min_ps(_mm512_castps512_ps256(least),
                                           _mm512_extractf32x8_ps(least, 1));
        const __m128 four =
            _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
    }
    float folded_greatest() const {
        const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(greatest),
                                           _mm512_extractf32x8_ps(greatest, 1));
        const __m128 four =
            _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }
    static double folded(__m512d eight) {
        const __m256d four =
            _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
        const __m128d two =
            _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
        return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
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

inline HalfFloats magnitude(HalfFloats x) {
    return reinterpret_cast<HalfFloats>(reinterpret_cast<Ints8>(x) & 0x7FFFFFFF);
}

struct Running {
    HalfFloats least[2], greatest[2], nearest[2];
    Doubles4 sums[4], squares[4];

    explicit Running(const MomentLanes& lanes) {
        __builtin_memcpy(least, lanes.least, sizeof least);
        __builtin_memcpy(greatest, lanes.greatest, sizeof greatest);
        __builtin_memcpy(nearest, lanes.nearest, sizeof nearest);
        __builtin_memcpy(sums, lanes.sums, sizeof sums);
        __builtin_memcpy(squares, lanes.squares, sizeof squares);
    }

    void keep(MomentLanes& lanes) const {
        __builtin_memcpy(lanes.least, least, sizeof least);
        __builtin_memcpy(lanes.greatest, greatest, sizeof greatest);
        __builtin_memcpy(lanes.nearest, nearest, sizeof nearest);
        __builtin_memcpy(lanes.sums, sums, sizeof sums);
        __builtin_memcpy(lanes.squares, squares, sizeof squares);
    }
    void add_extremes(const float* at) {
        for (int half = 0; half < 2; half++) {
            HalfFloats x;
            __builtin_memcpy(&x, at + 8 * half, sizeof x);
            least[half] = lesser(x, least[half]);
            greatest[half] = greater(x, greatest[half]);
            nearest[half] = lesser(magnitude(x), nearest[half]);
        }
    }
    void add_sums(const float* at) {
        for (int quarter = 0; quarter < 4; quarter++) {
            Floats4 x;
            __builtin_memcpy(&x, at + 4 * quarter, sizeof x);
            const Doubles4 wide = __builtin_convertvector(x, Doubles4);
            sums[quarter] += wide;
            squares[quarter] += wide * wide;
        }
    }

    bool has_zero() const {
        for (int half = 0; half < 2; half++)
            for (int lane = 0; lane < 8; lane++)
                if (nearest[half][lane] == 0.0f) return true;
        return false;
    }
    double folded_sum() const { return folded(sums); }
    double folded_squares() const { return folded(squares); }
    float folded_least() const {
        float lanes[LANES];
        __builtin_memcpy(lanes, least, sizeof lanes);
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int l = 0; l < half; l++)
                lanes[l] = lanes[l] < lanes[l + half] ? lanes[l] : lanes[l + half];
        return lanes[0];
    }
    float folded_greatest() const {
        float lanes[LANES];
        __builtin_memcpy(lanes, greatest, sizeof lanes);
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int l = 0; l < half; l++)
                lanes[l] = lanes[l] > lanes[l + half] ? lanes[l] : lanes[l + half];
        return lanes[0];
    }
    static double folded(const Doubles4* all) {
        const Doubles4 low = all[0] + all[2], high = all[1] + all[3], four = low + high;
        return (four[0] + four[2]) + (four[1] + four[3]);
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

inline int64_t num_zeros(const float* values, int64_t count) {
    int64_t zeros = 0;
    for (int64_t i = 0; i < count; i++) zeros += values[i] == 0.0f;
    return zeros;
}

// `running` has seen `count` values; false where it does not tell all of them.
inline bool finish(const Running& running, int64_t count, Moments& moments) {
    const double n = static_cast<double>(count);
    const double sum = running.folded_sum(), square = running.folded_squares();
    const double deviations = square - sum * sum / n;
    const bool is_plain = sum - sum == 0.0 && deviations >= CANCELLED * square;
    if (!is_plain || running.has_zero()) return false;
    moments = {count,     0, 0, 0, static_cast<double>(running.folded_least()),
               static_cast<double>(running.folded_greatest()),
               sum / n,   deviations};
    return true;
}

void start_lanes(MomentLanes& lanes) {
    const float infinite = __builtin_inff();
    for (int lane = 0; lane < LANES; lane++) {
        lanes.least[lane] = lanes.nearest[lane] = infinite;
        lanes.greatest[lane] = -infinite;
        lanes.sums[lane] = lanes.squares[lane] = 0.0;
    }
}

void add_to_lanes(const float* values, int64_t count, MomentLanes& lanes) {
    Running running(lanes);
    for (int64_t i = 0; i + LANES <= count; i += LANES) {
        running.add_extremes(values + i);
        running.add_sums(values + i);
    }
    running.keep(lanes);
}

void add_rows_to_lanes(const float* values, int64_t rows, int64_t width, MomentLanes* lanes) {
    for (int64_t column = 0; column + LANES <= width; column += LANES) {
        Running running(lanes[column / LANES]);
        for (int64_t row = 0; row < rows; row++) {
            running.add_extremes(values + row * width + column);
            running.add_sums(values + row * width + column);
        }
        running.keep(lanes[column / LANES]);
    }
}

bool finish_lanes(const MomentLanes& lanes, int64_t count, Moments& moments) {
    return finish(Running(lanes), count, moments);
}

void measure_chunk(const float* values, int64_t count, Moments& moments) {
    MomentLanes lanes;
    start_lanes(lanes);
    Running running(lanes);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        running.add_extremes(values + i);
        running.add_sums(values + i);
    }
    if (i < count) {  // the rest, filled up with its own first value, which moves no extreme
        float x[LANES];
        for (int lane = 0; lane < LANES; lane++) x[lane] = values[i];
        __builtin_memcpy(x, values + i, static_cast<size_t>(count - i) * sizeof(float));
        running.add_extremes(x);
        for (int64_t lane = count - i; lane < LANES; lane++) x[lane] = 0.0f;  // moves no sum
        running.add_sums(x);
    }
    if (count > 0 && finish(running, count, moments)) return;
    const double infinite = __builtin_inf();
    moments = {count, 0, 0, 0, infinite, -infinite, 0.0, 0.0};
    const double sum = running.folded_sum(), square = running.folded_squares();
    const double n = static_cast<double>(count), deviations = square - sum * sum / n;
    moments.zero_count = num_zeros(values, count);
    if (count == 0) return;
    if (sum - sum != 0.0 || deviations < CANCELLED * square)
        return measure_slowly(values, count, moments);
    moments.least = static_cast<double>(running.folded_least());
    moments.greatest = static_cast<double>(running.folded_greatest());
    moments.mean = sum / n;
    moments.squared_deviations = deviations;
}

}  // namespace
}  // namespace cotejar
