// Blocks to codes in 512-bit registers, and the shuffles that the kernels share. Only for
// files compiled for AVX-512; everything here has internal linkage (see isa.h).
#pragma once

#include <immintrin.h>

#include "isa.h"

namespace cotejar {
namespace {

inline __m512i load_512(const void* at) { return _mm512_loadu_si512(at); }
inline __m256i load_256(const void* at) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}
inline __m128i load_128(const void* at) {
    return _mm_loadu_si128(static_cast<const __m128i*>(at));
}
inline uint64_t load_u32(const uint8_t* at) {
    uint32_t value;
    __builtin_memcpy(&value, at, 4);
    return value;
}

// --- types of 32-blocks: two blocks, which need not be neighbours, to 2 x 32 codes ---------

inline __m512i nibbles_of_two(const uint8_t* a, const uint8_t* b) {
    const __m512i shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
    __m512i packed = _mm512_broadcast_i32x4(load_128(a));
    packed = _mm512_mask_broadcast_i32x4(packed, 0xFF00, load_128(b));
    return _mm512_and_si512(_mm512_srlv_epi64(packed, shifts), _mm512_set1_epi8(15));
}

inline __m512i fifth_bits_of_two(__m512i codes, const uint8_t* a, const uint8_t* b) {
    const __mmask64 bits = _cvtu64_mask64(load_u32(a) | (load_u32(b) << 32));
    return _mm512_mask_add_epi8(codes, bits, codes, _mm512_set1_epi8(16));
}

struct CodesQ4_0 {
    static constexpr int BYTES = 18, MAX_CODE = 15;
    static constexpr bool OFFSET = false;
    static __m512i of_two(const uint8_t* a, const uint8_t* b) {
        return nibbles_of_two(a + 2, b + 2);
    }
};

struct CodesQ4_1 {
    static constexpr int BYTES = 20, MAX_CODE = 15;
    static constexpr bool OFFSET = true;
    static __m512i of_two(const uint8_t* a, const uint8_t* b) {
        return nibbles_of_two(a + 4, b + 4);
    }
};

struct CodesQ5_0 {
    static constexpr int BYTES = 22, MAX_CODE = 31;
    static constexpr bool OFFSET = false;
    static __m512i of_two(const uint8_t* a, const uint8_t* b) {
        return fifth_bits_of_two(nibbles_of_two(a + 6, b + 6), a + 2, b + 2);
    }
};

struct CodesQ5_1 {
    static constexpr int BYTES = 24, MAX_CODE = 31;
    static constexpr bool OFFSET = true;
    static __m512i of_two(const uint8_t* a, const uint8_t* b) {
        return fifth_bits_of_two(nibbles_of_two(a + 8, b + 8), a + 4, b + 4);
    }
};

struct CodesQ8_0 {
    static constexpr int BYTES = 34, MAX_CODE = 255;
    static constexpr bool OFFSET = false;
    static __m512i of_two(const uint8_t* a, const uint8_t* b) {
        const __m512i both =
            _mm512_inserti64x4(_mm512_castsi256_si512(load_256(a + 2)), load_256(b + 2), 1);
        return _mm512_xor_si512(both, _mm512_set1_epi8(-128));
    }
};

// --- types of super-blocks: 256 codes in four registers -----------------------------------
//
// RUNS names the run of 32 codes in each half of each register.

inline __m512i and_or(__m512i a, __m512i mask, __m512i b) {
    return _mm512_ternarylogic_epi64(a, mask, b, 0xEA);  // (a & mask) | b
}

struct CodesQ4_K {
    static constexpr int BYTES = 144;
    static constexpr bool EVEN_ODD = true;
    static constexpr int RUNS[4][2] = {{0, 2}, {1, 3}, {4, 6}, {5, 7}};
    static void of_block(const uint8_t* block, __m512i* codes) {
        const __m512i low = _mm512_set1_epi8(15);
        for (int half = 0; half < 2; half++) {
            const __m512i packed = load_512(block + 16 + 64 * half);
            codes[2 * half] = _mm512_and_si512(packed, low);
            codes[2 * half + 1] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
        }
    }
};

struct CodesQ5_K {
    static constexpr int BYTES = 176;
    static constexpr bool EVEN_ODD = true;
    static constexpr int RUNS[4][2] = {{0, 2}, {1, 3}, {4, 6}, {5, 7}};
    static void of_block(const uint8_t* block, __m512i* codes) {
        const __m512i low = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
        const __m512i high = _mm512_broadcast_i64x4(load_256(block + 16));
        // Rotations that bring bit k, k the run, to bit 4; no byte reaches into its neighbour.
        const __m512i turn[4] = {halves(4, 2), halves(3, 1), halves(0, 30), halves(31, 29)};
        for (int half = 0; half < 2; half++) {
            const __m512i packed = load_512(block + 48 + 64 * half);
            const __m512i even = _mm512_and_si512(packed, low);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
            codes[2 * half] = and_or(_mm512_rolv_epi32(high, turn[2 * half]), fifth, even);
            codes[2 * half + 1] = and_or(_mm512_rolv_epi32(high, turn[2 * half + 1]), fifth, odd);
        }
    }
    static __m512i halves(int first, int second) {
        return _mm512_inserti64x4(_mm512_set1_epi32(first), _mm256_set1_epi32(second), 1);
    }
};

struct CodesQ6_K {
    static constexpr int BYTES = 210;
    static constexpr bool EVEN_ODD = false;
    static constexpr int RUNS[4][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}};
    static void of_block(const uint8_t* block, __m512i* codes) {
        const __m512i low = _mm512_set1_epi8(15), top = _mm512_set1_epi8(48);
        const __m512i first = CodesQ5_K::halves(4, 2), second = CodesQ5_K::halves(0, 30);
        for (int half = 0; half < 2; half++) {
            const __m512i packed = load_512(block + 64 * half);
            const __m512i high = _mm512_broadcast_i64x4(load_256(block + 128 + 32 * half));
            codes[2 * half] = and_or(_mm512_rolv_epi32(high, first), top,
                                     _mm512_and_si512(packed, low));
            codes[2 * half + 1] =
                and_or(_mm512_rolv_epi32(high, second), top,
                       _mm512_and_si512(_mm512_srli_epi16(packed, 4), low));
        }
    }
};

// --- 16 rows at once -------------------------------------------------------------------

// Where each of 16 rows starts; rows past the last repeat it.
inline __m512i row_offsets(int64_t rows_left, int64_t row_bytes) {
    const __m512i lane =
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const int last = static_cast<int>(rows_left < ROWS ? rows_left - 1 : ROWS - 1);
    return _mm512_mullo_epi32(_mm512_min_epi32(lane, _mm512_set1_epi32(last)),
                              _mm512_set1_epi32(static_cast<int>(row_bytes)));
}

inline __m512i gather_u32(const uint8_t* at, __m512i offsets) {
#if defined(__SANITIZE_ADDRESS__)  // which does not look at what a gather reads
    int32_t lanes[ROWS], words[ROWS];
    _mm512_storeu_si512(lanes, offsets);
    for (int row = 0; row < ROWS; row++)
        words[row] = static_cast<int32_t>(load_u32(at + lanes[row]));
    return load_512(words);
#else
    return _mm512_i32gather_epi32(offsets, at, 1);
#endif
}

// Of 16 rows, those that there are.
inline void store_rows(float* product, int64_t rows_left, __m512 total) {
#if defined(__SANITIZE_ADDRESS__)  // nor at what a masked store writes
    float values[ROWS];
    _mm512_storeu_ps(values, total);
    for (int64_t row = 0; row < ROWS && row < rows_left; row++) product[row] = values[row];
#else
    const int64_t rows = rows_left < ROWS ? rows_left : ROWS;
    _mm512_mask_storeu_ps(product, static_cast<__mmask16>((1u << rows) - 1), total);
#endif
}

inline __m512 low_halves_as_floats(__m512i words) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
}

inline __m512 high_halves_as_floats(__m512i words) {
    return low_halves_as_floats(_mm512_srli_epi32(words, 16));
}

inline __m512 negated(__m512 values) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(values),
                                                _mm512_set1_epi32(static_cast<int>(0x80000000))));
}

// Scales and minimums of Q4_K and Q5_K: byte j of `scales[h]` is sub-scale 4h + j of a row.
struct SubScales {
    __m512i scales[2], minimums[2];
};

inline SubScales sub_scales_of_rows(const uint8_t* block, __m512i offsets) {
    const __m512i six = _mm512_set1_epi8(63), low = _mm512_set1_epi8(15);
    const __m512i top = _mm512_set1_epi8(48);
    const __m512i first = gather_u32(block + 4, offsets);
    const __m512i second = gather_u32(block + 8, offsets);
    const __m512i third = gather_u32(block + 12, offsets);
    const __m512i late = _mm512_and_si512(third, low);
    const __m512i late_minimums = _mm512_and_si512(_mm512_srli_epi32(third, 4), low);
    return {{_mm512_and_si512(first, six), and_or(_mm512_srli_epi32(first, 2), top, late)},
            {_mm512_and_si512(second, six),
             and_or(_mm512_srli_epi32(second, 2), top, late_minimums)}};
}

// A token's four codes, spread to every lane.
inline __m512i same_four(const int8_t* four) {
    int32_t value;
    __builtin_memcpy(&value, four, 4);
    return _mm512_set1_epi32(value);
}

// Adds the dots of 16 rows' four codes and a token's four, which are spread to every lane as
// they are read. The compiler would spend an instruction of its own on that.
inline void add_dots(__m512i& sums, __m512i rows, const int8_t* four) {
    typedef int32_t __attribute__((may_alias)) Four;
#if defined(__SANITIZE_ADDRESS__)  // which does not look at what an asm reads
    sums = _mm512_dpbusd_epi32(sums, rows,
                               _mm512_set1_epi32(*reinterpret_cast<const Four*>(four)));
#else
    asm("vpdpbusd %2%{1to16%}, %1, %0"
        : "+v"(sums)
        : "v"(rows), "m"(*reinterpret_cast<const Four*>(four)));
#endif
}

// Sums of four neighbouring lanes of four vectors: in every 128 bits, one of each vector.
inline __m512i sums_of_four(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab =
        _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd =
        _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

// The same of lanes that fit int16, pairs of lanes too: two lanes added by one product with 1.
inline __m512i sums_of_four_narrow(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ones = _mm512_set1_epi16(1);
    const __m512i ab = _mm512_madd_epi16(_mm512_packs_epi32(a, b), ones);
    const __m512i cd = _mm512_madd_epi16(_mm512_packs_epi32(c, d), ones);
    return _mm512_madd_epi16(_mm512_packs_epi32(ab, cd), ones);
}

inline __m512i add_neighbours_128(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xDD));
}

}  // namespace
}  // namespace cotejar
