// exp in 16 lanes. Only for files that are compiled once an instruction set (see isa.h).
#pragma once

#include "vectors.h"

namespace cotejar {
namespace {

// Cephes' expf (S. Moshier), operation by operation; see kernels/operations.py.
inline Floats exponential(Floats x) {
    const Ints is_number = x == x;
    Floats clean = reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & is_number);
    clean = clean < -104.0f ? Floats{} - 104.0f : clean;
    clean = clean > 89.0f ? Floats{} + 89.0f : clean;
    const Floats turns = (clean * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    const Floats rest = (clean - turns * 0.693359375f) - turns * -2.12194440e-4f;
    Floats poly = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    poly = poly * rest + 8.3334519073e-3f;
    poly = poly * rest + 4.1665795894e-2f;
    poly = poly * rest + 1.6666665459e-1f;
    poly = poly * rest + 5.0000001201e-1f;
    const Floats base = (poly * (rest * rest) + rest) + 1.0f;
    const Ints power = __builtin_convertvector(turns, Ints);
    const Ints half = power >> 1;
    const Floats first = reinterpret_cast<Floats>((half + 127) << 23);
    const Floats second = reinterpret_cast<Floats>((power - half + 127) << 23);
    return is_number ? (base * first) * second : x;
}

}  // namespace
}  // namespace cotejar
