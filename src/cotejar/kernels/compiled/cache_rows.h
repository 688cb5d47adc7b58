// What the KV cache stores: rows of float32, float16 or Q8_0 blocks, as engines/native/cache.py.
#pragma once

#include "isa.h"

namespace cotejar {

// Keys and values of one layer, a row a position.
struct CacheLayer {
    uint8_t *keys, *values;
};

// Of F32, F16 and Q8_0.
static inline bool is_cache_type(int block_type) {
    return block_type == F32 || block_type == F16 || block_type == Q8_0;
}

// Rows of a cache as a weight: `width` values each, a whole number of blocks.
static inline Weight cache_rows(int block_type, const uint8_t* rows, int64_t count,
                                int64_t width) {
    return {find_type(block_type), rows, count, width, 0.0f};
}

// Stores one row. A block that holds a NaN or an infinity reads as NaN.
void store_row(const Isa& isa, int block_type, const float* values, int64_t width, uint8_t* row);

// Rows first..first + ROWS as float32; those past the last repeat it.
void load_rows(const Isa& isa, const Weight& rows, int64_t first, float* values);

}  // namespace cotejar
