// One token more in each of some contexts, through all layers of a decoder, in one piece of
// work for all threads.
//
// The same operations as engines/native/forward.py, with the same bits; no context's depend on
// the others. What it saves is the time between them: in decoding the memory is the limit, and
// must not stand still.
#pragma once

#include <vector>

#include "cache_rows.h"
#include "decoder_products.h"

namespace cotejar {

struct DecoderLayer {
    const float *attn_norm, *ffn_norm;
    const float *q_norm, *k_norm;  // of each head; null: none
    Linear q, k, v, o, gate, up, down;
};

struct Decoder {
    const Isa* isa;
    int64_t heads, kv_heads, head_size;
    int64_t pairs;  // that RoPE turns
    bool adjacent;
    int64_t window;  // 0: none
    double eps;
    std::vector<DecoderLayer> layers;
    Weight embedding;
    const float* final_norm;
    Linear lm_head;

    int64_t hidden_size() const { return lm_head.weight.columns; }
    int64_t ffn_size() const { return layers[0].down.weight.columns; }
    int64_t q_size() const { return heads * head_size; }
    int64_t k_size() const { return kv_heads * head_size; }
};

// The token's key and value become row `row` of every layer's cache, which holds what the
// token sees before it.
struct Context {
    int64_t token_id;
    const CacheLayer* layers;
    int64_t row;
    const float *cosine, *sine;  // of its position
};

// `logits` get a row each. All caches are of one type. With `moments`, for one context alone: those of every site, see
// StepMoments. Throws std::bad_alloc before anything is written.
void decode(const Decoder& decoder, const std::vector<Context>& contexts, int cache_type,
            float* logits, Moments* moments);

}  // namespace cotejar
