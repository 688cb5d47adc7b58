// The bfloat16 product in plain C++: for every CPU, and what the others are compared with.

#include "bf16_lanes.h"

namespace cotejar {

const Bf16Kernels BF16_PORTABLE = {pairs_of_strip, pairs_of_rows,     FULL_TILE,
                                   sizeof(float),  round_tile,        multiply};

}  // namespace cotejar
