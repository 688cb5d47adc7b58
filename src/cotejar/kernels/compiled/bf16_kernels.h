// Rounding to bfloat16 and laying out; included once by each bf16_*.cpp and compiled with its
// flags, see isa.h.
#pragma once

#include "bf16.h"
#include "bf16_float.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#pragma GCC diagnostic ignored "-Wpsabi"  // no vector leaves its file by value

namespace cotejar {
namespace {

// Of longer vectors than the CPU's the compiler makes a detour through memory.
#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t Shorts __attribute__((vector_size(2 * WIDTH)));

template <class Vector>
inline Vector load(const void* at) {
    Vector values;
    __builtin_memcpy(&values, at, sizeof values);
    return values;
}

inline Floats floats_of(Words whole) {
    return __builtin_convertvector(reinterpret_cast<Ints>(whole), Floats);
}

// --- rounding ----------------------------------------------------------------------------

// bfloat16 in the upper half of each word; what is below it is to be cut off.
inline Words rounded(Floats values) {
    const Words bits = reinterpret_cast<Words>(values), magnitude = bits & 0x7FFFFFFFu;
    const Words nearest = bits + 0x7FFFu + ((bits >> 16) & 1u);
    const Words number = magnitude < 0x00800000u ? bits & 0x80000000u : nearest;
    return magnitude > 0x7F800000u ? bits | 0x400000u : number;
}

#if defined(__AVX512BF16__)

// The instruction takes subnormals for 0 as well.
inline void store_rounded(Floats values, uint16_t* at) {
    const __m256bh halves = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(values));
    __builtin_memcpy(at, &halves, sizeof halves);
}

inline void store_pairs(Floats even, Floats odd, uint16_t* at) {
    const Words order = {0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005,
                         0x160006, 0x170007, 0x180008, 0x190009, 0x1A000A, 0x1B000B,
                         0x1C000C, 0x1D000D, 0x1E000E, 0x1F000F};
    const __m512bh both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(odd),
                                              reinterpret_cast<__m512>(even));
    _mm512_storeu_si512(at, _mm512_permutexvar_epi16(reinterpret_cast<__m512i>(order),
                                                     reinterpret_cast<__m512i>(both)));
}

#else

inline void store_rounded(Floats values, uint16_t* at) {
    const Shorts halves = __builtin_convertvector(rounded(values) >> 16, Shorts);
    __builtin_memcpy(at, &halves, sizeof halves);
}

inline void store_pairs(Floats even, Floats odd, uint16_t* at) {
    const Words both = (rounded(even) >> 16) | (rounded(odd) & 0xFFFF0000u);
    __builtin_memcpy(at, &both, sizeof both);
}

#endif

// k values, zeros after the columns.
inline void round_row(const float* values, int64_t columns, int64_t k, uint16_t* out) {
    const int64_t whole = columns / WIDTH * WIDTH;
    for (int64_t c = 0; c < whole; c += WIDTH) store_rounded(load<Floats>(values + c), out + c);
    for (int64_t c = whole; c < columns; c++) out[c] = bf16_of_float(values[c]);
    for (int64_t c = columns; c < k; c++) out[c] = 0;
}

// --- weights -----------------------------------------------------------------------------

// Rows lane..lane + WIDTH of `quads` words of four codes; the floats are those of
// quant/codec.py. `zero` is 2^23 and the centre: a code is put behind the bits of 2^23 and
// comes out by a subtraction, which is exact and cheaper than a conversion.
template <bool OFFSET>
inline void pairs_of_codes(const uint8_t* codes, int quads, float zero, Floats scale,
                           Floats offset, uint16_t* pairs) {
    for (int quad = 0; quad < quads; quad++) {
        const Words words = load<Words>(codes + quad * 4 * ROWS);
        Floats values[4];
        for (int j = 0; j < 4; j++) {
            const Words code = ((words >> (8 * j)) & 255u) | 0x4B000000u;
            values[j] = scale * (reinterpret_cast<Floats>(code) - zero);
            if (OFFSET) values[j] += offset;
        }
        store_pairs(values[0], values[1], pairs + quad * 4 * ROWS);
        store_pairs(values[2], values[3], pairs + quad * 4 * ROWS + 2 * ROWS);
    }
}

// The lower or the upper int16 of each word.
inline Floats halves_of(const int32_t* at, bool upper) {
    const Words words = load<Words>(at);
    return floats_of(reinterpret_cast<Words>(
        reinterpret_cast<Ints>(upper ? words : words << 16) >> 16));
}

template <bool OFFSET>
void pairs_of_lanes(const Weight& weight, const Strip& strip, int lane, uint16_t* pairs) {
    const TypeInfo& type = *weight.type;
    const int num_sub = type.num_sub ? type.num_sub : 1, width = type.elements / num_sub;
    const float zero = static_cast<float>((1 << 23) + type.centre);
    for (int64_t block = 0; block < weight.num_blocks(); block++) {
        const Floats scale = load<Floats>(strip.scale + block * ROWS + lane);
        const Floats offset =
            OFFSET ? load<Floats>(strip.offset + block * ROWS + lane) : scale;
        for (int sub = 0; sub < num_sub; sub++) {
            const int64_t index = block * num_sub + sub, at = index * width * ROWS;
            Floats sub_scale = scale, sub_offset = offset;
            if (type.num_sub) {
                sub_scale *= halves_of(strip.sub_scales + index * ROWS + lane, false);
                if (OFFSET)
                    sub_offset *=
                        halves_of(strip.sub_offsets + index / 2 * ROWS + lane, index % 2);
            }
            pairs_of_codes<OFFSET>(strip.codes + at + 4 * lane, width / 4, zero, sub_scale,
                                   sub_offset, pairs + at + 2 * lane);
        }
    }
}

void pairs_of_strip(const Weight& weight, const Strip& strip, uint16_t* pairs) {
    for (int lane = 0; lane < ROWS; lane += WIDTH)
        if (weight.type->has_offset)
            pairs_of_lanes<true>(weight, strip, lane, pairs);
        else
            pairs_of_lanes<false>(weight, strip, lane, pairs);
}

void pairs_of_rows(const float* rows, int64_t k, uint16_t* pairs) {
    uint16_t values[ROWS][CHUNK];
    for (int64_t c = 0; c < k; c += CHUNK) {
        for (int row = 0; row < ROWS; row++)
            round_row(rows + row * k + c, CHUNK, CHUNK, values[row]);
        for (int pair = 0; pair < CHUNK / 2; pair++)
            for (int row = 0; row < ROWS; row++)
                __builtin_memcpy(pairs + (c + 2 * pair) * ROWS + 2 * row,
                                 values[row] + 2 * pair, 4);
    }
}

// --- what every product writes -----------------------------------------------------------

inline int smaller(int64_t a, int64_t b) { return static_cast<int>(a < b ? a : b); }

// totals[tokens][ROWS] of strip `index` to their place.
inline void store_totals(const float* totals, int tokens, int64_t first_token,
                         const Bf16Strips& strips, int index, float* product,
                         int64_t row_stride) {
    const int64_t first_row = static_cast<int64_t>(index) * ROWS;
    const int rows = smaller(ROWS, strips.num_rows - first_row);
    float* at = product + first_token * row_stride + strips.first_row + first_row;
    if (rows == ROWS) {  // of a size that is known, and no call
        for (int t = 0; t < tokens; t++)
            __builtin_memcpy(at + t * row_stride, totals + t * ROWS, ROWS * sizeof(float));
        return;
    }
    for (int t = 0; t < tokens; t++)
        __builtin_memcpy(at + t * row_stride, totals + t * ROWS,
                         static_cast<size_t>(rows) * sizeof(float));
}

}  // namespace
}  // namespace cotejar
