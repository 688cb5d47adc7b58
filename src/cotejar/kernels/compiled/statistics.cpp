#include "statistics.h"

#include <algorithm>
#include <cstring>

#include "failure.h"
#include "isa.h"
#include "thread_pool.h"

namespace cotejar {

namespace {

thread_local Scratch block_scratch;
thread_local Scratch lane_scratch;

// Fewer values than this are not worth waking a thread for.
constexpr int64_t SMALL = 1 << 14;

void start_extremes(Extremes& extremes) {
    for (int lane = 0; lane < BLOCK_COLUMNS; lane++) {
        extremes.least[lane] = __builtin_inff();
        extremes.greatest[lane] = -__builtin_inff();
    }
    extremes.zero_count = 0;
}

void add_extremes(const Extremes& some, Extremes& all) {
    for (int lane = 0; lane < BLOCK_COLUMNS; lane++) {
        all.least[lane] = std::min(all.least[lane], some.least[lane]);
        all.greatest[lane] = std::max(all.greatest[lane], some.greatest[lane]);
    }
    all.zero_count += some.zero_count;
}

int64_t finite_count(const Moments& m) { return m.count - m.nan_count - m.inf_count; }

// Chan, Golub and LeVeque's formula (1979).
void add_moments(const Moments& some, Moments& all) {
    const double before = static_cast<double>(finite_count(all));
    const double more = static_cast<double>(finite_count(some));
    all.count += some.count;
    all.nan_count += some.nan_count;
    all.inf_count += some.inf_count;
    all.zero_count += some.zero_count;
    all.least = std::min(all.least, some.least);
    all.greatest = std::max(all.greatest, some.greatest);
    if (more == 0.0) return;
    const double share = more / (before + more), delta = some.mean - all.mean;
    all.mean = before == 0.0 ? some.mean : all.mean + delta * share;
    all.squared_deviations += some.squared_deviations + delta * delta * before * share;
}

// Its values side by side.
bool measure_narrow(decltype(Isa::measure_block) measure, const float* values, const Block& block,
                    Extremes& extremes, BlockSums& sums, Moments& other) {
    alignas(64) float dense[BLOCK_VALUES];
    for (int64_t row = 0; row < block.rows; row++)
        std::memcpy(dense + row * block.columns, values + row * BLOCK_COLUMNS,
                    static_cast<size_t>(block.columns) * sizeof(float));
    return measure(dense, block.count(), extremes, sums, other);
}

ArrayMoments* array_of(BlockMoments* moments, int index) {
    return moments == nullptr ? nullptr : moments->array(index);
}

}  // namespace

void Total::add(const BlockSums& sums, int64_t count) {
    sums_.sum += sums.sum;
    sums_.squares += sums.squares;
    plain_count_ += count;
}

void Total::add(const Extremes& extremes) {
    for (int lane = 0; lane < BLOCK_COLUMNS; lane++) {
        least_ = std::min(least_, static_cast<double>(extremes.least[lane]));
        greatest_ = std::max(greatest_, static_cast<double>(extremes.greatest[lane]));
    }
    zero_count_ += extremes.zero_count;
}

void Total::add(const Moments& moments) { add_moments(moments, others_); }

void Total::add(const Chunk& chunk) {
    if (!chunk.is_plain) return add(chunk.moments);
    add(chunk.sums, chunk.moments.count);
    least_ = std::min(least_, chunk.moments.least);
    greatest_ = std::max(greatest_, chunk.moments.greatest);
    zero_count_ += chunk.moments.zero_count;
}

Moments Total::moments() const {
    Moments all{plain_count_, 0, 0, zero_count_, least_, greatest_, 0.0, 0.0};
    if (plain_count_ > 0) {
        all.mean = sums_.sum / static_cast<double>(plain_count_);
        all.squared_deviations = sums_.squares - sums_.sum * all.mean;
    }
    add_moments(others_, all);
    all.least += 0.0;  // of two zeros it may have met either first
    all.greatest += 0.0;
    return all;
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

void ArrayMoments::begin(const BlockGrid& grid, bool by_pieces, BlockSums* sums,
                         Extremes* of_parts, int num_parts) {
    grid_ = grid;
    by_pieces_ = by_pieces;
    sums_ = sums;
    of_parts_ = of_parts;
    num_parts_ = num_parts;
    for (int part = 0; part < num_parts; part++) start_extremes(of_parts[part]);
}

void ArrayMoments::keep(int64_t strip, int64_t piece, const BlockSums& sums) {
    if (by_pieces_) {
        sums_[grid_.index_of(strip, piece)] = sums;
    } else if (piece == 0) {
        sums_[strip] = sums;
    } else {
        sums_[strip].sum += sums.sum;
        sums_[strip].squares += sums.squares;
    }
}

Moments ArrayMoments::merged() {
    std::sort(others_.begin(), others_.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    Total total;
    const int64_t pieces = by_pieces_ ? grid_.down() : 1;
    for (int64_t strip = 0; strip < grid_.across(); strip++) {
        BlockSums sums{0.0, 0.0};
        for (int64_t piece = 0; piece < pieces; piece++) {
            const BlockSums& some = sums_[strip * pieces + piece];
            sums.sum += some.sum;
            sums.squares += some.squares;
        }
        total.add(sums, 0);
    }
    int64_t plain = grid_.rows * grid_.width;
    for (const auto& other : others_) plain -= other.second.count;
    total.add(BlockSums{0.0, 0.0}, plain);
    for (int part = 0; part < num_parts_; part++) total.add(of_parts_[part]);
    for (const auto& other : others_) total.add(other.second);
    return total.moments();
}

BlockMoments::BlockMoments(const BlockGrid* grids, int count, int growing)
    : count_(count), num_parts_(most_parts()) {
    const size_t num_extremes = static_cast<size_t>(count) * static_cast<size_t>(num_parts_);
    const auto num_sums = [&](int array) {
        return array < growing ? grids[array].count() : grids[array].across();
    };
    int64_t all = 0;
    for (int array = 0; array < count; array++) all += num_sums(array);
    const auto carve = [&](Carver carver, Extremes*& extremes, BlockSums*& sums) {
        extremes = carver.take<Extremes>(num_extremes);
        sums = carver.take<BlockSums>(static_cast<size_t>(all));
        return carver.used();
    };
    Extremes* extremes;
    BlockSums* sums;
    carve(Carver(block_scratch.get(carve(Carver(nullptr), extremes, sums))), extremes, sums);
    for (int array = 0; array < count; array++) {
        arrays_[array].begin(grids[array], array < growing, sums, extremes, num_parts_);
        sums += num_sums(array);
        extremes += num_parts_;
    }
}

Meter::Meter(const Isa& isa, ArrayMoments* array, int part)
    : isa_(isa), array_(array), extremes_(array ? array->of_parts_ + part : nullptr) {}

bool Meter::measure(int64_t strip, int64_t piece, const float* values, bool has_no_zero) {
    if (array_ == nullptr) return false;
    const Block block = array_->grid_.block(strip, piece);
    const int64_t zeros_before = extremes_->zero_count;
    const auto measure = has_no_zero ? isa_.measure_nonzeros : isa_.measure_block;
    BlockSums sums;
    Moments other;
    const bool is_plain = block.columns == BLOCK_COLUMNS
                              ? measure(values, block.count(), *extremes_, sums, other)
                              : measure_narrow(measure, values, block, *extremes_, sums, other);
    array_->keep(strip, piece, is_plain ? sums : BlockSums{0.0, 0.0});
    if (is_plain) return extremes_->zero_count == zeros_before;
    std::lock_guard<std::mutex> lock(array_->mutex_);
    array_->others_.emplace_back(array_->grid_.index_of(strip, piece), other);
    return false;
}

Meters::Meters(const Isa& isa, BlockMoments* moments, int part)
    : meters_{{isa, array_of(moments, 0), part}, {isa, array_of(moments, 1), part},
              {isa, array_of(moments, 2), part}, {isa, array_of(moments, 3), part},
              {isa, array_of(moments, 4), part}, {isa, array_of(moments, 5), part},
              {isa, array_of(moments, 6), part}} {
    static_assert(BlockMoments::MAX_ARRAYS == 7, "a meter for each");
}

GrowingRows::GrowingRows(const Isa& isa, ArrayMoments* array, int part)
    : isa_(isa), meter_(isa, array, part) {
    if (array == nullptr) return;
    width_ = array->grid_.width;
    strips_ = width_ / BLOCK_COLUMNS;
    lanes_ = lane_scratch.array<SumLanes>(static_cast<size_t>(strips_));
    start();
}

void GrowingRows::start() {
    for (int64_t strip = 0; strip < strips_; strip++) isa_.operations->start_lanes(lanes_[strip]);
    start_extremes(extremes_);
}

void GrowingRows::add(const float* rows, int64_t num_rows) {
    isa_.operations->add_rows_to_lanes(rows, num_rows, width_, lanes_, extremes_);
}

void GrowingRows::finish(int64_t piece, const float* array) {
    const BlockGrid& grid = meter_.array_->grid_;
    bool are_plain = true;
    for (int64_t strip = 0; strip < strips_; strip++)
        are_plain &= isa_.operations->finish_lanes(lanes_[strip], grid.block(strip, piece).count(),
                                                   meter_.array_->sums_[grid.index_of(strip, piece)]);
    if (are_plain) add_extremes(extremes_, *meter_.extremes_);
    for (int64_t strip = are_plain ? strips_ : 0; strip < grid.across(); strip++) {
        alignas(64) float block[BLOCK_VALUES];
        load_block(array, width_, grid.block(strip, piece), block);
        meter_.measure(strip, piece, block);
    }
    start();
}

Moments measure_row(const Isa& isa, const float* values, int64_t width) {
    Total total;
    for (int64_t first = 0; first < width; first += BLOCK_VALUES) {
        Chunk chunk;
        isa.measure_chunk(values + first, std::min(BLOCK_VALUES, width - first), chunk);
        total.add(chunk);
    }
    return total.moments();
}

BothMoments measure(const Isa& isa, const float* values, int64_t rows, int64_t width) {
    if (rows <= 1 || width == 0) {
        const Moments row = measure_row(isa, values, rows * width);
        return {row, row};
    }
    const BlockGrid grid{rows, width};
    BlockMoments moments(&grid, 1, 0);
    Failure failure;
    auto work = [&](int part, int parts) {
        failure.guard([&] {
            const Range mine = range_of_part(grid.across(), part, parts);
            Meter meter(isa, moments.array(0), part);
            alignas(64) float block[BLOCK_VALUES];
            for (int64_t strip = mine.begin; strip < mine.end; strip++)
                for (int64_t piece = 0; piece < grid.down(); piece++) {
                    load_block(values, width, grid.block(strip, piece), block);
                    meter.measure(strip, piece, block);
                }
        });
    };
    if (rows * width < 2 * SMALL)
        work(0, 1);
    else
        parallel(std::min<int64_t>(grid.across(), moments.num_parts()), work);
    failure.rethrow();
    return {moments.merged(0), measure_row(isa, values + (rows - 1) * width, width)};
}

}  // namespace cotejar
