// The products of a layer, and statistics, as Python sees them.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bound_linear.h"
#include "feed_forward.h"
#include "layer_products.h"

namespace cotejar {

namespace {

nb::bytes bind_measure(const std::string& isa_name, const Matrix& values) {
    const Isa& isa = isa_named(isa_name);
    BothMoments moments;
    {
        nb::gil_scoped_release released;
        moments = measure(isa, values.data(), static_cast<int64_t>(values.shape(0)),
                          static_cast<int64_t>(values.shape(1)));
    }
    return bytes_of(&moments, 1);
}

// Of one row, the statistics of all rows are those of the last: `measure` has them.
void check_tokens(const Matrix& activations) {
    const int64_t tokens = static_cast<int64_t>(activations.shape(0));
    require(tokens >= 2 && tokens < MAX_SIDE, "not several tokens");
}

template <class Out>
void check_product(const Linear& linear, const Matrix& activations, const Out& out) {
    const Weight& weight = linear.weight;
    require(weight.product().rounding != Rounding::FLOAT, "a weight in floats");
    require(static_cast<int64_t>(activations.shape(1)) == weight.columns,
            "the activations have another width than the weight");
    require(out.shape(0) == activations.shape(0) &&
                static_cast<int64_t>(out.shape(1)) == weight.rows,
            "the output has another shape than the product");
}

nb::object bind_together(const std::string& isa_name,
                         const std::vector<const BoundLinear*>& linears,
                         const Matrix& activations, bool measured,
                         const std::vector<OutMatrix>& out) {
    const Isa& isa = isa_named(isa_name);
    const size_t count = linears.size();
    require(count >= 1 && count <= MAX_TOGETHER && out.size() == count,
            "not one output for each of a few products");
    check_tokens(activations);
    Linear all[MAX_TOGETHER];
    float* products[MAX_TOGETHER];
    for (size_t one = 0; one < count; one++) {
        require(linears[one] != nullptr, "a product without a weight");
        all[one] = linears[one]->linear;
        check_product(all[one], activations, out[one]);
        products[one] = out[one].data();
    }
    const int64_t tokens = static_cast<int64_t>(activations.shape(0));
    BothMoments moments[1 + MAX_TOGETHER];
    {
        nb::gil_scoped_release released;
        multiply_together(isa, all, products, static_cast<int>(count), activations.data(), tokens,
                          measured ? moments : nullptr);
    }
    if (!measured) return nb::none();
    return bytes_of(moments, 1 + static_cast<int>(count));
}

nb::object bind_and_add(const std::string& isa_name, const BoundLinear& linear,
                        const Matrix& activations, const Matrix& residual, bool measured,
                        bool of_input, const OutMatrix& out) {
    const Isa& isa = isa_named(isa_name);
    check_tokens(activations);
    check_product(linear.linear, activations, out);
    require(same_shape(residual, out), "the output has another shape than what is added");
    const int64_t tokens = static_cast<int64_t>(activations.shape(0));
    BothMoments moments[3];
    {
        nb::gil_scoped_release released;
        multiply_and_add(isa, linear.linear, activations.data(), tokens, residual.data(),
                         out.data(), of_input, measured ? moments : nullptr);
    }
    if (!measured) return nb::none();
    return of_input ? bytes_of(moments, 3) : bytes_of(moments + 1, 2);
}

nb::object bind_gated(const std::string& isa_name, const BoundLinear& gate,
                      const BoundLinear& up, const Matrix& activations, bool measured,
                      const OutMatrix& out) {
    const Isa& isa = isa_named(isa_name);
    check_tokens(activations);
    check_product(gate.linear, activations, out);
    check_product(up.linear, activations, out);
    const int64_t tokens = static_cast<int64_t>(activations.shape(0));
    BothMoments moments[5];
    {
        nb::gil_scoped_release released;
        multiply_gated(isa, gate.linear, up.linear, activations.data(), tokens, out.data(),
                       measured ? moments : nullptr);
    }
    if (!measured) return nb::none();
    return bytes_of(moments, 5);
}

nb::object bind_feed_forward(const std::string& isa_name, const BoundLinear& gate,
                       const BoundLinear& up, const BoundLinear& down, const Matrix& activations,
                       const Matrix& residual, bool measured, const OutMatrix& out) {
    const Isa& isa = isa_named(isa_name);
    const Weight &inner = gate.linear.weight, &last = down.linear.weight;
    check_tokens(activations);
    for (const Linear* linear : {&gate.linear, &up.linear, &down.linear})
        require(linear->weight.product().rounding != Rounding::FLOAT, "a weight in floats");
    for (const Linear* linear : {&gate.linear, &up.linear})
        require(linear->weight.columns == static_cast<int64_t>(activations.shape(1)) &&
                    linear->weight.rows == last.columns,
                "gate and up do not fit the activations or the weight after them");
    require(inner.columns >= 1 && can_feed_forward(last), "a weight whose blocks are too wide");
    require(out.shape(0) == activations.shape(0) &&
                static_cast<int64_t>(out.shape(1)) == last.rows && same_shape(residual, out),
            "the output has another shape than the product or what is added");
    BothMoments moments[FEED_FORWARD_MOMENTS];
    {
        nb::gil_scoped_release released;
        feed_forward(isa, gate.linear, up.linear, down.linear, activations.data(),
                     static_cast<int64_t>(activations.shape(0)), residual.data(), out.data(),
                     measured ? moments : nullptr);
    }
    if (!measured) return nb::none();
    return bytes_of(moments, FEED_FORWARD_MOMENTS);
}

}  // namespace

void bind_layer_products(nb::module_& module) {
    module.def("measure", bind_measure, nb::arg("isa"), nb::arg("values").noconvert());
    module.def("multiply_together", bind_together, nb::arg("isa"), nb::arg("linears"),
               nb::arg("activations").noconvert(), nb::arg("measured"),
               nb::arg("out").noconvert());
    module.def("multiply_and_add", bind_and_add, nb::arg("isa"), nb::arg("linear"),
               nb::arg("activations").noconvert(), nb::arg("residual").noconvert(),
               nb::arg("measured"), nb::arg("of_input"), nb::arg("out").noconvert());
    module.def("multiply_gated", bind_gated, nb::arg("isa"), nb::arg("gate"), nb::arg("up"),
               nb::arg("activations").noconvert(), nb::arg("measured"),
               nb::arg("out").noconvert());
    module.def("can_feed_forward",
               [](const BoundLinear& down) { return can_feed_forward(down.linear.weight); });
    module.def("feed_forward", bind_feed_forward, nb::arg("isa"), nb::arg("gate"), nb::arg("up"),
               nb::arg("down"), nb::arg("activations").noconvert(),
               nb::arg("residual").noconvert(), nb::arg("measured"), nb::arg("out").noconvert());
}

}  // namespace cotejar
