#include "products.h"

#include <algorithm>
#include <cstring>

#include "failure.h"
#include "float16.h"
#include "thread_pool.h"
#include "token_tiles.h"
#include "vector_product.h"

namespace cotejar {

namespace {

thread_local Scratch token_scratch;  // of the calling thread: the rounded activations
thread_local Scratch strip_scratch;  // of every thread: its strip

// --- many tokens ------------------------------------------------------------------------

void store(const float* totals, int tokens, int64_t first_token, const Weight& weight,
           int64_t first_row, float* product) {
    const int64_t rows = std::min<int64_t>(ROWS, weight.rows - first_row);
    for (int t = 0; t < tokens; t++)
        std::memcpy(product + (first_token + t) * weight.rows + first_row, totals + t * ROWS,
                    static_cast<size_t>(rows) * sizeof(float));
}

// One strip or two side by side.
void multiply_strips(const Isa& isa, const Weight& weight, const Strip* strips, Range range,
                     const Tiles& tiles, int64_t num_tokens, float* product) {
    alignas(64) float totals[2][MAX_TILE * ROWS];
    const Strip* const both[] = {strips, strips + 1};
    float* const to[] = {totals[0], totals[1]};
    const int count = static_cast<int>(range.end - range.begin);
    for (int64_t index = 0; index < tiles.count; index++) {
        multiply_tile_by(isa, weight, both, count, tiles.tiles[index], {weight.blocks, 0}, to);
        const int64_t first = index * MAX_TILE;
        const int tokens = static_cast<int>(std::min<int64_t>(MAX_TILE, num_tokens - first));
        for (int one = 0; one < count; one++)
            store(to[one], tokens, first, weight, (range.begin + one) * ROWS, product);
    }
}

void multiply_matrix(const Isa& isa, const Weight& weight, const float* activations,
                     int64_t num_tokens, float* product) {
    const RoundedTiles rounded(isa, &weight, 1, activations, num_tokens);
    const int64_t pairs = (strips_of(weight) + 1) / 2;
    Failure failure;
    auto multiply = [&](int part, int parts) {
        const Range mine = range_of_part(pairs, part, parts);
        failure.guard([&] {
            const Weight twice[] = {weight, weight};
            Strip strips[2];
            carve_strips(strip_scratch, twice, strips, 2);
            for (int64_t pair = mine.begin; pair < mine.end; pair++) {
                const Range two{2 * pair, std::min(2 * pair + 2, strips_of(weight))};
                for (int64_t index = two.begin; index < two.end; index++)
                    fill_strip(isa, weight, index * ROWS, strips[index - two.begin]);
                multiply_strips(isa, weight, strips, two, rounded.of(0), num_tokens, product);
            }
        });
    };
    parallel(pairs, multiply);
    failure.rethrow();
}

// --- one token --------------------------------------------------------------------------

void multiply_vector(const Isa& isa, Isa::MultiplyVector kernel, const Weight& weight,
                     const float* activations, float* product) {
    Carver counter(nullptr);
    carve_vector(counter, weight.columns);
    Carver carver(token_scratch.get(counter.used()));
    const VectorToken token = carve_vector(carver, weight.columns);
    round_vector(isa, weight, activations, token);
    auto multiply = [&](int part, int parts) {
        const Range mine = range_of_part(strips_of(weight), part, parts);
        const int64_t end = std::min(mine.end * ROWS, weight.rows);
        if (mine.begin < mine.end) kernel(weight, token, mine.begin * ROWS, end, product);
    };
    parallel(strips_of(weight), multiply);
}

// --- few tokens -------------------------------------------------------------------------

void multiply_few(const Isa& isa, Isa::MultiplyTile kernel, const Weight& weight,
                  const float* activations, int64_t num_tokens, float* product) {
    Carver counter(nullptr);
    TokenTile tile;
    tile.carve(counter, weight, static_cast<int>(num_tokens));
    Carver carver(token_scratch.get(counter.used()));
    tile.carve(carver, weight, static_cast<int>(num_tokens));
    round_tile(isa, &weight, 1, activations, num_tokens, &tile);
    auto multiply = [&](int part, int parts) {
        const Range mine = range_of_part(strips_of(weight), part, parts);
        const int64_t end = std::min(mine.end * ROWS, weight.rows);
        if (mine.begin < mine.end) kernel(weight, tile, mine.begin * ROWS, end, product);
    };
    parallel(strips_of(weight), multiply);
}

// --- floats -----------------------------------------------------------------------------

float rounded_to(int block_type, float value) {
    if (block_type == F16) return float_of_half(half_of_float(value));
    return block_type == BF16 ? round_to_bfloat(value) : value;
}

void multiply_floats(const Isa& isa, const Weight& weight, const float* activations,
                     int64_t num_tokens, int rounded_type, float* product) {
    const int64_t k = (weight.columns + 15) / 16 * 16;
    float* tokens = token_scratch.array<float>(static_cast<size_t>(num_tokens * k));
    auto round = [&](int part, int parts) {
        const Range mine = range_of_part(num_tokens, part, parts);
        for (int64_t t = mine.begin; t < mine.end; t++)
            for (int64_t c = 0; c < k; c++)
                tokens[t * k + c] =
                    c < weight.columns
                        ? rounded_to(rounded_type, activations[t * weight.columns + c])
                        : 0.0f;
    };
    parallel(num_tokens, round);
    Failure failure;
    auto multiply = [&](int part, int parts) {
        const Range mine = range_of_part(strips_of(weight), part, parts);
        failure.guard([&] {
            float* rows = strip_scratch.array<float>(static_cast<size_t>(ROWS * k));
            alignas(64) float totals[MAX_TILE * ROWS];
            for (int64_t index = mine.begin; index < mine.end; index++) {
                isa.decode_strip(weight, index * ROWS, k, rows);
                for (int64_t first = 0; first < num_tokens; first += MAX_TILE) {
                    const int n = static_cast<int>(std::min<int64_t>(MAX_TILE, num_tokens - first));
                    isa.multiply_lanes(rows, tokens + first * k, n, k, totals);
                    store(totals, n, first, weight, index * ROWS, product);
                }
            }
        });
    };
    parallel(strips_of(weight), multiply);
    failure.rethrow();
}

}  // namespace

void multiply_q8(const Isa& isa, const Weight& weight, const float* activations,
                 int64_t num_tokens, float* product) {
    if (weight.type->rounding == Rounding::FLOAT) {
        multiply_floats(isa, weight, activations, num_tokens, weight.type->id, product);
        return;
    }
    const Isa::MultiplyVector kernel = vector_kernel_of(isa, weight);
    const Isa::MultiplyTile of_few = tile_kernel_of(isa, weight);
    if (num_tokens == 1 && kernel != nullptr)
        multiply_vector(isa, kernel, weight, activations, product);
    else if (num_tokens <= MAX_TILE && of_few != nullptr)
        multiply_few(isa, of_few, weight, activations, num_tokens, product);
    else
        multiply_matrix(isa, weight, activations, num_tokens, product);
}

void multiply_w8a8(const Isa& isa, const Weight& weight, const float* activations,
                   int64_t num_tokens, float* product) {
    Weight grouped = weight;
    grouped.is_grouped = true;
    multiply_matrix(isa, grouped, activations, num_tokens, product);
}

void multiply_f32(const Isa& isa, const Weight& weight, const float* activations,
                  int64_t num_tokens, float* product) {
    multiply_floats(isa, weight, activations, num_tokens, F32, product);
}

}  // namespace cotejar
