// What the kernels know of each block type. Numbers are those of quant/block_type.py.
//
// A weight is (scale * sub_scale) * (code - centre) + offset * sub_offset; codes are unsigned
// here, since the instructions for 8-bit dots take one unsigned and one signed operand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cotejar {

enum BlockType : int {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    BF16 = 30,
    APR_Q4 = 128,
    APR_Q8 = 129,
};

// How activations are rounded: blocks of 32 with a scale, the same with a scaled sum,
// blocks of 256, groups of 64 (see kernels/group_products.py), or not at all (floats).
enum class Rounding { Q8_0, Q8_1, Q8_K, GROUP, FLOAT };

struct TypeInfo {
    int id;
    int elements;  // of one block
    int bytes;     // of one block; APR_Q8's one scale for the whole tensor comes on top
    Rounding rounding;
    int centre;     // subtracted from every code
    int num_sub;    // sub-blocks with a scale of their own; 0 for none
    int piece;      // codes whose dot fits int16 (super-blocks only); of a group all
    bool has_offset;
    int most;       // the greatest |code - centre|
};

// A piece's dot with codes of activations (at most 127): 16 * 15 * 127, 8 * 31 * 127 and,
// centred, 8 * 32 * 127 are below 2^15.
static constexpr TypeInfo TYPE_INFOS[] = {
    {F32, 1, 4, Rounding::FLOAT, 0, 0, 0, false, 0},
    {F16, 1, 2, Rounding::FLOAT, 0, 0, 0, false, 0},
    {BF16, 1, 2, Rounding::FLOAT, 0, 0, 0, false, 0},
    {Q4_0, 32, 18, Rounding::Q8_0, 8, 0, 0, false, 8},
    {Q4_1, 32, 20, Rounding::Q8_1, 0, 0, 0, true, 15},
    {Q5_0, 32, 22, Rounding::Q8_0, 16, 0, 0, false, 16},
    {Q5_1, 32, 24, Rounding::Q8_1, 0, 0, 0, true, 31},
    {Q8_0, 32, 34, Rounding::Q8_0, 128, 0, 0, false, 128},
    {Q2_K, 256, 84, Rounding::Q8_K, 0, 16, 16, true, 3},
    {Q3_K, 256, 110, Rounding::Q8_K, 4, 16, 16, false, 4},
    {Q4_K, 256, 144, Rounding::Q8_K, 0, 8, 16, true, 15},
    {Q5_K, 256, 176, Rounding::Q8_K, 0, 8, 8, true, 31},
    {Q6_K, 256, 210, Rounding::Q8_K, 32, 16, 8, false, 32},
    {APR_Q4, 32, 18, Rounding::Q8_0, 8, 0, 0, false, 8},
    {APR_Q8, 32, 32, Rounding::Q8_0, 128, 0, 0, false, 128},
};

// What a weight of any type is to the product `w8a8`: groups of 64 codes with a scale each, the
// last filled with zeros.
static constexpr int GROUP = 64;
inline constexpr TypeInfo GROUPS = {-1, GROUP, 0, Rounding::GROUP, 128, 0, GROUP, false, 127};

static inline const TypeInfo* find_type(int id) {
    for (const TypeInfo& info : TYPE_INFOS)
        if (info.id == id) return &info;
    return nullptr;
}

// A weight that stays in its blocks: row-major, C a whole number of blocks.
struct Weight {
    const TypeInfo* type;
    const uint8_t* blocks;  // past APR_Q8's scale
    int64_t rows;
    int64_t columns;
    float tensor_scale;  // APR_Q8 only
    bool is_grouped = false;  // for `w8a8`

    int64_t num_blocks() const { return columns / type->elements; }
    int64_t row_bytes() const { return num_blocks() * type->bytes; }
    // What it is to its product.
    const TypeInfo& product() const { return is_grouped ? GROUPS : *type; }
    int64_t product_blocks() const {
        return (columns + product().elements - 1) / product().elements;
    }
};

// A product with what is added to each of its rows.
struct Linear {
    Weight weight;
    const float* bias;  // null: none
};

}  // namespace cotejar
