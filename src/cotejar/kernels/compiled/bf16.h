// The products of the numerics `bf16`; kernels/bf16_products.py states their arithmetic.
//
// A strip is 16 rows of a weight as bfloat16, row in lane: two neighbouring columns of each of
// the 16 rows stand together, 64 bytes, the layout that a tile instruction takes. Columns are
// filled with zeros to whole chunks.
#pragma once

#include "block_types.h"
#include "strip.h"

namespace cotejar {

// Columns that are summed from 0 and then added to the total: those of one tile instruction.
static constexpr int CHUNK = 32;

// Strips one after the other, the first of them at row `first_row`.
struct Bf16Strips {
    const uint16_t* pairs;  // [strip][k / 2][ROWS][2]
    int64_t k;              // columns, a multiple of CHUNK
    int64_t first_row;
    int64_t num_rows;  // of the weight that are left from `first_row` on
    int count;
};

// Rounded activations in tiles; the last may hold fewer tokens than a full one.
struct Bf16Tokens {
    const void* tiles;
    int64_t num_tokens;
};

// What an instruction set has for it. Every one computes the same bits.
struct Bf16Kernels {
    // A quantised strip, or 16 rows of floats (ROWS x K), rounded and put side by side.
    void (*pairs_of_strip)(const Weight& weight, const Strip& strip, uint16_t* pairs);
    void (*pairs_of_rows)(const float* rows, int64_t k, uint16_t* pairs);

    int tile_tokens;  // of a full tile
    int value_bytes;  // of one value in a tile
    void (*round_tile)(const float* activations, int num_tokens, int64_t columns, int64_t k,
                       void* tile);

    // product[T][row_stride], columns first_row..: the strips' rows times every token.
    void (*multiply)(const Bf16Strips& strips, const Bf16Tokens& tokens, float* product,
                     int64_t row_stride);
};

extern const Bf16Kernels BF16_PORTABLE;
extern const Bf16Kernels BF16_AMX_EMULATED;  // the tile instructions in plain C++, for tests
#if defined(COTEJAR_X86)
extern const Bf16Kernels BF16_AVX2;
extern const Bf16Kernels BF16_AVX512;  // rounds with integer instructions
#endif
#if defined(COTEJAR_AVX512BF16)
extern const Bf16Kernels BF16_AVX512BF16;  // rounds with its own
#endif
#if defined(COTEJAR_AMX)
extern const Bf16Kernels BF16_AMX;
#endif

}  // namespace cotejar
