// The two operands of a product, laid out for it.
//
// A Strip is 16 rows of a weight taken out of their blocks, row in lane: four neighbouring
// codes of each of the 16 rows stand together, 64 bytes, so that one 512-bit dot instruction
// serves 16 rows and no sum crosses lanes. A TokenTile is up to 16 tokens, the same pieces of
// codes of all its tokens side by side.
#pragma once

#include "aside.h"
#include "block_types.h"
#include "scratch.h"

namespace cotejar {

static constexpr int ROWS = 16;
static constexpr int MAX_TILE = 16;

struct Strip {
    uint8_t* codes;        // [block][code / 4][ROWS][4]
    float* scale;          // [block][ROWS]
    float* offset;         // [block][ROWS]
    int32_t* sub_scales;   // [block][sub][ROWS], in the low 16 bits; the high ones are 0
    int32_t* sub_offsets;  // [block][sub / 2][ROWS], two int16
    float* group_scale;    // [group][ROWS]; the codes are then those of groups
    float* values;         // [ROWS][columns of whole groups], of floats in groups

    void carve(Carver& carver, const Weight& weight) {
        const TypeInfo& type = *weight.type;
        const bool is_float = type.rounding == Rounding::FLOAT;
        const size_t blocks = static_cast<size_t>(is_float ? 0 : weight.num_blocks());
        const size_t groups = static_cast<size_t>(weight.is_grouped ? weight.product_blocks() : 0);
        codes = carver.take<uint8_t>(groups ? groups * GROUP * ROWS
                                            : blocks * type.elements * ROWS);
        group_scale = carver.take<float>(groups * ROWS);
        values = carver.take<float>(is_float ? groups * GROUP * ROWS : 0);
        scale = carver.take<float>(blocks * ROWS);
        offset = carver.take<float>(type.has_offset ? blocks * ROWS : 0);
        sub_scales = carver.take<int32_t>(blocks * type.num_sub * ROWS);
        sub_offsets =
            carver.take<int32_t>(type.has_offset ? blocks * type.num_sub / 2 * ROWS : 0);
    }
};

// What to fetch into the second cache during a product: with every piece of codes the line so
// many bytes on.
struct FetchAhead {
    const uint8_t* at;
    int64_t step;

    // In a block of a product; a group has as many codes as two pieces and more.
    static int lines_of(const TypeInfo& product) {
        return product.rounding == Rounding::GROUP ? 2
               : product.piece                     ? product.elements / product.piece
                                                   : 1;
    }
};

struct TokenTile {
    int num_tokens;     // N, up to MAX_TILE; for the kernels over strips a power of 2
    int8_t* codes;      // [block][piece][N][codes of a piece]
    int32_t* initial;   // [block][piece][N]: -centre * the sum of the codes of the piece
    float* scale;       // [block][N]
    float* scaled_sum;  // [block][N]; Q8_1
    int32_t* sums;      // [block][sub / 2][N], two int16: of the codes under a sub-block; Q8_K
    Aside* aside = nullptr;  // what a kernel may fetch meanwhile

    // Codes of a piece: what one integer sum covers before a scale comes in.
    static int piece_of(const TypeInfo& type) { return type.piece ? type.piece : 32; }

    void carve(Carver& carver, const Weight& weight, int tokens) {
        const TypeInfo& type = weight.product();
        const size_t blocks = static_cast<size_t>(weight.product_blocks());
        const size_t n = static_cast<size_t>(tokens);
        num_tokens = tokens;
        codes = carver.take<int8_t>(blocks * type.elements * n);
        initial = carver.take<int32_t>(blocks * (type.elements / piece_of(type)) * n);
        scale = carver.take<float>(blocks * n);
        scaled_sum = carver.take<float>(type.rounding == Rounding::Q8_1 ? blocks * n : 0);
        sums = carver.take<int32_t>(blocks * type.num_sub / 2 * n);
    }
};

// One token as the product of a matrix and a vector reads it.
struct VectorToken {
    int8_t* codes;      // C, and 64 bytes more that are 0
    int8_t* even_odd;   // Q8_K: in every 128 codes, the four runs of 32 in order 0 2 1 3
    int32_t* centred;   // 32-blocks: centre * the sum of a block's codes
    float* scale;       // one a block
    float* scaled_sum;  // Q8_1
    int16_t* sums_16;   // Q8_K: of every 16 codes
    int16_t* sums_32;   // Q8_K: of every 32 codes
    int16_t* sums;      // of the rounding, see RoundedToken
};

}  // namespace cotejar
