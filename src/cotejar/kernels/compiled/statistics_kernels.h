// Included once by each isa_*.cpp and compiled with its flags; see isa.h.
#pragma once

#include "statistics.h"
#include "vectors.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace cotejar {
namespace {

inline double folded(double* lanes) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// The square of a float32 is exact in a double, so a fused sum has the same bits.
inline Doubles add_square(Doubles sum, Doubles x) {
#if defined(__AVX512F__)
    return reinterpret_cast<Doubles>(_mm512_fmadd_pd(reinterpret_cast<__m512d>(x),
                                                     reinterpret_cast<__m512d>(x),
                                                     reinterpret_cast<__m512d>(sum)));
#else
    return sum + x * x;
#endif
}

struct Running {
    Floats least, greatest;
    Ints zeros;
    Doubles sums[2], squares[2];

    void add(Floats x) {
        least = x < least ? x : least;
        greatest = x > greatest ? x : greatest;
        zeros -= x == 0.0f;
        HalfFloats halves[2];
        __builtin_memcpy(halves, &x, sizeof x);
        for (int h = 0; h < 2; h++) {
            const Doubles wide = widened(halves[h]);
            sums[h] += wide;
            squares[h] = add_square(squares[h], wide);
        }
    }
};

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
    Running running = {Floats{} + values[0], Floats{} + values[0], {}, {}, {}};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) running.add(load_floats(values + i));
    if (i < count) {  // the rest, filled up with zeros, which move no sum
        Floats x = {};
        __builtin_memcpy(&x, values + i, static_cast<size_t>(count - i) * sizeof(float));
        const Floats least = running.least, greatest = running.greatest;
        running.add(x);
        moments.zero_count -= LANES - (count - i);
        running.least = least;
        running.greatest = greatest;
        for (int64_t j = i; j < count; j++) {
            running.least[0] = values[j] < running.least[0] ? values[j] : running.least[0];
            running.greatest[0] =
                values[j] > running.greatest[0] ? values[j] : running.greatest[0];
        }
    }
    double sums[LANES], squares[LANES];
    __builtin_memcpy(sums, running.sums, sizeof sums);
    __builtin_memcpy(squares, running.squares, sizeof squares);
    const double n = static_cast<double>(count), sum = folded(sums), square = folded(squares);
    const double deviations = square - sum * sum / n;
    for (int lane = 0; lane < LANES; lane++) moments.zero_count += running.zeros[lane];
    if (sum - sum != 0.0 || deviations < CANCELLED * square)
        return measure_slowly(values, count, moments);
    for (int lane = 0; lane < LANES; lane++) {
        const double least = running.least[lane], greatest = running.greatest[lane];
        moments.least = least < moments.least ? least : moments.least;
        moments.greatest = greatest > moments.greatest ? greatest : moments.greatest;
    }
    moments.mean = sum / n;
    moments.squared_deviations = deviations;
}

}  // namespace
}  // namespace cotejar
