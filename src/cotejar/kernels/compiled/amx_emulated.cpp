// The path of AMX-BF16 on any CPU: the same code over tiles in plain C++.

#include "amx_bf16.h"

namespace cotejar {

const Bf16Kernels BF16_AMX_EMULATED = {
    pairs_of_strip,   pairs_of_rows, TILE_ROWS,
    sizeof(uint16_t), round_chunks,  multiply_by_tiles<TileEmulation>};

}  // namespace cotejar
