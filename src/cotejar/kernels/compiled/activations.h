// Activations rounded to 8-bit blocks, with the bytes of quant/activations.py.
#pragma once

#include "block_types.h"

namespace cotejar {

// One token's blocks. Pointers that the rounding has no use for may be null.
struct RoundedToken {
    int8_t* codes;      // C; to the end of the last group
    float* scale;       // one a block; NaN marks a broken block
    float* scaled_sum;  // Q8_1
    int16_t* sums;      // of every block; Q8_K: of every 8 codes
};

static constexpr int SUM_WIDTH_K = 8;

using RoundActivations = void (*)(Rounding rounding, const float* values, int64_t columns,
                                  const RoundedToken& token);

}  // namespace cotejar
