// Eight blocks of 32 activations rounded together, or one of 256, in 512-bit registers: the
// horizontal steps of eight blocks take little more than those of one. Only for files compiled
// for AVX-512; everything here has internal linkage (see isa.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace cotejar {
namespace {

constexpr int BLOCKS_AT_ONCE = 8;

// Of eight vectors one: what `fold` makes of all lanes of vector j stands in lanes 4 j and
// 4 j + 1 for the first four, in 4 j + 2 and 4 j + 3 for the others.
template <class Fold>
inline __m512i folded_eight(const __m512i* v, Fold&& fold) {
    __m512i pairs[4], fours[2];
    for (int i = 0; i < 4; i++)
        pairs[i] = fold(_mm512_shuffle_i64x2(v[2 * i], v[2 * i + 1], 0x44),
                        _mm512_shuffle_i64x2(v[2 * i], v[2 * i + 1], 0xEE));
    for (int i = 0; i < 2; i++)
        fours[i] = fold(_mm512_shuffle_i32x4(pairs[2 * i], pairs[2 * i + 1], 0x88),
                        _mm512_shuffle_i32x4(pairs[2 * i], pairs[2 * i + 1], 0xDD));
    const __m512i eight = fold(_mm512_unpacklo_epi64(fours[0], fours[1]),
                               _mm512_unpackhi_epi64(fours[0], fours[1]));
    return fold(eight, _mm512_shuffle_epi32(eight, _MM_PERM_CDAB));
}

// Those lanes in the order of the blocks.
inline __m256i in_order(__m512i lanes) {
    const __m512i order = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 14, 10, 6, 2, 12, 8, 4, 0);
    return _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, lanes));
}

inline __m512 through_halves(__m512 values) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}

// Halves away from zero, for |value| < 2^22: the greatest float below a half carries all that
// must be carried, and nothing else.
inline __m512i whole_numbers(__m512 values) {
    const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000));
    const __m512i below_half = _mm512_set1_epi32(0x3EFFFFFF);
    const __m512i signed_half = _mm512_ternarylogic_epi32(_mm512_castps_si512(values), sign,
                                                          below_half, 0xEA);  // (a & b) | c
    return _mm512_cvttps_epi32(_mm512_add_ps(values, _mm512_castsi512_ps(signed_half)));
}

// 64 numbers of four vectors to bytes, in order.
inline __m512i bytes_of(const __m512i* v) {
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    const __m512i mixed =
        _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    return _mm512_permutexvar_epi32(order, mixed);
}

// False, and nothing is written, where a value is not finite. `scaled_sum` may be null.
inline bool round_eight_blocks(const float* values, int8_t* codes, float* scale,
                               float* scaled_sum, int16_t* sum) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i greatest[BLOCKS_AT_ONCE];
    for (int block = 0; block < BLOCKS_AT_ONCE; block++)
        greatest[block] = _mm512_max_epi32(
            _mm512_and_si512(_mm512_loadu_si512(values + 32 * block), magnitude),
            _mm512_and_si512(_mm512_loadu_si512(values + 32 * block + 16), magnitude));
    const __m512i all = folded_eight(
        greatest, [](__m512i a, __m512i b) { return _mm512_max_epi32(a, b); });
    if (_mm512_cmpge_epi32_mask(all, _mm512_set1_epi32(0x7F800000)) != 0) return false;
    const __m512 exact_scale = _mm512_div_ps(_mm512_castsi512_ps(all), _mm512_set1_ps(127.0f));
    __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1.0f), exact_scale);
    const __m512 infinity = _mm512_castsi512_ps(_mm512_set1_epi32(0x7F800000));
    inverse = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(inverse, infinity, _CMP_NEQ_OQ), inverse);
    alignas(64) float inverses[16];
    _mm512_store_ps(inverses, inverse);
    __m512i sums[BLOCKS_AT_ONCE];
    for (int pair = 0; pair < BLOCKS_AT_ONCE; pair += 2) {
        __m512i numbers[4];
        for (int i = 0; i < 4; i++) {
            const int block = pair + i / 2;
            const __m512 by = _mm512_set1_ps(inverses[block < 4 ? 4 * block : 4 * block - 14]);
            numbers[i] = whole_numbers(
                _mm512_mul_ps(_mm512_loadu_ps(values + 32 * pair + 16 * i), by));
        }
        _mm512_storeu_si512(codes + 32 * pair, bytes_of(numbers));
        sums[pair] = _mm512_add_epi32(numbers[0], numbers[1]);
        sums[pair + 1] = _mm512_add_epi32(numbers[2], numbers[3]);
    }
    const __m512i totals =
        folded_eight(sums, [](__m512i a, __m512i b) { return _mm512_add_epi32(a, b); });
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sum), _mm256_cvtepi32_epi16(in_order(totals)));
    const auto store = [](__m512 lanes, float* at) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), in_order(_mm512_castps_si512(lanes)));
    };
    store(through_halves(exact_scale), scale);
    if (scaled_sum != nullptr)
        store(through_halves(_mm512_mul_ps(_mm512_cvtepi32_ps(totals), exact_scale)), scaled_sum);
    return true;
}

constexpr int GROUPS_AT_ONCE = 4;

// Of four vectors one: what `fold` makes of all lanes of vector j stands in lanes 4 j to 4 j + 3.
template <class Fold>
inline __m512i folded_four(const __m512i* v, Fold&& fold) {
    __m512i pairs[2];
    for (int i = 0; i < 2; i++)
        pairs[i] = fold(_mm512_shuffle_i64x2(v[2 * i], v[2 * i + 1], 0x44),
                        _mm512_shuffle_i64x2(v[2 * i], v[2 * i + 1], 0xEE));
    __m512i four = fold(_mm512_shuffle_i32x4(pairs[0], pairs[1], 0x88),
                        _mm512_shuffle_i32x4(pairs[0], pairs[1], 0xDD));
    four = fold(four, _mm512_shuffle_epi32(four, _MM_PERM_BADC));
    return fold(four, _mm512_shuffle_epi32(four, _MM_PERM_CDAB));
}

// Every fourth lane.
inline __m128i fourth_lanes(__m512i lanes) {
    const __m512i order = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    return _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, lanes));
}

// Groups of 64; false, and nothing is written, where a value is not finite.
inline bool round_four_groups(const float* values, int8_t* codes, float* scale, int16_t* sum) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i greatest[GROUPS_AT_ONCE];
    for (int group = 0; group < GROUPS_AT_ONCE; group++) {
        greatest[group] = _mm512_setzero_si512();
        for (int i = 0; i < 64; i += 16)
            greatest[group] = _mm512_max_epi32(
                greatest[group],
                _mm512_and_si512(_mm512_loadu_si512(values + 64 * group + i), magnitude));
    }
    const __m512i all = folded_four(
        greatest, [](__m512i a, __m512i b) { return _mm512_max_epi32(a, b); });
    const __m512i infinity = _mm512_set1_epi32(0x7F800000);
    if (_mm512_cmpge_epi32_mask(all, infinity) != 0) return false;
    __m512 inverse = _mm512_div_ps(_mm512_set1_ps(127.0f), _mm512_castsi512_ps(all));
    inverse = _mm512_maskz_mov_ps(
        _mm512_cmp_ps_mask(inverse, _mm512_castsi512_ps(infinity), _CMP_NEQ_OQ), inverse);
    alignas(64) float inverses[16];
    _mm512_store_ps(inverses, inverse);
    __m512i sums[GROUPS_AT_ONCE];
    for (int group = 0; group < GROUPS_AT_ONCE; group++) {
        const __m512 by = _mm512_set1_ps(inverses[4 * group]);
        __m512i numbers[4];
        for (int i = 0; i < 4; i++)  // halves to even
            numbers[i] = _mm512_cvtps_epi32(
                _mm512_mul_ps(_mm512_loadu_ps(values + 64 * group + 16 * i), by));
        const __m512i bytes = bytes_of(numbers);
        _mm512_storeu_si512(codes + 64 * group, bytes);
        sums[group] =
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
    }
    const __m512i totals =
        folded_four(sums, [](__m512i a, __m512i b) { return _mm512_add_epi32(a, b); });
    const __m128i narrow = _mm_packs_epi32(fourth_lanes(totals), _mm_setzero_si128());
    _mm_storel_epi64(reinterpret_cast<__m128i*>(sum), narrow);
    const __m512 scales =
        _mm512_mul_ps(_mm512_castsi512_ps(all), _mm512_set1_ps(1.0f / 127.0f));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(scale),
                     fourth_lanes(_mm512_castps_si512(scales)));
    return true;
}

// The value of a block of 256 whose magnitude is the greatest: false where it is 0 or not finite,
// or where it stands there with either sign, and the first would count.
inline bool find_greatest_of_256(const float* values, float* greatest) {
    // As integers, positive floats order as they are; as unsigned ones, negative ones come last
    // and the least of them at the very end.
    __m512i positive = _mm512_setzero_si512(), negative = _mm512_set1_epi32(INT32_MIN);
    for (int j = 0; j < 256; j += 16) {
        const __m512i here = _mm512_loadu_si512(values + j);
        positive = _mm512_max_epi32(positive, here);
        negative = _mm512_max_epu32(negative, here);
    }
    const uint32_t above = static_cast<uint32_t>(_mm512_reduce_max_epi32(positive));
    const uint32_t below = _mm512_reduce_max_epu32(negative) & 0x7FFFFFFF;
    const uint32_t bits = above > below ? above : below | 0x80000000;
    __builtin_memcpy(greatest, &bits, sizeof bits);
    return above != below && (bits & 0x7FFFFFFF) < 0x7F800000;
}

// Half to even, for |value| < 2^22; at most 127.
inline __m512i even_numbers(__m512 values) {
    const __m512 rounder = _mm512_set1_ps(12582912.0f), most = _mm512_set1_ps(127.0f);
    const __m512 rounded = _mm512_sub_ps(_mm512_add_ps(values, rounder), rounder);
    return _mm512_cvttps_epi32(_mm512_min_ps(rounded, most));
}

inline void round_values_of_256(const float* values, float inverse, int8_t* codes) {
    const __m512 by = _mm512_set1_ps(inverse);
    for (int j = 0; j < 256; j += 64) {
        __m512i numbers[4];
        for (int i = 0; i < 4; i++)
            numbers[i] = even_numbers(_mm512_mul_ps(_mm512_loadu_ps(values + j + 16 * i), by));
        _mm512_storeu_si512(codes + j, bytes_of(numbers));
    }
}

}  // namespace
}  // namespace cotejar
