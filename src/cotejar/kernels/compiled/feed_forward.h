// A layer's feed-forward part for many tokens, q8, where nothing in between is kept: what comes
// of gate and up is rounded for `down`, and measured, while it is in the first cache.
#pragma once

#include "isa.h"

namespace cotejar {

// Are the activations of `down` rounded in blocks of 32? Others' blocks are too wide for this.
bool can_feed_forward(const Weight& down);

// out = residual + down's product with silu(gate product) * up product: the bits of the
// operations one after the other. Gate and up are of one shape. Where `moments` is not null, of
// the activations, what gate and up give, the activated, its product with up, the product of
// `down`, and out.
static constexpr int FEED_FORWARD_MOMENTS = 7;
void feed_forward(const Isa& isa, const Linear& gate, const Linear& up, const Linear& down,
                  const float* activations, int64_t num_tokens, const float* residual,
                  float* out, BothMoments* moments);

}  // namespace cotejar
