#include "cache_rows.h"

#include <cstring>

#include "float16.h"

namespace cotejar {

namespace {

void put_half(float value, uint8_t* at) {
    const uint16_t half = half_of_float(value);
    at[0] = static_cast<uint8_t>(half);
    at[1] = static_cast<uint8_t>(half >> 8);
}

}  // namespace

void store_row(const Isa& isa, int block_type, const float* values, int64_t width,
               uint8_t* row) {
    if (block_type == F32) {
        std::memcpy(row, values, static_cast<size_t>(width) * sizeof(float));
        return;
    }
    if (block_type == F16) {
        for (int64_t c = 0; c < width; c++) put_half(values[c], row + 2 * c);
        return;
    }
    for (int64_t block = 0; block < width / 32; block++) {
        int8_t codes[32];
        float scale;
        int16_t sum;
        isa.round_activations(Rounding::Q8_0, values + 32 * block, 32,
                              {codes, &scale, nullptr, &sum});
        put_half(scale, row + 34 * block);
        std::memcpy(row + 34 * block + 2, codes, 32);
    }
}

void load_rows(const Isa& isa, const Weight& rows, int64_t first, float* values) {
    const Isa& able = rows.columns % ROWS == 0 ? isa : PORTABLE;
    able.decode_strip(rows, first, rows.columns, values);
}

}  // namespace cotejar
