// The q8 products of a layer for many tokens, with what follows each of them done, and measured,
// while it is in the first cache. The bits are those of the operations one after the other.
//
// Weights are of one width where they multiply the same, and none of them in floats. There are
// several tokens. Moments are taken where `moments` is not null.
#pragma once

#include "isa.h"

namespace cotejar {

// out[i] = activations times weight i's transpose, plus its bias. Moments of the activations
// and of each output.
static constexpr int MAX_TOGETHER = 3;
void multiply_together(const Isa& isa, const Linear* linears, float* const* out, int count,
                       const float* activations, int64_t num_tokens, BothMoments* moments);

// out = residual + product. Moments of the activations (if `of_input`), of the product and of
// the sum.
void multiply_and_add(const Isa& isa, const Linear& linear, const float* activations,
                      int64_t num_tokens, const float* residual, float* out, bool of_input,
                      BothMoments* moments);

// out = silu(gate product) * up product. Moments of the activations, of both products, of the
// activated and of out.
void multiply_gated(const Isa& isa, const Linear& gate, const Linear& up,
                    const float* activations, int64_t num_tokens, float* out,
                    BothMoments* moments);

}  // namespace cotejar
