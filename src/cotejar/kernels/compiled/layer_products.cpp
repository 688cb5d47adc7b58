#include "layer_products.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "strip_products.h"

namespace cotejar {

namespace {

static_assert(ROWS == BLOCK_COLUMNS && BLOCK_ROWS % MAX_TILE == 0, "a strip's block is a block");
static_assert(MAX_TOGETHER <= MOST_WEIGHTS && MAX_TOGETHER <= RoundedTiles::MAX_WEIGHTS,
              "all of them are rounded for, and have strips");

thread_local Scratch row_scratch;    // of the calling thread: last rows that nobody keeps

// A tile's rows within a block.
struct TileRows {
    Block rows;      // as a block of their own
    int64_t offset;  // of their values within the block's

    TileRows(const Block& block, int64_t tile)
        : rows{block.first_row + tile * MAX_TILE,
               std::min<int64_t>(MAX_TILE, block.rows - tile * MAX_TILE), block.first_column,
               block.columns},
          offset(tile * MAX_TILE * ROWS) {}
    int64_t count() const { return rows.rows * ROWS; }
    int64_t index() const { return rows.first_row / MAX_TILE; }  // of all tiles of tokens
};

int64_t tiles_in(const Block& block) { return (block.rows + MAX_TILE - 1) / MAX_TILE; }

void store_rows(const Isa& isa, const float* values, int64_t width, const Block& block,
                float* out) {
    if (block.columns < ROWS) return store_block(values, width, block, out);
    isa.operations->store_rows(values, block.rows, width,
                               out + block.first_row * width + block.first_column);
}

void add_rows(const Isa& isa, const float* array, int64_t width, const Block& block,
              const float* values, float* sums) {
    if (block.columns < ROWS) {
        load_block(array, width, block, sums);
        return isa.operations->add(sums, values, block.rows * ROWS, sums);
    }
    isa.operations->add_rows(array + block.first_row * width + block.first_column, width, values,
                             block.rows, sums);
}

BlockMoments* pointer_to(std::optional<BlockMoments>& moments) {
    return moments ? &*moments : nullptr;
}

ArrayMoments* array_of(std::optional<BlockMoments>& moments, int index) {
    return moments ? moments->array(index) : nullptr;
}

// Of all rows, block by block, and of the last, where it stands.
BothMoments both(const Isa& isa, BlockMoments& blocks, int array, const float* last,
                 int64_t width) {
    return {blocks.merged(array), measure_row(isa, last, width)};
}

// The last row of a block to its place in a row of its own.
void keep_last_row(const float* values, const Block& block, int64_t num_tokens, float* row) {
    if (block.first_row + block.rows < num_tokens) return;
    std::memcpy(row + block.first_column, values + (block.rows - 1) * ROWS,
                static_cast<size_t>(block.columns) * sizeof(float));
}

// A block taken out, which is measured while it is in the first cache.
struct OwnBlock {
    alignas(64) float values[BLOCK_VALUES];

    float* at(const TileRows& tile) { return values + tile.offset; }
};

}  // namespace

void multiply_together(const Isa& isa, const Linear* linears, float* const* out, int count,
                       const float* activations, int64_t num_tokens, BothMoments* moments) {
    Weight weights[MAX_TOGETHER];
    const int64_t columns = linears[0].weight.columns;
    BlockGrid grids[1 + MAX_TOGETHER] = {{num_tokens, columns}};
    int64_t ends[MAX_TOGETHER], pairs = 0;
    for (int one = 0; one < count; one++) {
        weights[one] = linears[one].weight;
        grids[1 + one] = {num_tokens, weights[one].rows};
        ends[one] = pairs += units_of(grids[1 + one], 2);
    }
    std::optional<BlockMoments> measured;
    if (moments != nullptr) measured.emplace(grids, 1 + count);
    const RoundedTiles rounded(isa, weights, count, activations, num_tokens, array_of(measured, 0));
    over_units(isa, pairs, weights, count, 2, pointer_to(measured),
               [&](int64_t pair, const Strip* strips, Meters& meters) {
        int one = 0;
        while (pair >= ends[one]) one++;
        const BlockGrid& grid = grids[1 + one];
        const Range two = strips_of_unit(grid, pair - (one == 0 ? 0 : ends[one - 1]), 2);
        StripProducts products(isa, rounded.of(one));
        for (int64_t strip = two.begin; strip < two.end; strip++)
            products.unpack(linears[one], strips[2 * one + strip - two.begin], strip);
        OwnBlock values[2];
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            const Block blocks[2] = {grid.block(two.begin, piece), grid.block(two.end - 1, piece)};
            for (int64_t at = 0; at < tiles_in(blocks[0]); at++) {
                const TileRows tiles[2] = {TileRows(blocks[0], at), TileRows(blocks[1], at)};
                float* const to[2] = {values[0].at(tiles[0]), values[1].at(tiles[1])};
                products.fill(tiles[0].index(), to);
                for (int s = 0; s < products.count(); s++)
                    store_rows(isa, to[s], grid.width, tiles[s].rows, out[one]);
            }
            for (int s = 0; s < products.count(); s++)
                meters.of(1 + one).measure(two.begin + s, piece, values[s].values);
        }
    });
    if (!measured) return;
    moments[0] = both(isa, *measured, 0, activations + (num_tokens - 1) * columns, columns);
    for (int one = 0; one < count; one++)
        moments[1 + one] = both(isa, *measured, 1 + one,
                                out[one] + (num_tokens - 1) * weights[one].rows,
                                weights[one].rows);
}

void multiply_and_add(const Isa& isa, const Linear& linear, const float* activations,
                      int64_t num_tokens, const float* residual, float* out, bool of_input,
                      BothMoments* moments) {
    const int64_t width = linear.weight.rows, columns = linear.weight.columns;
    const BlockGrid grid{num_tokens, width};
    const BlockGrid grids[3] = {{num_tokens, columns}, grid, grid};
    std::optional<BlockMoments> measured;
    if (moments != nullptr) measured.emplace(grids, 3);
    const RoundedTiles rounded(isa, &linear.weight, 1, activations, num_tokens,
                               of_input ? array_of(measured, 0) : nullptr);
    float* last = row_scratch.array<float>(static_cast<size_t>(width));
    const int at_once = strips_at_once(rounded.of(0));
    over_units(isa, units_of(grid, at_once), &linear.weight, 1, at_once, pointer_to(measured),
               [&](int64_t unit, const Strip* strips, Meters& meters) {
        const Range mine = strips_of_unit(grid, unit, at_once);
        StripProducts products(isa, rounded.of(0));
        for (int64_t strip = mine.begin; strip < mine.end; strip++)
            products.unpack(linear, strips[strip - mine.begin], strip);
        const int count = products.count();
        OwnBlock values[MOST_STRIPS], sums[MOST_STRIPS];
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            Block blocks[MOST_STRIPS];
            for (int s = 0; s < count; s++) blocks[s] = grid.block(mine.begin + s, piece);
            for (int64_t at = 0; at < tiles_in(blocks[0]); at++) {
                float* to[MOST_STRIPS];
                for (int s = 0; s < count; s++) {
                    const TileRows tile(blocks[s], at);
                    to[s] = values[s].at(tile);
                    fetch_rows(residual + tile.rows.first_row * width + tile.rows.first_column,
                               width, tile.rows.rows);
                }
                products.fill(TileRows(blocks[0], at).index(), to);
                for (int s = 0; s < count; s++) {
                    const TileRows tile(blocks[s], at);
                    add_rows(isa, residual, width, tile.rows, to[s], sums[s].at(tile));
                    store_rows(isa, sums[s].at(tile), width, tile.rows, out);
                }
            }
            for (int s = 0; measured && s < count; s++) {
                meters.of(1).measure(mine.begin + s, piece, values[s].values);
                meters.of(2).measure(mine.begin + s, piece, sums[s].values);
                keep_last_row(values[s].values, blocks[s], num_tokens, last);
            }
        }
    });
    if (!measured) return;
    if (of_input)
        moments[0] = both(isa, *measured, 0, activations + (num_tokens - 1) * columns, columns);
    moments[1] = both(isa, *measured, 1, last, width);
    moments[2] = both(isa, *measured, 2, out + (num_tokens - 1) * width, width);
}

void multiply_gated(const Isa& isa, const Linear& gate, const Linear& up,
                    const float* activations, int64_t num_tokens, float* out,
                    BothMoments* moments) {
    const int64_t width = gate.weight.rows, columns = gate.weight.columns;
    const BlockGrid grid{num_tokens, width};
    const BlockGrid grids[5] = {{num_tokens, columns}, grid, grid, grid, grid};
    const Weight weights[2] = {gate.weight, up.weight};
    std::optional<BlockMoments> measured;
    if (moments != nullptr) measured.emplace(grids, 5);
    const RoundedTiles rounded(isa, weights, 2, activations, num_tokens, array_of(measured, 0));
    float* last = row_scratch.array<float>(static_cast<size_t>(3 * width));
    const bool alike = rounded.of(0).tiles == rounded.of(1).tiles;
    over_units(isa, grid.across(), weights, 2, 1, pointer_to(measured),
               [&](int64_t strip, const Strip* strips, Meters& meters) {
        StripProducts gates(isa, rounded.of(0)), ups(isa, rounded.of(1));
        gates.unpack(gate, strips[0], strip);
        (alike ? gates : ups).unpack(up, strips[1], strip);
        OwnBlock blocks[4];  // of the gate, of up, activated and their product
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            const Block block = grid.block(strip, piece);
            for (int64_t at = 0; at < tiles_in(block); at++) {
                const TileRows tile(block, at);
                float* const activated = blocks[2].at(tile);
                float* const to[2] = {blocks[0].at(tile), blocks[1].at(tile)};
                gates.fill(tile.index(), to);
                if (!alike) ups.fill(tile.index(), to + 1);
                isa.operations->silu(blocks[0].at(tile), tile.count(), activated);
                isa.operations->multiply(activated, blocks[1].at(tile), tile.count(),
                                         blocks[3].at(tile));
                store_rows(isa, blocks[3].at(tile), width, tile.rows, out);
            }
            for (int array = 0; measured && array < 4; array++)
                meters.of(1 + array).measure(strip, piece, blocks[array].values);
            for (int array = 0; measured && array < 3; array++)
                keep_last_row(blocks[array].values, block, num_tokens, last + array * width);
        }
    });
    if (!measured) return;
    moments[0] = both(isa, *measured, 0, activations + (num_tokens - 1) * columns, columns);
    for (int array = 0; array < 3; array++)
        moments[1 + array] = both(isa, *measured, 1 + array, last + array * width, width);
    moments[4] = both(isa, *measured, 4, out + (num_tokens - 1) * width, width);
}

}  // namespace cotejar
