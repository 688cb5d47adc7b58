// What AMX-INT8 adds to an instruction set: the product of groups, with the bits of all others.
#pragma once

#include "strip.h"

namespace cotejar {

#if defined(COTEJAR_AMX)
void amx_multiply_groups(const Weight& weight, const Strip& strip, const TokenTile& tile,
                         float* totals);
void amx_multiply_two_strips(const Weight& weight, const Strip* const* strips,
                             const TokenTile& tile, FetchAhead ahead, float* const* totals);
#endif

// The tile instructions in plain C++, for tests.
void emulated_multiply_groups(const Weight& weight, const Strip& strip, const TokenTile& tile,
                              float* totals);

}  // namespace cotejar
