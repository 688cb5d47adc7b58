// The path of AMX-INT8 on any CPU: the same code over tiles in plain C++.

#include "amx_groups.h"
#include "amx_int8.h"
#include "isa.h"

namespace cotejar {

void emulated_multiply_groups(const Weight& weight, const Strip& strip, const TokenTile& tile,
                              float* totals) {
    if (tile.num_tokens < TILE_ROWS)
        return PORTABLE.multiply_groups(weight, strip, tile, totals);
    const Strip* const strips[] = {&strip};
    float* const to[] = {totals};
    multiply_groups_by_tiles<TileEmulation>(weight, strips, 1, tile, {strip.codes, 0}, to);
}

}  // namespace cotejar
