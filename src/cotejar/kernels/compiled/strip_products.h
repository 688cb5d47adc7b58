// Strips of weights times all tiles of tokens: what the products of a layer share.
#pragma once

#include <algorithm>
#include <cstring>

#include "failure.h"
#include "isa.h"
#include "thread_pool.h"
#include "token_tiles.h"
#include "vector_product.h"

namespace cotejar {

// Of `rows` rows so many values apart, the line at `values`.
inline void fetch_rows(const float* values, int64_t width, int64_t rows) {
    for (int64_t row = 0; row < rows; row++) __builtin_prefetch(values + row * width, 0, 3);
}

// Strips that are at work at a time, at most.
static constexpr int MOST_STRIPS = 4;

// Tiles that leave the second cache before the next strips come are read for more of them.
inline int strips_at_once(const Tiles& tiles) {
    constexpr int64_t OF_SECOND_CACHE = int64_t{1} << 20;
    const TokenTile &first = tiles.tiles[0], &last = tiles.tiles[tiles.count - 1];
    const bool fits = reinterpret_cast<const char*>(last.codes) -
                          reinterpret_cast<const char*>(first.codes) < OF_SECOND_CACHE;
    return fits ? 2 : MOST_STRIPS;
}

// Up to MOST_STRIPS strips that read the same tiles, times a tile of tokens at a time, two by
// two; the bias is added.
class StripProducts {
  public:
    StripProducts(const Isa& isa, const Tiles& tiles) : isa_(isa), tiles_(tiles) {}

    // What it is taken of is followed by what this thread will take after it.
    void unpack(const Linear& linear, const Strip& strip, int64_t index) {
        fill_strip(isa_, linear.weight, index * ROWS, strip);
        strips_[count_] = &strip;
        ones_[count_++] = {&linear, index * ROWS};
    }

    int count() const { return count_; }

    void fill(int64_t tile, float* const* values) const {
        const TokenTile& tokens = tiles_.tiles[tile];
        for (int one = 0; one < count_; one += 2)
            multiply_tile_by(isa_, ones_[one].linear->weight, strips_ + one,
                             std::min(2, count_ - one), tokens, ahead(tile, one), values + one);
        for (int one = 0; one < count_; one++)
            if (ones_[one].linear->bias != nullptr)
                add_bias(ones_[one], tokens.num_tokens, values[one]);
    }

  private:
    struct One {
        const Linear* linear;
        int64_t first_row;
    };

    // During all tiles, what these strips are taken of and as much after it; of two weights,
    // the first tiles are for the one and the others for the other.
    FetchAhead ahead(int64_t tile, int first) const {
        const int last = std::min(first + 1, count_ - 1);
        const bool is_one = ones_[first].linear == ones_[last].linear;
        const int64_t tiles = is_one ? tiles_.count : (tiles_.count + 1) / 2;
        const One& one = ones_[is_one || tile < tiles ? first : last];
        const Weight& weight = one.linear->weight;
        const int64_t rows = is_one ? 2 * ROWS : ROWS;
        const int64_t pieces = weight.product_blocks() * FetchAhead::lines_of(weight.product());
        const int64_t a_tile = (rows * weight.row_bytes() + tiles - 1) / tiles;
        const int64_t step = a_tile / (pieces * 2) + 1;  // eight tokens of sixteen at a time
        const int64_t next_row = one.first_row + (is_one ? count_ * ROWS : ROWS);
        return {weight.blocks + next_row * weight.row_bytes() +
                    (tile % tiles) * a_tile,
                step};
    }

    void add_bias(const One& one, int64_t rows, float* values) const {
        alignas(64) float bias[ROWS] = {};
        const int64_t columns = std::min<int64_t>(ROWS, one.linear->weight.rows - one.first_row);
        std::memcpy(bias, one.linear->bias + one.first_row,
                    static_cast<size_t>(columns) * sizeof(float));
        isa_.operations->add_rows(bias, 0, values, rows, values);
    }

    const Isa& isa_;
    const Tiles& tiles_;
    int count_ = 0;
    const Strip* strips_[MOST_STRIPS];
    One ones_[MOST_STRIPS];
};

// Of every thread: its strips.
Scratch& strip_memory();

// Weights whose strips are at work in one piece of work, at most.
static constexpr int MOST_WEIGHTS = 3;

// `work(unit, strips, meters)` for all units, each thread with memory for so many strips of each
// weight, those of one weight side by side, and with a meter of every array that is measured.
template <class Work>
void over_units(const Isa& isa, int64_t units, const Weight* weights, int num_weights,
                int strips_each, BlockMoments* measured, Work work) {
    constexpr int MOST = MOST_STRIPS * MOST_WEIGHTS;
    const int count = num_weights * strips_each;
    Weight of_strips[MOST];
    for (int one = 0; one < count; one++) of_strips[one] = weights[one / strips_each];
    Failure failure;
    auto part_of = [&](int part, int parts) {
        const Range mine = range_of_part(units, part, parts);
        failure.guard([&] {
            Strip strips[MOST];
            Meters meters(isa, measured, part);
            carve_strips(strip_memory(), of_strips, strips, count);
            for (int64_t unit = mine.begin; unit < mine.end; unit++) work(unit, strips, meters);
        });
    };
    parallel(measured ? std::min<int64_t>(units, measured->num_parts()) : units, part_of);
    failure.rethrow();
}

// The strips of a unit of `at_once`.
inline Range strips_of_unit(const BlockGrid& grid, int64_t unit, int at_once) {
    return {at_once * unit, std::min(at_once * (unit + 1), grid.across())};
}

inline int64_t units_of(const BlockGrid& grid, int at_once) {
    return (grid.across() + at_once - 1) / at_once;
}

}  // namespace cotejar
