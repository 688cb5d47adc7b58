// Included once by each isa_*.cpp and compiled with its flags; see isa.h. statistics.h says
// what is computed: the same bits everywhere.
#pragma once

#include "statistics.h"
#include "vectors.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace cotejar {
namespace {

// --- a vector as long as the CPU's ---------------------------------------------------------

// Least and greatest are a < b ? a : b and a > b ? a : b, which with NaN too are one
// instruction each.
#if defined(__AVX512F__)
typedef __m512 Vector;
inline Vector vector_at(const float* at) { return _mm512_loadu_ps(at); }
inline void put_vector(float* at, Vector x) { _mm512_storeu_ps(at, x); }
inline Vector lesser(Vector a, Vector b) { return _mm512_min_ps(a, b); }
inline Vector greater(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Vector nearer_zero(Vector a, Vector b) { return _mm512_range_ps(a, b, 0b1010); }
inline Vector plus_square(Vector x, Vector sum) { return _mm512_fmadd_ps(x, x, sum); }
inline bool has_zero(Vector x) {
    return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ) != 0;
}
#elif defined(__AVX2__) && defined(__FMA__)
typedef __m256 Vector;
inline Vector vector_at(const float* at) { return _mm256_loadu_ps(at); }
inline void put_vector(float* at, Vector x) { _mm256_storeu_ps(at, x); }
inline Vector lesser(Vector a, Vector b) { return _mm256_min_ps(a, b); }
inline Vector greater(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline Vector nearer_zero(Vector a, Vector b) {
    return _mm256_min_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a), b);
}
inline Vector plus_square(Vector x, Vector sum) { return _mm256_fmadd_ps(x, x, sum); }
inline bool has_zero(Vector x) {
    return _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_OQ)) != 0;
}
#else
typedef float Vector __attribute__((vector_size(16)));
typedef int32_t VectorInts __attribute__((vector_size(16)));
inline Vector vector_at(const float* at) {
    Vector x;
    __builtin_memcpy(&x, at, sizeof x);
    return x;
}
inline void put_vector(float* at, Vector x) { __builtin_memcpy(at, &x, sizeof x); }
inline Vector lesser(Vector a, Vector b) { return a < b ? a : b; }
inline Vector greater(Vector a, Vector b) { return a > b ? a : b; }
inline Vector nearer_zero(Vector a, Vector b) {
    return lesser(reinterpret_cast<Vector>(reinterpret_cast<VectorInts>(a) & 0x7FFFFFFF), b);
}
inline Vector plus_square(Vector x, Vector sum) {
    for (int lane = 0; lane < 4; lane++) sum[lane] = __builtin_fmaf(x[lane], x[lane], sum[lane]);
    return sum;
}
inline bool has_zero(Vector x) {
    for (int lane = 0; lane < 4; lane++)
        if (x[lane] == 0.0f) return true;
    return false;
}
#endif

constexpr int VECTOR_LANES = sizeof(Vector) / sizeof(float), VECTORS = LANES / VECTOR_LANES;
constexpr int TILE_ROWS = 16, TILE_VALUES = TILE_ROWS * LANES;

// --- a tile, VECTOR_LANES of its lanes -----------------------------------------------------

// Of even and of odd 16s, since none of them can wait for the one before it.
struct VectorExtremes {
    Vector least[2], greatest[2], nearest[2];  // nearest to 0: the least magnitude

    void load(const Extremes& all, int lane) {
        least[0] = least[1] = vector_at(all.least + lane);
        greatest[0] = greatest[1] = vector_at(all.greatest + lane);
        nearest[0] = nearest[1] = Vector{} + __builtin_inff();
    }
    void store(Extremes& all, int lane) const {
        put_vector(all.least + lane, lesser(least[0], least[1]));
        put_vector(all.greatest + lane, greater(greatest[0], greatest[1]));
    }
    bool saw_zero() const { return has_zero(lesser(nearest[0], nearest[1])); }
};

// Of an array that is known to have no zero, `nearest` need not be found.
enum class Zeros { LOOKED_FOR, ABSENT };

struct VectorSums {
    Vector sum, squares;

    void load(const SumLanes& lanes, int lane) {
        sum = vector_at(lanes.sums + lane);
        squares = vector_at(lanes.squares + lane);
    }
    void store(SumLanes& lanes, int lane) const {
        put_vector(lanes.sums + lane, sum);
        put_vector(lanes.squares + lane, squares);
    }
};

// Up to TILE_ROWS times 16 values, `stride` apart.
template <Zeros ZEROS = Zeros::LOOKED_FOR>
__attribute__((always_inline)) inline void add_tile(const float* at, int64_t rows, int64_t stride,
                                                    VectorSums& block, VectorExtremes& extremes) {
    Vector sums[2] = {Vector{}, Vector{}}, squares[2] = {Vector{}, Vector{}};
    const auto add = [&](int64_t row, int odd) {
        const Vector x = vector_at(at + row * stride);
        extremes.least[odd] = lesser(x, extremes.least[odd]);
        extremes.greatest[odd] = greater(x, extremes.greatest[odd]);
        if (ZEROS == Zeros::LOOKED_FOR)
            extremes.nearest[odd] = nearer_zero(x, extremes.nearest[odd]);
        // Without adding the first to 0, which would be x but for x = -0; the block's sum starts
        // from 0, and -0 leaves it as it is.
        sums[odd] = row < 2 ? x : sums[odd] + x;
        squares[odd] = plus_square(x, squares[odd]);
    };
    int64_t row = 0;
#pragma GCC unroll 8
    for (; row + 2 <= rows; row += 2) {
        add(row, 0);
        add(row + 1, 1);
    }
    if (row < rows) add(row, 0);
    block.sum = block.sum + (sums[0] + sums[1]);
    block.squares = block.squares + (squares[0] + squares[1]);
}

template <Zeros ZEROS = Zeros::LOOKED_FOR>
inline void add_some_rows(const float* at, int64_t rows, int64_t stride, VectorSums& block,
                          VectorExtremes& extremes) {
    if (rows == TILE_ROWS)  // so that the compiler knows it
        add_tile<ZEROS>(at, TILE_ROWS, stride, block, extremes);
    else
        add_tile<ZEROS>(at, rows, stride, block, extremes);
}

// --- a block ---------------------------------------------------------------------------------

inline double folded(const float* lanes) {
#if defined(__AVX512F__)
    const __m512d eight = _mm512_add_pd(_mm512_cvtps_pd(_mm256_load_ps(lanes)),
                                        _mm512_cvtps_pd(_mm256_load_ps(lanes + 8)));
    const __m256d four =
        _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#else
    double wide[LANES];
    for (int lane = 0; lane < LANES; lane++) wide[lane] = static_cast<double>(lanes[lane]);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) wide[lane] += wide[lane + half];
    return wide[0];
#endif
}

void start_lanes(SumLanes& lanes) {
    for (int lane = 0; lane < LANES; lane++) lanes.sums[lane] = lanes.squares[lane] = 0.0f;
}

// Within these, no square that is lost below float32's range counts, and none is above it.
constexpr double LEAST_SQUARES = 0x1p-90, SQUARES_END = 0x1p140;

__attribute__((always_inline)) inline bool finish(const SumLanes& lanes, int64_t count,
                                                  BlockSums& block) {
    block = {folded(lanes.sums), folded(lanes.squares)};
    return block.squares >= LEAST_SQUARES && block.squares < SQUARES_END &&
           block.sum * block.sum <= 0.75 * static_cast<double>(count) * block.squares;
}

bool finish_lanes(const SumLanes& lanes, int64_t count, BlockSums& block) {
    return finish(lanes, count, block);
}

__attribute__((noinline)) int64_t num_zeros(const float* values, int64_t count) {
    int64_t zeros = 0;
    for (int64_t i = 0; i < count; i++) zeros += values[i] == 0.0f;
    return zeros;
}

struct DoubleLanes {
    Doubles low, high;

    void add(const float* at) {
        low += load_doubles(at);
        high += load_doubles(at + 8);
    }
    void add_squares(const float* at, double mean) {
        const Doubles a = load_doubles(at) - mean, b = load_doubles(at + 8) - mean;
        low += a * a;
        high += b * b;
    }
    double folded() const {
        const Doubles eight = low + high;
        return ((eight[0] + eight[4]) + (eight[2] + eight[6])) +
               ((eight[1] + eight[5]) + (eight[3] + eight[7]));
    }
};

// Less than 16 values: a tile of their own.
inline void add_rest(const float* values, int64_t count, int lane, VectorSums& block,
                     VectorExtremes& extremes) {
    float x[LANES] = {};
    VectorExtremes none = extremes;
    __builtin_memcpy(x, values, static_cast<size_t>(count) * sizeof(float));
    add_tile(x + lane, 1, LANES, block, none);
    for (int64_t i = count; i < LANES; i++) x[i] = x[0];  // moves no extreme
    VectorSums nothing = block;
    add_tile(x + lane, 1, LANES, nothing, extremes);
}

// The finite values alone, and their extremes.
__attribute__((noinline)) void measure_finite(const float* values, int64_t count,
                                              Extremes& extremes, Moments& moments) {
    moments = {count, 0, 0, 0, __builtin_inf(), -__builtin_inf(), 0.0, 0.0};
    double sum = 0.0;
    int64_t finite = 0;
    for (int64_t i = 0; i < count; i++) {
        const float x = values[i];
        if (x != x) {
            moments.nan_count++;
        } else if (x - x != 0.0f) {
            moments.inf_count++;
        } else {
            finite++;
            sum += static_cast<double>(x);
            extremes.least[0] = x < extremes.least[0] ? x : extremes.least[0];
            extremes.greatest[0] = x > extremes.greatest[0] ? x : extremes.greatest[0];
        }
    }
    if (finite == 0) return;
    moments.mean = sum / static_cast<double>(finite);
    for (int64_t i = 0; i < count; i++) {
        const double deviation = static_cast<double>(values[i]) - moments.mean;
        if (deviation - deviation == 0.0) moments.squared_deviations += deviation * deviation;
    }
}

// All values, which are finite.
__attribute__((noinline)) void measure_in_doubles(const float* values, int64_t count,
                                                  Moments& moments) {
    moments = {count, 0, 0, 0, __builtin_inf(), -__builtin_inf(), 0.0, 0.0};
    const int64_t whole = count - count % LANES;
    DoubleLanes sums{}, deviations{};
    for (int64_t i = 0; i < whole; i += LANES) sums.add(values + i);
    for (int64_t i = whole; i < count; i++) sums.low[0] += static_cast<double>(values[i]);
    const double mean = sums.folded() / static_cast<double>(count);
    for (int64_t i = 0; i < whole; i += LANES) deviations.add_squares(values + i, mean);
    for (int64_t i = whole; i < count; i++) {
        const double deviation = static_cast<double>(values[i]) - mean;
        deviations.low[0] += deviation * deviation;
    }
    moments.mean = mean;
    moments.squared_deviations = deviations.folded();
}

template <Zeros ZEROS>
bool measure_block(const float* values, int64_t count, Extremes& extremes, BlockSums& block,
                   Moments& other) {
    const int64_t rows = count / LANES;
    SumLanes lanes;
    VectorExtremes seen[VECTORS];
    bool saw_zero = false;
    for (int vector = 0; vector < VECTORS; vector++) {
        const int lane = vector * VECTOR_LANES;
        VectorSums sums{Vector{}, Vector{}};
        VectorExtremes mine;
        mine.load(extremes, lane);
        for (int64_t row = 0; row < rows; row += TILE_ROWS)
            add_some_rows<ZEROS>(values + row * LANES + lane,
                                 rows - row < TILE_ROWS ? rows - row : TILE_ROWS, LANES, sums,
                                 mine);
        if (count % LANES != 0)
            add_rest(values + rows * LANES, count % LANES, lane, sums, mine);
        sums.store(lanes, lane);
        saw_zero |= ZEROS == Zeros::LOOKED_FOR && mine.saw_zero();
        seen[vector] = mine;
    }
    const bool is_plain = finish(lanes, count, block);
    if (saw_zero) extremes.zero_count += num_zeros(values, count);
    const bool are_finite = block.squares < SQUARES_END;  // or they are very large
    if (are_finite)
        for (int vector = 0; vector < VECTORS; vector++)
            seen[vector].store(extremes, vector * VECTOR_LANES);
    else
        measure_finite(values, count, extremes, other);
    if (are_finite && !is_plain) measure_in_doubles(values, count, other);
    return is_plain;
}

void add_rows_to_lanes(const float* values, int64_t rows, int64_t width, SumLanes* lanes,
                       Extremes& extremes) {
    const int64_t strips = width / LANES;
    bool saw_zero = false;
    for (int lane = 0; lane < LANES; lane += VECTOR_LANES) {
        VectorExtremes mine;
        mine.load(extremes, lane);
        for (int64_t strip = 0; strip < strips; strip++) {
            VectorSums sums;
            sums.load(lanes[strip], lane);
            add_some_rows(values + strip * LANES + lane, rows, width, sums, mine);
            sums.store(lanes[strip], lane);
        }
        mine.store(extremes, lane);
        saw_zero |= mine.saw_zero();
    }
    if (!saw_zero) return;
    for (int64_t row = 0; row < rows; row++)
        extremes.zero_count += num_zeros(values + row * width, strips * LANES);
}

void measure_chunk(const float* values, int64_t count, Chunk& chunk) {
    Extremes extremes;
    for (int lane = 0; lane < LANES; lane++) {
        extremes.least[lane] = __builtin_inff();
        extremes.greatest[lane] = -__builtin_inff();
    }
    extremes.zero_count = 0;
    Moments& moments = chunk.moments;
    chunk.is_plain = measure_block<Zeros::LOOKED_FOR>(values, count, extremes, chunk.sums, moments);
    if (chunk.is_plain) moments = {count, 0, 0, 0, __builtin_inf(), -__builtin_inf(), 0.0, 0.0};
    moments.zero_count = extremes.zero_count;
    for (int lane = 0; lane < LANES; lane++) {
        const double least = static_cast<double>(extremes.least[lane]);
        const double greatest = static_cast<double>(extremes.greatest[lane]);
        moments.least = least < moments.least ? least : moments.least;
        moments.greatest = greatest > moments.greatest ? greatest : moments.greatest;
    }
}

}  // namespace
}  // namespace cotejar
