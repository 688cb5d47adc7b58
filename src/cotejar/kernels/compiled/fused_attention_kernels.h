// Attention in float32 with fused multiply-adds: queries in lanes, as in attention_kernels.h,
// but scores become weights where they lie. kernels/operations.py states the arithmetic. Included
// once by each isa_*.cpp and compiled with its flags; everything here has internal linkage.
#pragma once

#include "attention_kernels.h"
#include "registers.h"

namespace cotejar {
namespace {

constexpr int PARTS = LANES / WIDTH;

// Keys that are scored at once, queries of which two registers of values are mixed at once: as
// many as registers hold sums of, and enough that none waits for its own last instruction.
#if defined(__AVX512F__)
constexpr int KEYS_SCORED = 16, QUERIES_MIXED = 8;
#else
constexpr int KEYS_SCORED = 4, QUERIES_MIXED = 4;
#endif
constexpr int KEYS_LEFT = KEYS_SCORED < 8 ? KEYS_SCORED : 8;  // scored at once at the end

// Division by sqrt(E), as a product where the inverse is exact: the same bits.
struct ScoreScale {
    float divisor, inverse;
    bool exact;

    explicit ScoreScale(int64_t head_size)
        : divisor(static_cast<float>(__builtin_sqrt(static_cast<double>(head_size)))),
          inverse(1.0f / divisor) {
        uint32_t bits;
        __builtin_memcpy(&bits, &divisor, sizeof bits);
        exact = (bits << 9) == 0;  // a power of two
    }
    Register of(Register score) const { return exact ? score * inverse : score / divisor; }
};

// Queries in lanes: [e][16]. Absent ones repeat the last.
inline void spread_floats(const AttentionTile& tile, float* queries) {
    int64_t e = 0;
#if defined(__AVX512F__)
    for (; e + LANES <= tile.head_size; e += LANES)
        transpose_floats(tile.query, e, queries + e * LANES);
#endif
    for (; e < tile.head_size; e++)
        for (int q = 0; q < LANES; q++) queries[e * LANES + q] = tile.query[q][e];
}

// Scores of a tile, where its weights will be.
struct Scorer {
    const AttentionTile& tile;
    const SeenPositions seen;
    float* const queries;  // [e][16]
    float* const copies;   // of keys, where fewer are left than are scored at once
    const ScoreScale scale;
    RegisterInts from[PARTS], to[PARTS];
    Register greatest[PARTS];  // if no score is NaN

    explicit Scorer(const AttentionTile& of)
        : tile(of),
          seen(of),
          queries(reinterpret_cast<float*>(of.wide)),
          copies(queries + LANES * of.head_size),
          scale(of.head_size) {
        for (int q = 0; q < LANES; q++) {  // scratch for 2 ** 31 positions there is none
            from[q / WIDTH][q % WIDTH] = static_cast<int32_t>(of.first[q]);
            to[q / WIDTH][q % WIDTH] = static_cast<int32_t>(of.last[q]);
        }
        for (int v = 0; v < PARTS; v++) greatest[v] = Register{} - __builtin_inff();
        spread_floats(of, queries);
    }

    // Of positions p..p + K - 1, whose keys are `stride` apart; minus infinity where a query
    // does not see one.
    template <int K>
    inline void score(int64_t p, const float* keys, int64_t stride) {
        Register sums[K][PARTS];
#pragma GCC unroll 32
        for (int k = 0; k < K; k++)
            for (int v = 0; v < PARTS; v++) sums[k][v] = Register{};
        const float* fours[(K + 3) / 4];  // so that addresses take few registers
        for (int k = 0; k < K; k += 4) fours[k / 4] = keys + k * stride;
        for (int64_t e = 0; e < tile.head_size; e++) {
            Register query[PARTS];
            for (int v = 0; v < PARTS; v++)
                query[v] = load_register(queries + e * LANES + v * WIDTH);
#pragma GCC unroll 32
            for (int k = 0; k < K; k++) {
                const float key = fours[k / 4][k % 4 * stride + e];
                for (int v = 0; v < PARTS; v++) sums[k][v] = fused(query[v], key, sums[k][v]);
            }
        }
        const bool all_see = p >= seen.all_first && p + K - 1 <= seen.all_last;
        const int32_t position = static_cast<int32_t>(p);
#pragma GCC unroll 32
        for (int k = 0; k < K; k++)
            for (int v = 0; v < PARTS; v++) {
                Register score = scale.of(sums[k][v]);
                if (!all_see)
                    score = (from[v] <= position + k) & (to[v] >= position + k)
                                ? score : Register{} - __builtin_inff();
                greatest[v] = greater_of(score, greatest[v]);
                store_register(tile.weights + (p + k) * LANES + v * WIDTH, score);
            }
    }

    // The last ones; there is room for some past them.
    inline void score_left(int64_t p) {
        const size_t row_bytes = static_cast<size_t>(tile.head_size) * sizeof(float);
        for (int k = 0; k < KEYS_LEFT; k++) {
            const int64_t at = p + k <= seen.last ? p + k : seen.last;
            const float* const key = tile.keys + at * tile.stride;
            __builtin_memcpy(copies + k * tile.head_size, key, row_bytes);
        }
        score<KEYS_LEFT>(p, copies, tile.head_size);
    }

    inline void score_all() {
        int64_t p = seen.first;
        for (; p + KEYS_SCORED <= seen.last + 1; p += KEYS_SCORED)
            score<KEYS_SCORED>(p, tile.keys + p * tile.stride, tile.stride);
        for (; p + KEYS_LEFT <= seen.last + 1; p += KEYS_LEFT)
            score<KEYS_LEFT>(p, tile.keys + p * tile.stride, tile.stride);
        if (p <= seen.last) score_left(p);
    }
};

// N positions' scores to weights, where they lie.
template <int N>
inline void weigh_floats(float* weights, Floats greatest, Floats* total) {
    Floats some[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) some[i] = load_floats(weights + i * LANES) - greatest;
    exponentials_or_some_nan<N>(some);
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) {
        store_floats(weights + i * LANES, some[i]);
        *total += some[i];
    }
}

inline Floats weigh_all(const AttentionTile& tile, const SeenPositions& seen, Floats greatest) {
    Floats total = {};
    int64_t p = seen.first;
    for (; p + 4 <= seen.last + 1; p += 4)
        weigh_floats<4>(tile.weights + p * LANES, greatest, &total);
    for (; p <= seen.last; p++) weigh_floats<1>(tile.weights + p * LANES, greatest, &total);
    return total;
}

// N queries from `from`, V registers of values of the head from `e`.
template <int N, int V>
inline void mix_fused(const AttentionTile& tile, const SeenPositions& seen, int from, int64_t e,
                      const float* sums) {
    Register mixed[N][V];
#pragma GCC unroll 8
    for (int q = 0; q < N; q++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) mixed[q][v] = Register{};
    int64_t all_first = seen.first, all_last = seen.last;  // what all N see
    for (int q = from; q < from + N; q++) {
        all_first = tile.first[q] > all_first ? tile.first[q] : all_first;
        all_last = tile.last[q] < all_last ? tile.last[q] : all_last;
    }
    const auto add_position = [&](int64_t p, bool all_see) __attribute__((always_inline)) {
        const float* const value = tile.values + p * tile.stride + e;
        const float* const weight = tile.weights + p * LANES + from;
#pragma GCC unroll 8
        for (int q = 0; q < N; q++)
            if (all_see || (p >= tile.first[from + q] && p <= tile.last[from + q]))
#pragma GCC unroll 4
                for (int v = 0; v < V; v++)
                    mixed[q][v] =
                        fused(load_register(value + v * WIDTH), weight[q], mixed[q][v]);
    };
    int64_t p = seen.first;
    for (; p <= seen.last && p < all_first; p++) add_position(p, false);
    for (; p <= all_last; p++) add_position(p, true);
    for (; p <= seen.last; p++) add_position(p, false);
#pragma GCC unroll 8
    for (int q = 0; q < N; q++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            store_register(tile.context[from + q] + e + v * WIDTH,
                           mixed[q][v] / sums[from + q]);
}

// The last N queries or fewer, `from` the first of them.
template <int N, int V>
inline void mix_left(const AttentionTile& tile, const SeenPositions& seen, int from, int64_t e,
                     const float* sums) {
    if (tile.num_queries - from >= N) return mix_fused<N, V>(tile, seen, from, e, sums);
    if constexpr (N > 1) mix_left<N - 1, V>(tile, seen, from, e, sums);
}

inline void mix_one_fused(const AttentionTile& tile, int query, int64_t e, const float* sums) {
    float mixed = 0.0f;
    for (int64_t p = tile.first[query]; p <= tile.last[query]; p++)
        mixed = __builtin_fmaf(tile.weights[p * LANES + query],
                               tile.values[p * tile.stride + e], mixed);
    tile.context[query][e] = mixed / sums[query];
}

template <int V>
inline void mix_queries(const AttentionTile& tile, const SeenPositions& seen, int64_t e,
                        const float* sums) {
    for (int from = 0; from < tile.num_queries; from += QUERIES_MIXED)
        mix_left<QUERIES_MIXED, V>(tile, seen, from, e, sums);
}

inline void attend_tile(const AttentionTile& tile) {
    Scorer scorer(tile);
    scorer.score_all();
    Floats greatest;
    __builtin_memcpy(&greatest, scorer.greatest, sizeof greatest);
    float sums[LANES];
    store_floats(sums, weigh_all(tile, scorer.seen, greatest));
    int64_t e = 0;
    for (; e + 2 * WIDTH <= tile.head_size; e += 2 * WIDTH)
        mix_queries<2>(tile, scorer.seen, e, sums);
    for (; e + WIDTH <= tile.head_size; e += WIDTH) mix_queries<1>(tile, scorer.seen, e, sums);
    for (; e < tile.head_size; e++)
        for (int q = 0; q < tile.num_queries; q++) mix_one_fused(tile, q, e, sums);
}

}  // namespace
}  // namespace cotejar
