// The operations over a whole sequence, split over the threads.
#pragma once

#include <vector>

#include "isa.h"

namespace cotejar {

void rms_norm(const Isa& isa, const float* values, const float* weight, int64_t rows,
              int64_t width, double eps, float* out);

void silu(const Isa& isa, const float* values, int64_t count, float* out);
void multiply_elements(const Isa& isa, const float* a, const float* b, int64_t count, float* out);

// silu(gate) * up in one pass.
void swiglu(const Isa& isa, const float* gate, const float* up, int64_t count, float* out);

void add(const Isa& isa, const float* a, const float* b, int64_t count, float* out);

struct Rotation {
    int64_t tokens, heads, head_size, pairs;
    bool adjacent;
    const float *cosine, *sine;  // tokens x pairs
    const float* values;
    float* out;
};

// Up to so many, queries and keys say, of the same tokens. With `moments`, those of what comes
// out of each, a row a token.
static constexpr int MOST_ROTATIONS = 2;
void rotate(const Isa& isa, const Rotation* rotations, int count, BothMoments* moments);

struct Attention {
    int64_t tokens;  // the last of `positions`
    int64_t positions;
    int64_t heads, kv_heads, head_size;
    int64_t window;  // 0: none
    const float *queries, *keys, *values;
    bool in_float32 = false;  // with fused multiply-adds; else scores are in float64
};

// Each attention to its own context; all of them share the threads.
void attend(const Isa& isa, const std::vector<Attention>& all, const std::vector<float*>& contexts);

// A piece of it, for callers with threads and memory of their own: up to MAX_QUERIES of the
// queries that share a key/value head. Query `row` is token row / group, head
// kv_head * group + row % group. `scratch` holds attention_bytes.
static constexpr int64_t MAX_QUERIES = 16;
size_t attention_bytes(int64_t head_size, int64_t positions);
void attend_rows(const Isa& isa, const Attention& attention, int64_t kv_head, int64_t first_row,
                 int64_t num_rows, void* scratch, float* context);

}  // namespace cotejar
