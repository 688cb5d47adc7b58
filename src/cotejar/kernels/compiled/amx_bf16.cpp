// The bfloat16 product for AMX-BF16; every CPU that has it has AVX512-BF16 as well.

#define COTEJAR_TILE_INSTRUCTIONS 1

#include "amx_bf16.h"

namespace cotejar {

const Bf16Kernels BF16_AMX = {
    pairs_of_strip,   pairs_of_rows, TILE_ROWS,
    sizeof(uint16_t), round_chunks,  multiply_by_tiles<TileInstructions>};

}  // namespace cotejar
