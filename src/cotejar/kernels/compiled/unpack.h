// One block to its codes and scales, in portable C++; the layouts are in quant/*.py.
#pragma once

#include "block_types.h"

namespace cotejar {

struct BlockParts {
    uint8_t codes[256];
    float scale;
    float offset;            // minimums negated, as in quant/block_parts.py
    int8_t sub_scales[16];
    uint8_t sub_offsets[16];
};

// Only what the type has is written. `block` must hold the type's bytes.
void unpack_block(const Weight& weight, const uint8_t* block, BlockParts& parts);

// One row as float32, with the bits of quant/codec.py; any type.
void decode_row(const Weight& weight, const uint8_t* row, float* values);

}  // namespace cotejar
