// Statistics of activations in one pass over memory; trace/stats.py says what they mean.
//
// One row is measured in chunks of 4096 values. Several rows are measured in blocks of 64 rows
// by 16 columns, which is how products come into being, so that each is measured where it is
// made; a block's values are taken row by row, lane = column. Chunks and blocks (those of the
// first columns first) are merged in order.
#pragma once

#include <cstdint>

#include "scratch.h"

namespace cotejar {

struct Moments {
    int64_t count, nan_count, inf_count, zero_count;
    double least, greatest;  // of the finite values: +inf and -inf where there are none
    double mean, squared_deviations;
};

// Of all rows of an array, and of the last by itself.
struct BothMoments {
    Moments every, last;
};

// Of at most MOMENTS_CHUNK values.
static constexpr int64_t MOMENTS_CHUNK = 4096;
using MeasureChunk = void (*)(const float* values, int64_t count, Moments& moments);

// A measurement that goes on, value i of a chunk in lane i mod 16.
struct alignas(64) MomentLanes {
    float least[16], greatest[16], nearest[16];  // nearest to 0: the least magnitude
    double sums[16], squares[16];
};

static constexpr int64_t BLOCK_ROWS = 64, BLOCK_COLUMNS = 16;
static constexpr int64_t BLOCK_VALUES = BLOCK_ROWS * BLOCK_COLUMNS;

// A piece of an array, up to BLOCK_ROWS x BLOCK_COLUMNS. Taken out, a row is BLOCK_COLUMNS
// apart from the next; what is past its columns may be anything.
struct Block {
    int64_t first_row, rows, first_column, columns;
};

// How an array is cut into blocks.
struct BlockGrid {
    int64_t rows, width;

    int64_t down() const { return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }
    int64_t across() const { return (width + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS; }
    int64_t count() const { return down() * across(); }
    int64_t index_of(int64_t strip, int64_t piece) const { return strip * down() + piece; }
    Block block(int64_t strip, int64_t piece) const;
};

void load_block(const float* array, int64_t width, const Block& block, float* values);
void store_block(const float* values, int64_t width, const Block& block, float* array);

struct Isa;

// The moments of several arrays, measured block by block by whoever has one.
// Memory is the making thread's: the next one takes its place.
class BlockMoments {
  public:
    static constexpr int MAX_ARRAYS = 5;

    BlockMoments(const BlockGrid* grids, int count);
    void measure(const Isa& isa, int array, int64_t strip, int64_t piece, const float* values);
    // The same of a block whose rows have all been added to `lanes`; false where they do not
    // tell all, and the values are asked for.
    bool finish(const Isa& isa, int array, int64_t strip, int64_t piece,
                const MomentLanes& lanes);
    Moments merged(int array) const;
    const BlockGrid& grid(int array) const { return grids_[array]; }

  private:
    BlockGrid grids_[MAX_ARRAYS];
    Moments* parts_[MAX_ARRAYS];
};

// A piece of an array (all blocks side by side) whose rows are made, or read, in order. The
// lanes are the making thread's: the next one takes their place.
class GrowingRows {
  public:
    GrowingRows(const Isa& isa, int64_t width);
    // Rows that follow those before, in the first cache.
    void add(const float* rows, int64_t num_rows);
    // When all rows of the piece are added; begins another.
    void finish(BlockMoments& moments, int array, int64_t piece, const float* values);

  private:
    const Isa& isa_;
    const int64_t width_, strips_;  // strips of all columns
    MomentLanes* lanes_;
};

// Of parts in order; at least one.
Moments merge_moments(const Moments* parts, int64_t num_parts);

// Of one row.
Moments measure_row(const Isa& isa, const float* values, int64_t width);

BothMoments measure(const Isa& isa, const float* values, int64_t rows, int64_t width);

}  // namespace cotejar
