// What one register of the CPU holds, for fused multiply-adds: the compiler takes longer vectors
// apart by itself, but not a fused multiply-add of them. For the files that are compiled once an
// instruction set (see isa.h).
#pragma once

#include "vectors.h"

#if defined(__FMA__)
#include <immintrin.h>
#endif

namespace cotejar {
namespace {

#if defined(__AVX512F__)
typedef Floats Register;
typedef Ints RegisterInts;
#else
typedef HalfFloats Register;
typedef int32_t RegisterInts __attribute__((vector_size(32)));
#endif
constexpr int WIDTH = sizeof(Register) / sizeof(float);

inline Register load_register(const float* at) {
    Register values;
    __builtin_memcpy(&values, at, sizeof values);
    return values;
}

inline void store_register(float* at, Register values) {
    __builtin_memcpy(at, &values, sizeof values);
}

// a * b + sum, rounded once.
inline Register fused(Register a, float b, Register sum) {
#if defined(__AVX512F__)
    return reinterpret_cast<Register>(_mm512_fmadd_ps(
        reinterpret_cast<__m512>(a), _mm512_set1_ps(b), reinterpret_cast<__m512>(sum)));
#elif defined(__FMA__)
    return reinterpret_cast<Register>(_mm256_fmadd_ps(
        reinterpret_cast<__m256>(a), _mm256_set1_ps(b), reinterpret_cast<__m256>(sum)));
#else
    for (int lane = 0; lane < WIDTH; lane++) sum[lane] = __builtin_fmaf(a[lane], b, sum[lane]);
    return sum;
#endif
}

// Of a NaN and a number, and of two zeros, b.
inline Register greater_of(Register a, Register b) {
#if defined(__AVX512F__)
    return reinterpret_cast<Register>(
        _mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#else
    return a > b ? a : b;
#endif
}

}  // namespace
}  // namespace cotejar
