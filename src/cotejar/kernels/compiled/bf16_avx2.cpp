// The bfloat16 product for AVX2.

#include "bf16_lanes.h"

namespace cotejar {

const Bf16Kernels BF16_AVX2 = {pairs_of_strip, pairs_of_rows,     FULL_TILE,
                                   sizeof(float),  round_tile,        multiply};

}  // namespace cotejar
