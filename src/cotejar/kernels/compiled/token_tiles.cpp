#include "token_tiles.h"

#include <algorithm>
#include <cstring>

#include "failure.h"
#include "thread_pool.h"

namespace cotejar {

namespace {

thread_local Scratch tile_scratch;  // of the calling thread: the rounded activations

// Columns that are rounded at once, for all tokens of a tile: what they fill stays in the
// first cache. A whole number of blocks of every type.
constexpr int64_t COLUMNS_AT_ONCE = 256;

int tile_size(int64_t tokens_left) {
    int size = 1;
    while (size < MAX_TILE && size < tokens_left) size *= 2;
    return size;
}

int32_t pair_of(int low, int high) {
    return static_cast<int32_t>((static_cast<uint32_t>(high) << 16) | (low & 0xFFFF));
}

// The codes of every piece to their place, and what centring takes from their dots.
template <int PIECE, int SUMS>
void put_pieces(const Weight& weight, const RoundedToken& token, int t, const TokenTile& tile) {
    const int64_t n = tile.num_tokens, pieces = (weight.columns + PIECE - 1) / PIECE;
    for (int64_t p = 0; p < pieces; p++)
        std::memcpy(tile.codes + (p * n + t) * PIECE, token.codes + p * PIECE, PIECE);
    for (int64_t p = 0; p < pieces; p++) {
        int sum = 0;
        for (int j = 0; j < SUMS; j++) sum += token.sums[p * SUMS + j];
        tile.initial[p * n + t] = -weight.product().centre * sum;
    }
}

void put_in_tile(const Weight& weight, const RoundedToken& token, int t, const TokenTile& tile) {
    const TypeInfo& type = weight.product();
    const int n = tile.num_tokens;
    switch (TokenTile::piece_of(type)) {
        case 8: put_pieces<8, 1>(weight, token, t, tile); break;
        case 16: put_pieces<16, 2>(weight, token, t, tile); break;
        case GROUP: put_pieces<GROUP, 1>(weight, token, t, tile); break;
        default: put_pieces<32, 1>(weight, token, t, tile); break;
    }
    for (int64_t block = 0; block < weight.product_blocks(); block++) {
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

// The part of a tile from `column` on.
TokenTile from_column(const TokenTile& tile, const TypeInfo& type, int64_t column) {
    const int64_t n = tile.num_tokens, block = column / type.elements;
    TokenTile rest = tile;
    rest.codes += column * n;
    rest.initial += column / TokenTile::piece_of(type) * n;
    rest.scale += block * n;
    rest.scaled_sum += block * n;
    rest.sums += block * type.num_sub / 2 * n;
    return rest;
}

// Some columns of one token, rounded once for all weights that round alike.
void round_columns(const Isa& isa, const Weight* weights, int num_weights, const float* values,
                   int t, const TokenTile* tiles) {
    alignas(64) int8_t codes[COLUMNS_AT_ONCE];
    float scale[COLUMNS_AT_ONCE / 32], scaled_sum[COLUMNS_AT_ONCE / 32];
    int16_t sums[COLUMNS_AT_ONCE / SUM_WIDTH_K];
    const RoundedToken token{codes, scale, scaled_sum, sums};
    for (int one = 0; one < num_weights; one++) {
        const Rounding rounding = weights[one].product().rounding;
        if (one == 0 || rounding != weights[one - 1].product().rounding)
            isa.round_activations(rounding, values, weights[one].columns, token);
        put_in_tile(weights[one], token, t, tiles[one]);
    }
}

// Rows are too far apart for the CPU to guess where the next one is.
void fetch(const float* values, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(float)))
        __builtin_prefetch(values + i, 0, 3);
}

}  // namespace

Tiles carve_tiles(Scratch& scratch, const Weight& weight, int64_t num_tokens) {
    Carver counter(nullptr);
    carve_tiles(counter, weight, num_tokens);
    Carver carver(scratch.get(counter.used()));
    return carve_tiles(carver, weight, num_tokens);
}

void round_tile(const Isa& isa, const Weight* weights, int num_weights, const float* activations,
                int64_t tokens_left, const TokenTile* tiles) {
    const int64_t columns = weights[0].columns;
    for (int64_t column = 0; column < columns; column += COLUMNS_AT_ONCE) {
        Weight parts[RoundedTiles::MAX_WEIGHTS];
        TokenTile rests[RoundedTiles::MAX_WEIGHTS];
        for (int one = 0; one < num_weights; one++) {
            parts[one] = weights[one];
            parts[one].columns = std::min(COLUMNS_AT_ONCE, columns - column);
            rests[one] = from_column(tiles[one], weights[one].product(), column);
        }
        for (int t = 0; t < tiles[0].num_tokens; t++) {
            const int64_t token = std::min<int64_t>(t, tokens_left - 1);
            const int64_t next = std::min<int64_t>(t + 2, tokens_left - 1);
            fetch(activations + next * columns + column, parts[0].columns);
            round_columns(isa, parts, num_weights, activations + token * columns + column, t,
                          rests);
        }
    }
}

void round_part(const Isa& isa, const Weight& weight, const float* values, int64_t column,
                int64_t count, int t, const TokenTile& tile) {
    Weight part = weight;
    for (int64_t done = 0; done < count; done += COLUMNS_AT_ONCE) {
        part.columns = std::min(COLUMNS_AT_ONCE, count - done);
        const TokenTile rest = from_column(tile, weight.product(), column + done);
        round_columns(isa, &part, 1, values + done, t, &rest);
    }
}

RoundedTiles::RoundedTiles(const Isa& isa, const Weight* weights, int num_weights,
                           const float* activations, int64_t num_tokens,
                           ArrayMoments* measured) {
    Weight kinds[MAX_WEIGHTS];  // one of every type
    int num_kinds = 0;
    for (int one = 0; one < num_weights; one++) {
        int kind = 0;
        while (kind < num_kinds && &kinds[kind].product() != &weights[one].product()) kind++;
        if (kind == num_kinds) kinds[num_kinds++] = weights[one];
        kind_of_[one] = kind;
    }
    Carver counter(nullptr);
    for (int kind = 0; kind < num_kinds; kind++) carve_tiles(counter, kinds[kind], num_tokens);
    Carver carver(tile_scratch.get(counter.used()));
    for (int kind = 0; kind < num_kinds; kind++)
        tiles_[kind] = carve_tiles(carver, kinds[kind], num_tokens);
    const int64_t columns = kinds[0].columns;
    // A piece of the measured array is one thread's; without measuring it is one tile.
    const int64_t at_once = measured == nullptr ? 1 : BLOCK_ROWS / MAX_TILE;
    const int64_t count = tiles_[0].count, pieces = (count + at_once - 1) / at_once;
    Failure failure;
    auto round = [&](int part, int parts) {
        const Range mine = range_of_part(pieces, part, parts);
        failure.guard([&] {
            GrowingRows rows(isa, measured, part);
            for (int64_t piece = mine.begin; piece < mine.end; piece++) {
                const int64_t end = std::min(count, (piece + 1) * at_once);
                for (int64_t index = piece * at_once; index < end; index++) {
                    const int64_t first = index * MAX_TILE;
                    TokenTile tiles[MAX_WEIGHTS];
                    for (int kind = 0; kind < num_kinds; kind++)
                        tiles[kind] = tiles_[kind].tiles[index];
                    round_tile(isa, kinds, num_kinds, activations + first * columns,
                               num_tokens - first, tiles);
                    if (rows)
                        rows.add(activations + first * columns,
                                  std::min<int64_t>(MAX_TILE, num_tokens - first));
                }
                if (rows) rows.finish(piece, activations);
            }
        });
    };
    parallel(measured ? std::min<int64_t>(pieces, measured->num_parts()) : pieces, round);
    failure.rethrow();
}

void multiply_tile(const Isa& isa, const Weight& weight, const Strip& strip,
                   const TokenTile& tile, float* totals) {
    const auto multiply = weight.is_grouped     ? isa.multiply_groups
                          : weight.type->num_sub ? isa.multiply_super_blocks
                                                 : isa.multiply_blocks;
    multiply(weight, strip, tile, totals);
}

void multiply_tile_by(const Isa& isa, const Weight& weight, const Strip* const* strips, int count,
                      const TokenTile& tile, FetchAhead ahead, float* const* totals) {
    if (count == 2 && isa.multiply_two_strips != nullptr)
        return isa.multiply_two_strips(weight, strips, tile, ahead, totals);
    for (int one = 0; one < count; one++)
        multiply_tile(isa, weight, *strips[one], tile, totals[one]);
}

void fill_strip(const Isa& isa, const Weight& weight, int64_t first, const Strip& strip) {
    if (weight.type->rounding == Rounding::FLOAT)
        isa.decode_strip(weight, first, weight.product_blocks() * GROUP, strip.values);
    else
        isa.unpack_strip(weight, first, strip);
    if (weight.is_grouped) isa.group_strip(weight, strip);
}

void carve_strips(Scratch& scratch, const Weight* weights, Strip* strips, int count) {
    Carver counter(nullptr);
    for (int one = 0; one < count; one++) strips[one].carve(counter, weights[one]);
    Carver carver(scratch.get(counter.used()));
    for (int one = 0; one < count; one++) strips[one].carve(carver, weights[one]);
}

}  // namespace cotejar
