// float16 and bfloat16 to float32 and back, without special instructions. Exact, or rounded
// to nearest with ties to even.
#pragma once

#include <cstdint>
#include <cstring>

namespace cotejar {

static inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

static inline float float_of_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t magnitude = half & 0x7FFF;
    if (magnitude >= 0x7C00) return float_of_bits(sign | 0x7F800000 | (magnitude << 13));
    if (magnitude < 0x0400) {  // subnormal: magnitude * 2^-24, exact
        const float value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
        return float_of_bits(sign | bits_of_float(value));
    }
    return float_of_bits(sign | ((magnitude << 13) + 0x38000000));
}

static inline uint16_t half_of_float(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return sign | 0x7E00;
    if (magnitude >= 0x477FF000) return sign | 0x7C00;  // 65,520 and above
    if (magnitude < 0x38800000) {                       // below 2^-14: to multiples of 2^-24
        const float scaled = float_of_bits(magnitude) * 16777216.0f;
        const float rounded = (scaled + 8388608.0f) - 8388608.0f;
        return sign | static_cast<uint16_t>(rounded);
    }
    const uint32_t rounded = magnitude + 0x0FFF + ((magnitude >> 13) & 1);
    return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

static inline float float_of_bfloat(uint16_t half) {
    return float_of_bits(static_cast<uint32_t>(half) << 16);
}

static inline float round_to_bfloat(float value) {
    const uint32_t bits = bits_of_float(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return float_of_bits((bits & 0xFFFF0000) | 0x400000);
    return float_of_bits((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000);
}

static inline uint16_t read_u16(const uint8_t* at) {
    return static_cast<uint16_t>(at[0] | (at[1] << 8));
}

static inline float read_half(const uint8_t* at) { return float_of_half(read_u16(at)); }

}  // namespace cotejar
