#include "layer_products.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "failure.h"
#include "thread_pool.h"
#include "token_tiles.h"
#include "vector_product.h"

namespace cotejar {

namespace {

static_assert(ROWS == BLOCK_COLUMNS && BLOCK_ROWS % MAX_TILE == 0, "a strip's block is a block");
static_assert(MAX_TOGETHER <= RoundedTiles::MAX_WEIGHTS, "all of them are rounded for");

thread_local Scratch strip_scratch;  // of every thread: its strips
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

// One strip of a weight times a tile of tokens, the bias added.
struct StripProduct {
    const Isa& isa;
    const Linear& linear;
    const Strip& strip;
    const Tiles& tiles;

    void unpack(int64_t index) const { isa.unpack_strip(linear.weight, index * ROWS, strip); }

    void fill(const TileRows& tile, float* values) const {
        const Block& block = tile.rows;
        multiply_tile(isa, linear.weight, strip, tiles.tiles[block.first_row / MAX_TILE], values);
        if (linear.bias == nullptr) return;
        alignas(64) float bias[ROWS] = {};
        std::memcpy(bias, linear.bias + block.first_column,
                    static_cast<size_t>(block.columns) * sizeof(float));
        isa.operations->add_rows(bias, 0, values, block.rows, values);
    }
};

BlockMoments* pointer_to(std::optional<BlockMoments>& moments) {
    return moments ? &*moments : nullptr;
}

// Of all rows, block by block, and of the last, where it stands.
BothMoments both(const Isa& isa, const BlockMoments& blocks, int array, const float* last,
                 int64_t width) {
    return {blocks.merged(array), measure_row(isa, last, width)};
}

// The last row of a block to its place in a row of its own.
void keep_last_row(const float* values, const Block& block, int64_t num_tokens, float* row) {
    if (block.first_row + block.rows < num_tokens) return;
    std::memcpy(row + block.first_column, values + (block.rows - 1) * ROWS,
                static_cast<size_t>(block.columns) * sizeof(float));
}

// One array's block as it grows, tile by tile, each measured while it is in the first cache.
struct GrowingBlock {
    alignas(64) float values[BLOCK_VALUES];
    MomentLanes lanes;

    float* at(const TileRows& tile) { return values + tile.offset; }
    void start(const Isa& isa) { isa.operations->start_lanes(lanes); }
    void measure(const Isa& isa, const TileRows& tile) {
        isa.operations->add_to_lanes(at(tile), tile.count(), lanes);
    }
    void finish(const Isa& isa, BlockMoments& moments, int array, int64_t strip,
                int64_t piece) const {
        if (!moments.finish(isa, array, strip, piece, lanes))
            moments.measure(isa, array, strip, piece, values);
    }
};

// `work(strip index)` for all strips, each thread with memory for strips of these weights.
template <class Work>
void over_strips(int64_t count, const Weight* weights, int num_weights, Work work) {
    Failure failure;
    auto part_of = [&](int part, int parts) {
        const Range mine = range_of_part(count, part, parts);
        failure.guard([&] {
            Strip strips[MAX_TOGETHER];
            carve_strips(strip_scratch, weights, strips, num_weights);
            for (int64_t index = mine.begin; index < mine.end; index++) work(index, strips);
        });
    };
    parallel(count, part_of);
    failure.rethrow();
}

}  // namespace

void multiply_together(const Isa& isa, const Linear* linears, float* const* out, int count,
                       const float* activations, int64_t num_tokens, BothMoments* moments) {
    Weight weights[MAX_TOGETHER];
    const int64_t columns = linears[0].weight.columns;
    BlockGrid grids[1 + MAX_TOGETHER] = {{num_tokens, columns}};
    int64_t ends[MAX_TOGETHER], all_strips = 0;
    for (int one = 0; one < count; one++) {
        weights[one] = linears[one].weight;
        grids[1 + one] = {num_tokens, weights[one].rows};
        ends[one] = all_strips += grids[1 + one].across();
    }
    std::optional<BlockMoments> measured;
    if (moments != nullptr) measured.emplace(grids, 1 + count);
    const RoundedTiles rounded(isa, weights, count, activations, num_tokens, pointer_to(measured));
    over_strips(all_strips, weights, count, [&](int64_t index, const Strip* strips) {
        int one = 0;
        while (index >= ends[one]) one++;
        const int64_t strip = index - (one == 0 ? 0 : ends[one - 1]);
        const StripProduct product{isa, linears[one], strips[one], rounded.of(one)};
        product.unpack(strip);
        GrowingBlock values;
        const BlockGrid& grid = grids[1 + one];
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            const Block block = grid.block(strip, piece);
            values.start(isa);
            for (int64_t at = 0; at < tiles_in(block); at++) {
                const TileRows tile(block, at);
                product.fill(tile, values.at(tile));
                store_rows(isa, values.at(tile), weights[one].rows, tile.rows, out[one]);
                if (measured) values.measure(isa, tile);
            }
            if (measured) values.finish(isa, *measured, 1 + one, strip, piece);
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
                               of_input ? pointer_to(measured) : nullptr);
    float* last = row_scratch.array<float>(static_cast<size_t>(width));
    over_strips(grid.across(), &linear.weight, 1, [&](int64_t strip, const Strip* strips) {
        const StripProduct product{isa, linear, strips[0], rounded.of(0)};
        product.unpack(strip);
        GrowingBlock values, sums;
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            const Block block = grid.block(strip, piece);
            values.start(isa);
            sums.start(isa);
            for (int64_t at = 0; at < tiles_in(block); at++) {
                const TileRows tile(block, at);
                product.fill(tile, values.at(tile));
                add_rows(isa, residual, width, tile.rows, values.at(tile), sums.at(tile));
                store_rows(isa, sums.at(tile), width, tile.rows, out);
                if (!measured) continue;
                values.measure(isa, tile);
                sums.measure(isa, tile);
            }
            if (!measured) continue;
            values.finish(isa, *measured, 1, strip, piece);
            sums.finish(isa, *measured, 2, strip, piece);
            keep_last_row(values.values, block, num_tokens, last);
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
    const RoundedTiles rounded(isa, weights, 2, activations, num_tokens, pointer_to(measured));
    float* last = row_scratch.array<float>(static_cast<size_t>(3 * width));
    over_strips(grid.across(), weights, 2, [&](int64_t strip, const Strip* strips) {
        const StripProduct gates{isa, gate, strips[0], rounded.of(0)};
        const StripProduct ups{isa, up, strips[1], rounded.of(1)};
        gates.unpack(strip);
        ups.unpack(strip);
        GrowingBlock blocks[4];  // of the gate, of up, activated and their product
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            const Block block = grid.block(strip, piece);
            for (GrowingBlock& one : blocks) one.start(isa);
            for (int64_t at = 0; at < tiles_in(block); at++) {
                const TileRows tile(block, at);
                float* const activated = blocks[2].at(tile);
                gates.fill(tile, blocks[0].at(tile));
                ups.fill(tile, blocks[1].at(tile));
                isa.operations->silu(blocks[0].at(tile), tile.count(), activated);
                isa.operations->multiply(activated, blocks[1].at(tile), tile.count(),
                                         blocks[3].at(tile));
                store_rows(isa, blocks[3].at(tile), width, tile.rows, out);
                for (int array = 0; measured && array < 4; array++)
                    blocks[array].measure(isa, tile);
            }
            for (int array = 0; measured && array < 4; array++)
                blocks[array].finish(isa, *measured, 1 + array, strip, piece);
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
