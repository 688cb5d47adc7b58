// Strips times a tile of tokens, for AVX512-VNNI.
#pragma once

#include "isa.h"

namespace cotejar {

void avx512_multiply_strip(const Weight& weight, const Strip& strip, const TokenTile& tile,
                           float* totals);
void avx512_multiply_two_strips(const Weight& weight, const Strip* const* strips,
                                const TokenTile& tile, FetchAhead ahead, float* const* totals);

}  // namespace cotejar
