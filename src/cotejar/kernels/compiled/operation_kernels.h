// The operations of operations.h in vectors of 64 bytes, which the compiler splits where the
// CPU's are shorter. Included once by each isa_*.cpp and compiled with its flags; everything
// here has internal linkage (see isa.h). Every lane does what the scalar formula says, so the
// bits are the same everywhere.
#pragma once

#include "attention_kernels.h"
#include "exponential.h"
#include "operations.h"
#include "statistics_kernels.h"
#include "vectors.h"

namespace cotejar {
namespace {

inline Floats sigmoid_product(Floats x) { return x / (1.0f + exponential(-x)); }

void silu(const float* values, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store_floats(out + i, sigmoid_product(load_floats(values + i)));
    if (i == count) return;
    Floats rest = {};
    __builtin_memcpy(&rest, values + i, static_cast<size_t>(count - i) * sizeof(float));
    rest = sigmoid_product(rest);
    __builtin_memcpy(out + i, &rest, static_cast<size_t>(count - i) * sizeof(float));
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

void rotate(const float* values, const float* cosine, const float* sine, int64_t pairs,
            int64_t first, int64_t second, int64_t step, float* out) {
    for (int64_t i = 0; i < pairs; i++) {
        const float a = values[first + i * step], b = values[second + i * step];
        out[first + i * step] = a * cosine[i] - b * sine[i];
        out[second + i * step] = a * sine[i] + b * cosine[i];
    }
}

// --- the greatest ------------------------------------------------------------------------

float greatest(const float* values, int64_t count, bool* all_finite) {
    constexpr int32_t EXPONENT = 0x7F800000;  // all ones in NaN and infinities
    Floats most = Floats{} - __builtin_inff();
    Ints broken = {};
    const auto look = [&](Floats some) __attribute__((always_inline)) {
        most = some > most ? some : most;
        broken |= (reinterpret_cast<Ints>(some) & EXPONENT) == EXPONENT;
    };
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) look(load_floats(values + i));
    for (; i < count; i++) look(Floats{} + values[i]);
    float lanes[LANES];
    store_floats(lanes, most);
    float found = lanes[0];
    for (int lane = 0; lane < LANES; lane++) {
        found = lanes[lane] > found ? lanes[lane] : found;
        if (broken[lane]) *all_finite = false;
    }
    return found;
}

constexpr Operations OPERATIONS = {
    rms_norm,   rotate,   silu,         multiply,    add,          attend,
    greatest,   add_rows, store_rows,   start_lanes, add_to_lanes, add_rows_to_lanes,
    finish_lanes};

}  // namespace
}  // namespace cotejar
