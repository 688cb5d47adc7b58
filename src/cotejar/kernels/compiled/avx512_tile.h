// Products over blocks with a tile of tokens, for AVX512-VNNI; see avx512_tile.cpp.
#pragma once

#include "isa.h"

namespace cotejar {

Isa::MultiplyTile avx512_tile_kernel(int block_type);

// Of types of super-blocks; null where there is none.
Isa::MultiplyTile avx512_super_tile_kernel(int block_type);

}  // namespace cotejar
