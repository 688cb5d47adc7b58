// A weight as Python hands it over, and what keeps its bytes alive.
#pragma once

#include <optional>

#include "binding.h"

namespace cotejar {

using OptionalVector = std::optional<Vector>;

struct BoundLinear {
    Bytes raw;
    OptionalVector bias;
    Linear linear;

    BoundLinear(int block_type, const Bytes& bytes, int64_t rows, int64_t columns,
                const OptionalVector& of_rows, bool grouped)
        : raw(bytes), bias(of_rows), linear{weight_of(block_type, bytes, rows, columns), nullptr} {
        linear.weight.is_grouped = grouped;
        if (!bias) return;
        require(static_cast<int64_t>(bias->shape(0)) == rows, "a bias of another size");
        linear.bias = bias->data();
    }
};

}  // namespace cotejar
