// float32 arithmetic as the bfloat16 instructions have it: a number below 2^-126 counts as 0,
// before an operation and after it, and a product is rounded together with its sum.
#pragma once

#include <cstdint>

#include "float16.h"

namespace cotejar {

static inline float flushed(float value) {
    const uint32_t bits = bits_of_float(value);
    return float_of_bits(bits & ((bits & 0x7F800000) ? 0xFFFFFFFF : 0x80000000));
}

static inline float fused_flushed(float a, float b, float c) {
    return flushed(__builtin_fmaf(flushed(a), flushed(b), flushed(c)));
}

static inline float added_flushed(float a, float b) { return flushed(flushed(a) + flushed(b)); }

// To nearest, ties to even; the upper 16 bits of a float32.
static inline uint16_t bf16_of_float(float value) {
    return static_cast<uint16_t>(bits_of_float(round_to_bfloat(flushed(value))) >> 16);
}

}  // namespace cotejar
