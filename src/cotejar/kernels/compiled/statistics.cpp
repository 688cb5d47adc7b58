#include "statistics.h"

#include <algorithm>
#include <cstring>

#include "failure.h"
#include "isa.h"
#include "thread_pool.h"

namespace cotejar {

namespace {

thread_local Scratch chunk_scratch;
thread_local Scratch block_scratch;
thread_local Scratch lane_scratch;

// Fewer values than this are not worth waking a thread for.
constexpr int64_t SMALL = 1 << 14;

int64_t finite_count(const Moments& m) { return m.count - m.nan_count - m.inf_count; }

}  // namespace

// Chan, Golub and LeVeque's formula (1979) for all at once.
Moments merge_moments(const Moments* parts, int64_t num_parts) {
    Moments whole = parts[0];
    if (num_parts == 1) return whole;
    double sum = static_cast<double>(finite_count(whole)) * whole.mean;
    for (int64_t part = 1; part < num_parts; part++) {
        const Moments& one = parts[part];
        whole.count += one.count;
        whole.nan_count += one.nan_count;
        whole.inf_count += one.inf_count;
        whole.zero_count += one.zero_count;
        whole.least = std::min(whole.least, one.least);
        whole.greatest = std::max(whole.greatest, one.greatest);
        sum += static_cast<double>(finite_count(one)) * one.mean;
    }
    const int64_t finite = finite_count(whole);
    whole.mean = finite > 0 ? sum / static_cast<double>(finite) : 0.0;
    whole.squared_deviations = 0.0;
    for (int64_t part = 0; part < num_parts; part++) {
        const double delta = parts[part].mean - whole.mean;
        if (finite_count(parts[part]) > 0)
            whole.squared_deviations += parts[part].squared_deviations +
                                        static_cast<double>(finite_count(parts[part])) * delta * delta;
    }
    return whole;
}

Block BlockGrid::block(int64_t strip, int64_t piece) const {
    const int64_t row = piece * BLOCK_ROWS, column = strip * BLOCK_COLUMNS;
    return {row, std::min(BLOCK_ROWS, rows - row), column,
            std::min(BLOCK_COLUMNS, width - column)};
}

void load_block(const float* array, int64_t width, const Block& block, float* values) {
    const float* from = array + block.first_row * width + block.first_column;
    const size_t bytes = static_cast<size_t>(block.columns) * sizeof(float);
    if (block.columns == BLOCK_COLUMNS) {  // of a size that the compiler knows
        for (int64_t row = 0; row < block.rows; row++)
            std::memcpy(values + row * BLOCK_COLUMNS, from + row * width,
                        BLOCK_COLUMNS * sizeof(float));
        return;
    }
    std::memset(values, 0, static_cast<size_t>(block.rows * BLOCK_COLUMNS) * sizeof(float));
    for (int64_t row = 0; row < block.rows; row++)
        std::memcpy(values + row * BLOCK_COLUMNS, from + row * width, bytes);
}

void store_block(const float* values, int64_t width, const Block& block, float* array) {
    float* to = array + block.first_row * width + block.first_column;
    const size_t bytes = static_cast<size_t>(block.columns) * sizeof(float);
    for (int64_t row = 0; row < block.rows; row++) {
        if (block.columns == BLOCK_COLUMNS)
            std::memcpy(to + row * width, values + row * BLOCK_COLUMNS,
                        BLOCK_COLUMNS * sizeof(float));
        else
            std::memcpy(to + row * width, values + row * BLOCK_COLUMNS, bytes);
    }
}

BlockMoments::BlockMoments(const BlockGrid* grids, int count) {
    int64_t blocks = 0;
    for (int array = 0; array < count; array++) blocks += grids[array].count();
    Moments* parts = block_scratch.array<Moments>(static_cast<size_t>(blocks));
    for (int array = 0; array < count; array++) {
        grids_[array] = grids[array];
        parts_[array] = parts;
        parts += grids[array].count();
    }
}

void BlockMoments::measure(const Isa& isa, int array, int64_t strip, int64_t piece,
                           const float* values) {
    const Block block = grids_[array].block(strip, piece);
    Moments& moments = parts_[array][grids_[array].index_of(strip, piece)];
    if (block.columns == BLOCK_COLUMNS)
        return isa.measure_chunk(values, block.rows * BLOCK_COLUMNS, moments);
    alignas(64) float dense[BLOCK_VALUES];
    for (int64_t row = 0; row < block.rows; row++)
        std::memcpy(dense + row * block.columns, values + row * BLOCK_COLUMNS,
                    static_cast<size_t>(block.columns) * sizeof(float));
    isa.measure_chunk(dense, block.rows * block.columns, moments);
}

bool BlockMoments::finish(const Isa& isa, int array, int64_t strip, int64_t piece,
                          const MomentLanes& lanes) {
    const Block block = grids_[array].block(strip, piece);
    return block.columns == BLOCK_COLUMNS &&
           isa.operations->finish_lanes(lanes, block.rows * BLOCK_COLUMNS,
                                        parts_[array][grids_[array].index_of(strip, piece)]);
}

Moments BlockMoments::merged(int array) const {
    return merge_moments(parts_[array], grids_[array].count());
}

GrowingRows::GrowingRows(const Isa& isa, int64_t width)
    : isa_(isa),
      width_(width),
      strips_(width / BLOCK_COLUMNS),
      lanes_(lane_scratch.array<MomentLanes>(static_cast<size_t>(strips_))) {
    for (int64_t strip = 0; strip < strips_; strip++) isa.operations->start_lanes(lanes_[strip]);
}

void GrowingRows::add(const float* rows, int64_t num_rows) {
    isa_.operations->add_rows_to_lanes(rows, num_rows, width_, lanes_);
}

void GrowingRows::finish(BlockMoments& moments, int array, int64_t piece, const float* values) {
    const BlockGrid& grid = moments.grid(array);
    for (int64_t strip = 0; strip < grid.across(); strip++) {
        if (strip == strips_ || !moments.finish(isa_, array, strip, piece, lanes_[strip])) {
            alignas(64) float block[BLOCK_VALUES];
            load_block(values, width_, grid.block(strip, piece), block);
            moments.measure(isa_, array, strip, piece, block);
        }
        if (strip < strips_) isa_.operations->start_lanes(lanes_[strip]);
    }
}

Moments measure_row(const Isa& isa, const float* values, int64_t width) {
    const int64_t chunks = std::max<int64_t>(1, (width + MOMENTS_CHUNK - 1) / MOMENTS_CHUNK);
    Moments* moments = chunk_scratch.array<Moments>(static_cast<size_t>(chunks));
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const int64_t first = chunk * MOMENTS_CHUNK;
        isa.measure_chunk(values + first, std::min(MOMENTS_CHUNK, width - first), moments[chunk]);
    }
    return merge_moments(moments, chunks);
}

BothMoments measure(const Isa& isa, const float* values, int64_t rows, int64_t width) {
    if (rows <= 1 || width == 0) {
        const Moments row = measure_row(isa, values, rows * width);
        return {row, row};
    }
    const BlockGrid grid{rows, width};
    BlockMoments moments(&grid, 1);
    auto work = [&](int part, int parts) {
        const Range mine = range_of_part(grid.across(), part, parts);
        alignas(64) float block[BLOCK_VALUES];
        for (int64_t strip = mine.begin; strip < mine.end; strip++)
            for (int64_t piece = 0; piece < grid.down(); piece++) {
                load_block(values, width, grid.block(strip, piece), block);
                moments.measure(isa, 0, strip, piece, block);
            }
    };
    if (rows * width < 2 * SMALL)
        work(0, 1);
    else
        parallel(grid.across(), work);
    return {moments.merged(0), measure_row(isa, values + (rows - 1) * width, width)};
}

}  // namespace cotejar
