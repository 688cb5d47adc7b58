// The product of the numerics `bf16`, over all tokens and all threads.
#pragma once

#include "isa.h"

namespace cotejar {

// product (T x R) = activations (T x C) times the weight's transpose; C a whole number of
// blocks, which the caller has checked. Throws std::bad_alloc.
void multiply_bf16(const Isa& isa, const Weight& weight, const float* activations,
                   int64_t num_tokens, float* product);

}  // namespace cotejar
