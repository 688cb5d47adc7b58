// The product of groups (kernels/group_products.py) by tiles of 16 tokens and 16 rows, for a full
// tile of tokens. `Tiles` is one of amx_tiles.h.
//
// A group of 64 codes is one tile instruction of 16 cycles. What follows it, 16 times a dot taken
// out of memory, its centre, its scale and the sum, is four instructions for two ports, 32
// cycles; so the next group's dots are begun before.
#pragma once

#include "amx_tiles.h"
#include "strip.h"
#include "vectors.h"

namespace cotejar {
namespace {

static_assert(GROUP == TILE_ROW_BYTES && ROWS == TILE_ROWS && MAX_TILE == TILE_ROWS,
              "a group of 16 rows is one tile, and so is one of 16 tokens");

constexpr int TILE_DOTS = TILE_ROWS * ROWS;

// a * b + sum, rounded once.
inline Floats fused_of(Floats a, Floats b, Floats sum) {
#if defined(__AVX512F__)
    return reinterpret_cast<Floats>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a),
                                                    reinterpret_cast<__m512>(b),
                                                    reinterpret_cast<__m512>(sum)));
#else
    for (int lane = 0; lane < LANES; lane++)
        sum[lane] = __builtin_fmaf(a[lane], b[lane], sum[lane]);
    return sum;
#endif
}

// dots[token][row] of one group, by tiles of its own, so that it need not wait for the other's.
template <int OTHER, class Tiles>
inline void dots_of_group(Tiles& tiles, const Strip& strip, const TokenTile& tile, int64_t group,
                          int32_t* dots) {
    tiles.template zero<OTHER>();
    tiles.template load<4 + OTHER>(tile.codes + group * TILE_ROWS * GROUP, GROUP);
    tiles.template load<6 + OTHER>(strip.codes + group * GROUP * ROWS, TILE_ROW_BYTES);
    tiles.template dot_bytes<OTHER, 4 + OTHER, 6 + OTHER>();
    tiles.template store<OTHER>(dots, TILE_ROW_BYTES);
}

// The sums of 16 rows and every token of the tile, which a register each holds.
struct TokenTotals {
    Floats of[TILE_ROWS];
};

__attribute__((always_inline)) inline void add_group(const Strip& strip, const TokenTile& tile,
                                                     int64_t group, const int32_t* dots,
                                                     TokenTotals& totals) {
    const Floats row_scale = load_floats(strip.group_scale + group * ROWS);
    const int32_t* const initial = tile.initial + group * TILE_ROWS;
    const float* const token_scale = tile.scale + group * TILE_ROWS;
#pragma GCC unroll 16
    for (int t = 0; t < TILE_ROWS; t++) {
        Ints centred;
        __builtin_memcpy(&centred, dots + t * ROWS, sizeof centred);
        centred += initial[t];
        totals.of[t] = fused_of(row_scale * token_scale[t],
                                __builtin_convertvector(centred, Floats), totals.of[t]);
    }
}

inline void fetch_group(FetchAhead& ahead) {
    for (int line = 0; line < FetchAhead::lines_of(GROUPS); line++, ahead.at += ahead.step)
        __builtin_prefetch(ahead.at, 0, 2);
}

template <class Tiles>
void multiply_strip_by_tiles(Tiles& tiles, const Strip& strip, const TokenTile& tile,
                             int64_t groups, FetchAhead& ahead, float* to) {
    alignas(64) int32_t dots[2][TILE_DOTS];
    TokenTotals totals;
#pragma GCC unroll 16
    for (int t = 0; t < TILE_ROWS; t++) totals.of[t] = Floats{};
    dots_of_group<0>(tiles, strip, tile, 0, dots[0]);
    for (int64_t group = 0; group < groups; group += 2) {
        if (group + 1 < groups) dots_of_group<1>(tiles, strip, tile, group + 1, dots[1]);
        fetch_group(ahead);
        add_group(strip, tile, group, dots[0], totals);
        if (group + 1 == groups) break;
        if (group + 2 < groups) dots_of_group<0>(tiles, strip, tile, group + 2, dots[0]);
        fetch_group(ahead);
        add_group(strip, tile, group + 1, dots[1], totals);
    }
#pragma GCC unroll 16
    for (int t = 0; t < TILE_ROWS; t++) store_floats(to + t * ROWS, totals.of[t]);
}

template <class Tiles>
void multiply_groups_by_tiles(const Weight& weight, const Strip* const* strips, int count,
                              const TokenTile& tile, FetchAhead ahead, float* const* totals) {
    Tiles tiles;
    for (int one = 0; one < count; one++)
        multiply_strip_by_tiles(tiles, *strips[one], tile, weight.product_blocks(), ahead,
                                totals[one]);
}

}  // namespace
}  // namespace cotejar
