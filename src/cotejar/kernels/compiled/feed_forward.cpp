#include "feed_forward.h"

#include <optional>

#include "added_product.h"
#include "own_blocks.h"
#include "strip_products.h"

namespace cotejar {

namespace {

thread_local Scratch inner_memory;  // of the calling thread: the activations of `down`
thread_local Scratch row_memory;    // of the calling thread: last rows that nobody keeps

// What is measured: the activations, what gate and up give, activated, their product, the product
// of `down`, and the sum.
enum Array { ACTIVATIONS, GATE, UP, ACTIVATED, INNER, PRODUCT, SUM, NUM_ARRAYS };
constexpr int NUM_INNER = PRODUCT - GATE;
static_assert(NUM_ARRAYS == FEED_FORWARD_MOMENTS && NUM_ARRAYS <= BlockMoments::MAX_ARRAYS,
              "all of them are measured");

// Those of a block of columns, by strips. Where they are not measured, what comes of the gate
// takes its place.
template <int STRIPS>
class InnerBlocks {
  public:
    explicit InnerBlocks(bool are_measured) : are_measured_(are_measured), blocks_(are_measured) {}
    float* at(Array array, int strip, const TileRows& tile) {
        const bool is_apart = are_measured_ || array == UP;
        return blocks_.at(index(is_apart ? array : GATE, strip), tile);
    }
    const float* whole(Array array, int strip) const { return blocks_.whole(index(array, strip)); }

  private:
    static int index(Array array, int strip) { return STRIPS * (array - GATE) + strip; }

    const bool are_measured_;
    OwnBlocks<STRIPS * NUM_INNER> blocks_;
};

// silu(gate) * up of a tile, a token's values side by side. Tokens past the last are there.
template <int STRIPS>
void join_block(const Isa& isa, InnerBlocks<STRIPS>& blocks, const TileRows& rows, int num_tokens,
                float* joined) {
    const Operations& operations = *isa.operations;
    for (int strip = 0; strip < STRIPS; strip++) {
        float* const activated = blocks.at(ACTIVATED, strip, rows);
        float* const inner = blocks.at(INNER, strip, rows);
        operations.silu(blocks.at(GATE, strip, rows), num_tokens * ROWS, activated);
        operations.multiply(activated, blocks.at(UP, strip, rows), num_tokens * ROWS, inner);
        operations.store_rows(inner, num_tokens, STRIPS * ROWS, joined + strip * ROWS);
    }
}

// One block of all tokens of a tile to its place in it.
void round_block(const Isa& isa, const Weight& down, const float* inner, int64_t block,
                 const TokenTile& tile) {
    const TypeInfo& type = down.product();
    const int64_t n = tile.num_tokens, at = block * n, width = type.elements;
    int16_t sums[MAX_TILE];
    isa.round_activations(type.rounding, inner, n * width,
                          {tile.codes + at * width, tile.scale + at,
                           type.rounding == Rounding::Q8_1 ? tile.scaled_sum + at : nullptr,
                           sums});
    for (int64_t t = 0; t < n; t++) tile.initial[at + t] = -type.centre * sums[t];
}

// Units are blocks of columns of what comes of gate and up. With `measured`, the last rows of GATE
// to INNER go to `last`, one after the other.
template <int STRIPS>
void make_inner(const Isa& isa, const Linear& gate, const Linear& up, const Weight& down,
                const RoundedTiles& rounded, int64_t num_tokens, const Tiles& inner,
                BlockMoments* measured, float* last) {
    static_assert(STRIPS <= MOST_STRIPS, "they are at work together");
    const Weight weights[2] = {gate.weight, up.weight};
    const BlockGrid grid{num_tokens, down.columns};
    over_units(isa, down.product_blocks(), weights, 2, STRIPS, measured,
               [&](int64_t block, const Strip* strips, Meters& meters) {
        StripProducts gates(isa, rounded.of(0)), ups(isa, rounded.of(1));
        for (int strip = 0; strip < STRIPS; strip++) {
            gates.unpack(gate, strips[strip], STRIPS * block + strip);
            ups.unpack(up, strips[STRIPS + strip], STRIPS * block + strip);
        }
        InnerBlocks<STRIPS> blocks(measured != nullptr);
        alignas(64) float joined[MAX_TILE * STRIPS * ROWS];
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            Block own[STRIPS];
            for (int strip = 0; strip < STRIPS; strip++)
                own[strip] = grid.block(STRIPS * block + strip, piece);
            for (int64_t at = 0; at < tiles_in(own[0]); at++) {
                const TileRows rows(own[0], at);
                const TokenTile& tile = inner.tiles[rows.index()];
                float *of_gate[STRIPS], *of_up[STRIPS];
                for (int strip = 0; strip < STRIPS; strip++) {
                    of_gate[strip] = blocks.at(GATE, strip, rows);
                    of_up[strip] = blocks.at(UP, strip, rows);
                }
                gates.fill(rows.index(), of_gate);
                ups.fill(rows.index(), of_up);
                join_block(isa, blocks, rows, tile.num_tokens, joined);
                round_block(isa, down, joined, block, tile);
            }
            if (measured == nullptr) continue;
            for (int strip = 0; strip < STRIPS; strip++) {
                const float* whole[NUM_INNER];
                for (int array = 0; array < NUM_INNER; array++) {
                    whole[array] = blocks.whole(static_cast<Array>(GATE + array), strip);
                    keep_last_row(whole[array], own[strip], num_tokens,
                                  last + array * down.columns);
                }
                measure_gated(meters, GATE, STRIPS * block + strip, piece, whole);
            }
        }
    });
}

}  // namespace

bool can_feed_forward(const Weight& down) {
    const Rounding rounding = down.product().rounding;
    return rounding == Rounding::Q8_0 || rounding == Rounding::Q8_1 ||
           (rounding == Rounding::GROUP && down.columns % GROUP == 0);
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
    if (moments != nullptr) optional.emplace(grids, NUM_ARRAYS, 1);
    BlockMoments* const measured = optional ? &*optional : nullptr;
    const Tiles inner = carve_tiles(inner_memory, down.weight, num_tokens);
    const RoundedTiles rounded(isa, weights, 2, activations, num_tokens,
                               measured ? measured->array(ACTIVATIONS) : nullptr);
    float* last = row_memory.array<float>(static_cast<size_t>(NUM_INNER * middle + width));
    const auto make = down.weight.is_grouped ? make_inner<GROUP / ROWS> : make_inner<2>;
    make(isa, gate, up, down.weight, rounded, num_tokens, inner, measured, last);
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
