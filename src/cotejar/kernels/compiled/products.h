// The products over weights in blocks; kernels/products.py states their arithmetic.
#pragma once

#include "isa.h"

namespace cotejar {

// product (T x R) = activations (T x C) times the weight's transpose. The caller has checked
// the sizes: C a whole number of blocks and, for q8, of the blocks of activations.
void multiply_q8(const Isa& isa, const Weight& weight, const float* activations,
                 int64_t num_tokens, float* product);
void multiply_w8a8(const Isa& isa, const Weight& weight, const float* activations,
                   int64_t num_tokens, float* product);
void multiply_f32(const Isa& isa, const Weight& weight, const float* activations,
                  int64_t num_tokens, float* product);

}  // namespace cotejar
