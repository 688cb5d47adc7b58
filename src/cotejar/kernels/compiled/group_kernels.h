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

// Of 16 rows: a code of a sub-block times factor, and the addend, is the group's, in 16ths.
struct Recoding {
    Ints factor, addend;
};

inline Ints load_ints(const int32_t* at) {
    Ints values;
    __builtin_memcpy(&values, at, sizeof values);
    return values;
}

inline Floats floats_of(Ints values) { return __builtin_convertvector(values, Floats); }
inline Ints ints_of(Floats values) { return __builtin_convertvector(values, Ints); }

// Scale and offset of 16 rows' sub-blocks.
struct SubBlock {
    Floats scale, offset;

    SubBlock() = default;
    SubBlock(const TypeInfo& type, const Strip& strip, int64_t sub) {
        const int64_t of_block = type.num_sub ? type.num_sub : 1, block = sub / of_block;
        scale = load_floats(strip.scale + block * ROWS);
        offset = type.has_offset ? load_floats(strip.offset + block * ROWS) : Floats{};
        if (!type.num_sub) return;
        scale *= floats_of((load_ints(strip.sub_scales + sub * ROWS) << 16) >> 16);
        if (!type.has_offset) return;
        const Ints pair = load_ints(strip.sub_offsets + sub / 2 * ROWS);
        offset *= floats_of(sub % 2 ? pair >> 16 : (pair << 16) >> 16);
    }

    // The greatest magnitude that a weight can have here, as bits: they order as floats do, with
    // NaN above all.
    Ints most(const TypeInfo& type) const {
        const Floats furthest = scale * static_cast<float>(type.most);
        if (!type.has_offset) return magnitudes(furthest);
        const Ints a = magnitudes(offset), b = magnitudes(offset + furthest);
        return a > b ? a : b;
    }
};

// What becomes of a group whose greatest magnitude is `most`: its scale, and what weights are
// multiplied by. Codes of a group that is not finite are 0.
struct GroupScale {
    Floats scale, inverse;
    Ints is_broken;

    explicit GroupScale(Ints most) {
        is_broken = most >= static_cast<int32_t>(INFINITE_BITS);
        const Ints fine = most & ~is_broken;
        const Floats greatest = reinterpret_cast<Floats>(fine);
        inverse = 127.0f / greatest;
        inverse = magnitudes(inverse) == static_cast<int32_t>(INFINITE_BITS) ? Floats{} : inverse;
        scale = is_broken ? Floats{} + quiet_nan() : greatest / 127.0f;
    }
    Recoding of(const SubBlock& sub, int shift) const {
        const Floats factor = sub.scale * inverse * static_cast<float>(2048 >> shift);
        const Floats addend = sub.offset * inverse * 16.0f;
        return {ints_of(is_broken ? Floats{} : round_half_even(factor)),
                ints_of(is_broken ? Floats{} : round_half_even(addend))};
    }
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

inline void recode(int shift, uint8_t* codes, int quads, int centre, const Recoding& by) {
    switch (shift) {
        case 0: return recode<0>(codes, quads, centre, by);
        case 1: return recode<1>(codes, quads, centre, by);
        default: return recode<3>(codes, quads, centre, by);
    }
}

// Blocks to groups, in place.
inline void group_blocks(const Weight& weight, const Strip& strip) {
    const TypeInfo& type = *weight.type;
    const int width = type.num_sub ? type.elements / type.num_sub : type.elements;
    const int64_t subs = weight.columns / width, each = GROUP / width;
    const int shift = factor_shift(type);
    for (int64_t group = 0; group < weight.product_blocks(); group++) {
        const int64_t first = group * each;
        const int64_t count = subs - first < each ? subs - first : each;
        SubBlock parts[GROUP / 16];
        Ints most = {};
        for (int64_t j = 0; j < count; j++) {
            parts[j] = SubBlock(type, strip, first + j);
            const Ints here = parts[j].most(type);
            most = here > most ? here : most;
        }
        const GroupScale of_group(most);
        store_floats(strip.group_scale + group * ROWS, of_group.scale);
        uint8_t* codes = strip.codes + group * GROUP * ROWS;
        for (int64_t j = 0; j < count; j++, codes += width * ROWS)
            recode(shift, codes, width / 4, type.centre, of_group.of(parts[j], shift));
        if (count < each)
            __builtin_memset(codes, GROUPS.centre, static_cast<size_t>((each - count) * width * ROWS));
    }
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
    if (weight.type->rounding == Rounding::FLOAT)
        group_values(weight, strip);
    else
        group_blocks(weight, strip);
}

}  // namespace
}  // namespace cotejar
