// Statistics of activations in one pass over memory; trace/stats.py says what they mean.
//
// An array is cut into blocks: one row into chunks of 1024 values, several rows into pieces of
// 64 rows by 16 columns, which is how products come into being, so that each is measured where
// it is made. A block's values are taken row by row, value i in lane i mod 16, 256 of them a
// tile (and less than 16 at the end a tile of their own). In every lane of a tile run float32
// sums of the values and of their squares (added before they are rounded), those of even and
// those of odd 16s; the two are added, and tile to tile. A block's lanes are widened to float64
// and folded by halves, blocks of the same columns summed in order, and then the columns'.
//
// How near that is, with u = 2^-24, n values and Q the sum of their squares: a value's sum is
// rounded 7 times in a tile, once where even and odd meet and 4 times from tile to tile, so that
// the array's errs by 12 u of the sum of |x|, which is sqrt(n Q) at most. A square is rounded
// once more: Q errs by 13 u Q, and Q - sum^2 / n by (13 + 2 * 12) u Q. A block of which that is
// less than Q / 4 is measured in float64 in two passes instead, and so is one with a value that
// is not finite, or with squares that leave the middle of float32's range; its mean and
// deviations are merged with the others' (which adds 2 * 12 u Q at most). So a mean errs by 12 u
// of the rms at most, and a std by (37 + 12) u of the rms.
#pragma once

#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

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

static constexpr int64_t BLOCK_ROWS = 64, BLOCK_COLUMNS = 16;
static constexpr int64_t BLOCK_VALUES = BLOCK_ROWS * BLOCK_COLUMNS;

// What a block adds to its array's sums.
struct BlockSums {
    double sum, squares;
};

// Of whatever was measured with it, lane by lane.
struct alignas(64) Extremes {
    float least[16], greatest[16];
    int64_t zero_count;
};

// Of a block whose tiles come one after the other.
struct alignas(64) SumLanes {
    float sums[16], squares[16];
};

// A block by itself. Its mean and deviations are there where `is_plain` is not.
struct Chunk {
    Moments moments;
    BlockSums sums;
    bool is_plain;
};

// A piece of an array, up to BLOCK_ROWS x BLOCK_COLUMNS. Taken out, a row is BLOCK_COLUMNS
// apart from the next; what is past its columns may be anything.
struct Block {
    int64_t first_row, rows, first_column, columns;

    int64_t count() const { return rows * columns; }
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

// The moments of one array, measured block by block in several parts of work.
class ArrayMoments {
  public:
    // `sums` of every block where pieces of a strip are different threads', and else of a strip.
    void begin(const BlockGrid& grid, bool by_pieces, BlockSums* sums, Extremes* of_parts,
               int num_parts);
    int num_parts() const { return num_parts_; }
    // When all is measured.
    Moments merged();

  private:
    friend class Meter;
    friend class GrowingRows;
    void keep(int64_t strip, int64_t piece, const BlockSums& sums);

    BlockGrid grid_;
    bool by_pieces_;
    BlockSums* sums_;
    Extremes* of_parts_;  // a part has its own: a lock took a twelfth of the measuring's time
    int num_parts_;
    std::mutex mutex_;  // of what follows
    std::vector<std::pair<int64_t, Moments>> others_;  // blocks that are not plain, by index
};

// Those of several arrays. Memory is the making thread's: the next one takes its place.
class BlockMoments {
  public:
    static constexpr int MAX_ARRAYS = 7;

    // The first `growing` of them are measured by GrowingRows, the others strip by strip.
    BlockMoments(const BlockGrid* grids, int count, int growing);
    // Work that is measured has no more parts.
    int num_parts() const { return num_parts_; }
    // Null where there are not so many.
    ArrayMoments* array(int index) { return index < count_ ? &arrays_[index] : nullptr; }
    Moments merged(int index) { return arrays_[index].merged(); }

  private:
    const int count_, num_parts_;
    ArrayMoments arrays_[MAX_ARRAYS];
};

// What measures an array in one part of the work; without an array it measures nothing.
class Meter {
  public:
    Meter(const Isa& isa, ArrayMoments* array, int part);
    Meter(const Meter&) = delete;
    Meter& operator=(const Meter&) = delete;

    explicit operator bool() const { return array_ != nullptr; }
    // A block taken out, the pieces of a strip in order. It may be known that no value is 0.
    // True where none is, and none NaN or infinite either. Throws std::bad_alloc.
    bool measure(int64_t strip, int64_t piece, const float* values, bool has_no_zero = false);

  private:
    friend class GrowingRows;
    const Isa& isa_;
    ArrayMoments* const array_;
    Extremes* const extremes_;
};

// Those of several arrays; of none without moments.
class Meters {
  public:
    Meters(const Isa& isa, BlockMoments* moments, int part);
    Meter& of(int array) { return meters_[array]; }

  private:
    Meter meters_[BlockMoments::MAX_ARRAYS];
};

// A piece of an array (all blocks side by side) whose rows are made, or read, in order. The
// lanes are the making thread's: the next one takes their place.
class GrowingRows {
  public:
    GrowingRows(const Isa& isa, ArrayMoments* array, int part);
    explicit operator bool() const { return static_cast<bool>(meter_); }
    // A tile's rows, or the piece's last, in the first cache.
    void add(const float* rows, int64_t num_rows);
    // When all rows of the piece are added; begins another.
    void finish(int64_t piece, const float* array);

  private:
    void start();

    const Isa& isa_;
    Meter meter_;
    int64_t width_ = 0, strips_ = 0;  // strips of all columns
    SumLanes* lanes_ = nullptr;
    Extremes extremes_;  // of this piece
};

// Parts to a whole.
class Total {
  public:
    void add(const BlockSums& sums, int64_t count);
    void add(const Extremes& extremes);
    void add(const Moments& moments);
    void add(const Chunk& chunk);
    Moments moments() const;

  private:
    BlockSums sums_{0.0, 0.0};  // of plain blocks
    int64_t plain_count_ = 0, zero_count_ = 0;
    double least_ = __builtin_inf(), greatest_ = -__builtin_inf();
    Moments others_{0, 0, 0, 0, __builtin_inf(), -__builtin_inf(), 0.0, 0.0};
};

// Of one row.
Moments measure_row(const Isa& isa, const float* values, int64_t width);

BothMoments measure(const Isa& isa, const float* values, int64_t rows, int64_t width);

}  // namespace cotejar
