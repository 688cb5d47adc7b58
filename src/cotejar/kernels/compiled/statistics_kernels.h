// Included once by each isa_*.cpp and compiled with its flags; see isa.h.
#pragma once

#include "statistics.h"
#include "vectors.h"

namespace cotejar {
namespace {

// Sums of x - shift and its square, float64, value i in lane i mod 16.
struct LaneSums {
    double sum[LANES], squares[LANES];
};

inline double folded(double* lanes) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// The finite values alone; what chunks with NaN or Inf in them come to.
inline void measure_broken(const float* values, int64_t count, Moments& moments) {
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

inline void add_vector(Floats x, double shift, Doubles* sums, Doubles* squares) {
    HalfFloats halves[2];
    __builtin_memcpy(halves, &x, sizeof x);
    for (int h = 0; h < 2; h++) {
        const Doubles moved = __builtin_convertvector(halves[h], Doubles) - shift;
        sums[h] += moved;
        squares[h] += moved * moved;
    }
}

void measure_chunk(const float* values, int64_t count, Moments& moments) {
    const double infinite = __builtin_inf();
    moments = {count, 0, 0, 0, infinite, -infinite, 0.0, 0.0};
    if (count == 0) return;
    const double shift = static_cast<double>(values[0]);
    Floats least = Floats{} + values[0], greatest = least;
    Ints zeros = {};
    Doubles sums[2] = {}, squares[2] = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Floats x = load_floats(values + i);
        least = x < least ? x : least;
        greatest = x > greatest ? x : greatest;
        zeros -= x == 0.0f;
        add_vector(x, shift, sums, squares);
    }
    if (i < count) {  // the rest, filled up with the first value, which moves no sum
        Floats x = Floats{} + values[0];
        __builtin_memcpy(&x, values + i, static_cast<size_t>(count - i) * sizeof(float));
        least = x < least ? x : least;
        greatest = x > greatest ? x : greatest;
        zeros -= x == 0.0f;
        if (values[0] == 0.0f) moments.zero_count -= LANES - (count - i);
        add_vector(x, shift, sums, squares);
    }
    LaneSums lanes;
    __builtin_memcpy(&lanes.sum, sums, sizeof sums);
    __builtin_memcpy(&lanes.squares, squares, sizeof squares);
    const double sum = folded(lanes.sum), square = folded(lanes.squares);
    for (int lane = 0; lane < LANES; lane++) moments.zero_count += zeros[lane];
    if (sum - sum != 0.0) return measure_broken(values, count, moments);
    for (int lane = 0; lane < LANES; lane++) {
        moments.least = least[lane] < moments.least ? least[lane] : moments.least;
        moments.greatest = greatest[lane] > moments.greatest ? greatest[lane] : moments.greatest;
    }
    const double n = static_cast<double>(count), around = square - sum * sum / n;
    moments.mean = shift + sum / n;
    moments.squared_deviations = around > 0.0 ? around : 0.0;
}

}  // namespace
}  // namespace cotejar
