// The bfloat16 product for AVX512-BF16.

#include "bf16_lanes.h"

namespace cotejar {

const Bf16Kernels BF16_AVX512BF16 = {pairs_of_strip, pairs_of_rows,     FULL_TILE,
                                   sizeof(float),  round_tile,        multiply};

}  // namespace cotejar
