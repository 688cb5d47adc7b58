// Activations rounded and laid out in tiles, for one weight or for several that multiply the same.
#pragma once

#include "isa.h"
#include "scratch.h"

namespace cotejar {

struct Tiles {
    TokenTile* tiles;
    int64_t count;
};

// In memory that the calling thread keeps: the next one takes its place.
class RoundedTiles {
  public:
    static constexpr int MAX_WEIGHTS = 3;

    // Up to MAX_WEIGHTS weights of one width, none of them in floats. With `measured`, the
    // activations are measured on the way. Throws std::bad_alloc.
    RoundedTiles(const Isa& isa, const Weight* weights, int num_weights, const float* activations,
                 int64_t num_tokens, ArrayMoments* measured = nullptr);

    const Tiles& of(int weight) const { return tiles_[kind_of_[weight]]; }

  private:
    Tiles tiles_[MAX_WEIGHTS];
    int kind_of_[MAX_WEIGHTS];
};

// Tiles for activations that a weight multiplies, not yet filled. Throws std::bad_alloc.
Tiles carve_tiles(Scratch& scratch, const Weight& weight, int64_t num_tokens);

// One tile of each of these weights, by the calling thread. Tokens past the last repeat the
// last; their products are not stored.
void round_tile(const Isa& isa, const Weight* weights, int num_weights, const float* activations,
                int64_t tokens_left, const TokenTile* tiles);

// `count` values of one token, from a column on, become theirs of token `t` of the tile; both
// whole numbers of blocks.
void round_part(const Isa& isa, const Weight& weight, const float* values, int64_t column,
                int64_t count, int t, const TokenTile& tile);

// totals[tokens of the tile][ROWS].
void multiply_tile(const Isa& isa, const Weight& weight, const Strip& strip,
                   const TokenTile& tile, float* totals);

// The same of `count` strips, one or two, of one weight or of two that are alike.
void multiply_tile_by(const Isa& isa, const Weight& weight, const Strip* const* strips, int count,
                      const TokenTile& tile, FetchAhead ahead, float* const* totals);

// 16 rows from `first` on, as their product takes them; floats in groups alone.
void fill_strip(const Isa& isa, const Weight& weight, int64_t first, const Strip& strip);

// One strip for each weight, side by side.
void carve_strips(Scratch& scratch, const Weight* weights, Strip* strips, int count);

}  // namespace cotejar
