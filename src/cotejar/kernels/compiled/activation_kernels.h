// Activations rounded to 8-bit blocks, with the bytes of quant/activations.py. Included once by
// each isa_*.cpp and compiled with its flags; everything here has internal linkage (see isa.h).
#pragma once

#include "activations.h"
#include "float16.h"
#include "vectors.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512BW__)
#include "avx512_rounding.h"
#endif

namespace cotejar {
namespace {

constexpr uint32_t INFINITE_BITS = 0x7F800000;

inline float quiet_nan() { return float_of_bits(0x7FC00000); }

inline bool is_finite(float value) {
    return (bits_of_float(value) & INFINITE_BITS) != INFINITE_BITS;
}

inline Ints magnitudes(Floats values) { return reinterpret_cast<Ints>(values) & 0x7FFFFFFF; }

#if defined(__AVX2__)
inline __m256i greater_of_halves(Ints values) {
#if defined(__AVX512F__)
    const __m512i all = reinterpret_cast<__m512i>(values);
    return _mm256_max_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
#else
    __m256i halves[2];
    __builtin_memcpy(halves, &values, sizeof halves);
    return _mm256_max_epi32(halves[0], halves[1]);
#endif
}
#endif

// Of values that are not negative.
inline int32_t greatest_lane(Ints values) {
#if defined(__AVX2__)
    const __m256i eight = greater_of_halves(values);
    __m128i four =
        _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
#else
    int32_t lanes[LANES], greatest = 0;
    __builtin_memcpy(lanes, &values, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++)
        greatest = lanes[lane] > greatest ? lanes[lane] : greatest;
    return greatest;
#endif
}

// To float16 and back, of a number that is no NaN.
inline float through_half(float value) {
#if defined(__F16C__)
    return _mm_cvtss_f32(
        _mm_cvtph_ps(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT)));
#else
    return float_of_half(half_of_float(value));
#endif
}

// Stores 16 codes and returns their sum.
#if defined(__AVX2__)
inline int store_codes(Ints codes, int8_t* at) {
#if defined(__AVX512F__)
    const __m128i narrow = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(codes));
#else
    __m256i halves[2];
    __builtin_memcpy(halves, &codes, sizeof halves);
    const __m256i mixed = _mm256_packs_epi32(halves[0], halves[1]);
    const __m256i words = _mm256_permute4x64_epi64(mixed, 0xD8);
    const __m128i narrow =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
#endif
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), narrow);
    const __m128i sums =
        _mm_sad_epu8(_mm_xor_si128(narrow, _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi64(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
}
#else
inline int store_codes(Ints codes, int8_t* at) {
    int32_t lanes[LANES];
    __builtin_memcpy(lanes, &codes, sizeof lanes);
    int sum = 0;
    for (int lane = 0; lane < LANES; lane++) {
        at[lane] = static_cast<int8_t>(lanes[lane]);
        sum += lanes[lane];
    }
    return sum;
}
#endif

// C's roundf, for |value| < 2^31: halves away from zero. A true comparison is -1.
inline Ints round_half_away(Floats values) {
    const Ints whole = __builtin_convertvector(values, Ints);
    const Floats fraction = values - __builtin_convertvector(whole, Floats);
    return whole - (fraction >= 0.5f) + (fraction <= -0.5f);
}

// Half to even, for |value| < 2^22.
inline Floats round_half_even(Floats values) { return (values + 12582912.0f) - 12582912.0f; }

inline void round_32(const float* values, int8_t* codes, float* scale, float* scaled_sum,
                     int16_t* sum) {
    Floats low = load_floats(values), high = load_floats(values + LANES);
    const Ints a = magnitudes(low), b = magnitudes(high);
    // As integers, magnitudes order as floats do, with NaN above all.
    const uint32_t greatest = static_cast<uint32_t>(greatest_lane(a > b ? a : b));
    const bool broken = greatest >= INFINITE_BITS;
    if (broken) low = high = Floats{};
    const float exact_scale = float_of_bits(broken ? 0 : greatest) / 127.0f;
    float inverse = 1.0f / exact_scale;
    if (!is_finite(inverse)) inverse = 0.0f;
    const int total = store_codes(round_half_away(low * inverse), codes) +
                      store_codes(round_half_away(high * inverse), codes + LANES);
    *sum = static_cast<int16_t>(total);
    *scale = broken ? quiet_nan() : through_half(exact_scale);
    if (scaled_sum != nullptr) {
        const float exact_sum = static_cast<float>(total) * exact_scale;
        *scaled_sum = broken ? quiet_nan() : through_half(exact_sum);
    }
}

// A group of 64, or its first `count` values and zeros. Halves go to even.
inline void round_group(const float* values, int64_t count, int8_t* codes, float* scale,
                        int16_t* sum) {
    alignas(64) float filled[GROUP] = {};
    if (count < GROUP) {
        __builtin_memcpy(filled, values, static_cast<size_t>(count) * sizeof(float));
        values = filled;
    }
    Floats parts[GROUP / LANES];
    Ints most = {};
    for (int i = 0; i < GROUP / LANES; i++) {
        parts[i] = load_floats(values + LANES * i);
        const Ints here = magnitudes(parts[i]);
        most = here > most ? here : most;
    }
    const uint32_t greatest = static_cast<uint32_t>(greatest_lane(most));
    const bool broken = greatest >= INFINITE_BITS;
    float inverse = 127.0f / float_of_bits(broken ? 0 : greatest);
    if (!is_finite(inverse)) inverse = 0.0f;
    int total = 0;
    for (int i = 0; i < GROUP / LANES; i++) {
        const Floats part = broken ? Floats{} : parts[i];
        total += store_codes(__builtin_convertvector(round_half_even(part * inverse), Ints),
                             codes + LANES * i);
    }
    *sum = static_cast<int16_t>(total);
    *scale = broken ? quiet_nan() : float_of_bits(greatest) * (1.0f / 127.0f);
}

inline uint32_t greatest_of_256(const float* values) {
    Ints greatest = {};
    for (int j = 0; j < 256; j += LANES) {
        const Ints here = magnitudes(load_floats(values + j));
        greatest = here > greatest ? here : greatest;
    }
    return static_cast<uint32_t>(greatest_lane(greatest));
}

// Of the first value with that magnitude.
inline int first_with(const float* values, uint32_t magnitude) {
    const Ints wanted = Ints{} + static_cast<int32_t>(magnitude);
    int j = 0;
    while (!any_true(magnitudes(load_floats(values + j)) == wanted)) j += LANES;
    while ((bits_of_float(values[j]) & 0x7FFFFFFF) != magnitude) j++;
    return j;
}

// Of every eight neighbours of 256 codes.
inline void sum_eights(const int8_t* codes, int16_t* sums) {
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
    for (int j = 0; j < 256; j += 64) {
        const __m512i flipped =
            _mm512_xor_si512(_mm512_loadu_si512(codes + j), _mm512_set1_epi8(-128));
        const __m512i all = _mm512_sub_epi64(_mm512_sad_epu8(flipped, _mm512_setzero_si512()),
                                             _mm512_set1_epi64(8 * 128));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + j / SUM_WIDTH_K),
                         _mm512_cvtepi64_epi16(all));
    }
#else
    // As unsigned bytes, in 16-bit fields.
    for (int j = 0; j < 256 / SUM_WIDTH_K; j++) {
        uint64_t bytes;
        __builtin_memcpy(&bytes, codes + SUM_WIDTH_K * j, 8);
        bytes ^= 0x8080808080808080;
        const uint64_t fields = 0x00FF00FF00FF00FF;
        const uint64_t pairs = (bytes & fields) + ((bytes >> 8) & fields);
        const int sum = static_cast<int>((pairs * 0x0001000100010001) >> 48);
        sums[j] = static_cast<int16_t>(sum - 8 * 128);
    }
#endif
}

#if !defined(__AVX512BW__)
inline void round_values_of_256(const float* values, float inverse, int8_t* codes) {
    for (int j = 0; j < 256; j += LANES) {
        const Floats rounded = round_half_even(load_floats(values + j) * inverse);
        const Floats least = rounded < 127.0f ? rounded : Floats{} + 127.0f;
        store_codes(__builtin_convertvector(least, Ints), codes + j);
    }
}

// See round_256: the value that a block's scale comes from.
inline bool find_greatest_of_256(const float*, float*) { return false; }
#endif

inline void round_256(const float* values, int8_t* codes, float* scale, int16_t* sums) {
    float first_greatest;
    if (!find_greatest_of_256(values, &first_greatest)) {
        const uint32_t greatest = greatest_of_256(values);
        const bool broken = greatest >= INFINITE_BITS;
        *scale = broken ? quiet_nan() : 0.0f;
        if (broken || greatest == 0) {
            __builtin_memset(codes, 0, 256);
            __builtin_memset(sums, 0, 256 / SUM_WIDTH_K * sizeof *sums);
            return;
        }
        first_greatest = values[first_with(values, greatest)];
    }
    float inverse = -127.0f / first_greatest;
    *scale = 1.0f / inverse;
    if (!is_finite(inverse)) inverse = 0.0f;
    round_values_of_256(values, inverse, codes);
    sum_eights(codes, sums);
}

inline void round_activations(Rounding rounding, const float* values, int64_t columns,
                       const RoundedToken& token) {
    if (rounding == Rounding::Q8_K) {
        for (int64_t block = 0; block < columns / 256; block++)
            round_256(values + 256 * block, token.codes + 256 * block, token.scale + block,
                      token.sums + 256 / SUM_WIDTH_K * block);
        return;
    }
    if (rounding == Rounding::GROUP) {
        int64_t group = 0;
#if defined(__AVX512BW__)
        while ((group + GROUPS_AT_ONCE) * GROUP <= columns &&
               round_four_groups(values + group * GROUP, token.codes + group * GROUP,
                                 token.scale + group, token.sums + group))
            group += GROUPS_AT_ONCE;
#endif
        for (; group * GROUP < columns; group++) {
            const int64_t left = columns - group * GROUP;
            round_group(values + group * GROUP, left < GROUP ? left : GROUP,
                        token.codes + group * GROUP, token.scale + group, token.sums + group);
        }
        return;
    }
    const bool summed = rounding == Rounding::Q8_1;
    int64_t block = 0;
#if defined(__AVX512BW__)
    while (block + BLOCKS_AT_ONCE <= columns / 32 &&
           round_eight_blocks(values + 32 * block, token.codes + 32 * block, token.scale + block,
                              summed ? token.scaled_sum + block : nullptr, token.sums + block))
        block += BLOCKS_AT_ONCE;
#endif
    for (; block < columns / 32; block++)
        round_32(values + 32 * block, token.codes + 32 * block, token.scale + block,
                 summed ? token.scaled_sum + block : nullptr, token.sums + block);
}

}  // namespace
}  // namespace cotejar
