// Activations rounded to 8-bit blocks, with the bytes of quant/activations.py. Included once by
// each isa_*.cpp and compiled with its flags; everything here has internal linkage (see isa.h).
#pragma once

#include "activations.h"
#include "float16.h"
#include "vectors.h"

namespace cotejar {
namespace {

constexpr uint32_t INFINITE_BITS = 0x7F800000;

inline float quiet_nan() { return float_of_bits(0x7FC00000); }

inline bool is_finite(float value) {
    return (bits_of_float(value) & INFINITE_BITS) != INFINITE_BITS;
}

inline Ints magnitudes(Floats values) { return reinterpret_cast<Ints>(values) & 0x7FFFFFFF; }

inline int32_t greatest_lane(Ints values) {
    int32_t lanes[LANES], greatest = 0;
    __builtin_memcpy(lanes, &values, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++)
        greatest = lanes[lane] > greatest ? lanes[lane] : greatest;
    return greatest;
}

inline int32_t sum_of_lanes(Ints values) {
    int32_t lanes[LANES], sum = 0;
    __builtin_memcpy(lanes, &values, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    return sum;
}

inline void store_codes(Ints codes, int8_t* at) {
#if defined(__AVX512F__)
    const Bytes narrow = __builtin_convertvector(codes, Bytes);
    __builtin_memcpy(at, &narrow, sizeof narrow);
#else  // element by element, the conversion of vectors is slow there
    int32_t lanes[LANES];
    __builtin_memcpy(lanes, &codes, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++) at[lane] = static_cast<int8_t>(lanes[lane]);
#endif
}

// C's roundf, for |value| < 2^31: halves away from zero. A true comparison is -1.
inline Ints round_half_away(Floats values) {
    const Ints whole = __builtin_convertvector(values, Ints);
    const Floats fraction = values - __builtin_convertvector(whole, Floats);
    return whole - (fraction >= 0.5f) + (fraction <= -0.5f);
}

// Half to even, for |value| < 2^22.
inline Floats round_half_even(Floats values) { return (values + 12582912.0f) - 12582912.0f; }

inline void round_32(const float* values, int8_t* codes, float* scale, float* scaled_sum,
                     int16_t* sum) {
    Floats low = load_floats(values), high = load_floats(values + LANES);
    const Ints a = magnitudes(low), b = magnitudes(high);
    // As integers, magnitudes order as floats do, with NaN above all.
    const uint32_t greatest = static_cast<uint32_t>(greatest_lane(a > b ? a : b));
    const bool broken = greatest >= INFINITE_BITS;
    if (broken) low = high = Floats{};
    const float exact_scale = float_of_bits(broken ? 0 : greatest) / 127.0f;
    float inverse = 1.0f / exact_scale;
    if (!is_finite(inverse)) inverse = 0.0f;
    const Ints low_codes = round_half_away(low * inverse);
    const Ints high_codes = round_half_away(high * inverse);
    store_codes(low_codes, codes);
    store_codes(high_codes, codes + LANES);
    const int total = sum_of_lanes(low_codes + high_codes);
    *sum = static_cast<int16_t>(total);
    *scale = broken ? quiet_nan() : float_of_half(half_of_float(exact_scale));
    if (scaled_sum != nullptr) {
        const float exact_sum = static_cast<float>(total) * exact_scale;
        *scaled_sum = broken ? quiet_nan() : float_of_half(half_of_float(exact_sum));
    }
}

inline uint32_t greatest_of_256(const float* values) {
    Ints greatest = {};
    for (int j = 0; j < 256; j += LANES) {
        const Ints here = magnitudes(load_floats(values + j));
        greatest = here > greatest ? here : greatest;
    }
    return static_cast<uint32_t>(greatest_lane(greatest));
}

// Of the first value with that magnitude.
inline int first_with(const float* values, uint32_t magnitude) {
    const Ints wanted = Ints{} + static_cast<int32_t>(magnitude);
    int j = 0;
    while (sum_of_lanes(magnitudes(load_floats(values + j)) == wanted) == 0) j += LANES;
    while ((bits_of_float(values[j]) & 0x7FFFFFFF) != magnitude) j++;
    return j;
}

// The sum of eight signed bytes, as unsigned ones in 16-bit fields.
inline int16_t sum_of_eight(const int8_t* codes) {
    uint64_t bytes;
    __builtin_memcpy(&bytes, codes, 8);
    bytes ^= 0x8080808080808080;
    const uint64_t fields = 0x00FF00FF00FF00FF;
    const uint64_t pairs = (bytes & fields) + ((bytes >> 8) & fields);
    return static_cast<int16_t>(static_cast<int>((pairs * 0x0001000100010001) >> 48) - 8 * 128);
}

inline void round_256(const float* values, int8_t* codes, float* scale, int16_t* sums) {
    const uint32_t greatest = greatest_of_256(values);
    const bool broken = greatest >= INFINITE_BITS;
    *scale = broken ? quiet_nan() : 0.0f;
    if (broken || greatest == 0) {
        __builtin_memset(codes, 0, 256);
        __builtin_memset(sums, 0, 256 / SUM_WIDTH_K * sizeof *sums);
        return;
    }
    float inverse = -127.0f / values[first_with(values, greatest)];
    *scale = 1.0f / inverse;
    if (!is_finite(inverse)) inverse = 0.0f;
    for (int j = 0; j < 256; j += LANES) {
        const Floats rounded = round_half_even(load_floats(values + j) * inverse);
        const Floats least = rounded < 127.0f ? rounded : Floats{} + 127.0f;
        store_codes(__builtin_convertvector(least, Ints), codes + j);
    }
    for (int j = 0; j < 256 / SUM_WIDTH_K; j++) sums[j] = sum_of_eight(codes + SUM_WIDTH_K * j);
}

inline void round_activations(Rounding rounding, const float* values, int64_t columns,
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

}  // namespace
}  // namespace cotejar
