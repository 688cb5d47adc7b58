// Vectors of 64 bytes in the compiler's own notation; it splits them where the CPU's are
// shorter. For the files that are compiled once an instruction set (see isa.h).
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#pragma GCC diagnostic ignored "-Wpsabi"  // no vector leaves its file by value

namespace cotejar {
namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));
typedef int64_t Longs __attribute__((vector_size(64)));
typedef float HalfFloats __attribute__((vector_size(32)));

constexpr int LANES = 16;

inline Floats load_floats(const float* at) {
    Floats values;
    __builtin_memcpy(&values, at, sizeof values);
    return values;
}

inline void store_floats(float* at, Floats values) {
    __builtin_memcpy(at, &values, sizeof values);
}

// The compiler's own conversions take a register apart first.
inline Doubles widened(HalfFloats values) {
#if defined(__AVX512F__)
    return reinterpret_cast<Doubles>(_mm512_cvtps_pd(reinterpret_cast<__m256>(values)));
#else
    return __builtin_convertvector(values, Doubles);
#endif
}

inline HalfFloats narrowed(Doubles values) {
#if defined(__AVX512F__)
    return reinterpret_cast<HalfFloats>(_mm512_cvtpd_ps(reinterpret_cast<__m512d>(values)));
#else
    return __builtin_convertvector(values, HalfFloats);
#endif
}

inline Doubles load_doubles(const float* at) {
    HalfFloats values;
    __builtin_memcpy(&values, at, sizeof values);
    return widened(values);
}

inline Doubles same_doubles(const double* at) {
    Doubles values;
    __builtin_memcpy(&values, at, sizeof values);
    return values;
}

inline void store_doubles(double* at, Doubles values) {
    __builtin_memcpy(at, &values, sizeof values);
}

inline Floats joined(HalfFloats low, HalfFloats high) {
#if defined(__AVX512F__)
    return reinterpret_cast<Floats>(
        _mm512_insertf32x8(_mm512_castps256_ps512(reinterpret_cast<__m256>(low)),
                           reinterpret_cast<__m256>(high), 1));
#else
    const HalfFloats halves[2] = {low, high};
    Floats values;
    __builtin_memcpy(&values, halves, sizeof values);
    return values;
#endif
}

// Of a NaN and a number, and of two zeros, b.
inline Doubles greater_of(Doubles a, Doubles b) {
#if defined(__AVX512F__)
    return reinterpret_cast<Doubles>(
        _mm512_max_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b)));
#else
    return a > b ? a : b;
#endif
}

// The lanes of a true comparison are -1.
inline bool any_true(Ints truths) {
#if defined(__AVX512F__)
    const __m512i all = reinterpret_cast<__m512i>(truths);
    return _mm512_test_epi32_mask(all, all) != 0;
#else
    int32_t lanes[LANES], any = 0;
    __builtin_memcpy(lanes, &truths, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++) any |= lanes[lane];
    return any != 0;
#endif
}

// Into the first cache.
inline void fetch_line(const float* at) { __builtin_prefetch(at, 0, 3); }

}  // namespace
}  // namespace cotejar
