// The kernels over strips, for AVX2: 16 rows in two registers, four tokens at a time.

#include "avx2_codes.h"
#include "avx2_vector.h"
#include "isa.h"
#include "activation_kernels.h"
#include "group_kernels.h"
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

// Dots of 32 codes (at most 31, so that 4 quads fit int16) with N tokens, `initial` included.
template <int N>
inline void narrow_dots(const uint8_t* codes, const int8_t* x, const int32_t* initial,
                        __m256i* dots) {
    for (int t = 0; t < N; t++) dots[t] = _mm256_set1_epi32(initial[t]);
    for (int first = 0; first < 8; first += 4) {
        __m256i w[4];
        for (int quad = 0; quad < 4; quad++) w[quad] = load_256(codes + 64 * (first + quad));
#pragma GCC unroll 4
        for (int t = 0; t < N; t++) {
            const int8_t* of_token = x + 32 * t + 4 * first;
            __m256i pairs = _mm256_maddubs_epi16(w[0], spread(of_token));
            for (int quad = 1; quad < 4; quad++)
                pairs = _mm256_add_epi16(
                    pairs, _mm256_maddubs_epi16(w[quad], spread(of_token + 4 * quad)));
            dots[t] = _mm256_add_epi32(dots[t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }
}

// The same of codes up to 255: as signed ones, which takes their centre of 128 out.
template <int N, int QUADS>
inline void wide_dots(const uint8_t* codes, const int8_t* x, __m256i* dots) {
    for (int t = 0; t < N; t++) dots[t] = _mm256_setzero_si256();
    for (int first = 0; first < QUADS; first += 4) {
        __m256i w[4], size[4];
        for (int quad = 0; quad < 4; quad++) {
            w[quad] = _mm256_xor_si256(load_256(codes + 64 * (first + quad)),
                                       _mm256_set1_epi8(-128));
            size[quad] = _mm256_abs_epi8(w[quad]);
        }
#pragma GCC unroll 4
        for (int t = 0; t < N; t++)
            for (int quad = 0; quad < 4; quad++) {
                const __m256i four = spread(x + 4 * (QUADS * t + first + quad));
                const __m256i pairs =
                    _mm256_maddubs_epi16(size[quad], _mm256_sign_epi8(four, w[quad]));
                dots[t] =
                    _mm256_add_epi32(dots[t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
    }
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
        const int64_t first = block * tile.num_tokens + from;
        __m256i dots[N];
        if (WIDE)
            wide_dots<N, 8>(w, tile.codes + first * 32, dots);
        else
            narrow_dots<N>(w, tile.codes + first * 32, tile.initial + first, dots);
        for (int t = 0; t < N; t++) {
            const int64_t at = first + t;
            __m256 term = _mm256_mul_ps(scale, _mm256_set1_ps(tile.scale[at]));
            term = _mm256_mul_ps(term, _mm256_cvtepi32_ps(dots[t]));
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

// Groups of 64, as above.
template <int N>
inline void multiply_groups_part(const Strip& strip, const TokenTile& tile, int64_t groups,
                                 int from, int half, float* totals) {
    __m256 total[N];
    for (int t = 0; t < N; t++) total[t] = _mm256_setzero_ps();
    for (int64_t group = 0; group < groups; group++) {
        const int64_t first = group * tile.num_tokens + from;
        const __m256 scale = _mm256_load_ps(strip.group_scale + group * ROWS + half);
        __m256i dots[N];
        wide_dots<N, GROUP / 4>(strip.codes + group * GROUP * ROWS + 4 * half,
                                tile.codes + first * GROUP, dots);
        for (int t = 0; t < N; t++)
            total[t] = _mm256_fmadd_ps(_mm256_mul_ps(scale, _mm256_set1_ps(tile.scale[first + t])),
                                       _mm256_cvtepi32_ps(dots[t]), total[t]);
    }
    for (int t = 0; t < N; t++) _mm256_store_ps(totals + (from + t) * ROWS + half, total[t]);
}

void multiply_groups(const Weight& weight, const Strip& strip, const TokenTile& tile,
                     float* totals) {
    const int64_t groups = weight.product_blocks();
    for (int half = 0; half < ROWS; half += 8)
        if (tile.num_tokens >= 4)
            for (int t = 0; t < tile.num_tokens; t += 4)
                multiply_groups_part<4>(strip, tile, groups, t, half, totals);
        else
            for (int t = 0; t < tile.num_tokens; t++)
                multiply_groups_part<1>(strip, tile, groups, t, half, totals);
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

// sum(sub_scale * code * x) of one super-block for N tokens; a piece's codes stay in registers.
template <int N, int PIECE>
inline void scaled_dots(const TypeInfo& type, const Strip& strip, const TokenTile& tile,
                        int64_t block, int from, int half, __m256i* sums) {
    constexpr int PIECES = 256 / PIECE, QUADS = PIECE / 4;
    for (int t = 0; t < N; t++) sums[t] = _mm256_setzero_si256();
    for (int p = 0; p < PIECES; p++) {
        const int64_t at = (block * PIECES + p) * tile.num_tokens + from;
        const int sub = p * type.num_sub / PIECES;
        const __m256i scales =
            load_256(strip.sub_scales + (block * type.num_sub + sub) * ROWS + half);
        const uint8_t* codes = strip.codes + (block * 256 + p * PIECE) * ROWS + 4 * half;
        __m256i w[QUADS];
        for (int quad = 0; quad < QUADS; quad++) w[quad] = load_256(codes + 64 * quad);
#pragma GCC unroll 4
        for (int t = 0; t < N; t++) {
            const int8_t* x = tile.codes + (at + t) * PIECE;
            __m256i pairs = _mm256_maddubs_epi16(w[0], spread(x));
            for (int quad = 1; quad < QUADS; quad++)
                pairs = _mm256_add_epi16(
                    pairs, _mm256_maddubs_epi16(w[quad], spread(x + 4 * quad)));
            // Two neighbouring sums of the piece, each with the row's sub-scale: no sum of the
            // two is needed first, since the scale is the same.
            const __m256i both = _mm256_or_si256(scales, _mm256_slli_epi32(scales, 16));
            sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs, both));
        }
    }
}

// Takes the centre out of those sums: centre * sub_scale * sum of codes.
template <int N>
inline void take_centres(const TypeInfo& type, const Strip& strip, const TokenTile& tile,
                         int64_t block, int from, int half, __m256i* sums) {
    const int pairs = type.num_sub / 2;
    const __m256i centre = _mm256_set1_epi32(type.centre);
    __m256i taken[N];
    for (int t = 0; t < N; t++) taken[t] = _mm256_setzero_si256();
    for (int pair = 0; pair < pairs; pair++) {
        const int64_t at = block * pairs + pair;
        const int32_t* scales = strip.sub_scales + 2 * at * ROWS + half;
        const __m256i both =
            _mm256_or_si256(load_256(scales), _mm256_slli_epi32(load_256(scales + ROWS), 16));
        for (int t = 0; t < N; t++) {
            const __m256i x = _mm256_set1_epi32(tile.sums[at * tile.num_tokens + from + t]);
            taken[t] = _mm256_add_epi32(taken[t], _mm256_madd_epi16(both, x));
        }
    }
    for (int t = 0; t < N; t++)
        sums[t] = _mm256_sub_epi32(sums[t], _mm256_mullo_epi32(taken[t], centre));
}

template <int N>
inline void add_offsets(const TypeInfo& type, const Strip& strip, const TokenTile& tile,
                        int64_t block, int from, int half, __m256* terms) {
    const int pairs = type.num_sub / 2;
    const __m256 offset = _mm256_load_ps(strip.offset + block * ROWS + half);
    for (int t = 0; t < N; t++) {
        __m256i sum = _mm256_setzero_si256();
        for (int pair = 0; pair < pairs; pair++) {
            const int64_t at = block * pairs + pair;
            const __m256i x = _mm256_set1_epi32(tile.sums[at * tile.num_tokens + from + t]);
            const __m256i offsets = load_256(strip.sub_offsets + at * ROWS + half);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(offsets, x));
        }
        const __m256 scale = _mm256_set1_ps(tile.scale[block * tile.num_tokens + from + t]);
        terms[t] = _mm256_add_ps(terms[t], _mm256_mul_ps(_mm256_mul_ps(scale, offset),
                                                         _mm256_cvtepi32_ps(sum)));
    }
}

// Tokens from..from + N of the tile, rows half..half + 8 of the strip.
template <int N>
inline void multiply_super_blocks_part(const Weight& weight, const Strip& strip,
                                       const TokenTile& tile, int from, int half,
                                       float* totals) {
    const TypeInfo& type = *weight.type;
    __m256 total[N];
    for (int t = 0; t < N; t++) total[t] = _mm256_setzero_ps();
    for (int64_t block = 0; block < weight.num_blocks(); block++) {
        __m256i sums[N];
        __m256 terms[N];
        if (type.piece == 16)
            scaled_dots<N, 16>(type, strip, tile, block, from, half, sums);
        else
            scaled_dots<N, 8>(type, strip, tile, block, from, half, sums);
        if (type.centre) take_centres<N>(type, strip, tile, block, from, half, sums);
        const __m256 scale = _mm256_load_ps(strip.scale + block * ROWS + half);
        for (int t = 0; t < N; t++) {
            const __m256 d = _mm256_set1_ps(tile.scale[block * tile.num_tokens + from + t]);
            terms[t] = _mm256_mul_ps(_mm256_mul_ps(d, scale), _mm256_cvtepi32_ps(sums[t]));
        }
        if (type.has_offset) add_offsets<N>(type, strip, tile, block, from, half, terms);
        for (int t = 0; t < N; t++) total[t] = _mm256_add_ps(total[t], terms[t]);
    }
    for (int t = 0; t < N; t++) _mm256_store_ps(totals + (from + t) * ROWS + half, total[t]);
}

void multiply_super_blocks_any(const Weight& weight, const Strip& strip, const TokenTile& tile,
                               float* totals) {
    for (int half = 0; half < ROWS; half += 8)
        if (tile.num_tokens >= 4)
            for (int t = 0; t < tile.num_tokens; t += 4)
                multiply_super_blocks_part<4>(weight, strip, tile, t, half, totals);
        else
            for (int t = 0; t < tile.num_tokens; t++)
                multiply_super_blocks_part<1>(weight, strip, tile, t, half, totals);
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
    group_strip,
    multiply_groups,
    nullptr,
    multiply_lanes,
    decode_strip,
    avx2_vector_kernel,
    PORTABLE.tile_kernel,
    &BF16_AVX2,
    &OPERATIONS,
    round_activations,
    measure_block<Zeros::LOOKED_FOR>,
    measure_block<Zeros::ABSENT>,
    measure_chunk,
};

}  // namespace cotejar
