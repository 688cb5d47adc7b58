// e ** x in vectors of 64 bytes, with the same bits on every instruction set. For the files that
// are compiled once an instruction set: everything here has internal linkage (see isa.h).
#pragma once

#include "vectors.h"

namespace cotejar {
namespace {

// base * 2 ** turns, rounded once; turns are whole, from -150 to 128, and base is about 1.
inline Floats times_power_of_two(Floats base, Floats turns) {
#if defined(__AVX512F__)
    return reinterpret_cast<Floats>(
        _mm512_scalef_ps(reinterpret_cast<__m512>(base), reinterpret_cast<__m512>(turns)));
#else
    const Ints power = __builtin_convertvector(turns, Ints);
    const Ints half = power >> 1;  // in two steps, since 2 ** -150 is no float32
    const Floats first = reinterpret_cast<Floats>((half + 127) << 23);
    const Floats second = reinterpret_cast<Floats>((power - half + 127) << 23);
    return (base * first) * second;
#endif
}

// N vectors at a time: each waits for its own last operation, and the CPU does not look far
// enough ahead to find the next one's.

// Of numbers from -104 to 89, in place. Cephes' expf (S. Moshier), operation by operation; see
// kernels/operations.py.
template <int N>
inline void exponentials_in_range(Floats* x) {
    constexpr float POLYNOMIAL[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                    1.6666665459e-1f, 5.0000001201e-1f};
    Floats turns[N], rest[N], poly[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) turns[i] = x[i] * 1.44269504088896341f;
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) turns[i] = (turns[i] + 12582912.0f) - 12582912.0f;
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) rest[i] = x[i] - turns[i] * 0.693359375f;
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) rest[i] = rest[i] - turns[i] * -2.12194440e-4f;
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) poly[i] = rest[i] * 1.9875691500e-4f + POLYNOMIAL[0];
#pragma GCC unroll 4
    for (int term = 1; term < 5; term++)
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) poly[i] = poly[i] * rest[i] + POLYNOMIAL[term];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) poly[i] = poly[i] * (rest[i] * rest[i]);
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) poly[i] = (poly[i] + rest[i]) + 1.0f;
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) x[i] = times_power_of_two(poly[i], turns[i]);
}

// Of any floats, in place; a NaN stays what it is.
template <int N>
inline void exponentials(Floats* x) {
    Floats clean[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) {
        const Ints is_number = x[i] == x[i];
        clean[i] = reinterpret_cast<Floats>(reinterpret_cast<Ints>(x[i]) & is_number);
        clean[i] = clean[i] < -104.0f ? Floats{} - 104.0f : clean[i];
        clean[i] = clean[i] > 89.0f ? Floats{} + 89.0f : clean[i];
    }
    exponentials_in_range<N>(clean);
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) x[i] = x[i] == x[i] ? clean[i] : x[i];
}

// The same, but a NaN gives some NaN and not its own bits: fewer operations.
template <int N>
inline void exponentials_or_some_nan(Floats* x) {
#if defined(__AVX512F__)
    // Of a number and a NaN the second is kept.
    const __m512 least = _mm512_set1_ps(-104.0f), greatest = _mm512_set1_ps(89.0f);
#pragma GCC unroll 4
    for (int i = 0; i < N; i++)
        x[i] = reinterpret_cast<Floats>(_mm512_min_ps(
            greatest, _mm512_max_ps(least, reinterpret_cast<__m512>(x[i]))));
    exponentials_in_range<N>(x);
#else
    exponentials<N>(x);
#endif
}

}  // namespace
}  // namespace cotejar
