// Attention of one token: positions in lanes, N queries that see the same. Included once by
// each isa_*.cpp and compiled with its flags; everything here has internal linkage (see isa.h).
#pragma once

#include "attention_kernels.h"

namespace cotejar {
namespace {

// A query's scores and weights lie together, so many apart.
inline int64_t query_stride(const AttentionTile& tile) {
    return (tile.last[0] - tile.first[0] + LANES) / LANES * LANES;
}

// Positions that are scored at once, and 16s of values mixed at once for N queries: as many as
// registers hold sums of, so that none waits for its own last instruction.
#if defined(__AVX512F__)
constexpr int POSITIONS_AT_ONCE = 16;
template <int N>
constexpr int VALUES_OF = N <= 4 ? 4 : 2;
#else
constexpr int POSITIONS_AT_ONCE = 8;
template <int N>
constexpr int VALUES_OF = 1;
#endif

// Keys from `position`, their values side by side: [e][at once]. Past the last it repeats.
inline void stand_side_by_side(const AttentionTile& tile, int64_t position, float* keys) {
    constexpr int COUNT = POSITIONS_AT_ONCE;
    const float* rows[COUNT];
    for (int k = 0; k < COUNT; k++) {
        const int64_t at = position + k <= tile.last[0] ? position + k : tile.last[0];
        rows[k] = tile.keys + at * tile.stride;
    }
    int64_t e = 0;
#if defined(__AVX512F__)
    for (; e + LANES <= tile.head_size; e += LANES) transpose_floats(rows, e, keys + COUNT * e);
#endif
    for (int k = 0; k < COUNT; k++)
        for (int64_t rest = e; rest < tile.head_size; rest++)
            keys[COUNT * rest + k] = rows[k][rest];
}

// One position's row of a head, if there is such a position.
inline void fetch_row(const AttentionTile& tile, const float* of_first, int64_t position) {
    if (position > tile.last[0]) return;
    for (int64_t e = 0; e < tile.head_size; e += LANES)
        fetch_line(of_first + position * tile.stride + e);
}

// What is needed soon of a context that no cache holds: the next keys, these values.
inline void fetch_rows(const AttentionTile& tile, int64_t position) {
    for (int64_t p = position; p < position + POSITIONS_AT_ONCE; p++) {
        fetch_row(tile, tile.keys, p + 16);
        fetch_row(tile, tile.values, p);
    }
}

// One line a page of all keys and values, so that fetching the others does not wait for where
// the pages are.
inline void fetch_pages(const AttentionTile& tile) {
    const int64_t step = tile.stride < 1024 ? 1024 / tile.stride : 1;
    for (int64_t p = tile.first[0]; p <= tile.last[0]; p += step) {
        fetch_line(tile.keys + p * tile.stride);
        fetch_line(tile.values + p * tile.stride);
    }
}

template <int N>
inline void score_positions(const AttentionTile& tile) {
    constexpr int COUNT = POSITIONS_AT_ONCE, VECTORS = COUNT / 8;
    const int64_t size = tile.head_size, stride = query_stride(tile);
    fetch_pages(tile);
    for (int64_t p = tile.first[0]; p < tile.first[0] + 16; p++) fetch_row(tile, tile.keys, p);
    double* queries = tile.wide;  // [e][N]
    float* keys = reinterpret_cast<float*>(tile.wide + N * size);
    for (int64_t e = 0; e < size; e++)
        for (int q = 0; q < N; q++) queries[N * e + q] = static_cast<double>(tile.query[q][e]);
    for (int64_t p = tile.first[0]; p <= tile.last[0]; p += COUNT) {
        fetch_rows(tile, p);
        stand_side_by_side(tile, p, keys);
        Doubles sums[N][VECTORS];
#pragma GCC unroll 8
        for (int q = 0; q < N; q++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[q][v] = Doubles{};
        for (int64_t e = 0; e < size; e++) {
            Doubles key[VECTORS];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) key[v] = load_doubles(keys + COUNT * e + 8 * v);
#pragma GCC unroll 8
            for (int q = 0; q < N; q++)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++)
                    sums[q][v] = add_exact_product(sums[q][v], key[v], queries[N * e + q]);
        }
        for (int q = 0; q < N; q++)
            __builtin_memcpy(tile.scores + q * stride + (p - tile.first[0]), sums[q],
                             sizeof sums[q]);
    }
}

// The greatest in order; of several NaN the last, as where queries are in lanes.
inline double greatest_of(const double* scores, int64_t count) {
    Doubles lanes = Doubles{} - __builtin_inf();
    Longs broken = {};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        Doubles score;
        __builtin_memcpy(&score, scores + i, sizeof score);
        lanes = score > lanes ? score : lanes;
        broken |= score != score;
    }
    double greatest = -__builtin_inf();
    int64_t any_broken = 0;
    for (int lane = 0; lane < 8; lane++) {
        any_broken |= broken[lane];
        greatest = lanes[lane] > greatest ? lanes[lane] : greatest;
    }
    if (any_broken) i = 0;
    for (; i < count; i++)
        if (scores[i] > greatest || scores[i] != scores[i]) greatest = scores[i];
    return greatest;
}

// Scores of one query to weights, in place of `weigh`.
inline void weigh_positions(double* scores, float* weights, int64_t count,
                            const ScoreDivisor& divisor) {
    for (int64_t i = 0; i < count; i += 8) {
        store_doubles(scores + i, divisor.of(same_doubles(scores + i)));
    }
    const double greatest = greatest_of(scores, count);
    for (int64_t i = 0; i < count; i += LANES) {
        const HalfFloats low = narrowed(same_doubles(scores + i) - greatest);
        const HalfFloats high = narrowed(same_doubles(scores + i + 8) - greatest);
        Floats weight = joined(low, high);
        exponentials<1>(&weight);
        store_floats(weights + i, weight);
    }
}

// N queries, V times 16 values of the head from `e`.
template <int N, int V>
inline void mix_positions(const AttentionTile& tile, int64_t e, const float* sums) {
    const int64_t stride = query_stride(tile), count = tile.last[0] - tile.first[0] + 1;
    const float* value = tile.values + tile.first[0] * tile.stride + e;
    Floats mixed[N][V];
#pragma GCC unroll 8
    for (int q = 0; q < N; q++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) mixed[q][v] = Floats{};
    for (int64_t i = 0; i < count; i++, value += tile.stride) {
#pragma GCC unroll 8
        for (int q = 0; q < N; q++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                mixed[q][v] += tile.weights[q * stride + i] * load_floats(value + LANES * v);
    }
    for (int q = 0; q < N; q++)
        for (int v = 0; v < V; v++)
            store_floats(tile.context[q] + e + LANES * v, mixed[q][v] / sums[q]);
}

template <int N>
inline void attend_one_token(const AttentionTile& tile) {
    const int64_t stride = query_stride(tile), count = tile.last[0] - tile.first[0] + 1;
    const ScoreDivisor divisor(tile.head_size);
    score_positions<N>(tile);
    float sums[N] = {};
    for (int q = 0; q < N; q++)
        weigh_positions(tile.scores + q * stride, tile.weights + q * stride, count, divisor);
    for (int64_t i = 0; i < count; i++)
        for (int q = 0; q < N; q++) sums[q] += tile.weights[q * stride + i];
    int64_t e = 0;
    constexpr int V = VALUES_OF<N>;
    for (; e + V * LANES <= tile.head_size; e += V * LANES) mix_positions<N, V>(tile, e, sums);
    for (; e + LANES <= tile.head_size; e += LANES) mix_positions<N, 1>(tile, e, sums);
    for (; e < tile.head_size; e++)
        for (int q = 0; q < N; q++) {
            float mixed = 0.0f;
            for (int64_t i = 0; i < count; i++)
                mixed += tile.weights[q * stride + i] *
                         tile.values[(tile.first[0] + i) * tile.stride + e];
            tile.context[q][e] = mixed / sums[q];
        }
}

inline bool all_see_the_same(const AttentionTile& tile) {
    for (int q = 1; q < tile.num_queries; q++)
        if (tile.first[q] != tile.first[0] || tile.last[q] != tile.last[0]) return false;
    return true;
}

}  // namespace
}  // namespace cotejar
