#include "products.h"

#include <algorithm>
#include <cstring>

#include "failure.h"
#include "float16.h"
#include "thread_pool.h"
#include "vector_product.h"

namespace cotejar {

namespace {

thread_local Scratch token_scratch;  // of the calling thread: the rounded activations
thread_local Scratch strip_scratch;  // of every thread: its strip
thread_local Scratch round_scratch;  // of every thread: one token while it is rounded

int tile_size(int64_t tokens_left) {
    int size = 1;
    while (size < MAX_TILE && size < tokens_left) size *= 2;
    return size;
}

// --- rounding activations into tiles ----------------------------------------------------

RoundedToken carve_rounded(Carver& carver, const Weight& weight) {
    const size_t columns = static_cast<size_t>(weight.columns);
    RoundedToken token;
    token.codes = carver.take<int8_t>(columns);
    token.scale = carver.take<float>(columns / 32);
    token.scaled_sum = carver.take<float>(columns / 32);
    token.sums = carver.take<int16_t>(columns / SUM_WIDTH_K);
    return token;
}

int32_t pair_of(int low, int high) {
    return static_cast<int32_t>((static_cast<uint32_t>(high) << 16) | (low & 0xFFFF));
}

// The codes of every piece to their place, and what centring takes from their dots.
template <int PIECE, int SUMS>
void put_pieces(const Weight& weight, const RoundedToken& token, int t, const TokenTile& tile) {
    const int64_t n = tile.num_tokens, pieces = weight.columns / PIECE;
    for (int64_t p = 0; p < pieces; p++)
        std::memcpy(tile.codes + (p * n + t) * PIECE, token.codes + p * PIECE, PIECE);
    for (int64_t p = 0; p < pieces; p++) {
        int sum = 0;
        for (int j = 0; j < SUMS; j++) sum += token.sums[p * SUMS + j];
        tile.initial[p * n + t] = -weight.type->centre * sum;
    }
}

void put_in_tile(const Weight& weight, const RoundedToken& token, int t, const TokenTile& tile) {
    const TypeInfo& type = *weight.type;
    const int n = tile.num_tokens;
    switch (TokenTile::piece_of(type)) {
        case 8: put_pieces<8, 1>(weight, token, t, tile); break;
        case 16: put_pieces<16, 2>(weight, token, t, tile); break;
        default: put_pieces<32, 1>(weight, token, t, tile); break;
    }
    for (int64_t block = 0; block < weight.num_blocks(); block++) {
        tile.scale[block * n + t] = token.scale[block];
        if (type.rounding == Rounding::Q8_1)
            tile.scaled_sum[block * n + t] = token.scaled_sum[block];
    }
    if (!type.num_sub) return;
    const int width = 256 / type.num_sub / SUM_WIDTH_K;  // sums under one sub-offset
    for (int64_t pair = 0; pair < weight.num_blocks() * type.num_sub / 2; pair++) {
        int low = 0, high = 0;
        for (int j = 0; j < width; j++) {
            low += token.sums[2 * pair * width + j];
            high += token.sums[(2 * pair + 1) * width + j];
        }
        tile.sums[pair * n + t] = pair_of(low, high);
    }
}

struct Tiles {
    TokenTile* tiles;
    int64_t count;
};

Tiles carve_tiles(Carver& carver, const Weight& weight, int64_t num_tokens) {
    const int64_t count = (num_tokens + MAX_TILE - 1) / MAX_TILE;
    Tiles all{carver.take<TokenTile>(static_cast<size_t>(count)), count};
    for (int64_t index = 0; index < count; index++) {
        TokenTile tile;
        tile.carve(carver, weight, tile_size(num_tokens - index * MAX_TILE));
        if (all.tiles != nullptr) all.tiles[index] = tile;
    }
    return all;
}

// Tokens past the last repeat the last; their products are not stored.
void round_tile(const Isa& isa, const Weight& weight, const float* activations, int64_t num_tokens,
                int64_t index, const TokenTile& tile) {
    Carver counter(nullptr);
    carve_rounded(counter, weight);
    Carver carver(round_scratch.get(counter.used()));
    const RoundedToken token = carve_rounded(carver, weight);
    for (int t = 0; t < tile.num_tokens; t++) {
        const int64_t which = std::min(index * MAX_TILE + t, num_tokens - 1);
        isa.round_activations(weight.type->rounding, activations + which * weight.columns,
                          weight.columns, token);
        put_in_tile(weight, token, t, tile);
    }
}

// --- many tokens ------------------------------------------------------------------------

void store(const float* totals, int tokens, int64_t first_token, const Weight& weight,
           int64_t first_row, float* product) {
    const int64_t rows = std::min<int64_t>(ROWS, weight.rows - first_row);
    for (int t = 0; t < tokens; t++)
        std::memcpy(product + (first_token + t) * weight.rows + first_row, totals + t * ROWS,
                    static_cast<size_t>(rows) * sizeof(float));
}

void multiply_strip(const Isa& isa, const Weight& weight, const Strip& strip, const Tiles& tiles,
                    int64_t num_tokens, int64_t first_row, float* product) {
    alignas(64) float totals[MAX_TILE * ROWS];
    const auto multiply = weight.type->num_sub ? isa.multiply_super_blocks : isa.multiply_blocks;
    for (int64_t index = 0; index < tiles.count; index++) {
        multiply(weight, strip, tiles.tiles[index], totals);
        const int64_t first = index * MAX_TILE;
        store(totals, static_cast<int>(std::min<int64_t>(MAX_TILE, num_tokens - first)), first,
              weight, first_row, product);
    }
}

void multiply_matrix(const Isa& isa, const Weight& weight, const float* activations,
                     int64_t num_tokens, float* product) {
    Carver counter(nullptr);
    carve_tiles(counter, weight, num_tokens);
    Carver carver(token_scratch.get(counter.used()));
    const Tiles tiles = carve_tiles(carver, weight, num_tokens);
    Failure failure;
    auto round = [&](int part, int parts) {
        const Range mine = range_of_part(tiles.count, part, parts);
        failure.guard([&] {
            for (int64_t index = mine.begin; index < mine.end; index++)
                round_tile(isa, weight, activations, num_tokens, index, tiles.tiles[index]);
        });
    };
    parallel(tiles.count, round);
    failure.rethrow();
    auto multiply = [&](int part, int parts) {
        const Range mine = range_of_part(strips_of(weight), part, parts);
        failure.guard([&] {
            Carver strip_counter(nullptr);
            Strip strip;
            strip.carve(strip_counter, weight);
            Carver strip_carver(strip_scratch.get(strip_counter.used()));
            strip.carve(strip_carver, weight);
            for (int64_t index = mine.begin; index < mine.end; index++) {
                isa.unpack_strip(weight, index * ROWS, strip);
                multiply_strip(isa, weight, strip, tiles, num_tokens, index * ROWS, product);
            }
        });
    };
    parallel(strips_of(weight), multiply);
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
    if (num_tokens == 1 && kernel != nullptr)
        multiply_vector(isa, kernel, weight, activations, product);
    else
        multiply_matrix(isa, weight, activations, num_tokens, product);
}

void multiply_f32(const Isa& isa, const Weight& weight, const float* activations,
                  int64_t num_tokens, float* product) {
    multiply_floats(isa, weight, activations, num_tokens, F32, product);
}

}  // namespace cotejar
