// Vectors of 64 bytes in the compiler's own notation; it splits them where the CPU's are
// shorter. For the files that are compiled once an instruction set (see isa.h).
#pragma once

#include <cstddef>
#include <cstdint>

#pragma GCC diagnostic ignored "-Wpsabi"  // no vector leaves its file by value

namespace cotejar {
namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));
typedef int64_t Longs __attribute__((vector_size(64)));
typedef float HalfFloats __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

constexpr int LANES = 16;

inline Floats load_floats(const float* at) {
    Floats values;
    __builtin_memcpy(&values, at, sizeof values);
    return values;
}

inline void store_floats(float* at, Floats values) {
    __builtin_memcpy(at, &values, sizeof values);
}

inline Doubles load_doubles(const float* at) {
    HalfFloats values;
    __builtin_memcpy(&values, at, sizeof values);
    return __builtin_convertvector(values, Doubles);
}

}  // namespace
}  // namespace cotejar
