// A product's blocks taken out of their arrays: what follows a product is done in them, tile by
// tile, and they are measured, while they are in the first cache.
#pragma once

#include <algorithm>
#include <cstring>

#include "isa.h"

namespace cotejar {

static_assert(ROWS == BLOCK_COLUMNS && BLOCK_ROWS % MAX_TILE == 0, "a strip's block is a block");

static constexpr int64_t TILE_VALUES = int64_t{MAX_TILE} * ROWS;

// A tile's rows within a block.
struct TileRows {
    Block rows;      // as a block of their own
    int64_t offset;  // of their values within the block's

    TileRows(const Block& block, int64_t tile)
        : rows{block.first_row + tile * MAX_TILE,
               std::min<int64_t>(MAX_TILE, block.rows - tile * MAX_TILE), block.first_column,
               block.columns},
          offset(tile * TILE_VALUES) {}
    int64_t count() const { return rows.rows * ROWS; }
    int64_t index() const { return rows.first_row / MAX_TILE; }  // of all tiles of tokens
};

inline int64_t tiles_in(const Block& block) { return (block.rows + MAX_TILE - 1) / MAX_TILE; }

// Up to COUNT blocks at work. Where they are not measured, a tile takes the place of the tile
// before it.
template <int COUNT>
class OwnBlocks {
  public:
    explicit OwnBlocks(bool are_measured) : are_measured_(are_measured) {}

    float* at(int block, const TileRows& tile) {
        return values_ + (are_measured_ ? block * APART + tile.offset : block * TILE_VALUES);
    }
    // Of those that are measured.
    const float* whole(int block) const { return values_ + block * APART; }

  private:
    static constexpr int64_t APART = BLOCK_VALUES;

    const bool are_measured_;
    alignas(64) float values_[COUNT * APART];
};

inline void store_rows(const Isa& isa, const float* values, int64_t width, const Block& block,
                       float* out) {
    if (block.columns < ROWS) return store_block(values, width, block, out);
    isa.operations->store_rows(values, block.rows, width,
                               out + block.first_row * width + block.first_column);
}

inline void add_rows(const Isa& isa, const float* array, int64_t width, const Block& block,
                     const float* values, float* sums) {
    if (block.columns < ROWS) {
        load_block(array, width, block, sums);
        return isa.operations->add(sums, values, block.rows * ROWS, sums);
    }
    isa.operations->add_rows(array + block.first_row * width + block.first_column, width, values,
                             block.rows, sums);
}

// The last row of a block to its place in a row of its own.
inline void keep_last_row(const float* values, const Block& block, int64_t num_tokens,
                          float* row) {
    if (block.first_row + block.rows < num_tokens) return;
    std::memcpy(row + block.first_column, values + (block.rows - 1) * ROWS,
                static_cast<size_t>(block.columns) * sizeof(float));
}

// Blocks of a gate, of up, of the gate activated and of that times up: arrays `first` to first + 3.
// A zero of the others is one of the product too, unless that has a NaN or an infinity.
inline void measure_gated(Meters& meters, int first, int64_t strip, int64_t piece,
                          const float* const* blocks) {
    const bool has_no_zero = meters.of(first + 3).measure(strip, piece, blocks[3]);
    for (int array = 0; array < 3; array++)
        meters.of(first + array).measure(strip, piece, blocks[array], has_no_zero);
}

// Of all rows, block by block, and of the last, where it stands.
inline BothMoments both(const Isa& isa, BlockMoments& blocks, int array, const float* last,
                        int64_t width) {
    return {blocks.merged(array), measure_row(isa, last, width)};
}

}  // namespace cotejar
