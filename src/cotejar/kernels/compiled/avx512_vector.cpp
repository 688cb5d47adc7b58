// A matrix in blocks times one token, for AVX512-VNNI.
//
// 16 rows advance together: the integer dots of one block in 16 rows are brought into the
// 16 lanes of a register, and from there on the float sums are the canonical ones, lane by
// lane. What comes 16 rows later is fetched ahead, which matters more than all else here:
// the memory is the limit.

#include "avx512_codes.h"
#include "avx512_vector.h"

namespace cotejar {
namespace {

// BYTES of the next 16 rows, while these 16 are at work; a few lines at a time, between the
// dots, so that the memory is asked for more all the while (measured: 3 % of a step against all
// lines of a block at once). To L2 only: L1 has too few buffers for lines under way to keep the
// memory busy (measured: 10 to 16 % slower).
template <int BYTES>
inline void fetch_ahead(const uint8_t* at) {
    for (int line = 0; line < (BYTES + 63) / 64; line++)
        _mm_prefetch(reinterpret_cast<const char*>(at + 64 * line), _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(at + LOOK_UP_AHEAD_BYTES), _MM_HINT_T1);
}

// The dots of one block in 16 rows, of codes up to 15. A register holds the nibbles of four
// rows, so that few sums are left; the rows are those that bring the sums in order.
template <class Codes>
inline __m512i dots_of_16(const uint8_t* at, const int32_t* rows, const int8_t* x) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i x_low = _mm512_broadcast_i32x4(load_128(x));
    const __m512i x_high = _mm512_broadcast_i32x4(load_128(x + 16));
    __m512i dots[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const uint8_t* nibbles = at + Codes::BYTES - 16;
        __m512i packed = _mm512_castsi128_si512(load_128(nibbles + rows[j]));
        packed = _mm512_mask_broadcast_i32x4(packed, 0x00F0, load_128(nibbles + rows[4 + j]));
        packed = _mm512_mask_broadcast_i32x4(packed, 0x0F00, load_128(nibbles + rows[8 + j]));
        packed = _mm512_mask_broadcast_i32x4(packed, 0xF000, load_128(nibbles + rows[12 + j]));
        const __m512i first = _mm512_and_si512(packed, low);
        const __m512i second = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
        dots[j] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), first, x_low);
        dots[j] = _mm512_dpbusd_epi32(dots[j], second, x_high);
    }
    // 16 products of codes up to 15 with at most 127 stay below 2^15.
    return sums_of_four_narrow(dots[0], dots[1], dots[2], dots[3]);
}

template <class Codes>
inline __m512i dots_of_four(const uint8_t* at, const int32_t* rows, int64_t next, __m512i x) {
    __m512i dots[4];
    for (int row = 0; row < 4; row++) {
        const uint8_t* block = at + rows[row];
        dots[row] = _mm512_dpbusd_epi32(_mm512_setzero_si512(),
                                        Codes::of_two(block, block + next), x);
    }
    // Eight products of codes up to 31 with at most 127 stay below 2^15.
    return Codes::MAX_CODE <= 31 ? sums_of_four_narrow(dots[0], dots[1], dots[2], dots[3])
                                 : sums_of_four(dots[0], dots[1], dots[2], dots[3]);
}

template <class Codes>
inline __m512 add_block(__m512 total, const uint8_t* at, __m512i rows, __m512i dots,
                        const VectorToken& token, int64_t block) {
    const __m512i words = gather_u32(at, rows);
    const __m512i exact = _mm512_sub_epi32(dots, _mm512_set1_epi32(token.centred[block]));
    __m512 term = _mm512_mul_ps(low_halves_as_floats(words), _mm512_set1_ps(token.scale[block]));
    term = _mm512_mul_ps(term, _mm512_cvtepi32_ps(exact));
    if (Codes::OFFSET)
        term = _mm512_add_ps(term, _mm512_mul_ps(high_halves_as_floats(words),
                                                 _mm512_set1_ps(token.scaled_sum[block])));
    return _mm512_add_ps(total, term);
}

// One block, or it and the next; `ahead` are theirs in the next 16 rows.
template <class Codes>
inline __m512 add_blocks(__m512 total, const uint8_t* at, __m512i rows, const int32_t* offsets,
                         const VectorToken& token, int64_t block, bool pair,
                         const uint8_t* ahead) {
    constexpr int QUARTER = 2 * ROWS * Codes::BYTES / 4;
    const int8_t* codes = token.codes + 32 * block;
    const int64_t next = pair ? Codes::BYTES : 0;
    if (Codes::MAX_CODE <= 15) {
        fetch_ahead<2 * QUARTER>(ahead);
        total = add_block<Codes>(total, at, rows, dots_of_16<Codes>(at, offsets, codes), token,
                                 block);
        if (!pair) return total;
        at += next;
        fetch_ahead<2 * QUARTER>(ahead + 2 * QUARTER);
        return add_block<Codes>(total, at, rows, dots_of_16<Codes>(at, offsets, codes + 32),
                                token, block + 1);
    }
    const __m512i x = load_512(codes);
    fetch_ahead<QUARTER>(ahead + 0 * QUARTER);
    const __m512i p = dots_of_four<Codes>(at, offsets, next, x);
    fetch_ahead<QUARTER>(ahead + 1 * QUARTER);
    const __m512i q = dots_of_four<Codes>(at, offsets + 4, next, x);
    fetch_ahead<QUARTER>(ahead + 2 * QUARTER);
    const __m512i r = dots_of_four<Codes>(at, offsets + 8, next, x);
    fetch_ahead<QUARTER>(ahead + 3 * QUARTER);
    const __m512i s = dots_of_four<Codes>(at, offsets + 12, next, x);
    const __m512i pq = add_neighbours_128(p, q), rs = add_neighbours_128(r, s);
    total = add_block<Codes>(total, at, rows, _mm512_shuffle_i64x2(pq, rs, 0x88), token, block);
    if (!pair) return total;
    return add_block<Codes>(total, at + next, rows, _mm512_shuffle_i64x2(pq, rs, 0xDD), token,
                            block + 1);
}

template <class Codes>
void multiply_blocks(const Weight& weight, const VectorToken& token, int64_t begin, int64_t end,
                     float* product) {
    const int64_t row_bytes = weight.row_bytes(), blocks = weight.num_blocks();
    for (int64_t row = begin; row < end; row += ROWS) {
        const uint8_t* at = weight.blocks + row * row_bytes;
        const uint8_t* ahead = at + ROWS * row_bytes;
        const __m512i rows = row_offsets(end - row, row_bytes);
        alignas(64) int32_t offsets[ROWS];
        _mm512_store_si512(offsets, rows);
        __m512 total = _mm512_setzero_ps();
        for (int64_t block = 0; block < blocks; block += 2) {
            total = add_blocks<Codes>(total, at, rows, offsets, token, block,
                                      block + 1 < blocks, ahead);
            ahead += 2 * ROWS * Codes::BYTES;
            at += 2 * Codes::BYTES;
        }
        store_rows(product + row, end - row, total);
    }
}

// --- super-blocks ------------------------------------------------------------------------

// Of every row, sub-scales of four runs of 32: in 64 bits, so that one shuffle spreads them.
struct SpreadScales {
    alignas(64) uint8_t bytes[128];

    explicit SpreadScales(const SubScales& of_rows) {
        const __m512i low = of_rows.scales[0], high = of_rows.scales[1];
        _mm512_store_si512(bytes, _mm512_unpacklo_epi32(low, high));
        _mm512_store_si512(bytes + 64, _mm512_unpackhi_epi32(low, high));
    }

    // In every lane of register `index` of CodesQ4_K: its sub-scale, as int32.
    __m512i of(int row, int index) const {
        const uint8_t* at = bytes + 64 * (row % 4 / 2) + 16 * (row / 4) + 8 * (row % 2);
        long long scales;
        __builtin_memcpy(&scales, at, 8);
        const int first = CodesQ4_K::RUNS[index][0], second = CodesQ4_K::RUNS[index][1];
        const __m512i where = CodesQ5_K::halves(static_cast<int>(0x80808000u | first),
                                                static_cast<int>(0x80808000u | second));
        return _mm512_shuffle_epi8(_mm512_set1_epi64(scales), where);
    }
};

inline __m512i pair_in_lanes(int low, int high) {
    return _mm512_set1_epi32((high * 65536) | (low & 0xFFFF));
}

// sum(sub_minimum * sum of codes) of 16 rows.
inline __m512i sums_of_minimums(const SubScales& of_rows, const int16_t* sums_32) {
    const __m512i bytes = _mm512_set1_epi32(0x00FF00FF);
    __m512i sum = _mm512_setzero_si512();
    for (int half = 0; half < 2; half++) {
        const __m512i minimums = of_rows.minimums[half];
        const int16_t* x = sums_32 + 4 * half;
        sum = _mm512_dpwssd_epi32(sum, _mm512_and_si512(minimums, bytes),
                                  pair_in_lanes(x[0], x[2]));
        sum = _mm512_dpwssd_epi32(sum, _mm512_and_si512(_mm512_srli_epi32(minimums, 8), bytes),
                                  pair_in_lanes(x[1], x[3]));
    }
    return sum;
}

template <class Codes>
inline __m512i scaled_dot(const uint8_t* block, const int8_t* x, const SpreadScales& scales,
                          int row) {
    __m512i codes[4], sum = _mm512_setzero_si512();
    Codes::of_block(block, codes);
    for (int index = 0; index < 4; index++) {
        const __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[index],
                                                load_512(x + 64 * index));
        sum = _mm512_dpwssd_epi32(sum, dot, scales.of(row, index));
    }
    return sum;
}

inline __m512i sums_of_rows(const __m512i* fours) {
    return add_neighbours_128(add_neighbours_128(fours[0], fours[1]),
                              add_neighbours_128(fours[2], fours[3]));
}

// Q4_K and Q5_K.
template <class Codes>
struct WithMinimums {
    static constexpr int BYTES = Codes::BYTES, QUARTER = ROWS * BYTES / 4;

    static __m512 term(const uint8_t* at, __m512i rows, const int32_t* offsets,
                       const VectorToken& token, int64_t block, const uint8_t* ahead) {
        const SubScales of_rows = sub_scales_of_rows(at, rows);
        const SpreadScales scales(of_rows);
        const int8_t* x = token.even_odd + 256 * block;
        __m512i fours[4];
        for (int four = 0; four < 4; four++) {
            fetch_ahead<QUARTER>(ahead + four * QUARTER);
            __m512i sums[4];
            for (int j = 0; j < 4; j++)
                sums[j] = scaled_dot<Codes>(at + offsets[4 * four + j], x, scales, 4 * four + j);
            fours[four] = sums_of_four(sums[0], sums[1], sums[2], sums[3]);
        }
        const __m512i minimums = sums_of_minimums(of_rows, token.sums_32 + 8 * block);
        const __m512i words = gather_u32(at, rows);
        const __m512 scale = _mm512_set1_ps(token.scale[block]);
        const __m512 part =
            _mm512_mul_ps(_mm512_mul_ps(scale, negated(high_halves_as_floats(words))),
                          _mm512_cvtepi32_ps(minimums));
        const __m512 main = _mm512_mul_ps(_mm512_mul_ps(scale, low_halves_as_floats(words)),
                                          _mm512_cvtepi32_ps(sums_of_rows(fours)));
        return _mm512_add_ps(main, part);
    }
};

struct SixBits {
    static constexpr int BYTES = CodesQ6_K::BYTES, QUARTER = ROWS * BYTES / 4;

    static __m512i scaled_dot(const uint8_t* block, const int8_t* x, const int16_t* sums_16) {
        const __m128i bytes = load_128(block + 192);
        // An int16 in 32 bits: the upper half must not take part in the product of pairs.
        const __m512i scales =
            _mm512_and_si512(_mm512_cvtepi8_epi32(bytes), _mm512_set1_epi32(0xFFFF));
        const __m512i first = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        __m512i codes[4];
        CodesQ6_K::of_block(block, codes);
        // -32 in every code, taken out of the sum.
        const __m256i centred =
            _mm256_slli_epi32(_mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), load_256(sums_16)), 5);
        __m512i sum = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_zextsi256_si512(centred));
        for (int index = 0; index < 4; index++) {
            const __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[index],
                                                    load_512(x + 64 * index));
            const __m512i where = _mm512_add_epi32(first, _mm512_set1_epi32(4 * index));
            sum = _mm512_dpwssd_epi32(sum, dot, _mm512_permutexvar_epi32(where, scales));
        }
        return sum;
    }

    static __m512 term(const uint8_t* at, __m512i rows, const int32_t* offsets,
                       const VectorToken& token, int64_t block, const uint8_t* ahead) {
        const int8_t* x = token.codes + 256 * block;
        const int16_t* sums_16 = token.sums_16 + 16 * block;
        __m512i fours[4];
        for (int four = 0; four < 4; four++) {
            fetch_ahead<QUARTER>(ahead + four * QUARTER);
            __m512i sums[4];
            for (int j = 0; j < 4; j++)
                sums[j] = scaled_dot(at + offsets[4 * four + j], x, sums_16);
            fours[four] = sums_of_four(sums[0], sums[1], sums[2], sums[3]);
        }
        // The scale is the block's last two bytes; the two before them come along.
        const __m512 scale = high_halves_as_floats(gather_u32(at + 206, rows));
        return _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(token.scale[block]), scale),
                             _mm512_cvtepi32_ps(sums_of_rows(fours)));
    }
};

template <class Kind>
void multiply_super_blocks(const Weight& weight, const VectorToken& token, int64_t begin,
                           int64_t end, float* product) {
    const int64_t row_bytes = weight.row_bytes(), blocks = weight.num_blocks();
    for (int64_t row = begin; row < end; row += ROWS) {
        const uint8_t* at = weight.blocks + row * row_bytes;
        const uint8_t* ahead = at + ROWS * row_bytes;
        const __m512i rows = row_offsets(end - row, row_bytes);
        alignas(64) int32_t offsets[ROWS];
        _mm512_store_si512(offsets, rows);
        __m512 total = _mm512_setzero_ps();
        for (int64_t block = 0; block < blocks; block++) {
            total = _mm512_add_ps(total, Kind::term(at, rows, offsets, token, block, ahead));
            ahead += ROWS * Kind::BYTES;
            at += Kind::BYTES;
        }
        store_rows(product + row, end - row, total);
    }
}

}  // namespace

Isa::MultiplyVector avx512_vector_kernel(int block_type) {
    switch (block_type) {
        case Q4_0: return multiply_blocks<CodesQ4_0>;
        case Q4_1: return multiply_blocks<CodesQ4_1>;
        case Q5_0: return multiply_blocks<CodesQ5_0>;
        case Q5_1: return multiply_blocks<CodesQ5_1>;
        case Q8_0: return multiply_blocks<CodesQ8_0>;
        case Q4_K: return multiply_super_blocks<WithMinimums<CodesQ4_K>>;
        case Q5_K: return multiply_super_blocks<WithMinimums<CodesQ5_K>>;
        case Q6_K: return multiply_super_blocks<SixBits>;
        default: return nullptr;
    }
}

}  // namespace cotejar
