// The kernels over strips, for AVX2: 16 rows in two registers, four tokens at a time.

#include "avx2_codes.h"
#include "avx2_vector.h"
#include "isa.h"
#include "activation_kernels.h"
#include "operation_kernels.h"
#include "statistics_kernels.h"

namespace cotejar {
namespace {

// --- blocks to strips --------------------------------------------------------------------

// 8 rows of 8 words to columns, each 64 bytes after the one before.
inline void transpose_8(const __m256i* v, uint8_t* to) {
    __m256i t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m256i* first = reinterpret_cast<__m256i*>(to + 64 * i);
        __m256i* second = reinterpret_cast<__m256i*>(to + 64 * (i + 4));
        _mm256_storeu_si256(first, _mm256_permute2x128_si256(u[i], u[i + 4], 0x20));
        _mm256_storeu_si256(second, _mm256_permute2x128_si256(u[i], u[i + 4], 0x31));
    }
}

inline const uint8_t* row_at(const Weight& weight, int64_t row) {
    return weight.blocks + (row < weight.rows ? row : weight.rows - 1) * weight.row_bytes();
}

template <class Codes>
void unpack_blocks(const Weight& weight, int64_t first, const Strip& strip) {
    for (int half = 0; half < ROWS; half += 8) {
        const uint8_t* rows[8];
        for (int row = 0; row < 8; row++) rows[row] = row_at(weight, first + half + row);
        for (int64_t block = 0; block < weight.num_blocks(); block++) {
            __m256i codes[8];
            for (int row = 0; row < 8; row++) {
                const uint8_t* at = rows[row] + block * Codes::BYTES;
                codes[row] = Codes::of(at);
                strip.scale[block * ROWS + half + row] = half_at(at);
                if (Codes::OFFSET) strip.offset[block * ROWS + half + row] = half_at(at + 2);
            }
            transpose_8(codes, strip.codes + block * 32 * ROWS + 4 * half);
        }
    }
}

template <class Codes>
inline void put_scales(const uint8_t* block, int64_t index, int lane, const Strip& strip) {
    const SubScales subs(block);
    strip.scale[index * ROWS + lane] = half_at(block);
    strip.offset[index * ROWS + lane] = -half_at(block + 2);
    for (int sub = 0; sub < 8; sub++)
        strip.sub_scales[(index * 8 + sub) * ROWS + lane] =
            static_cast<int32_t>((subs.scales >> (8 * sub)) & 0xFF);
    for (int pair = 0; pair < 4; pair++) {
        const uint64_t two = subs.minimums >> (16 * pair);
        strip.sub_offsets[(index * 4 + pair) * ROWS + lane] =
            static_cast<int32_t>((two & 0xFF) | ((two & 0xFF00) << 8));
    }
}

template <>
inline void put_scales<CodesQ6_K>(const uint8_t* block, int64_t index, int lane,
                                  const Strip& strip) {
    strip.scale[index * ROWS + lane] = half_at(block + 208);
    for (int sub = 0; sub < 16; sub++)
        strip.sub_scales[(index * 16 + sub) * ROWS + lane] =
            static_cast<uint16_t>(static_cast<int8_t>(block[192 + sub]));
}

template <class Codes>
void unpack_super_blocks(const Weight& weight, int64_t first, const Strip& strip) {
    for (int half = 0; half < ROWS; half += 8)
        for (int64_t index = 0; index < weight.num_blocks(); index++) {
            const uint8_t* blocks[8];
            for (int row = 0; row < 8; row++) {
                blocks[row] = row_at(weight, first + half + row) + index * Codes::BYTES;
                put_scales<Codes>(blocks[row], index, half + row, strip);
            }
            for (int run = 0; run < 8; run++) {
                __m256i codes[8];
                for (int row = 0; row < 8; row++) codes[row] = Codes::of(blocks[row], run);
                transpose_8(codes, strip.codes + (index * 256 + run * 32) * ROWS + 4 * half);
            }
        }
}

void unpack_strip(const Weight& weight, int64_t first, const Strip& strip) {
    switch (weight.type->id) {
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

// --- strips times tiles ------------------------------------------------------------------

inline __m256i spread(const int8_t* codes) {
    int32_t four;
    __builtin_memcpy(&four, codes, 4);
    return _mm256_set1_epi32(four);
}

// QUADS products of four codes (at most 31 for 4 quads, 63 for 2), without overflow in int16.
template <int QUADS>
inline __m256i narrow_dot(const uint8_t* w, const int8_t* x) {
    __m256i pairs = _mm256_maddubs_epi16(load_256(w), spread(x));
    for (int quad = 1; quad < QUADS; quad++)
        pairs = _mm256_add_epi16(
            pairs, _mm256_maddubs_epi16(load_256(w + 64 * quad), spread(x + 4 * quad)));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

template <bool WIDE>
inline __m256i dot_of_32(const uint8_t* w, const int8_t* x, int32_t initial) {
    if (!WIDE) {
        const __m256i first = _mm256_add_epi32(_mm256_set1_epi32(initial), narrow_dot<4>(w, x));
        return _mm256_add_epi32(first, narrow_dot<4>(w + 256, x + 16));
    }
    __m256i dot = _mm256_setzero_si256();  // the signed way has its centre taken out
    for (int quad = 0; quad < 8; quad++)
        dot = _mm256_add_epi32(dot, wide_dot(load_256(w + 64 * quad), spread(x + 4 * quad)));
    return dot;
}

// Tokens from..from + N of the tile, rows half..half + 8 of the strip.
template <int N, bool OFFSET, bool WIDE>
inline void multiply_blocks_part(const Strip& strip, const TokenTile& tile, int64_t blocks,
                                 int from, int half, float* totals) {
    __m256 total[N];
    for (int t = 0; t < N; t++) total[t] = _mm256_setzero_ps();
    for (int64_t block = 0; block < blocks; block++) {
        const uint8_t* w = strip.codes + block * 32 * ROWS + 4 * half;
        const __m256 scale = _mm256_load_ps(strip.scale + block * ROWS + half);
        for (int t = 0; t < N; t++) {
            const int64_t at = block * tile.num_tokens + from + t;
            const __m256i dot = dot_of_32<WIDE>(w, tile.codes + at * 32, tile.initial[at]);
            __m256 term = _mm256_mul_ps(scale, _mm256_set1_ps(tile.scale[at]));
            term = _mm256_mul_ps(term, _mm256_cvtepi32_ps(dot));
            if (OFFSET)
                term = _mm256_add_ps(
                    term, _mm256_mul_ps(_mm256_load_ps(strip.offset + block * ROWS + half),
                                        _mm256_set1_ps(tile.scaled_sum[at])));
            total[t] = _mm256_add_ps(total[t], term);
        }
    }
    for (int t = 0; t < N; t++) _mm256_store_ps(totals + (from + t) * ROWS + half, total[t]);
}

template <bool OFFSET, bool WIDE>
void multiply_blocks(const Weight& weight, const Strip& strip, const TokenTile& tile,
                     float* totals) {
    const int64_t blocks = weight.num_blocks();
    for (int half = 0; half < ROWS; half += 8)
        if (tile.num_tokens >= 4)
            for (int t = 0; t < tile.num_tokens; t += 4)
                multiply_blocks_part<4, OFFSET, WIDE>(strip, tile, blocks, t, half, totals);
        else
            for (int t = 0; t < tile.num_tokens; t++)
                multiply_blocks_part<1, OFFSET, WIDE>(strip, tile, blocks, t, half, totals);
}

void multiply_blocks_any(const Weight& weight, const Strip& strip, const TokenTile& tile,
                         float* totals) {
    if (weight.type->has_offset)
        multiply_blocks<true, false>(weight, strip, tile, totals);
    else if (weight.type->centre > 127)
        multiply_blocks<false, true>(weight, strip, tile, totals);
    else
        multiply_blocks<false, false>(weight, strip, tile, totals);
}

template <int PIECE>
inline __m256i scaled_dots(const TypeInfo& type, const Strip& strip, const TokenTile& tile,
                           int64_t block, int t, int half) {
    constexpr int PIECES = 256 / PIECE;
    __m256i sum = _mm256_setzero_si256();
    for (int p = 0; p < PIECES; p++) {
        const int64_t at = (block * PIECES + p) * tile.num_tokens + t;
        const int sub = p * type.num_sub / PIECES;
        const int32_t* scales = strip.sub_scales + (block * type.num_sub + sub) * ROWS + half;
        const uint8_t* w = strip.codes + (block * 256 + p * PIECE) * ROWS + 4 * half;
        const __m256i dot = _mm256_add_epi32(_mm256_set1_epi32(tile.initial[at]),
                                             narrow_dot<PIECE / 4>(w, tile.codes + at * PIECE));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(dot, load_256(scales)));
    }
    return sum;
}

inline __m256i offset_sums(const TypeInfo& type, const Strip& strip, const TokenTile& tile,
                           int64_t block, int t, int half) {
    const int pairs = type.num_sub / 2;
    __m256i sum = _mm256_setzero_si256();
    for (int pair = 0; pair < pairs; pair++) {
        const int64_t at = block * pairs + pair;
        const __m256i sums = _mm256_set1_epi32(tile.sums[at * tile.num_tokens + t]);
        sum = _mm256_add_epi32(
            sum, _mm256_madd_epi16(load_256(strip.sub_offsets + at * ROWS + half), sums));
    }
    return sum;
}

void multiply_super_blocks_any(const Weight& weight, const Strip& strip, const TokenTile& tile,
                               float* totals) {
    const TypeInfo& type = *weight.type;
    for (int half = 0; half < ROWS; half += 8)
        for (int t = 0; t < tile.num_tokens; t++) {
            __m256 total = _mm256_setzero_ps();
            for (int64_t block = 0; block < weight.num_blocks(); block++) {
                const __m256i dot =
                    type.piece == 16 ? scaled_dots<16>(type, strip, tile, block, t, half)
                                     : scaled_dots<8>(type, strip, tile, block, t, half);
                const int64_t at = block * ROWS + half;
                const __m256 d = _mm256_set1_ps(tile.scale[block * tile.num_tokens + t]);
                __m256 term = _mm256_mul_ps(_mm256_mul_ps(d, _mm256_load_ps(strip.scale + at)),
                                            _mm256_cvtepi32_ps(dot));
                if (type.has_offset) {
                    const __m256i sum = offset_sums(type, strip, tile, block, t, half);
                    term = _mm256_add_ps(
                        term, _mm256_mul_ps(_mm256_mul_ps(d, _mm256_load_ps(strip.offset + at)),
                                            _mm256_cvtepi32_ps(sum)));
                }
                total = _mm256_add_ps(total, term);
            }
            _mm256_store_ps(totals + t * ROWS + half, total);
        }
}

// --- floats ------------------------------------------------------------------------------

// The canonical fold of 16 lanes, `high` being lanes 8..16: by halves.
inline float folded(__m256 low, __m256 high) {
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <int N>
inline void multiply_lanes_n(const float* rows, const float* tokens, int64_t k, float* totals) {
    for (int row = 0; row < ROWS; row += 2) {
        __m256 lanes[2][N][2];
        for (int r = 0; r < 2; r++)
            for (int t = 0; t < N; t++) lanes[r][t][0] = lanes[r][t][1] = _mm256_setzero_ps();
        for (int64_t c = 0; c < k; c += 16)
            for (int h = 0; h < 2; h++)
                for (int r = 0; r < 2; r++) {
                    const __m256 w = _mm256_loadu_ps(rows + (row + r) * k + c + 8 * h);
                    for (int t = 0; t < N; t++) {
                        const __m256 x = _mm256_loadu_ps(tokens + t * k + c + 8 * h);
                        lanes[r][t][h] = _mm256_add_ps(lanes[r][t][h], _mm256_mul_ps(w, x));
                    }
                }
        for (int r = 0; r < 2; r++)
            for (int t = 0; t < N; t++)
                totals[t * ROWS + row + r] = folded(lanes[r][t][0], lanes[r][t][1]);
    }
}

void multiply_lanes(const float* rows, const float* tokens, int num_tokens, int64_t k,
                    float* totals) {
    int t = 0;
    for (; t + 2 <= num_tokens; t += 2)
        multiply_lanes_n<2>(rows, tokens + t * k, k, totals + t * ROWS);
    for (; t < num_tokens; t++) multiply_lanes_n<1>(rows, tokens + t * k, k, totals + t * ROWS);
}

void decode_strip(const Weight& weight, int64_t first, int64_t k, float* rows) {
    const int id = weight.type->id;
    if ((id != F16 && id != BF16) || weight.columns != k)
        return PORTABLE.decode_strip(weight, first, k, rows);
    for (int lane = 0; lane < ROWS; lane++) {
        const uint8_t* from = row_at(weight, first + lane);
        for (int64_t c = 0; c < k; c += 8) {
            const __m128i halves = load_128(from + 2 * c);
            const __m256 values =
                id == F16 ? _mm256_cvtph_ps(halves)
                          : _mm256_castsi256_ps(
                                _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
            _mm256_storeu_ps(rows + lane * k + c, values);
        }
    }
}

}  // namespace

const Isa AVX2 = {
    "avx2",
    unpack_strip,
    multiply_blocks_any,
    multiply_super_blocks_any,
    multiply_lanes,
    decode_strip,
    avx2_vector_kernel,
    &OPERATIONS,
    round_activations,
    measure_chunk,
};

}  // namespace cotejar
