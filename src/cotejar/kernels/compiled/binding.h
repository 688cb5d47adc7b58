// What the files that bind share: every size is checked before a pointer is used, whoever calls.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "float16.h"
#include "isa.h"

namespace cotejar {

namespace nb = nanobind;

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutVector = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Heads = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using OutHeads = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// Rows and columns beyond these are no model's; below them no product overflows int64.
static constexpr int64_t MAX_SIDE = int64_t{1} << 31;

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

inline const Isa& isa_named(const std::string& name) {
    const Isa* isa = find_isa(name.c_str());
    require(isa != nullptr, "an instruction set that this build or this CPU lacks");
    return *isa;
}

template <class A, class B>
bool same_shape(const A& a, const B& b) {
    if (a.ndim() != b.ndim()) return false;
    for (size_t axis = 0; axis < a.ndim(); axis++)
        if (a.shape(axis) != b.shape(axis)) return false;
    return true;
}

inline Weight weight_of(int block_type, const Bytes& raw, int64_t rows, int64_t columns) {
    const TypeInfo* type = find_type(block_type);
    require(type != nullptr, "an unknown block type");
    require(rows >= 1 && rows < MAX_SIDE && columns >= 1 && columns < MAX_SIDE,
            "rows or columns out of range");
    require(columns % type->elements == 0, "a row is no whole number of blocks");
    Weight weight{type, raw.data(), rows, columns, 0.0f};
    int64_t expected = rows * weight.row_bytes();
    if (type->id == APR_Q8) expected += 4;
    require(raw.shape(0) == static_cast<size_t>(expected), "the bytes are not the matrix's");
    if (type->id == APR_Q8) {
        const uint8_t* scale = raw.data();
        weight.tensor_scale = float_of_bits(read_u16(scale) |
                                            (static_cast<uint32_t>(read_u16(scale + 2)) << 16));
        weight.blocks += 4;
    }
    return weight;
}

// As they are in memory; kernels/moments.py reads them.
inline nb::bytes bytes_of(const BothMoments* moments, int count) {
    static_assert(sizeof(BothMoments) == 2 * 8 * 8, "two times four integers and four doubles");
    return nb::bytes(reinterpret_cast<const char*>(moments),
                     static_cast<size_t>(count) * sizeof(BothMoments));
}

void bind_decoder(nb::module_& module);
void bind_layer_products(nb::module_& module);

}  // namespace cotejar
