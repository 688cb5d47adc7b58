// The decoder as Python sees it: built once, then one call a step.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "binding.h"
#include "bound_linear.h"
#include "decoder_moments.h"
#include "vector_product.h"

namespace cotejar {

namespace {

using OutBytes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class Array>
bool has_shape(const Array& array, size_t rows, int64_t columns) {
    return array.shape(0) == rows && static_cast<int64_t>(array.shape(1)) == columns;
}

void require_size(const Vector& vector, int64_t size) {
    require(static_cast<int64_t>(vector.shape(0)) == size, "a norm of another size");
}

// All layers' keys and values as their cache stores them, and what keeps them alive.
struct BoundCache {
    int block_type;
    int64_t width, capacity = 0;
    std::vector<OutBytes> rows;
    std::vector<CacheLayer> layers;

    BoundCache(int type, int64_t of_row, const std::vector<OutBytes>& keys,
               const std::vector<OutBytes>& values)
        : block_type(type), width(of_row), rows(keys) {
        require(is_cache_type(type), "a block type that no cache has");
        require(width >= 1 && width < MAX_SIDE && width % find_type(type)->elements == 0,
                "a row is no whole number of blocks");
        require(!keys.empty() && keys.size() == values.size(), "keys without values");
        rows.insert(rows.end(), values.begin(), values.end());
        capacity = static_cast<int64_t>(rows[0].shape(0));
        const int64_t row_bytes = cache_rows(type, nullptr, 1, width).row_bytes();
        for (const OutBytes& part : rows)
            require(has_shape(part, rows[0].shape(0), row_bytes) &&
                        reinterpret_cast<uintptr_t>(part.data()) % alignof(float) == 0,
                    "the layers of a cache differ, or its rows have another size");
        for (size_t layer = 0; layer < keys.size(); layer++)
            layers.push_back({keys[layer].data(), values[layer].data()});
    }
};

bool are_distinct(std::vector<const BoundCache*> caches) {
    std::sort(caches.begin(), caches.end());
    return std::adjacent_find(caches.begin(), caches.end()) == caches.end();
}

class BoundDecoder {
  public:
    BoundDecoder(const std::string& isa, int64_t heads, int64_t kv_heads, int64_t head_size,
                 int64_t pairs, bool adjacent, int64_t window, double eps,
                 const BoundLinear& embedding, const Vector& final_norm,
                 const BoundLinear& lm_head) {
        const int64_t most = int64_t{1} << 20;
        require(kv_heads >= 1 && heads >= kv_heads && heads < most && heads % kv_heads == 0,
                "the query heads are no multiple of the key heads");
        require(head_size >= 1 && head_size < most, "a head size out of range");
        require(pairs >= 0 && pairs <= head_size / 2, "more pairs than a head has");
        require(window >= 0, "a negative window");
        decoder_ = {&isa_named(isa),
                    heads,
                    kv_heads,
                    head_size,
                    pairs,
                    adjacent,
                    window,
                    eps,
                    {},
                    embedding.linear.weight,
                    final_norm.data(),
                    lm_head.linear};
        keep(lm_head);
        raws_.push_back(embedding.raw);
        require(decoder_.embedding.columns == decoder_.hidden_size(),
                "an embedding of another width than the decoder");
        vectors_.push_back(final_norm);
        require_size(final_norm, decoder_.hidden_size());
    }

    void add_layer(const Vector& attn_norm, const Vector& ffn_norm, const OptionalVector& q_norm,
                   const OptionalVector& k_norm, const BoundLinear& q, const BoundLinear& k,
                   const BoundLinear& v, const BoundLinear& o, const BoundLinear& gate,
                   const BoundLinear& up, const BoundLinear& down) {
        const int64_t width = decoder_.hidden_size(), size = decoder_.head_size;
        const int64_t ffn = down.linear.weight.columns;
        require(decoder_.layers.empty() || ffn == decoder_.ffn_size(),
                "layers differ in size");
        check(q, decoder_.heads * size, width);
        check(k, decoder_.kv_heads * size, width);
        check(v, decoder_.kv_heads * size, width);
        check(o, width, decoder_.heads * size);
        check(gate, ffn, width);
        check(up, ffn, width);
        check(down, width, ffn);
        for (const Vector* norm : {&attn_norm, &ffn_norm}) require_size(*norm, width);
        for (const OptionalVector* norm : {&q_norm, &k_norm})
            if (*norm) require_size(**norm, size);
        for (const BoundLinear* one : {&q, &k, &v, &o, &gate, &up, &down}) keep(*one);
        for (const OptionalVector& norm :
             {OptionalVector(attn_norm), OptionalVector(ffn_norm), q_norm, k_norm})
            if (norm) vectors_.push_back(*norm);
        decoder_.layers.push_back({attn_norm.data(), ffn_norm.data(),
                                   q_norm ? q_norm->data() : nullptr,
                                   k_norm ? k_norm->data() : nullptr, q.linear, k.linear,
                                   v.linear, o.linear, gate.linear, up.linear, down.linear});
    }

    // One token more of each cache's context; see decoder.h. The moments of a site are those of its row
    // alone, as they are in memory; kernels/moments.py reads them.
    nb::object step(const std::vector<int64_t>& token_ids, const Matrix& cosine,
                    const Matrix& sine, const std::vector<const BoundCache*>& caches,
                    const std::vector<int64_t>& rows, const OutMatrix& logits,
                    bool measured) const {
        const Decoder& all = decoder_;
        const size_t tokens = caches.size();
        require(!all.layers.empty(), "a decoder without layers");
        require(tokens >= 1 && rows.size() == tokens && token_ids.size() == tokens,
                "no caches, or another number of rows or tokens");
        for (const int64_t token_id : token_ids)
            require(token_id >= 0 && token_id < all.embedding.rows, "no such token");
        require(has_shape(logits, tokens, all.lm_head.weight.rows),
                "the logits have another size than the decoder's");
        require(has_shape(cosine, tokens, all.pairs) && has_shape(sine, tokens, all.pairs),
                "the tables do not fit the decoder");
        std::vector<Context> contexts;
        for (size_t token = 0; token < tokens; token++) {
            const BoundCache& cache = *caches[token];
            require(cache.layers.size() == all.layers.size(),
                    "the cache has another number of layers than the decoder");
            require(cache.width == all.k_size() && cache.block_type == caches[0]->block_type &&
                        rows[token] >= 0 && rows[token] < cache.capacity,
                    "the cache does not fit the decoder or has no room");
            const int64_t at = static_cast<int64_t>(token) * all.pairs;
            contexts.push_back({token_ids[token], cache.layers.data(), rows[token],
                                cosine.data() + at, sine.data() + at});
        }
        require(are_distinct(caches), "one cache for two tokens");
        require(!measured || tokens == 1, "moments of several tokens");
        std::vector<Moments> moments(
            measured ? static_cast<size_t>(StepMoments::count(all)) : 0);
        {
            nb::gil_scoped_release released;
            decode(all, contexts, caches[0]->block_type, logits.data(),
                   measured ? moments.data() : nullptr);
        }
        if (!measured) return nb::none();
        return nb::bytes(reinterpret_cast<const char*>(moments.data()),
                         moments.size() * sizeof(Moments));
    }

  private:
    void keep(const BoundLinear& linear) {
        require(!linear.linear.weight.is_grouped, "groups, which a decoder does not multiply");
        require(vector_kernel_of(*decoder_.isa, linear.linear.weight) != nullptr,
                "a block type that this instruction set has no kernel for");
        require(linear.linear.weight.columns % activation_block(linear.linear.weight) == 0,
                "a row is no whole number of blocks of activations");
        raws_.push_back(linear.raw);
        if (linear.bias) vectors_.push_back(*linear.bias);
    }

    static int64_t activation_block(const Weight& weight) {
        return weight.type->rounding == Rounding::Q8_K ? 256 : 32;
    }

    static void check(const BoundLinear& linear, int64_t rows, int64_t columns) {
        require(linear.linear.weight.rows == rows && linear.linear.weight.columns == columns,
                "a weight of another shape than the decoder's");
    }

    Decoder decoder_;
    std::vector<Bytes> raws_;
    std::vector<Vector> vectors_;
};

}  // namespace

void bind_decoder(nb::module_& module) {
    module.def("has_vector_kernel", [](const std::string& isa, int block_type) {
        return isa_named(isa).vector_kernel(block_type) != nullptr;
    });
    nb::class_<BoundLinear>(module, "Linear")
        .def(nb::init<int, const Bytes&, int64_t, int64_t, const OptionalVector&, bool>(),
             nb::arg("block_type"), nb::arg("raw").noconvert(), nb::arg("rows"),
             nb::arg("columns"), nb::arg("bias").noconvert().none(), nb::arg("grouped") = false);
    nb::class_<BoundCache>(module, "Cache")
        .def(nb::init<int, int64_t, const std::vector<OutBytes>&, const std::vector<OutBytes>&>(),
             nb::arg("block_type"), nb::arg("width"), nb::arg("keys").noconvert(),
             nb::arg("values").noconvert());
    nb::class_<BoundDecoder>(module, "Decoder")
        .def(nb::init<const std::string&, int64_t, int64_t, int64_t, int64_t, bool, int64_t,
                      double, const BoundLinear&, const Vector&, const BoundLinear&>(),
             nb::arg("isa"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_size"),
             nb::arg("pairs"), nb::arg("adjacent"), nb::arg("window"), nb::arg("eps"),
             nb::arg("embedding"), nb::arg("final_norm").noconvert(), nb::arg("lm_head"))
        .def("add_layer", &BoundDecoder::add_layer, nb::arg("attn_norm").noconvert(),
             nb::arg("ffn_norm").noconvert(), nb::arg("q_norm").noconvert().none(),
             nb::arg("k_norm").noconvert().none(), nb::arg("q"), nb::arg("k"), nb::arg("v"),
             nb::arg("o"), nb::arg("gate"), nb::arg("up"), nb::arg("down"))
        .def("step", &BoundDecoder::step, nb::arg("token_ids"), nb::arg("cosine").noconvert(), nb::arg("sine").noconvert(), nb::arg("caches"),
             nb::arg("rows"), nb::arg("logits").noconvert(), nb::arg("measured") = false);
}

}  // namespace cotejar
