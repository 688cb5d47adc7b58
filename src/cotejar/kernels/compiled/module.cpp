// What Python sees. Every size is checked here, before a pointer is used, whoever calls.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "float16.h"
#include "products.h"
#include "thread_pool.h"

namespace nb = nanobind;

namespace cotejar {

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Rows and columns beyond these are no model's; below them no product overflows int64.
constexpr int64_t MAX_SIDE = int64_t{1} << 31;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

const Isa& isa_named(const std::string& name) {
    const Isa* isa = find_isa(name.c_str());
    require(isa != nullptr, "an instruction set that this build or this CPU lacks");
    return *isa;
}

Weight weight_of(int block_type, const Bytes& raw, int64_t rows, int64_t columns) {
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

using Multiply = void (*)(const Isa&, const Weight&, const float*, int64_t, float*);

void multiply(Multiply product_of, const std::string& isa_name, int block_type, const Bytes& raw,
              int64_t rows, int64_t columns, const Matrix& activations, const OutMatrix& out) {
    const Isa& isa = isa_named(isa_name);
    const Weight weight = weight_of(block_type, raw, rows, columns);
    const int64_t num_tokens = static_cast<int64_t>(activations.shape(0));
    require(static_cast<int64_t>(activations.shape(1)) == columns,
            "the activations have another width than the weight");
    require(num_tokens < MAX_SIDE, "too many tokens");
    require(out.shape(0) == activations.shape(0) &&
                static_cast<int64_t>(out.shape(1)) == rows,
            "the output has another shape than the product");
    if (num_tokens == 0) return;
    const float* in = activations.data();
    float* product = out.data();
    nb::gil_scoped_release released;
    product_of(isa, weight, in, num_tokens, product);
}

template <Multiply PRODUCT>
void bind_product(nb::module_& module, const char* name) {
    module.def(
        name,
        [](const std::string& isa, int block_type, const Bytes& raw, int64_t rows,
           int64_t columns, const Matrix& activations, const OutMatrix& out) {
            multiply(PRODUCT, isa, block_type, raw, rows, columns, activations, out);
        },
        nb::arg("isa"), nb::arg("block_type"), nb::arg("raw").noconvert(), nb::arg("rows"),
        nb::arg("columns"), nb::arg("activations").noconvert(), nb::arg("out").noconvert());
}

std::vector<std::string> isa_names() {
    std::vector<std::string> names;
    for (int index = 0; index < num_isas(); index++) names.emplace_back(isa_at(index)->name);
    return names;
}

}  // namespace

}  // namespace cotejar

NB_MODULE(_compiled, module) {
    using namespace cotejar;
    module.def("isa_names", isa_names);
    module.def("set_num_threads", set_num_threads, nb::arg("num_threads"));
    module.def("num_threads", num_threads);
    bind_product<multiply_q8>(module, "multiply_q8");
    bind_product<multiply_f32>(module, "multiply_f32");
}
