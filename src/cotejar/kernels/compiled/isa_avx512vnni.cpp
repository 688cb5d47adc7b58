// Blocks to strips and products of floats, for AVX512-VNNI, and the table of all its kernels.

#include "avx512_codes.h"
#include "avx512_strips.h"
#include "avx512_tile.h"
#include "avx512_vector.h"
#include "isa.h"
#include "activation_kernels.h"
#include "operation_kernels.h"
#include "statistics_kernels.h"
#include "unpack.h"

namespace cotejar {
namespace {

// --- blocks to strips --------------------------------------------------------------------

// Rows of 16 words to columns. Four words of four codes a lane: what a strip is made of.
inline void transpose_16(__m512i* v) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
        v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

inline void store_words(const __m512i* words, int count, uint8_t* at) {
    for (int i = 0; i < count; i++) _mm512_storeu_si512(at + 64 * i, words[i]);
}

template <class Codes>
void unpack_blocks(const Weight& weight, int64_t first, const Strip& strip) {
    const int64_t row_bytes = weight.row_bytes(), blocks = weight.num_blocks();
    const __m512i rows = row_offsets(weight.rows - first, row_bytes);
    alignas(64) int32_t offsets[ROWS];
    _mm512_store_si512(offsets, rows);
    const uint8_t* at = weight.blocks + first * row_bytes;
    for (int64_t block = 0; block < blocks; block += 2, at += 2 * Codes::BYTES) {
        const bool pair = block + 1 < blocks;
        __m512i v[16];
        for (int row = 0; row < ROWS; row++) {
            const uint8_t* from = at + offsets[row];
            v[row] = Codes::of_two(from, from + (pair ? Codes::BYTES : 0));
        }
        transpose_16(v);
        store_words(v, pair ? 16 : 8, strip.codes + block * 32 * ROWS);
        for (int j = 0; j < (pair ? 2 : 1); j++) {
            const __m512i words = gather_u32(at + j * Codes::BYTES, rows);
            _mm512_store_ps(strip.scale + (block + j) * ROWS, low_halves_as_floats(words));
            if (Codes::OFFSET)
                _mm512_store_ps(strip.offset + (block + j) * ROWS, high_halves_as_floats(words));
        }
    }
}

template <class Codes>
inline void unpack_codes(const uint8_t* at, const int32_t* offsets, uint8_t* to) {
    __m512i all[4][16];
    for (int row = 0; row < ROWS; row++) {
        __m512i codes[4];
        Codes::of_block(at + offsets[row], codes);
        for (int index = 0; index < 4; index++) all[index][row] = codes[index];
    }
    for (int index = 0; index < 4; index++) {
        transpose_16(all[index]);
        store_words(all[index], 8, to + Codes::RUNS[index][0] * 32 * ROWS);
        store_words(all[index] + 8, 8, to + Codes::RUNS[index][1] * 32 * ROWS);
    }
}

// Q4_K and Q5_K: the floats and sub-scales of one block in 16 rows.
inline void unpack_minimums(const uint8_t* at, __m512i rows, int64_t block, const Strip& strip) {
    const __m512i byte = _mm512_set1_epi32(0xFF), third = _mm512_set1_epi32(0xFF0000);
    const __m512i words = gather_u32(at, rows);
    _mm512_store_ps(strip.scale + block * ROWS, low_halves_as_floats(words));
    _mm512_store_ps(strip.offset + block * ROWS, negated(high_halves_as_floats(words)));
    const SubScales of_rows = sub_scales_of_rows(at, rows);
    for (int half = 0; half < 2; half++) {
        int32_t* scales = strip.sub_scales + (block * 8 + 4 * half) * ROWS;
        for (int j = 0; j < 4; j++) {
            const __m512i moved = _mm512_srlv_epi32(of_rows.scales[half], _mm512_set1_epi32(8 * j));
            _mm512_store_si512(scales + j * ROWS, _mm512_and_si512(moved, byte));
        }
        int32_t* offsets = strip.sub_offsets + (block * 4 + 2 * half) * ROWS;
        const __m512i minimums = of_rows.minimums[half];
        const __m512i low = _mm512_and_si512(minimums, byte);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi32(minimums, 16), byte);
        _mm512_store_si512(offsets, and_or(_mm512_slli_epi32(minimums, 8), third, low));
        _mm512_store_si512(offsets + ROWS, and_or(_mm512_srli_epi32(minimums, 8), third, high));
    }
}

inline void unpack_signed_scales(const uint8_t* at, __m512i rows, int64_t block,
                                 const Strip& strip) {
    const __m512i low = _mm512_set1_epi32(0xFFFF);
    _mm512_store_ps(strip.scale + block * ROWS,
                    high_halves_as_floats(gather_u32(at + 206, rows)));
    for (int quarter = 0; quarter < 4; quarter++) {
        const __m512i words = gather_u32(at + 192 + 4 * quarter, rows);
        for (int j = 0; j < 4; j++) {
            const __m512i top = _mm512_sllv_epi32(words, _mm512_set1_epi32(24 - 8 * j));
            _mm512_store_si512(strip.sub_scales + (block * 16 + 4 * quarter + j) * ROWS,
                               _mm512_and_si512(_mm512_srai_epi32(top, 24), low));
        }
    }
}

template <class Codes>
void unpack_super_blocks(const Weight& weight, int64_t first, const Strip& strip) {
    const int64_t row_bytes = weight.row_bytes();
    const __m512i rows = row_offsets(weight.rows - first, row_bytes);
    alignas(64) int32_t offsets[ROWS];
    _mm512_store_si512(offsets, rows);
    const uint8_t* at = weight.blocks + first * row_bytes;
    for (int64_t block = 0; block < weight.num_blocks(); block++, at += Codes::BYTES) {
        unpack_codes<Codes>(at, offsets, strip.codes + block * 256 * ROWS);
        if (Codes::EVEN_ODD)
            unpack_minimums(at, rows, block, strip);
        else
            unpack_signed_scales(at, rows, block, strip);
    }
}

void unpack_strip(const Weight& weight, int64_t first, const Strip& strip) {
    const bool far = weight.row_bytes() * ROWS >= int64_t{1} << 31;  // beyond a lane's offset
    switch (far ? -1 : weight.type->id) {
        case Q4_0: return unpack_blocks<CodesQ4_0>(weight, first, strip);
        case Q4_1: return unpack_blocks<CodesQ4_1>(weight, first, strip);
        case Q5_0: return unpack_blocks<CodesQ5_0>(weight, first, strip);
        case Q5_1: return unpack_blocks<CodesQ5_1>(weight, first, strip);
        case Q8_0: return unpack_blocks<CodesQ8_0>(weight, first, strip);
        case Q4_K: return unpack_super_blocks<CodesQ4_K>(weight, first, strip);
        case Q5_K: return unpack_super_blocks<CodesQ5_K>(weight, first, strip);
        case Q6_K: return unpack_super_blocks<CodesQ6_K>(weight, first, strip);
        default: return PORTABLE.unpack_strip(weight, first, strip);
    }
}

// --- floats ------------------------------------------------------------------------------

// The canonical fold of 16 lanes: by halves.
inline float folded(__m512 lanes) {
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <int N>
inline void multiply_lanes_n(const float* rows, const float* tokens, int64_t k, float* totals) {
    for (int row = 0; row < ROWS; row += 4) {
        __m512 lanes[4][N];
        for (int r = 0; r < 4; r++)
            for (int t = 0; t < N; t++) lanes[r][t] = _mm512_setzero_ps();
        for (int64_t c = 0; c < k; c += 16) {
            __m512 w[4];
            for (int r = 0; r < 4; r++) w[r] = _mm512_loadu_ps(rows + (row + r) * k + c);
            for (int t = 0; t < N; t++) {
                const __m512 x = _mm512_loadu_ps(tokens + t * k + c);
                for (int r = 0; r < 4; r++)
                    lanes[r][t] = _mm512_add_ps(lanes[r][t], _mm512_mul_ps(w[r], x));
            }
        }
        for (int r = 0; r < 4; r++)
            for (int t = 0; t < N; t++) totals[t * ROWS + row + r] = folded(lanes[r][t]);
    }
}

void multiply_lanes(const float* rows, const float* tokens, int num_tokens, int64_t k,
                    float* totals) {
    int t = 0;
    for (; t + 4 <= num_tokens; t += 4)
        multiply_lanes_n<4>(rows, tokens + t * k, k, totals + t * ROWS);
    for (; t < num_tokens; t++) multiply_lanes_n<1>(rows, tokens + t * k, k, totals + t * ROWS);
}

void decode_strip(const Weight& weight, int64_t first, int64_t k, float* rows) {
    const int id = weight.type->id;
    if ((id != F16 && id != BF16) || weight.columns != k)
        return PORTABLE.decode_strip(weight, first, k, rows);
    for (int lane = 0; lane < ROWS; lane++) {
        const int64_t row = first + lane < weight.rows ? first + lane : weight.rows - 1;
        const uint8_t* from = weight.blocks + row * weight.row_bytes();
        for (int64_t c = 0; c < k; c += 16) {
            const __m256i halves = load_256(from + 2 * c);
            const __m512 values =
                id == F16 ? _mm512_cvtph_ps(halves)
                          : _mm512_castsi512_ps(
                                _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
            _mm512_storeu_ps(rows + lane * k + c, values);
        }
    }
}

}  // namespace

const Isa AVX512VNNI = {
    "avx512vnni",
    unpack_strip,
    avx512_multiply_strip,
    avx512_multiply_strip,
    avx512_multiply_two_strips,
    multiply_lanes,
    decode_strip,
    avx512_vector_kernel,
    avx512_tile_kernel,
    &BF16_AVX512,
    &OPERATIONS,
    round_activations,
    measure_chunk,
};

}  // namespace cotejar
