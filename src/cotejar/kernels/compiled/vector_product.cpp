#include "vector_product.h"

#include <cstring>

namespace cotejar {

Isa::MultiplyVector vector_kernel_of(const Isa& isa, const Weight& weight) {
    const bool near = weight.row_bytes() * ROWS < int64_t{1} << 31;  // offsets are int32
    return near ? isa.vector_kernel(weight.type->id) : nullptr;
}

Isa::MultiplyTile tile_kernel_of(const Isa& isa, const Weight& weight) {
    const bool near = weight.row_bytes() * ROWS < int64_t{1} << 31;
    return near ? isa.tile_kernel(weight.type->id) : nullptr;
}

VectorToken carve_vector(Carver& carver, int64_t columns) {
    const size_t c = static_cast<size_t>(columns);
    VectorToken token;
    token.codes = carver.take<int8_t>(c + 64);
    token.even_odd = carver.take<int8_t>(c);
    token.centred = carver.take<int32_t>(c / 32 + 1);
    token.scale = carver.take<float>(c / 32 + 1);
    token.scaled_sum = carver.take<float>(c / 32 + 1);
    token.sums_16 = carver.take<int16_t>(c / 16);
    token.sums_32 = carver.take<int16_t>(c / 32);
    token.sums = carver.take<int16_t>(c / SUM_WIDTH_K);
    return token;
}

void round_vector(const Isa& isa, const Weight& weight, const float* activations,
                  const VectorToken& token) {
    static constexpr int ORDER[4] = {0, 2, 1, 3};
    const int16_t* sums = token.sums;
    isa.round_activations(weight.type->rounding, activations, weight.columns,
                          {token.codes, token.scale, token.scaled_sum, token.sums});
    std::memset(token.codes + weight.columns, 0, 64);
    if (weight.type->rounding != Rounding::Q8_K) {
        for (int64_t block = 0; block < weight.columns / 32; block++)
            token.centred[block] = weight.type->centre * sums[block];
        return;
    }
    for (int64_t group = 0; group < weight.columns / 16; group++)
        token.sums_16[group] = static_cast<int16_t>(sums[2 * group] + sums[2 * group + 1]);
    for (int64_t run = 0; run < weight.columns / 32; run++) {
        const int64_t from = run / 4 * 4 + ORDER[run % 4];
        std::memcpy(token.even_odd + 32 * run, token.codes + 32 * from, 32);
        token.sums_32[run] =
            static_cast<int16_t>(token.sums_16[2 * run] + token.sums_16[2 * run + 1]);
    }
}

}  // namespace cotejar
