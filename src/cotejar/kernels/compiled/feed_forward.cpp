#include "feed_forward.h"

#include "strip_products.h"

namespace cotejar {

namespace {

thread_local Scratch inner_memory;  // of the calling thread: the activations of `down`

constexpr int BLOCK = 2 * ROWS;  // columns that are rounded together
constexpr int64_t TILE_VALUES = int64_t{MAX_TILE} * ROWS;

// silu(gate) * up of a block's two strips, a token's 32 values side by side.
void join_block(const Isa& isa, float (*values)[TILE_VALUES], int num_tokens, float* inner) {
    const Operations& operations = *isa.operations;
    for (int half = 0; half < 2; half++) {
        float *const gate = values[half], *const up = values[2 + half];
        operations.silu(gate, num_tokens * ROWS, gate);
        operations.multiply(gate, up, num_tokens * ROWS, gate);
        operations.store_rows(gate, num_tokens, BLOCK, inner + half * ROWS);
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

// Units are blocks of 32 columns of what comes of gate and up.
void make_inner(const Isa& isa, const Linear& gate, const Linear& up, const Weight& down,
                const RoundedTiles& rounded, const Tiles& inner) {
    const Weight weights[2] = {gate.weight, up.weight};
    over_units(isa, down.num_blocks(), weights, 2, 2, nullptr,
               [&](int64_t block, const Strip* strips, Meters&) {
        StripProducts gates(isa, rounded.of(0)), ups(isa, rounded.of(1));
        for (int half = 0; half < 2; half++) {
            gates.unpack(gate, strips[half], 2 * block + half);
            ups.unpack(up, strips[2 + half], 2 * block + half);
        }
        alignas(64) float values[4][TILE_VALUES], joined[MAX_TILE * BLOCK];
        float* const of_gate[2] = {values[0], values[1]};
        float* const of_up[2] = {values[2], values[3]};
        for (int64_t tile = 0; tile < inner.count; tile++) {
            gates.fill(tile, of_gate);
            ups.fill(tile, of_up);
            join_block(isa, values, inner.tiles[tile].num_tokens, joined);
            round_block(isa, down, joined, block, inner.tiles[tile]);
        }
    });
}

// A strip's products of a tile, with what they are added to.
void store_sums(const Isa& isa, const float* residual, int64_t width, int64_t column,
                int64_t rows, const float* values, float* out) {
    if (column + ROWS <= width) {
        alignas(64) float sums[TILE_VALUES];
        isa.operations->add_rows(residual + column, width, values, rows, sums);
        return isa.operations->store_rows(sums, rows, width, out + column);
    }
    for (int64_t row = 0; row < rows; row++)
        isa.operations->add(residual + row * width + column, values + row * ROWS, width - column,
                            out + row * width + column);
}

void add_down(const Isa& isa, const Linear& down, const Tiles& inner, int64_t num_tokens,
              const float* residual, float* out) {
    const int64_t width = down.weight.rows;
    const BlockGrid grid{num_tokens, width};
    const int at_once = strips_at_once(inner);
    over_units(isa, units_of(grid, at_once), &down.weight, 1, at_once, nullptr,
               [&](int64_t unit, const Strip* strips, Meters&) {
        const Range mine = strips_of_unit(grid, unit, at_once);
        StripProducts products(isa, inner);
        for (int64_t strip = mine.begin; strip < mine.end; strip++)
            products.unpack(down, strips[strip - mine.begin], strip);
        alignas(64) float values[MOST_STRIPS][TILE_VALUES];
        float* const to[MOST_STRIPS] = {values[0], values[1], values[2], values[3]};
        for (int64_t tile = 0; tile < inner.count; tile++) {
            const int64_t first = tile * MAX_TILE * width;
            const int64_t rows = std::min<int64_t>(MAX_TILE, num_tokens - tile * MAX_TILE);
            for (int64_t strip = mine.begin; strip < mine.end; strip++)
                fetch_rows(residual + first + strip * ROWS, width, rows);
            products.fill(tile, to);
            for (int64_t strip = mine.begin; strip < mine.end; strip++)
                store_sums(isa, residual + first, width, strip * ROWS, rows,
                           values[strip - mine.begin], out + first);
        }
    });
}

}  // namespace

bool can_feed_forward(const Weight& down) {
    return down.type->rounding == Rounding::Q8_0 || down.type->rounding == Rounding::Q8_1;
}

void feed_forward(const Isa& isa, const Linear& gate, const Linear& up, const Linear& down,
                  const float* activations, int64_t num_tokens, const float* residual,
                  float* out) {
    const Weight weights[2] = {gate.weight, up.weight};
    const Tiles inner = carve_tiles(inner_memory, down.weight, num_tokens);
    const RoundedTiles rounded(isa, weights, 2, activations, num_tokens);
    make_inner(isa, gate, up, down.weight, rounded, inner);
    add_down(isa, down, inner, num_tokens, residual, out);
}

}  // namespace cotejar
