// A matrix in blocks times one token: what multiply_q8 and the decoder share.
#pragma once

#include "isa.h"
#include "scratch.h"

namespace cotejar {

// Null where the type has no such kernel, or where rows lie too far apart for one.
Isa::MultiplyVector vector_kernel_of(const Isa& isa, const Weight& weight);

Isa::MultiplyTile tile_kernel_of(const Isa& isa, const Weight& weight);

VectorToken carve_vector(Carver& carver, int64_t columns);

// Rounds `activations` as the weight's type asks.
void round_vector(const Isa& isa, const Weight& weight, const float* activations,
                  const VectorToken& token);

// Would two weights of one width get the same token?
static inline bool same_rounding(const Weight& a, const Weight& b) {
    return a.type->rounding == b.type->rounding && a.type->centre == b.type->centre;
}

static inline int64_t strips_of(const Weight& weight) { return (weight.rows + ROWS - 1) / ROWS; }

}  // namespace cotejar
