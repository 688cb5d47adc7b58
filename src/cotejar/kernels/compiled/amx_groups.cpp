// The product of groups for AMX-INT8; fewer tokens than a tile has rows go to AVX512-VNNI.

#define COTEJAR_TILE_INSTRUCTIONS 1

#include "amx_groups.h"
#include "amx_int8.h"
#include "avx512_strips.h"

namespace cotejar {

void amx_multiply_groups(const Weight& weight, const Strip& strip, const TokenTile& tile,
                         float* totals) {
    if (tile.num_tokens < TILE_ROWS) return avx512_multiply_strip(weight, strip, tile, totals);
    const Strip* const strips[] = {&strip};
    float* const to[] = {totals};
    multiply_groups_by_tiles<TileInstructions>(weight, strips, 1, tile, {strip.codes, 0}, to);
}

void amx_multiply_two_strips(const Weight& weight, const Strip* const* strips,
                             const TokenTile& tile, FetchAhead ahead, float* const* totals) {
    if (!weight.is_grouped || tile.num_tokens < TILE_ROWS)
        return avx512_multiply_two_strips(weight, strips, tile, ahead, totals);
    multiply_groups_by_tiles<TileInstructions>(weight, strips, 2, tile, ahead, totals);
}

}  // namespace cotejar
