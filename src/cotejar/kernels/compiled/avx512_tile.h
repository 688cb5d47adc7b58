// Products over blocks with a tile of tokens, for AVX512-VNNI, and the same blocks to strips; see
// avx512_tile.cpp.
#pragma once

#include "isa.h"

namespace cotejar {

Isa::MultiplyTile avx512_tile_kernel(int block_type);

using UnpackStrip = void (*)(const Weight& weight, int64_t first, const Strip& strip);
UnpackStrip avx512_unpack_kernel(int block_type);

// Of types of super-blocks; null where there is none.
Isa::MultiplyTile avx512_super_tile_kernel(int block_type);
UnpackStrip avx512_super_unpack_kernel(int block_type);

}  // namespace cotejar
