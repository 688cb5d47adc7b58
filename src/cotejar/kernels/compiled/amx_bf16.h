// The bfloat16 product by tiles of 16 tokens and 16 rows. `Tiles` is one of amx_tiles.h.
#pragma once

#include "amx_tiles.h"
#include "bf16_kernels.h"

namespace cotejar {
namespace {

static_assert(CHUNK * 2 == TILE_ROW_BYTES && CHUNK / 2 == TILE_ROWS && ROWS == TILE_ROWS,
              "a strip's chunk is one tile, and so is a chunk of 16 tokens");

// Tokens as bfloat16, [chunk][token][CHUNK]: a tile of tokens lies in one piece, since rows
// that lie a power of two apart would drive each other out of the first cache. Zeros after the
// last.
void round_chunks(const float* activations, int num_tokens, int64_t columns, int64_t k,
                  void* tile) {
    uint16_t* out = static_cast<uint16_t*>(tile);
    for (int64_t c = 0; c < k; c += CHUNK)
        for (int t = 0; t < TILE_ROWS; t++, out += CHUNK) {
            const int64_t left = t < num_tokens ? columns - c : 0;
            round_row(activations + (left ? t * columns + c : 0), smaller(left, CHUNK), CHUNK,
                      out);
        }
}

// Tiles of sums, where they go: 16 whole rows of 16 tokens straight into the product, others by
// way of `totals`.
struct TileTarget {
    const Bf16Strips& strips;
    int64_t num_tokens, first_token;
    int first_strip;
    float* product;
    int64_t row_stride;

    template <class Tiles, int TILE>
    void store(Tiles& tiles, int tile_of_tokens, int index) const {
        const int64_t token = first_token + tile_of_tokens * TILE_ROWS;
        const int64_t row = static_cast<int64_t>(first_strip + index) * ROWS;
        const int tokens = smaller(num_tokens - token, TILE_ROWS);
        if (tokens == TILE_ROWS && strips.num_rows - row >= ROWS) {
            tiles.template store<TILE>(product + token * row_stride + strips.first_row + row,
                                       row_stride * static_cast<int64_t>(sizeof(float)));
            return;
        }
        alignas(64) float totals[TILE_ROWS * ROWS];
        tiles.template store<TILE>(totals, TILE_ROW_BYTES);
        store_totals(totals, tokens, token, strips, first_strip + index, product, row_stride);
    }
};

// T tiles of tokens (1 or 2) times S strips (1 or 2): tiles 0 to 3 hold sums, 4 and 5 tokens,
// 6 and 7 weights.
template <class Tiles, int T, int S>
void multiply_tiles(Tiles& tiles, const uint16_t* tokens, const uint16_t* pairs, int64_t k,
                    const TileTarget& target) {
    const int64_t tile_size = TILE_ROWS * k, strip_size = ROWS * k;
    tiles.template zero<0>();
    if (S > 1) tiles.template zero<1>();
    if (T > 1) tiles.template zero<2>();
    if (T > 1 && S > 1) tiles.template zero<3>();
    for (int64_t c = 0; c < k; c += CHUNK) {
        tiles.template load<4>(tokens + c * TILE_ROWS, TILE_ROW_BYTES);
        tiles.template load<6>(pairs + c * ROWS, TILE_ROW_BYTES);
        tiles.template dot<0, 4, 6>();
        if (S > 1) {
            tiles.template load<7>(pairs + strip_size + c * ROWS, TILE_ROW_BYTES);
            tiles.template dot<1, 4, 7>();
        }
        if (T > 1) {
            tiles.template load<5>(tokens + tile_size + c * TILE_ROWS, TILE_ROW_BYTES);
            tiles.template dot<2, 5, 6>();
        }
        if (T > 1 && S > 1) tiles.template dot<3, 5, 7>();
    }
    target.store<Tiles, 0>(tiles, 0, 0);
    if (S > 1) target.store<Tiles, 1>(tiles, 0, 1);
    if (T > 1) target.store<Tiles, 2>(tiles, 1, 0);
    if (T > 1 && S > 1) target.store<Tiles, 3>(tiles, 1, 1);
}

template <class Tiles>
void multiply_by_tiles(const Bf16Strips& strips, const Bf16Tokens& tokens, float* product,
                       int64_t row_stride) {
    Tiles tiles;
    const uint16_t* all = static_cast<const uint16_t*>(tokens.tiles);
    for (int64_t first = 0; first < tokens.num_tokens; first += 2 * TILE_ROWS) {
        const bool two_tiles = tokens.num_tokens - first > TILE_ROWS;
        for (int index = 0; index < strips.count; index += 2) {
            const bool two_strips = index + 1 < strips.count;
            const auto multiply =
                two_tiles
                    ? (two_strips ? multiply_tiles<Tiles, 2, 2> : multiply_tiles<Tiles, 2, 1>)
                    : (two_strips ? multiply_tiles<Tiles, 1, 2> : multiply_tiles<Tiles, 1, 1>);
            multiply(tiles, all + first * strips.k, strips.pairs + index * strips.k * ROWS,
                     strips.k,
                     {strips, tokens.num_tokens, first, index, product, row_stride});
        }
    }
}

}  // namespace
}  // namespace cotejar
