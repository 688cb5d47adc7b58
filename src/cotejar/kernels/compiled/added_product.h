// A product of rounded activations with what it is added to.
#pragma once

#include "token_tiles.h"

namespace cotejar {

// out = residual + product. With `measured`, its array `first` is the product, whose last row
// goes to `last`, and the next is the sum. Throws std::bad_alloc.
void add_product(const Isa& isa, const Linear& linear, const Tiles& tiles, int64_t num_tokens,
                 const float* residual, float* out, BlockMoments* measured = nullptr,
                 int first = 0, float* last = nullptr);

}  // namespace cotejar
