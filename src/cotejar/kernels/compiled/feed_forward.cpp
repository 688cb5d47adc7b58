#include "feed_forward.h"

#include <optional>

#include "added_product.h"
#include "own_blocks.h"
#include "strip_products.h"

namespace cotejar {

namespace {

thread_local Scratch inner_memory;  // of the calling thread: the activations of `down`
thread_local Scratch row_memory;    // of the calling thread: last rows that nobody keeps

constexpr int BLOCK = 2 * ROWS;  // columns that are rounded together

// What is measured: the activations, what gate and up give, activated, their product, the product
// of `down`, and the sum.
enum Array { ACTIVATIONS, GATE, UP, ACTIVATED, INNER, PRODUCT, SUM, NUM_ARRAYS };
constexpr int NUM_INNER = PRODUCT - GATE;
static_assert(NUM_ARRAYS == FEED_FORWARD_MOMENTS && NUM_ARRAYS <= BlockMoments::MAX_ARRAYS,
              "all of them are measured");

// Those of a block of 32 columns, by halves. Where they are not measured, what comes of the gate
// takes its place.
class InnerBlocks {
  public:
    explicit InnerBlocks(bool are_measured) : are_measured_(are_measured), blocks_(are_measured) {}
    float* at(Array array, int half, const TileRows& tile) {
        const bool is_apart = are_measured_ || array == UP;
        return blocks_.at(index(is_apart ? array : GATE, half), tile);
    }
    const float* whole(Array array, int half) const { return blocks_.whole(index(array, half)); }

  private:
    static int index(Array array, int half) { return 2 * (array - GATE) + half; }

    const bool are_measured_;
    OwnBlocks<2 * NUM_INNER> blocks_;
};

// silu(gate) * up of a tile, a token's 32 values side by side. Tokens past the last are there.
void join_block(const Isa& isa, InnerBlocks& blocks, const TileRows& rows, int num_tokens,
                float* joined) {
    const Operations& operations = *isa.operations;
    for (int half = 0; half < 2; half++) {
        float* const activated = blocks.at(ACTIVATED, half, rows);
        float* const inner = blocks.at(INNER, half, rows);
        operations.silu(blocks.at(GATE, half, rows), num_tokens * ROWS, activated);
        operations.multiply(activated, blocks.at(UP, half, rows), num_tokens * ROWS, inner);
        operations.store_rows(inner, num_tokens, BLOCK, joined + half * ROWS);
    }
}

// One block of all tokens of a tile to its place in it.
void round_block(const Isa& isa, const Weight& down, const float* inner, int64_t block,
                 const TokenTile& tile) {
    const int64_t n = tile.num_tokens, at = block * n;
    int16_t sums[MAX_TILE];
    isa.round_activations(down.type->rounding, inner, n * BLOCK,
                          {tile.codes + at * BLOCK, tile.scale + at,
                           down.type->rounding == Rounding::Q8_1 ? tile.scaled_sum + at : nullptr,
                           sums});
    for (int64_t t = 0; t < n; t++) tile.initial[at + t] = -down.type->centre * sums[t];
}

// Units are blocks of 32 columns of what comes of gate and up. With `measured`, the last rows of
// GATE to INNER go to `last`, one after the other.
void make_inner(const Isa& isa, const Linear& gate, const Linear& up, const Weight& down,
                const RoundedTiles& rounded, int64_t num_tokens, const Tiles& inner,
                BlockMoments* measured, float* last) {
    const Weight weights[2] = {gate.weight, up.weight};
    const BlockGrid grid{num_tokens, down.columns};
    over_units(isa, down.num_blocks(), weights, 2, 2, measured,
               [&](int64_t block, const Strip* strips, Meters& meters) {
        StripProducts gates(isa, rounded.of(0)), ups(isa, rounded.of(1));
        for (int half = 0; half < 2; half++) {
            gates.unpack(gate, strips[half], 2 * block + half);
            ups.unpack(up, strips[2 + half], 2 * block + half);
        }
        InnerBlocks blocks(measured != nullptr);
        alignas(64) float joined[MAX_TILE * BLOCK];
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            const Block halves[2] = {grid.block(2 * block, piece), grid.block(2 * block + 1, piece)};
            for (int64_t at = 0; at < tiles_in(halves[0]); at++) {
                const TileRows rows(halves[0], at);
                const TokenTile& tile = inner.tiles[rows.index()];
                float* const of_gate[2] = {blocks.at(GATE, 0, rows), blocks.at(GATE, 1, rows)};
                float* const of_up[2] = {blocks.at(UP, 0, rows), blocks.at(UP, 1, rows)};
                gates.fill(rows.index(), of_gate);
                ups.fill(rows.index(), of_up);
                join_block(isa, blocks, rows, tile.num_tokens, joined);
                round_block(isa, down, joined, block, tile);
            }
            for (int one = 0; measured != nullptr && one < 2 * NUM_INNER; one++) {
                const Array array = static_cast<Array>(GATE + one / 2);
                const float* values = blocks.whole(array, one % 2);
                meters.of(array).measure(2 * block + one % 2, piece, values);
                keep_last_row(values, halves[one % 2], num_tokens,
                              last + one / 2 * down.columns);
            }
        }
    });
}

}  // namespace

bool can_feed_forward(const Weight& down) {
    const Rounding rounding = down.product->rounding;
    return rounding == Rounding::Q8_0 || rounding == Rounding::Q8_1;
}

void feed_forward(const Isa& isa, const Linear& gate, const Linear& up, const Linear& down,
                  const float* activations, int64_t num_tokens, const float* residual,
                  float* out, BothMoments* moments) {
    const Weight weights[2] = {gate.weight, up.weight};
    const int64_t columns = gate.weight.columns, middle = down.weight.columns;
    const int64_t width = down.weight.rows;
    const BlockGrid of_inner{num_tokens, middle}, of_sum{num_tokens, width};
    const BlockGrid grids[NUM_ARRAYS] = {
        {num_tokens, columns}, of_inner, of_inner, of_inner, of_inner, of_sum, of_sum};
    std::optional<BlockMoments> optional;
    if (moments != nullptr) optional.emplace(grids, NUM_ARRAYS);
    BlockMoments* const measured = optional ? &*optional : nullptr;
    const Tiles inner = carve_tiles(inner_memory, down.weight, num_tokens);
    const RoundedTiles rounded(isa, weights, 2, activations, num_tokens,
                               measured ? measured->array(ACTIVATIONS) : nullptr);
    float* last = row_memory.array<float>(static_cast<size_t>(NUM_INNER * middle + width));
    make_inner(isa, gate, up, down.weight, rounded, num_tokens, inner, measured, last);
    float* last_product = last + NUM_INNER * middle;
    add_product(isa, down, inner, num_tokens, residual, out, measured, PRODUCT, last_product);
    if (measured == nullptr) return;
    const float* rows[NUM_ARRAYS] = {activations + (num_tokens - 1) * columns,
                                     last,
                                     last + middle,
                                     last + 2 * middle,
                                     last + 3 * middle,
                                     last_product,
                                     out + (num_tokens - 1) * width};
    for (int array = 0; array < NUM_ARRAYS; array++)
        moments[array] = both(isa, *measured, array, rows[array], grids[array].width);
}

}  // namespace cotejar
