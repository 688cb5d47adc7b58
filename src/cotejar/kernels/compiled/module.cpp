// What Python sees. Every size is checked here, before a pointer is used, whoever calls.

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "amx.h"
#include "bf16_products.h"
#include "binding.h"
#include "block_pool.h"
#include "greatest.h"
#include "products.h"
#include "sequence_operations.h"
#include "thread_pool.h"

namespace cotejar {

namespace {

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

void bind_make_pages(const std::vector<OutVector>& arrays) {
    std::vector<Memory> all;
    for (const OutVector& array : arrays)
        all.push_back({reinterpret_cast<char*>(array.data()), array.size() * sizeof(float)});
    nb::gil_scoped_release released;
    make_pages(all);
}

std::vector<int64_t> bind_first_greatest(const std::string& isa_name, const Matrix& values) {
    const Isa& isa = isa_named(isa_name);
    const int64_t rows = static_cast<int64_t>(values.shape(0));
    const int64_t columns = static_cast<int64_t>(values.shape(1));
    require(columns >= 1, "rows of nothing have no greatest");
    const float* in = values.data();
    nb::gil_scoped_release released;
    return first_greatest(isa, in, rows, columns);
}

void bind_rms_norm(const std::string& isa_name, const Matrix& values, const Vector& weight,
                   double eps, const OutMatrix& out) {
    const Isa& isa = isa_named(isa_name);
    require(values.shape(1) == weight.shape(0) && values.shape(1) > 0,
            "the weight has another width than the values");
    require(same_shape(values, out), "the output has another shape than the values");
    nb::gil_scoped_release released;
    rms_norm(isa, values.data(), weight.data(), static_cast<int64_t>(values.shape(0)),
             static_cast<int64_t>(values.shape(1)), eps, out.data());
}

void bind_silu(const std::string& isa_name, const Vector& values, const OutVector& out) {
    const Isa& isa = isa_named(isa_name);
    require(same_shape(values, out), "the output has another shape than the values");
    nb::gil_scoped_release released;
    silu(isa, values.data(), static_cast<int64_t>(values.shape(0)), out.data());
}

void bind_multiply(const std::string& isa_name, const Vector& a, const Vector& b,
                   const OutVector& out) {
    const Isa& isa = isa_named(isa_name);
    require(same_shape(a, b) && same_shape(a, out), "the arrays differ in shape");
    nb::gil_scoped_release released;
    multiply_elements(isa, a.data(), b.data(), static_cast<int64_t>(a.shape(0)), out.data());
}

nb::object bind_rotate(const std::string& isa_name, const std::vector<Heads>& values,
                       const Matrix& cosine, const Matrix& sine, bool adjacent,
                       const std::vector<OutHeads>& out, bool measured) {
    const Isa& isa = isa_named(isa_name);
    const size_t count = values.size();
    require(count >= 1 && count <= MOST_ROTATIONS && out.size() == count,
            "not one output for each of a few arrays");
    require(same_shape(cosine, sine), "the tables do not fit each other");
    Rotation rotations[MOST_ROTATIONS];
    for (size_t one = 0; one < count; one++) {
        require(cosine.shape(0) == values[one].shape(0), "the tables do not fit the values");
        require(cosine.shape(1) <= values[one].shape(2) / 2, "more pairs than a head has");
        require(same_shape(values[one], out[one]), "the output has another shape than the values");
        rotations[one] = {static_cast<int64_t>(values[one].shape(0)),
                          static_cast<int64_t>(values[one].shape(1)),
                          static_cast<int64_t>(values[one].shape(2)),
                          static_cast<int64_t>(cosine.shape(1)),
                          adjacent,
                          cosine.data(),
                          sine.data(),
                          values[one].data(),
                          out[one].data()};
    }
    BothMoments moments[MOST_ROTATIONS];
    {
        nb::gil_scoped_release released;
        rotate(isa, rotations, static_cast<int>(count), measured ? moments : nullptr);
    }
    return measured ? nb::object(bytes_of(moments, static_cast<int>(count))) : nb::none();
}

// Queries of several contexts stand one after the other: `tokens[i]` of them attend to
// `keys[i]` and `values[i]`.
void bind_attend(const std::string& isa_name, const Heads& queries,
                 const std::vector<int64_t>& tokens, const std::vector<Heads>& keys,
                 const std::vector<Heads>& values, int64_t window, const OutHeads& out,
                 bool in_float32) {
    const Isa& isa = isa_named(isa_name);
    require(same_shape(queries, out), "the output has another shape than the queries");
    require(keys.size() == tokens.size() && values.size() == tokens.size(),
            "another number of keys or values than of contexts");
    require(window >= 0, "a negative window");
    const int64_t heads = static_cast<int64_t>(queries.shape(1));
    const int64_t head_size = static_cast<int64_t>(queries.shape(2));
    const int64_t total = static_cast<int64_t>(queries.shape(0));
    std::vector<Attention> all;
    std::vector<float*> contexts;
    int64_t first = 0;
    for (size_t i = 0; i < tokens.size(); i++) {
        const int64_t positions = static_cast<int64_t>(keys[i].shape(0));
        const int64_t kv_heads = static_cast<int64_t>(keys[i].shape(1));
        require(same_shape(keys[i], values[i]), "keys and values differ in shape");
        require(static_cast<int64_t>(keys[i].shape(2)) == head_size && head_size > 0,
                "queries and keys differ in head size");
        require(kv_heads > 0 && heads % kv_heads == 0,
                "the query heads are no multiple of the key heads");
        require(tokens[i] >= 0 && tokens[i] <= total - first, "fewer queries than tokens");
        require(tokens[i] <= positions, "fewer positions than queries");
        const int64_t at = first * heads * head_size;
        all.push_back({tokens[i], positions, heads, kv_heads, head_size, window,
                       queries.data() + at, keys[i].data(), values[i].data(), in_float32});
        contexts.push_back(out.data() + at);
        first += tokens[i];
    }
    require(first == total, "more queries than tokens");
    nb::gil_scoped_release released;
    attend(isa, all, contexts);
}

using OnTwo = void (*)(const Isa&, const float*, const float*, int64_t, float*);

template <OnTwo OPERATION>
void bind_on_two(const std::string& isa_name, const Matrix& a, const Matrix& b,
                 const OutMatrix& out) {
    const Isa& isa = isa_named(isa_name);
    require(same_shape(a, b) && same_shape(a, out), "the arrays differ in shape");
    nb::gil_scoped_release released;
    OPERATION(isa, a.data(), b.data(), static_cast<int64_t>(a.shape(0) * a.shape(1)), out.data());
}

void bind_operations(nb::module_& module) {
    module.def("swiglu", bind_on_two<swiglu>, nb::arg("isa"), nb::arg("gate").noconvert(),
               nb::arg("up").noconvert(), nb::arg("out").noconvert());
    module.def("add", bind_on_two<add>, nb::arg("isa"), nb::arg("a").noconvert(),
               nb::arg("b").noconvert(), nb::arg("out").noconvert());
    module.def("rms_norm", bind_rms_norm, nb::arg("isa"), nb::arg("values").noconvert(),
               nb::arg("weight").noconvert(), nb::arg("eps"), nb::arg("out").noconvert());
    module.def("silu", bind_silu, nb::arg("isa"), nb::arg("values").noconvert(),
               nb::arg("out").noconvert());
    module.def("make_pages", bind_make_pages, nb::arg("arrays").noconvert());
    module.def("first_greatest", bind_first_greatest, nb::arg("isa"),
               nb::arg("values").noconvert());
    module.def("multiply", bind_multiply, nb::arg("isa"), nb::arg("a").noconvert(),
               nb::arg("b").noconvert(), nb::arg("out").noconvert());
    module.def("rotate", bind_rotate, nb::arg("isa"), nb::arg("values").noconvert(),
               nb::arg("cosine").noconvert(), nb::arg("sine").noconvert(), nb::arg("adjacent"),
               nb::arg("out").noconvert(), nb::arg("measured") = false);
    module.def("attend", bind_attend, nb::arg("isa"), nb::arg("queries").noconvert(),
               nb::arg("tokens"), nb::arg("keys").noconvert(), nb::arg("values").noconvert(), nb::arg("window"),
               nb::arg("out").noconvert(), nb::arg("in_float32") = false);
}

nb::ndarray<nb::numpy, float> empty(const std::vector<size_t>& shape) {
    size_t count = 1;
    for (size_t side : shape) {
        require(side < static_cast<size_t>(MAX_SIDE), "an axis out of range");
        require(side == 0 || count <= (size_t{1} << 60) / side, "too many values");
        count *= side;
    }
    void* block = take_block(count * sizeof(float));
    nb::capsule owner(block, [](void* memory) noexcept { give_block(memory); });
    return nb::ndarray<nb::numpy, float>(block, shape.size(), shape.data(), owner);
}

std::vector<std::string> isa_names() {
    std::vector<std::string> names;
    for (int index = 0; index < num_isas(); index++) names.emplace_back(isa_at(index)->name);
    return names;
}

const char* amx_state_name() {
    switch (amx_state()) {
        case Amx::READY: return "ready";
        case Amx::REFUSED: return "refused";
        case Amx::DIFFERENT: return "different";
        default: return "absent";
    }
}

bool bind_self_test(const std::string& isa_name, int fault) {
    const Isa& isa = isa_named(isa_name);
    return passes_self_test(*isa.bf16, isa.multiply_groups, fault);
}

}  // namespace

}  // namespace cotejar

NB_MODULE(_compiled, module) {
    using namespace cotejar;
    module.def("isa_names", isa_names);
    module.def("set_num_threads", set_num_threads, nb::arg("num_threads"));
    module.def("num_threads", num_threads);
    module.def("empty", empty, nb::arg("shape"));
    bind_product<multiply_q8>(module, "multiply_q8");
    bind_product<multiply_w8a8>(module, "multiply_w8a8");
    bind_product<multiply_f32>(module, "multiply_f32");
    bind_product<multiply_bf16>(module, "multiply_bf16");
    module.def("amx_state", amx_state_name);
    module.def("passes_self_test", bind_self_test, nb::arg("isa"), nb::arg("fault"));
    bind_operations(module);
    bind_decoder(module);
    bind_layer_products(module);
}
