// Attention of one token in float32 with fused multiply-adds: positions in lanes, N queries
// that see the same, as in one_token_kernels.h. Included once by each isa_*.cpp and compiled
// with its flags; everything here has internal linkage (see isa.h).
#pragma once

#include "fused_attention_kernels.h"
#include "one_token_kernels.h"

namespace cotejar {
namespace {

constexpr int FEW_QUERIES = 7;  // of more, queries in lanes are as fast

// Registers of values that are mixed at once for up to four queries.
#if defined(__AVX512F__)
constexpr int VALUES_OF_FEW = 4;
#else
constexpr int VALUES_OF_FEW = 2;
#endif

// Scores of the queries, each one's together, and each one's greatest if none is NaN.
template <int N>
inline void score_token(const AttentionTile& tile, float* greatest) {
    static_assert(POSITIONS_AT_ONCE == WIDTH, "positions fill a register");
    const int64_t size = tile.head_size, stride = query_stride(tile);
    const ScoreScale scale(size);
    fetch_pages(tile);
    for (int64_t p = tile.first[0]; p < tile.first[0] + 16; p++) fetch_row(tile, tile.keys, p);
    float* const queries = reinterpret_cast<float*>(tile.wide);  // [e][N]
    float* const keys = queries + LANES * size;
    for (int64_t e = 0; e < size; e++)
        for (int q = 0; q < N; q++) queries[N * e + q] = tile.query[q][e];
    Register most[N];
    for (int q = 0; q < N; q++) most[q] = Register{} - __builtin_inff();
    for (int64_t p = tile.first[0]; p <= tile.last[0]; p += WIDTH) {
        fetch_rows(tile, p);
        stand_side_by_side(tile, p, keys);
        Register sums[N];
#pragma GCC unroll 8
        for (int q = 0; q < N; q++) sums[q] = Register{};
        for (int64_t e = 0; e < size; e++) {
            const Register key = load_register(keys + WIDTH * e);
#pragma GCC unroll 8
            for (int q = 0; q < N; q++) sums[q] = fused(key, queries[N * e + q], sums[q]);
        }
#pragma GCC unroll 8
        for (int q = 0; q < N; q++) {
            const Register score = scale.of(sums[q]);
            most[q] = greater_of(score, most[q]);  // past the last, that one once more
            store_register(tile.weights + q * stride + (p - tile.first[0]), score);
        }
    }
    for (int q = 0; q < N; q++) {
        greatest[q] = most[q][0];
        for (int lane = 1; lane < WIDTH; lane++)
            greatest[q] = most[q][lane] > greatest[q] ? most[q][lane] : greatest[q];
    }
}

template <int N, int V>
inline void mix_token(const AttentionTile& tile, int64_t e, const float* sums) {
    const int64_t stride = query_stride(tile), count = tile.last[0] - tile.first[0] + 1;
    const float* value = tile.values + tile.first[0] * tile.stride + e;
    Register mixed[N][V];
#pragma GCC unroll 8
    for (int q = 0; q < N; q++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) mixed[q][v] = Register{};
    for (int64_t i = 0; i < count; i++, value += tile.stride) {
#pragma GCC unroll 8
        for (int q = 0; q < N; q++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                mixed[q][v] = fused(load_register(value + WIDTH * v),
                                    tile.weights[q * stride + i], mixed[q][v]);
    }
    for (int q = 0; q < N; q++)
        for (int v = 0; v < V; v++)
            store_register(tile.context[q] + e + WIDTH * v, mixed[q][v] / sums[q]);
}

template <int N>
inline void attend_token(const AttentionTile& tile) {
    if constexpr (N > 1)
        if (tile.num_queries < N) return attend_token<N - 1>(tile);
    const int64_t stride = query_stride(tile), count = tile.last[0] - tile.first[0] + 1;
    float greatest[N], sums[N] = {};
    score_token<N>(tile, greatest);
    for (int q = 0; q < N; q++)
        for (int64_t i = 0; i < count; i += LANES) {
            float* const weights = tile.weights + q * stride + i;
            Floats weight = load_floats(weights) - greatest[q];
            exponentials_or_some_nan<1>(&weight);
            store_floats(weights, weight);
        }
    for (int64_t i = 0; i < count; i++)
        for (int q = 0; q < N; q++) sums[q] += tile.weights[q * stride + i];
    constexpr int V = N <= 4 ? VALUES_OF_FEW : VALUES_OF_FEW / 2;
    int64_t e = 0;
    for (; e + V * WIDTH <= tile.head_size; e += V * WIDTH) mix_token<N, V>(tile, e, sums);
    for (; e + WIDTH <= tile.head_size; e += WIDTH) mix_token<N, 1>(tile, e, sums);
    for (; e < tile.head_size; e++)
        for (int q = 0; q < N; q++) {
            float mixed = 0.0f;
            for (int64_t i = 0; i < count; i++)
                mixed = __builtin_fmaf(tile.weights[q * stride + i],
                                       tile.values[(tile.first[0] + i) * tile.stride + e],
                                       mixed);
            tile.context[q][e] = mixed / sums[q];
        }
}

}  // namespace
}  // namespace cotejar
