#include "activations.h"

#include "float16.h"

namespace cotejar {

namespace {

constexpr uint32_t INFINITE = 0x7F800000;

float quiet_nan() { return float_of_bits(0x7FC00000); }

// Of the largest magnitude; as integers, magnitudes order as floats do, NaN above all.
uint32_t greatest_magnitude(const float* values, int width) {
    int32_t greatest = 0;
    for (int j = 0; j < width; j++) {
        const int32_t magnitude = static_cast<int32_t>(bits_of_float(values[j]) & 0x7FFFFFFF);
        greatest = magnitude > greatest ? magnitude : greatest;
    }
    return static_cast<uint32_t>(greatest);
}

bool is_finite(float value) { return (bits_of_float(value) & INFINITE) != INFINITE; }

// C's roundf, for |value| < 2^31: halves away from zero.
int round_half_away(float value) {
    const int whole = static_cast<int>(value);
    const float fraction = value - static_cast<float>(whole);
    return whole + (fraction >= 0.5f) - (fraction <= -0.5f);
}

// Half to even, for |value| < 2^22.
float round_half_even(float value) { return (value + 12582912.0f) - 12582912.0f; }

void round_32(const float* values, int8_t* codes, float* scale, float* scaled_sum,
              int16_t* sum) {
    const uint32_t greatest = greatest_magnitude(values, 32);
    const bool broken = greatest >= INFINITE;
    const float exact_scale = float_of_bits(broken ? 0 : greatest) / 127.0f;
    float inverse = 1.0f / exact_scale;
    if (!is_finite(inverse)) inverse = 0.0f;
    int total = 0;
    if (broken) {
        for (int j = 0; j < 32; j++) codes[j] = 0;
    } else {
        for (int j = 0; j < 32; j++) {
            const int code = round_half_away(values[j] * inverse);
            codes[j] = static_cast<int8_t>(code);
            total += code;
        }
    }
    *sum = static_cast<int16_t>(total);
    *scale = broken ? quiet_nan() : float_of_half(half_of_float(exact_scale));
    if (scaled_sum != nullptr) {
        const float exact_sum = static_cast<float>(total) * exact_scale;
        *scaled_sum = broken ? quiet_nan() : float_of_half(half_of_float(exact_sum));
    }
}

void round_256(const float* values, int8_t* codes, float* scale, int16_t* sums) {
    const uint32_t greatest = greatest_magnitude(values, 256);
    const bool broken = greatest >= INFINITE;
    *scale = broken ? quiet_nan() : 0.0f;
    if (broken || greatest == 0) {
        for (int j = 0; j < 256; j++) codes[j] = 0;
        for (int j = 0; j < 256 / SUM_WIDTH_K; j++) sums[j] = 0;
        return;
    }
    int first = 0;
    while ((bits_of_float(values[first]) & 0x7FFFFFFF) != greatest) first++;
    float inverse = -127.0f / values[first];
    *scale = 1.0f / inverse;
    if (!is_finite(inverse)) inverse = 0.0f;
    for (int j = 0; j < 256; j++) {
        const float rounded = round_half_even(values[j] * inverse);
        codes[j] = static_cast<int8_t>(rounded < 127.0f ? rounded : 127.0f);
    }
    for (int j = 0; j < 256 / SUM_WIDTH_K; j++) {
        int total = 0;
        for (int k = 0; k < SUM_WIDTH_K; k++) total += codes[SUM_WIDTH_K * j + k];
        sums[j] = static_cast<int16_t>(total);
    }
}

}  // namespace

void round_activations(Rounding rounding, const float* values, int64_t columns,
                       const RoundedToken& token) {
    if (rounding == Rounding::Q8_K) {
        for (int64_t block = 0; block < columns / 256; block++)
            round_256(values + 256 * block, token.codes + 256 * block, token.scale + block,
                      token.sums + 256 / SUM_WIDTH_K * block);
        return;
    }
    const bool summed = rounding == Rounding::Q8_1;
    for (int64_t block = 0; block < columns / 32; block++)
        round_32(values + 32 * block, token.codes + 32 * block, token.scale + block,
                 summed ? token.scaled_sum + block : nullptr, token.sums + block);
}

}  // namespace cotejar
