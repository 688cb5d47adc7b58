// A strip's codes to those of groups of 64 columns, and their products; kernels/group_products.py
// states the arithmetic. Included once by each isa_*.cpp and compiled with its flags; everything
// here has internal linkage (see isa.h).
#pragma once

#include "activation_kernels.h"
#include "strip.h"

namespace cotejar {
namespace {

// How far a code is shifted so that its factor, in 2^(11 - shift)ths, fits 16 bits.
inline int factor_shift(const TypeInfo& type) {
    int shift = 0;
    while ((type.has_offset ? 254 : 127) * (2048 >> shift) > 32767 * type.most) shift++;
    return shift;
}

inline Ints load_ints(const int32_t* at) {
    Ints values;
    __builtin_memcpy(&values, at, sizeof values);
    return values;
}

inline Floats floats_of(Ints values) { return __builtin_convertvector(values, Floats); }

// To whole numbers, halves to even, for |value| < 2^22; 0 where `is_fine` is.
inline Ints whole_numbers_of(Floats values, Ints is_fine) {
#if defined(__AVX512F__)
    return reinterpret_cast<Ints>(_mm512_cvtps_epi32(reinterpret_cast<__m512>(values))) & is_fine;
#else
    return __builtin_convertvector(round_half_even(is_fine ? values : Floats{}), Ints);
#endif
}

// What the blocks of a type are to their groups: sub-blocks of a group, whether they have scales
// of their own, and offsets, and how far codes are shifted.
template <int EACH_, bool SUBS_, bool OFFSET_, int SHIFT_>
struct GroupKind {
    static constexpr int EACH = EACH_, SHIFT = SHIFT_, WIDTH = GROUP / EACH;
    static constexpr bool SUBS = SUBS_, OFFSET = OFFSET_;
};

// Scale and offset of 16 rows' sub-blocks.
template <class Kind>
struct SubBlock {
    Floats scale, offset;

    void load(const Strip& strip, int64_t sub) {
        const int64_t block = Kind::SUBS ? sub / (256 / Kind::WIDTH) : sub;
        scale = load_floats(strip.scale + block * ROWS);
        offset = Kind::OFFSET ? load_floats(strip.offset + block * ROWS) : Floats{};
        if (!Kind::SUBS) return;
        scale *= floats_of((load_ints(strip.sub_scales + sub * ROWS) << 16) >> 16);
        if (!Kind::OFFSET) return;
        const Ints pair = load_ints(strip.sub_offsets + sub / 2 * ROWS);
        offset *= floats_of(sub % 2 ? pair >> 16 : (pair << 16) >> 16);
    }

    // The greatest magnitude that a weight can have here, as bits: they order as floats do, with
    // NaN above all.
    Ints most(float most_code) const {
        const Floats furthest = scale * most_code;
        if (!Kind::OFFSET) return magnitudes(furthest);
        const Ints a = magnitudes(offset), b = magnitudes(offset + furthest);
        return a > b ? a : b;
    }
};

// Of 16 rows: a code of a sub-block times factor, and the addend, is the group's, in 16ths.
struct Recoding {
    Ints factor, addend;
};

// Half of the last place of the result, in 16ths, and the centre of unsigned codes.
constexpr int32_t ROUND_AND_CENTRE = 8 + 16 * 128;

// `quads` times four codes of 16 rows, in place.
template <int SHIFT>
inline void recode(uint8_t* codes, int quads, int centre, const Recoding& by) {
#if defined(__AVX512BW__)
    const auto twice = [](Ints v) {
        return reinterpret_cast<__m512i>((v & 0xFFFF) | (v << 16));
    };
    const __m512i factor = twice(by.factor), addend = twice(by.addend + ROUND_AND_CENTRE);
    const __m512i high = _mm512_set1_epi16(static_cast<short>(0xFF00));
    const __m512i centres = _mm512_set1_epi8(static_cast<char>(centre));
#pragma GCC unroll 8
    for (int quad = 0; quad < quads; quad++) {
        uint8_t* const at = codes + 4 * ROWS * quad;
        const __m512i code = _mm512_sub_epi8(_mm512_loadu_si512(at), centres);
        const __m512i even = _mm512_slli_epi16(code, 8 + SHIFT);
        const __m512i odd = _mm512_slli_epi16(_mm512_and_si512(code, high), SHIFT);
        const __m512i low = _mm512_add_epi16(_mm512_mulhrs_epi16(even, factor), addend);
        const __m512i top = _mm512_add_epi16(_mm512_mulhrs_epi16(odd, factor), addend);
        // (top & high) | low
        _mm512_storeu_si512(at, _mm512_ternarylogic_epi32(_mm512_slli_epi16(top, 4), high,
                                                          _mm512_srli_epi16(low, 4), 0xEA));
    }
#elif defined(__AVX2__)
    __m256i factors[2], addends[2];
    const Ints factor = (by.factor & 0xFFFF) | (by.factor << 16);
    const Ints sum = by.addend + ROUND_AND_CENTRE, addend = (sum & 0xFFFF) | (sum << 16);
    __builtin_memcpy(factors, &factor, sizeof factors);
    __builtin_memcpy(addends, &addend, sizeof addends);
    const __m256i high = _mm256_set1_epi16(static_cast<short>(0xFF00));
    const __m256i centres = _mm256_set1_epi8(static_cast<char>(centre));
    for (int half = 0; half < 2 * quads; half++) {
        __m256i* const at = reinterpret_cast<__m256i*>(codes + 2 * ROWS * half);
        const __m256i code = _mm256_sub_epi8(_mm256_loadu_si256(at), centres);
        const __m256i even = _mm256_slli_epi16(code, 8 + SHIFT);
        const __m256i odd = _mm256_slli_epi16(_mm256_and_si256(code, high), SHIFT);
        const __m256i low =
            _mm256_add_epi16(_mm256_mulhrs_epi16(even, factors[half % 2]), addends[half % 2]);
        const __m256i top =
            _mm256_add_epi16(_mm256_mulhrs_epi16(odd, factors[half % 2]), addends[half % 2]);
        _mm256_storeu_si256(at, _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(top, 4), high),
                                                _mm256_srli_epi16(low, 4)));
    }
#else
    for (int quad = 0; quad < quads; quad++)
        for (int row = 0; row < ROWS; row++)
            for (int j = 0; j < 4; j++) {
                uint8_t& code = codes[(quad * ROWS + row) * 4 + j];
                const int32_t spread = (code - centre) * (256 << SHIFT);
                const int32_t sixteenths = (spread * by.factor[row] + (1 << 14)) >> 15;
                code = static_cast<uint8_t>(
                    (sixteenths + by.addend[row] + ROUND_AND_CENTRE) >> 4);
            }
#endif
}

// `count` sub-blocks, in place; what is left of the group becomes zeros.
template <class Kind>
__attribute__((always_inline)) inline void group_blocks(const TypeInfo& type, const Strip& strip,
                                                        int64_t group, int count) {
    SubBlock<Kind> parts[Kind::EACH];
    const float most_code = static_cast<float>(type.most);
    Ints most = {};
    for (int j = 0; j < count; j++) {
        parts[j].load(strip, group * Kind::EACH + j);
        const Ints here = parts[j].most(most_code);
        most = here > most ? here : most;
    }
    const Ints is_fine = most < static_cast<int32_t>(INFINITE_BITS);
    const Floats greatest = reinterpret_cast<Floats>(most & is_fine);
    constexpr float UNIT = static_cast<float>(2048 >> Kind::SHIFT);
    Floats inverse = 127.0f * UNIT / greatest;
    inverse = magnitudes(inverse) < static_cast<int32_t>(INFINITE_BITS) ? inverse : Floats{};
    const Floats scale = greatest * (1.0f / 127.0f);
    store_floats(strip.group_scale + group * ROWS, is_fine ? scale : Floats{} + quiet_nan());
    uint8_t* codes = strip.codes + group * GROUP * ROWS;
    for (int j = 0; j < count; j++, codes += Kind::WIDTH * ROWS) {
        Recoding by;
        by.factor = whole_numbers_of(parts[j].scale * inverse, is_fine);
        by.addend = Kind::OFFSET
                        ? whole_numbers_of(parts[j].offset * (inverse * (16.0f / UNIT)), is_fine)
                        : Ints{};
        recode<Kind::SHIFT>(codes, Kind::WIDTH / 4, type.centre, by);
    }
    const int left = (Kind::EACH - count) * Kind::WIDTH * ROWS;
    if (left) __builtin_memset(codes, GROUPS.centre, static_cast<size_t>(left));
}

template <class Kind>
void group_blocks(const Weight& weight, const Strip& strip) {
    const int64_t whole = weight.columns / GROUP;
    for (int64_t group = 0; group < whole; group++)
        group_blocks<Kind>(*weight.type, strip, group, Kind::EACH);
    const int left = static_cast<int>(weight.columns % GROUP / Kind::WIDTH);
    if (left) group_blocks<Kind>(*weight.type, strip, whole, left);
}

// Values to groups.
inline void group_values(const Weight& weight, const Strip& strip) {
    const int64_t groups = weight.product_blocks(), k = groups * GROUP;
    for (int row = 0; row < ROWS; row++)
        for (int64_t group = 0; group < groups; group++) {
            int8_t codes[GROUP];
            int16_t sum;
            round_group(strip.values + row * k + group * GROUP, GROUP, codes,
                        strip.group_scale + group * ROWS + row, &sum);
            uint8_t* const to = strip.codes + group * GROUP * ROWS + 4 * row;
            for (int j = 0; j < GROUP; j++)
                to[j / 4 * 4 * ROWS + j % 4] = static_cast<uint8_t>(codes[j] + GROUPS.centre);
        }
}

inline void group_strip(const Weight& weight, const Strip& strip) {
    const TypeInfo& type = *weight.type;
    if (type.rounding == Rounding::FLOAT) return group_values(weight, strip);
    const int shift = factor_shift(type);
    switch (type.num_sub) {
        case 0:
            return !type.has_offset ? group_blocks<GroupKind<2, false, false, 0>>(weight, strip)
                   : shift          ? group_blocks<GroupKind<2, false, true, 1>>(weight, strip)
                                    : group_blocks<GroupKind<2, false, true, 0>>(weight, strip);
        case 8:
            return shift ? group_blocks<GroupKind<2, true, true, 1>>(weight, strip)
                         : group_blocks<GroupKind<2, true, true, 0>>(weight, strip);
        default:
            return type.has_offset ? group_blocks<GroupKind<4, true, true, 3>>(weight, strip)
                   : shift         ? group_blocks<GroupKind<4, true, false, 1>>(weight, strip)
                                   : group_blocks<GroupKind<4, true, false, 0>>(weight, strip);
    }
}

}  // namespace
}  // namespace cotejar
