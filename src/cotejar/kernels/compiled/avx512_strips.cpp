// Strips times a tile of tokens, for AVX512-VNNI: 16 rows of a strip in 16 lanes, two strips and
// eight tokens at a time.
//
// What limits it is the number of instructions for the two vector ports: for a block of Q4_1 and
// a token eight dots and five on floats, 6.5 cycles. With one strip alone every dot also reads
// four codes of its token, and the two ports that read are as busy: 7 cycles.

#include "avx512_strips.h"

#include "avx512_codes.h"

namespace cotejar {
namespace {

// Tokens at a time. Their sums and their dots do not all fit the registers, and moving the sums
// costs nothing that is short.
constexpr int MOST_TOKENS = 8;

// STRIPS times T of anything that a register holds.
template <int STRIPS, int T, class Vector>
struct Each {
    Vector of[STRIPS][T];
};

// Dots of QUADS registers of each strip's codes with T tokens, whose codes lie 4 * QUADS apart.
template <int STRIPS, int T, int QUADS>
inline void add_all_dots(const uint8_t* const* codes, const int8_t* x,
                     Each<STRIPS, T, __m512i>& dots) {
#pragma GCC unroll 16
    for (int quad = 0; quad < QUADS; quad++) {
        __m512i rows[STRIPS];
#pragma GCC unroll 2
        for (int s = 0; s < STRIPS; s++) rows[s] = load_512(codes[s] + 64 * quad);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            const __m512i four = same_four(x + 4 * (QUADS * t + quad));
#pragma GCC unroll 2
            for (int s = 0; s < STRIPS; s++)
                dots.of[s][t] = _mm512_dpbusd_epi32(dots.of[s][t], rows[s], four);
        }
    }
}

inline void fetch(FetchAhead& ahead) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead.at), _MM_HINT_T1);
    ahead.at += ahead.step;
}

template <int STRIPS, int T>
inline void start_dots(const int32_t* initial, Each<STRIPS, T, __m512i>& dots) {
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
#pragma GCC unroll 2
        for (int s = 0; s < STRIPS; s++) dots.of[s][t] = _mm512_set1_epi32(initial[t]);
}

template <int STRIPS, int T>
inline void clear(Each<STRIPS, T, __m512>& totals) {
    for (int s = 0; s < STRIPS; s++)
        for (int t = 0; t < T; t++) totals.of[s][t] = _mm512_setzero_ps();
}

template <int STRIPS, int T>
inline void store(const Each<STRIPS, T, __m512>& totals, int first, float* const* to) {
    for (int s = 0; s < STRIPS; s++)
        for (int t = 0; t < T; t++)
            _mm512_storeu_ps(to[s] + (first + t) * ROWS, totals.of[s][t]);
}

// Types of 32-blocks; T tokens of the tile from `first`.
template <int STRIPS, int T, bool OFFSET>
void multiply_blocks(const Weight& weight, const Strip* const* strips, const TokenTile& tile,
                     int first, FetchAhead ahead, float* const* to) {
    const int64_t n = tile.num_tokens, blocks = weight.num_blocks();
    const int8_t* x = tile.codes + 32 * first;
    Each<STRIPS, T, __m512> totals;
    clear(totals);
    for (int64_t block = 0; block < blocks; block++, x += 32 * n) {
        const int64_t at = block * n + first, row = block * ROWS;
        const uint8_t* codes[STRIPS];
        for (int s = 0; s < STRIPS; s++) codes[s] = strips[s]->codes + 32 * row;
        Each<STRIPS, T, __m512i> dots;
        start_dots<STRIPS, T>(tile.initial + at, dots);
        fetch(ahead);
        add_all_dots<STRIPS, T, 8>(codes, x, dots);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            const __m512 token_scale = _mm512_set1_ps(tile.scale[at + t]);
#pragma GCC unroll 2
            for (int s = 0; s < STRIPS; s++) {
                __m512 term = _mm512_mul_ps(_mm512_load_ps(strips[s]->scale + row), token_scale);
                term = _mm512_mul_ps(term, _mm512_cvtepi32_ps(dots.of[s][t]));
                if (OFFSET)
                    // The product of two float16 is exact: nothing is rounded but the sum.
                    term = _mm512_fmadd_ps(_mm512_load_ps(strips[s]->offset + row),
                                           _mm512_set1_ps(tile.scaled_sum[at + t]), term);
                totals.of[s][t] = _mm512_add_ps(totals.of[s][t], term);
            }
        }
    }
    store(totals, first, to);
}

// Groups of 64.
template <int STRIPS, int T>
void multiply_groups(const Weight& weight, const Strip* const* strips, const TokenTile& tile,
                     int first, FetchAhead ahead, float* const* to) {
    const int64_t n = tile.num_tokens, groups = weight.product_blocks();
    const int8_t* x = tile.codes + GROUP * first;
    Each<STRIPS, T, __m512> totals;
    clear(totals);
    for (int64_t group = 0; group < groups; group++, x += GROUP * n) {
        const int64_t at = group * n + first, row = group * ROWS;
        const uint8_t* codes[STRIPS];
        for (int s = 0; s < STRIPS; s++) codes[s] = strips[s]->codes + GROUP * row;
        Each<STRIPS, T, __m512i> dots;
        start_dots<STRIPS, T>(tile.initial + at, dots);
        fetch(ahead);
        fetch(ahead);
        add_all_dots<STRIPS, T, GROUP / 4>(codes, x, dots);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            const __m512 token_scale = _mm512_set1_ps(tile.scale[at + t]);
#pragma GCC unroll 2
            for (int s = 0; s < STRIPS; s++) {
                const __m512 scale =
                    _mm512_mul_ps(_mm512_load_ps(strips[s]->group_scale + row), token_scale);
                totals.of[s][t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots.of[s][t]),
                                                  totals.of[s][t]);
            }
        }
    }
    store(totals, first, to);
}

// One super-block's dots under its sub-scales.
template <int STRIPS, int T, int PIECE>
inline void add_scaled_dots(const TypeInfo& type, const Strip* const* strips,
                            const TokenTile& tile, int64_t block, int first, FetchAhead& ahead,
                            Each<STRIPS, T, __m512i>& sums) {
    constexpr int PIECES = 256 / PIECE;
    for (int p = 0; p < PIECES; p++) {
        const int64_t at = (block * PIECES + p) * tile.num_tokens + first;
        const int64_t sub = block * type.num_sub + p * type.num_sub / PIECES;
        const uint8_t* codes[STRIPS];
        for (int s = 0; s < STRIPS; s++)
            codes[s] = strips[s]->codes + (block * 256 + p * PIECE) * ROWS;
        Each<STRIPS, T, __m512i> dots;
        start_dots<STRIPS, T>(tile.initial + at, dots);
        fetch(ahead);
        add_all_dots<STRIPS, T, PIECE / 4>(codes, tile.codes + at * PIECE, dots);
        // The dot fits int16, so its upper half is only its sign; the scale's is 0.
#pragma GCC unroll 2
        for (int s = 0; s < STRIPS; s++) {
            const __m512i scales = load_512(strips[s]->sub_scales + sub * ROWS);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++)
                sums.of[s][t] = _mm512_dpwssd_epi32(sums.of[s][t], dots.of[s][t], scales);
        }
    }
}

// What sub-offset times sum of codes gives, of one strip and token.
inline __m512 offset_term(const Strip& strip, const TokenTile& tile, int pairs, int64_t block,
                          int token, __m512 token_scale) {
    __m512i sum = _mm512_setzero_si512();
    for (int pair = 0; pair < pairs; pair++) {
        const int64_t at = block * pairs + pair;
        sum = _mm512_dpwssd_epi32(sum, load_512(strip.sub_offsets + at * ROWS),
                                  _mm512_set1_epi32(tile.sums[at * tile.num_tokens + token]));
    }
    const __m512 offset = _mm512_load_ps(strip.offset + block * ROWS);
    return _mm512_mul_ps(_mm512_mul_ps(token_scale, offset), _mm512_cvtepi32_ps(sum));
}

template <int STRIPS, int T, int PIECE, bool OFFSET>
void multiply_super_blocks(const Weight& weight, const Strip* const* strips,
                           const TokenTile& tile, int first, FetchAhead ahead,
                           float* const* to) {
    const TypeInfo& type = *weight.type;
    Each<STRIPS, T, __m512> totals;
    clear(totals);
    for (int64_t block = 0; block < weight.num_blocks(); block++) {
        Each<STRIPS, T, __m512i> sums;
#pragma GCC unroll 8
        for (int t = 0; t < T; t++)
#pragma GCC unroll 2
            for (int s = 0; s < STRIPS; s++) sums.of[s][t] = _mm512_setzero_si512();
        add_scaled_dots<STRIPS, T, PIECE>(type, strips, tile, block, first, ahead, sums);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            const __m512 scale = _mm512_set1_ps(tile.scale[block * tile.num_tokens + first + t]);
#pragma GCC unroll 2
            for (int s = 0; s < STRIPS; s++) {
                __m512 term = _mm512_mul_ps(_mm512_load_ps(strips[s]->scale + block * ROWS), scale);
                term = _mm512_mul_ps(term, _mm512_cvtepi32_ps(sums.of[s][t]));
                if (OFFSET)
                    term = _mm512_add_ps(term, offset_term(*strips[s], tile, type.num_sub / 2,
                                                           block, first + t, scale));
                totals.of[s][t] = _mm512_add_ps(totals.of[s][t], term);
            }
        }
    }
    store(totals, first, to);
}

using Multiply = void (*)(const Weight&, const Strip* const*, const TokenTile&, int,
                          FetchAhead, float* const*);

template <int STRIPS, int T>
Multiply kernel_of(const TypeInfo& type) {
    switch (type.piece) {
        case 8:
            return type.has_offset ? multiply_super_blocks<STRIPS, T, 8, true>
                                   : multiply_super_blocks<STRIPS, T, 8, false>;
        case 16:
            return type.has_offset ? multiply_super_blocks<STRIPS, T, 16, true>
                                   : multiply_super_blocks<STRIPS, T, 16, false>;
        case GROUP: return multiply_groups<STRIPS, T>;
        default:
            return type.has_offset ? multiply_blocks<STRIPS, T, true>
                                   : multiply_blocks<STRIPS, T, false>;
    }
}

template <int STRIPS>
void multiply_strips(const Weight& weight, const Strip* const* strips, const TokenTile& tile,
                     FetchAhead ahead, float* const* totals) {
    const TypeInfo& type = weight.product();
    switch (tile.num_tokens) {  // a power of 2
        case 1: return kernel_of<STRIPS, 1>(type)(weight, strips, tile, 0, ahead, totals);
        case 2: return kernel_of<STRIPS, 2>(type)(weight, strips, tile, 0, ahead, totals);
        case 4: return kernel_of<STRIPS, 4>(type)(weight, strips, tile, 0, ahead, totals);
        default: break;
    }
    const Multiply multiply = kernel_of<STRIPS, MOST_TOKENS>(type);
    const int64_t lines = weight.product_blocks() * FetchAhead::lines_of(type);
    for (int first = 0; first < tile.num_tokens; first += MOST_TOKENS) {
        multiply(weight, strips, tile, first, ahead, totals);
        ahead.at += lines * ahead.step;
    }
}

}  // namespace

void avx512_multiply_strip(const Weight& weight, const Strip& strip, const TokenTile& tile,
                           float* totals) {
    const Strip* const strips[] = {&strip};
    float* const to[] = {totals};
    multiply_strips<1>(weight, strips, tile, {strip.codes, 0}, to);
}

void avx512_multiply_two_strips(const Weight& weight, const Strip* const* strips,
                                const TokenTile& tile, FetchAhead ahead,
                                float* const* totals) {
    multiply_strips<2>(weight, strips, tile, ahead, totals);
}

}  // namespace cotejar
