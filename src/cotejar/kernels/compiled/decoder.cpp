#include "decoder.h"

#include <algorithm>
#include <cstring>

#include "decoder_moments.h"
#include "sequence_operations.h"
#include "unpack.h"

namespace cotejar {

namespace {

thread_local Scratch decode_scratch;

// What a member takes at once: enough that taking costs nothing, little enough that the
// members end together.
constexpr int64_t RUN_BYTES = 32 << 10;

// What all members share: rows of all tokens, one after the other. Where nothing is measured,
// what comes of q, k, gate and up takes their place.
struct Shared {
    float *hidden, *q, *k, *v, *q_rope, *k_rope, *context, *gate, *activated, *up, *inner, *products;
    float *keys, *values;  // of all contexts, as attention reads them; see `loaded_at`
};

// What each has of its own.
struct Own {
    float* values;
    void* attention;
    Span* spans;
    Aside* aside;
};

struct Run {
    const Decoder& decoder;
    const std::vector<Context>& contexts;
    const int cache_type;
    float* logits;
    Operands operands;
    StepMoments* moments;  // null: nothing is measured
    Shared shared{};
    Own* owns = nullptr;
    int64_t* loaded_at = nullptr;  // each context's first row in shared.keys, if it is loaded
    int64_t loaded_rows = 0;

    Operands::Sizes sizes() const;
    void carve(Carver& carver, int members, const Operands::Sizes& sizes);
    void embed() const;
    void work(Team& team, int member) const;

  private:
    int64_t num_tokens() const { return static_cast<int64_t>(contexts.size()); }
    bool reads_in_place() const { return cache_type == F32; }
    int64_t first_seen(const Context& context) const {
        return decoder.window ? std::max<int64_t>(0, context.row - decoder.window + 1) : 0;
    }
    void carve_loaded(Carver& carver);
    void measure(Team& team, int member, size_t index, LayerSite site, const float* values) const {
        if (moments != nullptr) moments->of_layer(team.size(), member, index, site, values);
    }
    void measure_before(Team& team, int member, size_t index) const;

    void layer(Team& team, int member, size_t index) const;
    void round_normed(Team& team, int member, const float* norm, const Weight* const* weights,
                      int count) const;
    void qkv(Team& team, int member, size_t index) const;
    void turn(Team& team, int member, size_t index) const;
    void turn_head(const DecoderLayer& layer, size_t index, int64_t token, int64_t head) const;
    void load_cache(Team& team, int member, size_t index) const;
    void load_strip(size_t index, int64_t strip, bool of_keys) const;
    void attention(Team& team, int member, size_t index) const;
    Attention attention_of(size_t index, int64_t token) const;
    void want_cache(Team& team, int member, size_t index) const;
    void measure_attention(Team& team, int member, size_t index) const;
    void swiglu(Team& team, int member, size_t index) const;
    void measure_swiglu(Team& team, int member, size_t index) const;
    void add_product(Team& team, int member, const Linear& linear, const float* inputs) const;
};

int64_t run_of(const Weight& weight) {
    return std::max<int64_t>(1, RUN_BYTES / (ROWS * weight.row_bytes()));
}

// --- memory -----------------------------------------------------------------------------

Operands::Sizes Run::sizes() const {
    Operands::Sizes sizes;
    sizes.count(*decoder.isa, decoder.lm_head.weight, num_tokens());
    for (const DecoderLayer& layer : decoder.layers)
        for (const Linear* linear : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate,
                                     &layer.up, &layer.down})
            sizes.count(*decoder.isa, linear->weight, num_tokens());
    return sizes;
}

void Run::carve(Carver& carver, int members, const Operands::Sizes& sizes) {
    const auto rows_of = [&](int64_t width) {
        return carver.take<float>(static_cast<size_t>(num_tokens() * width));
    };
    shared.hidden = rows_of(decoder.hidden_size());
    shared.q = rows_of(decoder.q_size());
    shared.k = rows_of(decoder.k_size());
    shared.v = rows_of(decoder.k_size());
    shared.context = rows_of(decoder.q_size());
    shared.gate = rows_of(decoder.ffn_size());
    shared.inner = rows_of(decoder.ffn_size());
    const bool measured = moments != nullptr;
    shared.q_rope = measured ? rows_of(decoder.q_size()) : shared.q;
    shared.k_rope = measured ? rows_of(decoder.k_size()) : shared.k;
    shared.activated = measured ? rows_of(decoder.ffn_size()) : shared.gate;
    shared.up = measured ? rows_of(decoder.ffn_size()) : shared.inner;
    if (measured) moments->carve(carver);
    shared.products = rows_of(decoder.hidden_size());
    carve_loaded(carver);
    int64_t positions = 0;
    for (const Context& context : contexts) positions = std::max(positions, context.row + 1);
    operands.carve(carver, members, sizes);
    owns = carver.take<Own>(static_cast<size_t>(members));
    for (int member = 0; member < members; member++) {
        Own own;
        own.values = carver.take<float>(static_cast<size_t>(decoder.hidden_size()));
        own.attention = carver.take<char>(attention_bytes(decoder.head_size, positions));
        own.spans = carver.take<Span>(2 * contexts.size());
        own.aside = carver.take<Aside>(1);
        if (owns != nullptr) owns[member] = own;
    }
}

void Run::carve_loaded(Carver& carver) {
    if (reads_in_place()) return;
    loaded_at = carver.take<int64_t>(contexts.size());
    loaded_rows = 0;
    for (size_t token = 0; token < contexts.size(); token++) {
        if (loaded_at != nullptr) loaded_at[token] = loaded_rows;
        loaded_rows += (contexts[token].row / ROWS + 1) * ROWS;
    }
    shared.keys = carver.take<float>(static_cast<size_t>(loaded_rows * decoder.k_size()));
    shared.values = carver.take<float>(static_cast<size_t>(loaded_rows * decoder.k_size()));
}

// --- the layer, top to bottom -----------------------------------------------------------

void Run::embed() const {
    const Weight& table = decoder.embedding;
    float* hidden = shared.hidden;
    for (const Context& context : contexts) {
        decode_row(table, table.blocks + context.token_id * table.row_bytes(), hidden);
        hidden += decoder.hidden_size();
    }
}

void Run::work(Team& team, int member) const {
    want_cache(team, member, 0);
    for (size_t index = 0; index < decoder.layers.size(); index++) layer(team, member, index);
    const Linear& head = decoder.lm_head;
    const Weight* const weights[] = {&head.weight};
    round_normed(team, member, decoder.final_norm, weights, 1);
    if (moments != nullptr) {
        measure_before(team, member, decoder.layers.size());
        moments->final_norm(team.size(), member, owns[member].values);
    }
    team.each(member, strips_of(head.weight), run_of(head.weight), [&](Range range) {
        operands.multiply(member, head, 0, range, logits);
    });
    if (moments != nullptr) moments->logits(team.size(), member, logits);
}

// What came out before layer `index`: the embedding, or the layer before.
void Run::measure_before(Team& team, int member, size_t index) const {
    if (moments == nullptr) return;
    if (index == 0) return moments->embed(team.size(), member, shared.hidden);
    measure(team, member, index - 1, LayerSite::FFN_OUT, shared.products);
    measure(team, member, index - 1, LayerSite::OUTPUT, shared.hidden);
}

void Run::layer(Team& team, int member, size_t index) const {
    const DecoderLayer& layer = decoder.layers[index];
    qkv(team, member, index);
    turn(team, member, index);
    if (!reads_in_place()) load_cache(team, member, index);
    attention(team, member, index);
    measure_attention(team, member, index);
    want_cache(team, member, index + 1);
    add_product(team, member, layer.o, shared.context);
    swiglu(team, member, index);
    measure_swiglu(team, member, index);
    add_product(team, member, layer.down, shared.inner);
}

void Run::round_normed(Team& team, int member, const float* norm, const Weight* const* weights,
                       int count) const {
    const int64_t width = decoder.hidden_size();
    float* const values = owns[member].values;
    operands.round(team, member, weights, count, [&](int64_t token) {
        decoder.isa->operations->rms_norm(shared.hidden + token * width, norm, width,
                                          decoder.eps, values);
        return values;
    });
}

void Run::qkv(Team& team, int member, size_t index) const {
    const DecoderLayer& layer = decoder.layers[index];
    const Linear* const linears[3] = {&layer.q, &layer.k, &layer.v};
    const Weight* const weights[3] = {&layer.q.weight, &layer.k.weight, &layer.v.weight};
    float* const products[3] = {shared.q, shared.k, shared.v};
    round_normed(team, member, layer.attn_norm, weights, 3);
    measure_before(team, member, index);
    measure(team, member, index, LayerSite::ATTN_NORM, owns[member].values);
    int64_t ends[3], units = 0;
    for (int i = 0; i < 3; i++) ends[i] = units += strips_of(*weights[i]);
    team.each(member, units, run_of(layer.q.weight), [&](Range range) {
        for (int i = 0; i < 3; i++) {
            const int64_t start = i == 0 ? 0 : ends[i - 1];
            const Range mine{std::max(range.begin, start) - start,
                             std::min(range.end, ends[i]) - start};
            if (mine.begin < mine.end)
                operands.multiply(member, *linears[i], operands.form_of(weights, i), mine,
                                  products[i], owns[member].aside);
        }
    });
}

// Heads of all tokens are counted through: those of q, of k, of v.
void Run::turn(Team& team, int member, size_t index) const {
    const int64_t heads = decoder.heads + 2 * decoder.kv_heads;
    team.each(member, num_tokens() * heads, decoder.heads, [&](Range range) {
        for (int64_t unit = range.begin; unit < range.end; unit++)
            turn_head(decoder.layers[index], index, unit / heads, unit % heads);
    });
}

// Keys and values go to the cache if it stores float32.
void Run::turn_head(const DecoderLayer& layer, size_t index, int64_t token,
                    int64_t head) const {
    const Operations& operations = *decoder.isa->operations;
    const Context& context = contexts[static_cast<size_t>(token)];
    const int64_t size = decoder.head_size, at = token * decoder.k_size();
    const int64_t k_head = head - decoder.heads, v_head = k_head - decoder.kv_heads;
    const size_t bytes = static_cast<size_t>(size) * sizeof(float);
    const auto cached = [&](uint8_t* rows, int64_t of_head) {
        return reinterpret_cast<float*>(rows) + context.row * decoder.k_size() + of_head * size;
    };
    if (v_head >= 0) {
        if (reads_in_place())
            std::memcpy(cached(context.layers[index].values, v_head),
                        shared.v + at + v_head * size, bytes);
        return;
    }
    const bool is_key = k_head >= 0;
    const int64_t first = is_key ? at + k_head * size : token * decoder.q_size() + head * size;
    const float* const values = (is_key ? shared.k : shared.q) + first;
    float* const turned = (is_key ? shared.k_rope : shared.q_rope) + first;
    const float* norm = is_key ? layer.k_norm : layer.q_norm;
    if (norm != nullptr)
        operations.rms_norm(values, norm, size, decoder.eps, turned);
    else if (turned != values)
        std::memcpy(turned, values, bytes);
    const int64_t second = decoder.adjacent ? 1 : decoder.pairs, step = decoder.adjacent ? 2 : 1;
    operations.rotate(turned, context.cosine, context.sine, decoder.pairs, 0, second, step,
                      turned);
    if (is_key && reads_in_place())
        std::memcpy(cached(context.layers[index].keys, k_head), turned, bytes);
}

// The new rows are stored, and all that are seen are read: the new ones too as they are stored.
void Run::load_cache(Team& team, int member, size_t index) const {
    team.each(member, 2 * loaded_rows / ROWS, 1, [&](Range range) {
        for (int64_t unit = range.begin; unit < range.end; unit++)
            load_strip(index, unit / 2, unit % 2 == 0);
    });
}

void Run::load_strip(size_t index, int64_t strip, bool of_keys) const {
    size_t token = contexts.size() - 1;
    while (loaded_at[token] > strip * ROWS) token--;
    const Context& context = contexts[token];
    const int64_t width = decoder.k_size(), first = strip * ROWS - loaded_at[token];
    if (first + ROWS <= first_seen(context)) return;
    const CacheLayer& layer = context.layers[index];
    uint8_t* const stored = of_keys ? layer.keys : layer.values;
    const Weight rows = cache_rows(cache_type, stored, context.row + 1, width);
    const int64_t at = static_cast<int64_t>(token) * width;
    const float* const fresh = (of_keys ? shared.k_rope : shared.v) + at;
    if (context.row < first + ROWS)
        store_row(*decoder.isa, cache_type, fresh, width, stored + context.row * rows.row_bytes());
    load_rows(*decoder.isa, rows, first,
              (of_keys ? shared.keys : shared.values) + strip * ROWS * width);
}

Attention Run::attention_of(size_t index, int64_t token) const {
    const size_t at = static_cast<size_t>(token);
    const CacheLayer& cache = contexts[at].layers[index];
    const float *keys = reinterpret_cast<const float*>(cache.keys),
                *values = reinterpret_cast<const float*>(cache.values);
    if (!reads_in_place()) {
        keys = shared.keys + loaded_at[at] * decoder.k_size();
        values = shared.values + loaded_at[at] * decoder.k_size();
    }
    return {1,
            contexts[at].row + 1,
            decoder.heads,
            decoder.kv_heads,
            decoder.head_size,
            decoder.window,
            shared.q_rope + token * decoder.q_size(),
            keys,
            values};
}

void Run::attention(Team& team, int member, size_t index) const {
    // Two parts of each key/value head's queries, where the heads alone are no even work.
    const int64_t group = decoder.heads / decoder.kv_heads;
    const int64_t heads = num_tokens() * decoder.kv_heads;
    const bool even = heads % team.size() == 0 || heads > 4 * team.size();
    const int64_t rows = std::min<int64_t>(MAX_QUERIES, even ? group : (group + 1) / 2);
    const int64_t pieces = (group + rows - 1) / rows;
    team.each(member, heads * pieces, 1, [&](Range range) {
        for (int64_t unit = range.begin; unit < range.end; unit++) {
            const int64_t first = unit % pieces * rows, head = unit / pieces;
            const int64_t token = head / decoder.kv_heads;
            attend_rows(*decoder.isa, attention_of(index, token), head % decoder.kv_heads, first,
                        std::min(rows, group - first), owns[member].attention,
                        shared.context + token * decoder.q_size());
        }
    });
}

// What this member's attention in layer `index` will read.
void Run::want_cache(Team& team, int member, size_t index) const {
    const Own& own = owns[member];
    *own.aside = Aside();
    if (index == decoder.layers.size() || num_tokens() == 1) return;
    const Range mine = range_of_part(num_tokens(), member, team.size());
    Span* span = own.spans;
    for (int64_t token = mine.begin; token < mine.end; token++) {
        const Context& context = contexts[static_cast<size_t>(token)];
        const CacheLayer& layer = context.layers[index];
        for (uint8_t* const stored : {layer.keys, layer.values}) {
            const int64_t row_bytes =
                cache_rows(cache_type, stored, context.row + 1, decoder.k_size()).row_bytes();
            *span++ = {stored + first_seen(context) * row_bytes,
                       stored + (context.row + 1) * row_bytes};
        }
    }
    own.aside->next = own.spans;
    own.aside->past = span;
}

void Run::measure_attention(Team& team, int member, size_t index) const {
    measure(team, member, index, LayerSite::Q, shared.q);
    measure(team, member, index, LayerSite::K, shared.k);
    measure(team, member, index, LayerSite::V, shared.v);
    measure(team, member, index, LayerSite::Q_ROPE, shared.q_rope);
    measure(team, member, index, LayerSite::K_ROPE, shared.k_rope);
    measure(team, member, index, LayerSite::ATTN_CONTEXT, shared.context);
}

void Run::swiglu(Team& team, int member, size_t index) const {
    const DecoderLayer& layer = decoder.layers[index];
    const Operations& operations = *decoder.isa->operations;
    const Weight* const weights[2] = {&layer.gate.weight, &layer.up.weight};
    round_normed(team, member, layer.ffn_norm, weights, 2);
    measure(team, member, index, LayerSite::ATTN_OUT, shared.products);
    measure(team, member, index, LayerSite::ATTN_RESIDUAL, shared.hidden);
    measure(team, member, index, LayerSite::FFN_NORM, owns[member].values);
    const int64_t ffn = decoder.ffn_size();
    team.each(member, strips_of(layer.up.weight), run_of(layer.up.weight), [&](Range range) {
        operands.multiply(member, layer.gate, 0, range, shared.gate, owns[member].aside);
        operands.multiply(member, layer.up, operands.form_of(weights, 1), range, shared.up,
                          owns[member].aside);
        const int64_t begin = range.begin * ROWS, count = std::min(range.end * ROWS, ffn) - begin;
        for (int64_t token = 0; token < num_tokens(); token++) {
            const int64_t at = token * ffn + begin;
            operations.silu(shared.gate + at, count, shared.activated + at);
            operations.multiply(shared.activated + at, shared.up + at, count, shared.inner + at);
        }
    });
}

void Run::measure_swiglu(Team& team, int member, size_t index) const {
    measure(team, member, index, LayerSite::FFN_GATE, shared.gate);
    measure(team, member, index, LayerSite::FFN_UP, shared.up);
    measure(team, member, index, LayerSite::FFN_SILU_GATE, shared.activated);
    measure(team, member, index, LayerSite::FFN_SWIGLU_INNER, shared.inner);
}

void Run::add_product(Team& team, int member, const Linear& linear, const float* inputs) const {
    const int64_t width = decoder.hidden_size();
    operands.round_all(team, member, linear.weight, inputs);
    team.each(member, strips_of(linear.weight), run_of(linear.weight), [&](Range range) {
        operands.multiply(member, linear, Operands::SHARED, range, shared.products,
                          owns[member].aside);
        const int64_t end = std::min(range.end * ROWS, width);
        for (int64_t token = 0; token < num_tokens(); token++)
            for (int64_t row = token * width + range.begin * ROWS; row < token * width + end; row++)
                shared.hidden[row] += shared.products[row];
    });
}

}  // namespace

void decode(const Decoder& decoder, const std::vector<Context>& contexts, int cache_type,
            float* logits, Moments* moments) {
    StepMoments step_moments(decoder);
    Run run{decoder,
            contexts,
            cache_type,
            logits,
            Operands(*decoder.isa, static_cast<int64_t>(contexts.size())),
            moments != nullptr ? &step_moments : nullptr};
    const int members = num_threads();
    const Operands::Sizes sizes = run.sizes();
    Carver counter(nullptr);
    run.carve(counter, members, sizes);
    Carver carver(decode_scratch.get(counter.used()));
    run.carve(carver, members, sizes);
    const TeamWork work = [](void* context, Team& team, int member) {
        static_cast<const Run*>(context)->work(team, member);
    };
    run.embed();
    run_team(work, &run, members);
    if (moments != nullptr) step_moments.merged(moments);
}

}  // namespace cotejar
