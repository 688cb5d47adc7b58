#include "layer_products.h"

#include <optional>

#include "added_product.h"
#include "own_blocks.h"
#include "strip_products.h"

namespace cotejar {

namespace {

static_assert(MAX_TOGETHER <= MOST_WEIGHTS && MAX_TOGETHER <= RoundedTiles::MAX_WEIGHTS,
              "all of them are rounded for, and have strips");

thread_local Scratch row_scratch;    // of the calling thread: last rows that nobody keeps

BlockMoments* pointer_to(std::optional<BlockMoments>& moments) {
    return moments ? &*moments : nullptr;
}

ArrayMoments* array_of(std::optional<BlockMoments>& moments, int index) {
    return moments ? moments->array(index) : nullptr;
}

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
    if (moments != nullptr) measured.emplace(grids, 1 + count, 1);
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
        OwnBlocks<2> values(moments != nullptr);
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            const Block blocks[2] = {grid.block(two.begin, piece), grid.block(two.end - 1, piece)};
            for (int64_t at = 0; at < tiles_in(blocks[0]); at++) {
                const TileRows tiles[2] = {TileRows(blocks[0], at), TileRows(blocks[1], at)};
                float* const to[2] = {values.at(0, tiles[0]), values.at(1, tiles[1])};
                products.fill(tiles[0].index(), to);
                for (int s = 0; s < products.count(); s++)
                    store_rows(isa, to[s], grid.width, tiles[s].rows, out[one]);
            }
            for (int s = 0; measured && s < products.count(); s++)
                meters.of(1 + one).measure(two.begin + s, piece, values.whole(s));
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
    if (moments != nullptr) measured.emplace(grids, 3, 1);
    const RoundedTiles rounded(isa, &linear.weight, 1, activations, num_tokens,
                               of_input ? array_of(measured, 0) : nullptr);
    float* last = row_scratch.array<float>(static_cast<size_t>(width));
    add_product(isa, linear, rounded.of(0), num_tokens, residual, out, pointer_to(measured), 1,
                last);
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
    if (moments != nullptr) measured.emplace(grids, 5, 1);
    const RoundedTiles rounded(isa, weights, 2, activations, num_tokens, array_of(measured, 0));
    float* last = row_scratch.array<float>(static_cast<size_t>(3 * width));
    const bool alike = rounded.of(0).tiles == rounded.of(1).tiles;
    over_units(isa, grid.across(), weights, 2, 1, pointer_to(measured),
               [&](int64_t strip, const Strip* strips, Meters& meters) {
        StripProducts gates(isa, rounded.of(0)), ups(isa, rounded.of(1));
        gates.unpack(gate, strips[0], strip);
        (alike ? gates : ups).unpack(up, strips[1], strip);
        OwnBlocks<4> blocks(moments != nullptr);  // of the gate, of up, activated and their product
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            const Block block = grid.block(strip, piece);
            for (int64_t at = 0; at < tiles_in(block); at++) {
                const TileRows tile(block, at);
                float* const activated = blocks.at(2, tile);
                float* const to[2] = {blocks.at(0, tile), blocks.at(1, tile)};
                gates.fill(tile.index(), to);
                if (!alike) ups.fill(tile.index(), to + 1);
                isa.operations->silu(to[0], tile.count(), activated);
                isa.operations->multiply(activated, to[1], tile.count(), blocks.at(3, tile));
                store_rows(isa, blocks.at(3, tile), width, tile.rows, out);
            }
            if (!measured) continue;
            const float* whole[4];
            for (int array = 0; array < 4; array++) whole[array] = blocks.whole(array);
            measure_gated(meters, 1, strip, piece, whole);
            for (int array = 0; array < 3; array++)
                keep_last_row(whole[array], block, num_tokens, last + array * width);
        }
    });
    if (!measured) return;
    moments[0] = both(isa, *measured, 0, activations + (num_tokens - 1) * columns, columns);
    for (int array = 0; array < 3; array++)
        moments[1 + array] = both(isa, *measured, 1 + array, last + array * width, width);
    moments[4] = both(isa, *measured, 4, out + (num_tokens - 1) * width, width);
}

}  // namespace cotejar
