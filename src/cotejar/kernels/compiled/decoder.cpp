#include "decoder.h"

#include <algorithm>
#include <cstring>

#include "sequence_operations.h"
#include "thread_pool.h"
#include "vector_product.h"

namespace cotejar {

namespace {

thread_local Scratch decode_scratch;

// What a member takes at once: enough that taking costs nothing, little enough that the
// members end together.
constexpr int64_t RUN_BYTES = 32 << 10;

// What all members share.
struct Shared {
    float *q, *k, *v, *context, *inner, *products;
};

// What each has of its own.
struct Own {
    float *values, *gate;
    VectorToken tokens[3];
    void* attention;
};

struct Run {
    const Decoder& decoder;
    const CacheLayer* cache;
    int64_t row;
    const float *cosine, *sine;
    float *hidden, *logits;
    Shared shared;
    Own* owns;

    void carve(Carver& carver, int members);
    void work(Team& team, int member) const;

  private:
    void layer(Team& team, int member, int64_t index) const;
    void qkv(Team& team, int member, const DecoderLayer& layer) const;
    void turn(const DecoderLayer& layer, int64_t index, Range heads) const;
    void attention(Team& team, int member, int64_t index) const;
    void swiglu(Team& team, int member, const DecoderLayer& layer) const;
    void add_product(Team& team, int member, const Linear& linear, const float* inputs) const;
};

int64_t run_of(const Weight& weight) {
    return std::max<int64_t>(1, RUN_BYTES / (ROWS * weight.row_bytes()));
}

// Rows of the strips `range`, the bias added.
void multiply_strips(const Isa& isa, const Linear& linear, const VectorToken& token, Range range,
                     float* product) {
    const int64_t begin = range.begin * ROWS;
    const int64_t end = std::min(range.end * ROWS, linear.weight.rows);
    vector_kernel_of(isa, linear.weight)(linear.weight, token, begin, end, product);
    if (linear.bias != nullptr)
        for (int64_t row = begin; row < end; row++) product[row] += linear.bias[row];
}

// --- memory -----------------------------------------------------------------------------

void Run::carve(Carver& carver, int members) {
    const size_t q_size = static_cast<size_t>(decoder.heads * decoder.head_size);
    const size_t k_size = static_cast<size_t>(decoder.kv_heads * decoder.head_size);
    const size_t width = static_cast<size_t>(decoder.hidden_size());
    const size_t ffn = static_cast<size_t>(decoder.ffn_size());
    const size_t widest = std::max({q_size, width, ffn});
    shared = {carver.take<float>(q_size), carver.take<float>(k_size), carver.take<float>(k_size),
              carver.take<float>(q_size), carver.take<float>(ffn),    carver.take<float>(width)};
    owns = carver.take<Own>(static_cast<size_t>(members));
    for (int member = 0; member < members; member++) {
        Own own;
        own.values = carver.take<float>(width);
        own.gate = carver.take<float>(ffn);
        own.tokens[0] = carve_vector(carver, static_cast<int64_t>(widest));
        own.tokens[1] = carve_vector(carver, static_cast<int64_t>(width));
        own.tokens[2] = carve_vector(carver, static_cast<int64_t>(width));
        own.attention =
            carver.take<char>(attention_bytes(decoder.head_size, row + 1));
        if (owns != nullptr) owns[member] = own;
    }
}

// --- the layer, top to bottom -----------------------------------------------------------

void Run::work(Team& team, int member) const {
    for (size_t index = 0; index < decoder.layers.size(); index++)
        layer(team, member, static_cast<int64_t>(index));
    const Isa& isa = *decoder.isa;
    const Own& own = owns[member];
    const Linear& head = decoder.lm_head;
    isa.operations->rms_norm(hidden, decoder.final_norm, decoder.hidden_size(), decoder.eps,
                             own.values);
    round_vector(isa, head.weight, own.values, own.tokens[0]);
    team.each(member, strips_of(head.weight), run_of(head.weight), [&](Range range) {
        multiply_strips(isa, head, own.tokens[0], range, logits);
    });
}

void Run::layer(Team& team, int member, int64_t index) const {
    const DecoderLayer& layer = decoder.layers[static_cast<size_t>(index)];
    qkv(team, member, layer);
    team.each(member, decoder.heads + 2 * decoder.kv_heads, decoder.heads,
              [&](Range heads) { turn(layer, index, heads); });
    attention(team, member, index);
    add_product(team, member, layer.o, shared.context);
    swiglu(team, member, layer);
    add_product(team, member, layer.down, shared.inner);
}

// The norm and the rounding are done by every member: that is faster than to wait for one.
void Run::qkv(Team& team, int member, const DecoderLayer& layer) const {
    const Isa& isa = *decoder.isa;
    const Own& own = owns[member];
    isa.operations->rms_norm(hidden, layer.attn_norm, decoder.hidden_size(), decoder.eps,
                             own.values);
    const Linear* const linears[3] = {&layer.q, &layer.k, &layer.v};
    float* const products[3] = {shared.q, shared.k, shared.v};
    int token_of[3] = {0, 1, 2};
    int64_t ends[3], units = 0;
    for (int i = 0; i < 3; i++) {
        for (int j = i - 1; j >= 0; j--)
            if (same_rounding(linears[i]->weight, linears[j]->weight)) token_of[i] = token_of[j];
        if (token_of[i] == i) round_vector(isa, linears[i]->weight, own.values, own.tokens[i]);
        ends[i] = units += strips_of(linears[i]->weight);
    }
    team.each(member, units, run_of(layer.q.weight), [&](Range range) {
        for (int i = 0; i < 3; i++) {
            const int64_t start = i == 0 ? 0 : ends[i - 1];
            const Range mine{std::max(range.begin, start) - start,
                             std::min(range.end, ends[i]) - start};
            if (mine.begin < mine.end)
                multiply_strips(isa, *linears[i], own.tokens[token_of[i]], mine, products[i]);
        }
    });
}

// Queries are turned where they are; keys and values go to the cache. Heads are counted
// through: those of q, of k, of v.
void Run::turn(const DecoderLayer& layer, int64_t index, Range heads) const {
    const Operations& operations = *decoder.isa->operations;
    const int64_t size = decoder.head_size;
    float* const keys = cache[index].keys + row * decoder.kv_heads * size;
    float* const cached_values = cache[index].values + row * decoder.kv_heads * size;
    const int64_t second = decoder.adjacent ? 1 : decoder.pairs, step = decoder.adjacent ? 2 : 1;
    for (int64_t head = heads.begin; head < heads.end; head++) {
        const int64_t k_head = head - decoder.heads, v_head = k_head - decoder.kv_heads;
        if (v_head >= 0) {
            std::memcpy(cached_values + v_head * size, shared.v + v_head * size,
                        static_cast<size_t>(size) * sizeof(float));
            continue;
        }
        float* values = k_head < 0 ? shared.q + head * size : shared.k + k_head * size;
        float* turned = k_head < 0 ? values : keys + k_head * size;
        const float* norm = k_head < 0 ? layer.q_norm : layer.k_norm;
        if (norm != nullptr) operations.rms_norm(values, norm, size, decoder.eps, values);
        if (turned != values)
            std::memcpy(turned, values, static_cast<size_t>(size) * sizeof(float));
        operations.rotate(values, cosine, sine, decoder.pairs, 0, second, step, turned);
    }
}

void Run::attention(Team& team, int member, int64_t index) const {
    const Attention all{1,
                        row + 1,
                        decoder.heads,
                        decoder.kv_heads,
                        decoder.head_size,
                        decoder.window,
                        shared.q,
                        cache[index].keys,
                        cache[index].values};
    // Two parts of each key/value head's queries, where the heads alone are no even work.
    const int64_t group = decoder.heads / decoder.kv_heads;
    const bool even = decoder.kv_heads % team.size() == 0;
    const int64_t rows = std::min<int64_t>(MAX_QUERIES, even ? group : (group + 1) / 2);
    const int64_t pieces = (group + rows - 1) / rows;
    team.each(member, decoder.kv_heads * pieces, 1, [&](Range range) {
        for (int64_t unit = range.begin; unit < range.end; unit++) {
            const int64_t first = unit % pieces * rows;
            attend_rows(*decoder.isa, all, unit / pieces, first, std::min(rows, group - first),
                        owns[member].attention, shared.context);
        }
    });
}

void Run::swiglu(Team& team, int member, const DecoderLayer& layer) const {
    const Isa& isa = *decoder.isa;
    const Own& own = owns[member];
    isa.operations->rms_norm(hidden, layer.ffn_norm, decoder.hidden_size(), decoder.eps,
                             own.values);
    round_vector(isa, layer.gate.weight, own.values, own.tokens[0]);
    const bool same = same_rounding(layer.gate.weight, layer.up.weight);
    if (!same) round_vector(isa, layer.up.weight, own.values, own.tokens[1]);
    team.each(member, strips_of(layer.up.weight), run_of(layer.up.weight), [&](Range range) {
        multiply_strips(isa, layer.gate, own.tokens[0], range, own.gate);
        multiply_strips(isa, layer.up, own.tokens[same ? 0 : 1], range, shared.inner);
        const int64_t begin = range.begin * ROWS;
        const int64_t count = std::min(range.end * ROWS, layer.up.weight.rows) - begin;
        isa.operations->silu(own.gate + begin, count, own.gate + begin);
        isa.operations->multiply(own.gate + begin, shared.inner + begin, count,
                                 shared.inner + begin);
    });
}

void Run::add_product(Team& team, int member, const Linear& linear, const float* inputs) const {
    const Isa& isa = *decoder.isa;
    const VectorToken& token = owns[member].tokens[0];
    round_vector(isa, linear.weight, inputs, token);
    team.each(member, strips_of(linear.weight), run_of(linear.weight), [&](Range range) {
        multiply_strips(isa, linear, token, range, shared.products);
        const int64_t end = std::min(range.end * ROWS, linear.weight.rows);
        for (int64_t row = range.begin * ROWS; row < end; row++)
            hidden[row] += shared.products[row];
    });
}

}  // namespace

void decode(const Decoder& decoder, const CacheLayer* cache, int64_t row, const float* cosine,
            const float* sine, float* hidden, float* logits) {
    Run run{decoder, cache, row, cosine, sine, hidden, logits, {}, nullptr};
    const int members = num_threads();
    Carver counter(nullptr);
    run.carve(counter, members);
    Carver carver(decode_scratch.get(counter.used()));
    run.carve(carver, members);
    const TeamWork work = [](void* context, Team& team, int member) {
        static_cast<const Run*>(context)->work(team, member);
    };
    run_team(work, &run, members);
}

}  // namespace cotejar
