// One token through all layers of a decoder, in one piece of work for all threads.
//
// The same operations as engines/native/forward.py, with the same bits. What it saves is the
// time between them: in decoding the memory is the limit, and must not stand still.
#pragma once

#include <vector>

#include "isa.h"

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
    const float* final_norm;
    Linear lm_head;

    int64_t hidden_size() const { return lm_head.weight.columns; }
    int64_t ffn_size() const { return layers[0].down.weight.columns; }
};

// Keys and values of one layer: rows of kv_heads x head_size.
struct CacheLayer {
    float *keys, *values;
};

// `hidden` is the token's embedding and is written over; its key and value become row `row`
// of every layer's cache, which holds what the token sees before it. Throws std::bad_alloc
// before anything is written.
void decode(const Decoder& decoder, const CacheLayer* cache, int64_t row, const float* cosine,
            const float* sine, float* hidden, float* logits);

}  // namespace cotejar
