#include "unpack.h"

#include <cstring>

#include "float16.h"

namespace cotejar {

namespace {

void low_then_high(const uint8_t* packed, int count, uint8_t* codes) {
    for (int j = 0; j < count; j++) {
        codes[j] = packed[j] & 15;
        codes[count + j] = packed[j] >> 4;
    }
}

// Bit pair k of byte j is value 32k + j, for two halves of 128 values; shifted into place.
void add_bit_pairs(const uint8_t* packed, int shift, uint8_t* codes) {
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 4; k++)
            for (int j = 0; j < 32; j++)
                codes[128 * half + 32 * k + j] |=
                    static_cast<uint8_t>(((packed[32 * half + j] >> (2 * k)) & 3) << shift);
}

// Bit k of byte j belongs to value 32k + j.
void add_bits(const uint8_t* packed, int shift, uint8_t* codes) {
    for (int k = 0; k < 8; k++)
        for (int j = 0; j < 32; j++)
            codes[32 * k + j] |= static_cast<uint8_t>(((packed[j] >> k) & 1) << shift);
}

void unpack_5_bits(const uint8_t* high, const uint8_t* low, uint8_t* codes) {
    low_then_high(low, 16, codes);
    for (int j = 0; j < 32; j++)
        codes[j] |= static_cast<uint8_t>(((high[j / 8] >> (j % 8)) & 1) << 4);
}

// Scales and minimums of Q4_K and Q5_K; see quant/q4_k.py.
void unpack_sub_scales(const uint8_t* packed, BlockParts& parts) {
    for (int j = 0; j < 4; j++) {
        const uint8_t first = packed[j], second = packed[4 + j], third = packed[8 + j];
        parts.sub_scales[j] = static_cast<int8_t>(first & 63);
        parts.sub_scales[4 + j] = static_cast<int8_t>((third & 15) | ((first >> 2) & 48));
        parts.sub_offsets[j] = second & 63;
        parts.sub_offsets[4 + j] = static_cast<uint8_t>((third >> 4) | ((second >> 2) & 48));
    }
}

void unpack_q2_k(const uint8_t* block, BlockParts& parts) {
    std::memset(parts.codes, 0, 256);
    add_bit_pairs(block + 16, 0, parts.codes);
    parts.scale = read_half(block + 80);
    parts.offset = -read_half(block + 82);
    for (int j = 0; j < 16; j++) {
        parts.sub_scales[j] = static_cast<int8_t>(block[j] & 15);
        parts.sub_offsets[j] = block[j] >> 4;
    }
}

void unpack_q3_k(const uint8_t* block, BlockParts& parts) {
    std::memset(parts.codes, 0, 256);
    add_bit_pairs(block + 32, 0, parts.codes);
    add_bits(block, 2, parts.codes);
    parts.scale = read_half(block + 108);
    for (int j = 0; j < 16; j++) {
        const int low = (block[96 + j % 8] >> (4 * (j / 8))) & 15;
        const int high = (block[104 + j % 4] >> (2 * (j / 4))) & 3;
        parts.sub_scales[j] = static_cast<int8_t>((low | (high << 4)) - 32);
    }
}

void unpack_q4_or_q5_k(const uint8_t* block, const uint8_t* low, BlockParts& parts) {
    for (int run = 0; run < 4; run++) low_then_high(low + 32 * run, 32, parts.codes + 64 * run);
    parts.scale = read_half(block);
    parts.offset = -read_half(block + 2);
    unpack_sub_scales(block + 4, parts);
}

void unpack_q6_k(const uint8_t* block, BlockParts& parts) {
    low_then_high(block, 64, parts.codes);
    low_then_high(block + 64, 64, parts.codes + 128);
    add_bit_pairs(block + 128, 4, parts.codes);
    std::memcpy(parts.sub_scales, block + 192, 16);
    parts.scale = read_half(block + 208);
}

void signed_to_codes(const uint8_t* values, uint8_t* codes) {
    for (int j = 0; j < 32; j++) codes[j] = values[j] ^ 128;
}

}  // namespace

void unpack_block(const Weight& weight, const uint8_t* block, BlockParts& parts) {
    switch (weight.type->id) {
        case Q4_0:
            low_then_high(block + 2, 16, parts.codes);
            parts.scale = read_half(block);
            break;
        case Q4_1:
            low_then_high(block + 4, 16, parts.codes);
            parts.scale = read_half(block);
            parts.offset = read_half(block + 2);
            break;
        case Q5_0:
            unpack_5_bits(block + 2, block + 6, parts.codes);
            parts.scale = read_half(block);
            break;
        case Q5_1:
            unpack_5_bits(block + 4, block + 8, parts.codes);
            parts.scale = read_half(block);
            parts.offset = read_half(block + 2);
            break;
        case Q8_0:
            signed_to_codes(block + 2, parts.codes);
            parts.scale = read_half(block);
            break;
        case APR_Q4:
            for (int j = 0; j < 16; j++) {
                parts.codes[2 * j] = block[2 + j] & 15;
                parts.codes[2 * j + 1] = block[2 + j] >> 4;
            }
            parts.scale = read_half(block);
            break;
        case APR_Q8:
            signed_to_codes(block, parts.codes);
            parts.scale = weight.tensor_scale;
            break;
        case Q2_K: unpack_q2_k(block, parts); break;
        case Q3_K: unpack_q3_k(block, parts); break;
        case Q4_K: unpack_q4_or_q5_k(block, block + 16, parts); break;
        case Q5_K:
            unpack_q4_or_q5_k(block, block + 48, parts);
            add_bits(block + 16, 4, parts.codes);
            break;
        case Q6_K: unpack_q6_k(block, parts); break;
        default: break;
    }
}

void decode_row(const Weight& weight, const uint8_t* row, float* values) {
    const TypeInfo& type = *weight.type;
    if (type.id == F32) {
        std::memcpy(values, row, static_cast<size_t>(weight.columns) * 4);
        return;
    }
    if (type.rounding == Rounding::FLOAT) {
        for (int64_t c = 0; c < weight.columns; c++)
            values[c] = type.id == F16 ? read_half(row + 2 * c)
                                       : float_of_bfloat(read_u16(row + 2 * c));
        return;
    }
    BlockParts parts;
    const int num_sub = type.num_sub ? type.num_sub : 1, width = type.elements / num_sub;
    for (int64_t block = 0; block < weight.num_blocks(); block++) {
        unpack_block(weight, row + block * type.bytes, parts);
        for (int sub = 0; sub < num_sub; sub++) {
            float scale = parts.scale, offset = type.has_offset ? parts.offset : 0.0f;
            if (type.num_sub) {
                scale *= static_cast<float>(parts.sub_scales[sub]);
                if (type.has_offset) offset *= static_cast<float>(parts.sub_offsets[sub]);
            }
            const uint8_t* codes = parts.codes + sub * width;
            float* out = values + block * type.elements + sub * width;
            for (int j = 0; j < width; j++) {
                const float value = scale * static_cast<float>(codes[j] - type.centre);
                out[j] = type.has_offset ? value + offset : value;
            }
        }
    }
}

}  // namespace cotejar
