// Blocks to codes in 256-bit registers. Only for files compiled for AVX2; everything here has
// internal linkage (see isa.h).
#pragma once

#include <immintrin.h>

#include "isa.h"

namespace cotejar {
namespace {

inline __m256i load_256(const void* at) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}
inline __m128i load_128(const void* at) {
    return _mm_loadu_si128(static_cast<const __m128i*>(at));
}
inline uint32_t load_u32(const uint8_t* at) {
    uint32_t value;
    __builtin_memcpy(&value, at, 4);
    return value;
}

inline __m256i nibbles(const uint8_t* at) {
    const __m128i packed = load_128(at);
    const __m256i both = _mm256_set_m128i(_mm_srli_epi16(packed, 4), packed);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

// Bit j of the word to bit 4 of byte j.
inline __m256i fifth_bits(const uint8_t* at) {
    const __m256i which = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202,
                                            0x0101010101010101, 0);
    const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    const __m256i word = _mm256_set1_epi32(static_cast<int>(load_u32(at)));
    const __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(word, which), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit), _mm256_set1_epi8(16));
}

// --- one block of 32. MAX_CODE bounds how many products an int16 holds. -------------------

struct CodesQ4_0 {
    static constexpr int BYTES = 18, MAX_CODE = 15;
    static constexpr bool OFFSET = false;
    static __m256i of(const uint8_t* block) { return nibbles(block + 2); }
};

struct CodesQ4_1 {
    static constexpr int BYTES = 20, MAX_CODE = 15;
    static constexpr bool OFFSET = true;
    static __m256i of(const uint8_t* block) { return nibbles(block + 4); }
};

struct CodesQ5_0 {
    static constexpr int BYTES = 22, MAX_CODE = 31;
    static constexpr bool OFFSET = false;
    static __m256i of(const uint8_t* block) {
        return _mm256_or_si256(nibbles(block + 6), fifth_bits(block + 2));
    }
};

struct CodesQ5_1 {
    static constexpr int BYTES = 24, MAX_CODE = 31;
    static constexpr bool OFFSET = true;
    static __m256i of(const uint8_t* block) {
        return _mm256_or_si256(nibbles(block + 8), fifth_bits(block + 4));
    }
};

struct CodesQ8_0 {
    static constexpr int BYTES = 34, MAX_CODE = 255;
    static constexpr bool OFFSET = false;
    static __m256i of(const uint8_t* block) {
        return _mm256_xor_si256(load_256(block + 2), _mm256_set1_epi8(-128));
    }
};

// --- one run of 32 codes of a super-block -------------------------------------------------

inline __m256i low_or_high(const uint8_t* at, int high) {
    const __m256i packed = load_256(at);
    return _mm256_and_si256(high ? _mm256_srli_epi16(packed, 4) : packed, _mm256_set1_epi8(15));
}

struct CodesQ4_K {
    static constexpr int BYTES = 144;
    static constexpr bool OFFSET = true;
    static __m256i of(const uint8_t* block, int run) {
        return low_or_high(block + 16 + 32 * (run / 2), run % 2);
    }
};

struct CodesQ5_K {
    static constexpr int BYTES = 176;
    static constexpr bool OFFSET = true;
    static __m256i of(const uint8_t* block, int run) {
        const __m256i moved = _mm256_srl_epi16(load_256(block + 16), _mm_cvtsi32_si128(run));
        const __m256i bit = _mm256_and_si256(moved, _mm256_set1_epi8(1));
        return _mm256_or_si256(low_or_high(block + 48 + 32 * (run / 2), run % 2),
                               _mm256_slli_epi16(bit, 4));
    }
};

struct CodesQ6_K {
    static constexpr int BYTES = 210;
    static constexpr bool OFFSET = false;
    static __m256i of(const uint8_t* block, int run) {
        const int half = run / 4, quarter = run % 4;
        const __m256i low =
            low_or_high(block + 64 * half + 32 * (quarter % 2), quarter / 2);
        const __m256i moved = _mm256_srl_epi16(load_256(block + 128 + 32 * half),
                                               _mm_cvtsi32_si128(2 * quarter));
        const __m256i pair = _mm256_and_si256(moved, _mm256_set1_epi8(3));
        return _mm256_or_si256(low, _mm256_slli_epi16(pair, 4));
    }
};

// Scales and minimums of Q4_K and Q5_K, one a byte.
struct SubScales {
    uint64_t scales, minimums;

    explicit SubScales(const uint8_t* block) {
        const uint32_t first = load_u32(block + 4), second = load_u32(block + 8);
        const uint32_t third = load_u32(block + 12), low = 0x0F0F0F0F, top = 0x30303030;
        const uint64_t late_scales = (third & low) | ((first >> 2) & top);
        const uint64_t late_minimums = ((third >> 4) & low) | ((second >> 2) & top);
        scales = (first & 0x3F3F3F3F) | (late_scales << 32);
        minimums = (second & 0x3F3F3F3F) | (late_minimums << 32);
    }
};

inline float half_at(const uint8_t* at) {
    uint16_t half;
    __builtin_memcpy(&half, at, 2);
    return _cvtsh_ss(half);
}

// --- integer dots --------------------------------------------------------------------------

// Four products a lane of unsigned codes and signed x, as int32. Codes up to 255 must take the
// signed way: two products of them overflow the int16 that the instruction saturates to.
inline __m256i wide_dot(__m256i codes, __m256i x) {
    const __m256i w = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// Sums of four neighbouring lanes of four vectors: in every 128 bits, one of each vector.
inline __m256i sums_of_four(__m256i a, __m256i b, __m256i c, __m256i d) {
    return _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
}

// Eight vectors to one of their sums.
inline __m256i sums_of_eight(const __m256i* v) {
    const __m256i p = sums_of_four(v[0], v[1], v[2], v[3]);
    const __m256i q = sums_of_four(v[4], v[5], v[6], v[7]);
    return _mm256_add_epi32(_mm256_permute2x128_si256(p, q, 0x20),
                            _mm256_permute2x128_si256(p, q, 0x31));
}

}  // namespace
}  // namespace cotejar
