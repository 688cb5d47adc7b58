// The kernels in plain C++: for every CPU, and what the others are compared with.

#include "float16.h"
#include "isa.h"
#include "activation_kernels.h"
#include "group_kernels.h"
#include "operation_kernels.h"
#include "statistics_kernels.h"
#include "unpack.h"

namespace cotejar {

namespace portable {

const uint8_t* row_at(const Weight& weight, int64_t row) {
    if (row >= weight.rows) row = weight.rows - 1;
    return weight.blocks + row * weight.row_bytes();
}

void put_block(const TypeInfo& type, const BlockParts& parts, int lane, int64_t block,
               const Strip& strip) {
    uint8_t* codes = strip.codes + block * type.elements * ROWS + 4 * lane;
    for (int quad = 0; quad < type.elements / 4; quad++)
        for (int j = 0; j < 4; j++) codes[quad * 4 * ROWS + j] = parts.codes[4 * quad + j];
    strip.scale[block * ROWS + lane] = parts.scale;
    if (type.has_offset) strip.offset[block * ROWS + lane] = parts.offset;
    int32_t* scales = strip.sub_scales + block * type.num_sub * ROWS + lane;
    for (int sub = 0; sub < type.num_sub; sub++)
        scales[sub * ROWS] = static_cast<uint16_t>(parts.sub_scales[sub]);
    if (!type.has_offset || type.num_sub == 0) return;
    int32_t* offsets = strip.sub_offsets + block * type.num_sub / 2 * ROWS + lane;
    for (int pair = 0; pair < type.num_sub / 2; pair++)
        offsets[pair * ROWS] =
            parts.sub_offsets[2 * pair] | (parts.sub_offsets[2 * pair + 1] << 16);
}

void unpack_strip(const Weight& weight, int64_t first, const Strip& strip) {
    BlockParts parts;
    for (int lane = 0; lane < ROWS; lane++) {
        const uint8_t* row = row_at(weight, first + lane);
        for (int64_t block = 0; block < weight.num_blocks(); block++) {
            unpack_block(weight, row + block * weight.type->bytes, parts);
            put_block(*weight.type, parts, lane, block, strip);
        }
    }
}

void add_dots(const uint8_t* codes, const int8_t* token, int num_codes, int32_t* dots) {
    for (int quad = 0; quad < num_codes / 4; quad++)
        for (int lane = 0; lane < ROWS; lane++)
            for (int j = 0; j < 4; j++)
                dots[lane] += codes[(quad * ROWS + lane) * 4 + j] * token[4 * quad + j];
}

void multiply_blocks(const Weight& weight, const Strip& strip, const TokenTile& tile,
                     float* totals) {
    const int n = tile.num_tokens;
    for (int i = 0; i < n * ROWS; i++) totals[i] = 0.0f;
    for (int64_t block = 0; block < weight.num_blocks(); block++)
        for (int t = 0; t < n; t++) {
            const int64_t at = block * n + t;
            int32_t dots[ROWS];
            for (int lane = 0; lane < ROWS; lane++) dots[lane] = tile.initial[at];
            add_dots(strip.codes + block * 32 * ROWS, tile.codes + at * 32, 32, dots);
            for (int lane = 0; lane < ROWS; lane++) {
                float term = strip.scale[block * ROWS + lane] * tile.scale[at];
                term *= static_cast<float>(dots[lane]);
                if (weight.type->has_offset)
                    term += tile.scaled_sum[at] * strip.offset[block * ROWS + lane];
                totals[t * ROWS + lane] += term;
            }
        }
}

void multiply_groups(const Weight& weight, const Strip& strip, const TokenTile& tile,
                     float* totals) {
    const int n = tile.num_tokens;
    for (int i = 0; i < n * ROWS; i++) totals[i] = 0.0f;
    for (int64_t group = 0; group < weight.product_blocks(); group++)
        for (int t = 0; t < n; t++) {
            const int64_t at = group * n + t;
            int32_t dots[ROWS];
            for (int lane = 0; lane < ROWS; lane++) dots[lane] = tile.initial[at];
            add_dots(strip.codes + group * GROUP * ROWS, tile.codes + at * GROUP, GROUP, dots);
            for (int lane = 0; lane < ROWS; lane++) {
                const float scale = strip.group_scale[group * ROWS + lane] * tile.scale[at];
                float& total = totals[t * ROWS + lane];
                total = __builtin_fmaf(scale, static_cast<float>(dots[lane]), total);
            }
        }
}

int32_t low_half(int32_t pair) { return static_cast<int16_t>(pair & 0xFFFF); }
int32_t high_half(int32_t pair) { return pair >> 16; }

// sum(sub_scale * code * x) of one super-block and one token, for 16 rows.
void scaled_dots(const TypeInfo& type, const Strip& strip, const TokenTile& tile, int64_t block,
                 int token, int32_t* sums) {
    const int piece = type.piece, num_pieces = 256 / piece, n = tile.num_tokens;
    for (int lane = 0; lane < ROWS; lane++) sums[lane] = 0;
    for (int p = 0; p < num_pieces; p++) {
        const int64_t at = (block * num_pieces + p) * n + token;
        const int sub = p * type.num_sub / num_pieces;
        const int32_t* scales = strip.sub_scales + (block * type.num_sub + sub) * ROWS;
        int32_t dots[ROWS];
        for (int lane = 0; lane < ROWS; lane++) dots[lane] = tile.initial[at];
        add_dots(strip.codes + (block * 256 + p * piece) * ROWS, tile.codes + at * piece, piece,
                 dots);
        for (int lane = 0; lane < ROWS; lane++) sums[lane] += dots[lane] * low_half(scales[lane]);
    }
}

int32_t offset_sum(const TypeInfo& type, const Strip& strip, const TokenTile& tile,
                   int64_t block, int token, int lane) {
    int32_t sum = 0;
    const int pairs = type.num_sub / 2;
    for (int pair = 0; pair < pairs; pair++) {
        const int32_t offsets = strip.sub_offsets[(block * pairs + pair) * ROWS + lane];
        const int32_t sums = tile.sums[(block * pairs + pair) * tile.num_tokens + token];
        sum += low_half(offsets) * low_half(sums) + high_half(offsets) * high_half(sums);
    }
    return sum;
}

void multiply_super_blocks(const Weight& weight, const Strip& strip, const TokenTile& tile,
                           float* totals) {
    const TypeInfo& type = *weight.type;
    for (int i = 0; i < tile.num_tokens * ROWS; i++) totals[i] = 0.0f;
    for (int64_t block = 0; block < weight.num_blocks(); block++)
        for (int t = 0; t < tile.num_tokens; t++) {
            int32_t sums[ROWS];
            scaled_dots(type, strip, tile, block, t, sums);
            const float scale = tile.scale[block * tile.num_tokens + t];
            for (int lane = 0; lane < ROWS; lane++) {
                float term = scale * strip.scale[block * ROWS + lane];
                term *= static_cast<float>(sums[lane]);
                if (type.has_offset) {
                    const int32_t sum = offset_sum(type, strip, tile, block, t, lane);
                    float part = scale * strip.offset[block * ROWS + lane];
                    part *= static_cast<float>(sum);
                    term += part;
                }
                totals[t * ROWS + lane] += term;
            }
        }
}

void multiply_lanes(const float* rows, const float* tokens, int num_tokens, int64_t k,
                    float* totals) {
    for (int t = 0; t < num_tokens; t++)
        for (int row = 0; row < ROWS; row++) {
            const float *a = rows + row * k, *b = tokens + t * k;
            float lanes[16] = {};
            for (int64_t c = 0; c < k; c += 16)
                for (int lane = 0; lane < 16; lane++) lanes[lane] += a[c + lane] * b[c + lane];
            for (int half = 8; half > 0; half /= 2)
                for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
            totals[t * ROWS + row] = lanes[0];
        }
}

void decode_strip(const Weight& weight, int64_t first, int64_t k, float* rows) {
    for (int lane = 0; lane < ROWS; lane++) {
        decode_row(weight, row_at(weight, first + lane), rows + lane * k);
        for (int64_t c = weight.columns; c < k; c++) rows[lane * k + c] = 0.0f;
    }
}

Isa::MultiplyVector no_vector_kernel(int) { return nullptr; }
Isa::MultiplyTile no_tile_kernel(int) { return nullptr; }

}  // namespace portable

const Isa PORTABLE = {
    "portable",
    portable::unpack_strip,
    portable::multiply_blocks,
    portable::multiply_super_blocks,
    group_strip,
    portable::multiply_groups,
    nullptr,
    portable::multiply_lanes,
    portable::decode_strip,
    portable::no_vector_kernel,
    portable::no_tile_kernel,
    &BF16_PORTABLE,
    &OPERATIONS,
    round_activations,
    measure_block<Zeros::LOOKED_FOR>,
    measure_block<Zeros::ABSENT>,
    measure_chunk,
};

}  // namespace cotejar
