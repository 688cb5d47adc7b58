// Attention of many queries that share a key/value head: queries in lanes. Included once by each
// isa_*.cpp and compiled with its flags; everything here has internal linkage (see isa.h).
#pragma once

#include "exponential.h"
#include "operations.h"

namespace cotejar {
namespace {

// a * b + c, and c alone is rounded: a product of two float32 is exact in a double.
inline Doubles add_exact_product(Doubles c, Doubles a, double b) {
#if defined(__AVX512F__)
    return reinterpret_cast<Doubles>(_mm512_fmadd_pd(reinterpret_cast<__m512d>(a),
                                                     _mm512_set1_pd(b),
                                                     reinterpret_cast<__m512d>(c)));
#else
    return c + a * b;
#endif
}

#if defined(__AVX512F__)
// Sixteen values of each of 16 rows to columns, 16 floats apart.
inline void transpose_floats(const float* const* rows, int64_t e, float* to) {
    __m512 v[LANES], t[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) v[i] = _mm512_loadu_ps(rows[i] + e);
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        v[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        v[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
        v[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        v[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xDD);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_ps(to + LANES * i, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_ps(to + LANES * (i + 8), _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD));
        _mm512_storeu_ps(to + LANES * (i + 4), _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_storeu_ps(to + LANES * (i + 12), _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD));
    }
}
#endif

// Queries in lanes: wide[e][16]. Absent ones are 0.
inline void spread_queries(const AttentionTile& tile) {
    int64_t e = 0;
#if defined(__AVX512F__)
    const __mmask16 present = static_cast<__mmask16>((1u << tile.num_queries) - 1);
    for (; e + LANES <= tile.head_size; e += LANES) {
        alignas(64) float columns[LANES * LANES];
        transpose_floats(tile.query, e, columns);
        for (int j = 0; j < LANES; j++) {
            const __m512 column = _mm512_maskz_load_ps(present, columns + LANES * j);
            double* const to = tile.wide + (e + j) * LANES;
            _mm512_storeu_pd(to, _mm512_cvtps_pd(_mm512_castps512_ps256(column)));
            _mm512_storeu_pd(to + 8, _mm512_cvtps_pd(_mm512_extractf32x8_ps(column, 1)));
        }
    }
#endif
    for (; e < tile.head_size; e++)
        for (int q = 0; q < LANES; q++)
            tile.wide[e * LANES + q] =
                q < tile.num_queries ? static_cast<double>(tile.query[q][e]) : 0.0;
}

// Keys that are scored at once, and 16s of values mixed at once: what registers hold sums of.
#if defined(__AVX512F__)
constexpr int KEYS_AT_ONCE = 8, VALUES_AT_ONCE = 2;
#else
constexpr int KEYS_AT_ONCE = 2, VALUES_AT_ONCE = 1;
#endif

// Division by sqrt(E), as a product where the inverse is exact: the same bits, and many
// times as fast.
struct ScoreDivisor {
    double divisor, inverse;
    bool exact;

    explicit ScoreDivisor(int64_t head_size)
        : divisor(__builtin_sqrt(static_cast<double>(head_size))), inverse(1.0 / divisor) {
        uint64_t bits;
        __builtin_memcpy(&bits, &divisor, sizeof bits);
        exact = (bits << 12) == 0;  // a power of two
    }
    Doubles of(Doubles score) const { return exact ? score * inverse : score / divisor; }
};

// The positions that some query of a tile sees, and those that all see.
struct SeenPositions {
    int64_t first, last, all_first, all_last;

    explicit SeenPositions(const AttentionTile& tile)
        : first(tile.first[0]), last(tile.last[0]), all_first(first), all_last(last) {
        for (int q = 1; q < tile.num_queries; q++) {
            first = tile.first[q] < first ? tile.first[q] : first;
            last = tile.last[q] > last ? tile.last[q] : last;
            all_first = tile.first[q] > all_first ? tile.first[q] : all_first;
            all_last = tile.last[q] < all_last ? tile.last[q] : all_last;
        }
    }
};

// Keys from `position`; past the last they repeat it.
inline void put_rows(const AttentionTile& tile, int64_t position, int64_t last,
                     const float** rows) {
    for (int k = 0; k < KEYS_AT_ONCE; k++) {
        const int64_t at = position + k <= last ? position + k : last;
        rows[k] = tile.keys + at * tile.stride;
    }
}

// Dots of KEYS_AT_ONCE keys with VECTORS times 8 queries. On the way the next keys become
// doubles: what their conversion waits for is hidden behind the products.
template <int VECTORS>
inline void add_dots_of_keys(const AttentionTile& tile, const double* keys,
                             const float* const* next_rows, double* next,
                             Doubles (*sums)[VECTORS]) {
    const int64_t size = tile.head_size;
    const auto add_column = [&](int64_t e) __attribute__((always_inline)) {
        Doubles query[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) query[v] = same_doubles(tile.wide + e * LANES + 8 * v);
#pragma GCC unroll 8
        for (int k = 0; k < KEYS_AT_ONCE; k++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                sums[k][v] = add_exact_product(sums[k][v], query[v], keys[k * size + e]);
    };
    int64_t e = 0;
    for (; e + 8 <= size; e += 8)
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            add_column(e + j);
            if (j < KEYS_AT_ONCE)
                store_doubles(next + j * size + e, load_doubles(next_rows[j] + e));
        }
    for (; e < size; e++) {
        add_column(e);
        for (int k = 0; k < KEYS_AT_ONCE; k++)
            next[k * size + e] = static_cast<double>(next_rows[k][e]);
    }
}

// Scores of all positions, minus infinity where a query does not see one; there is room for
// some past the last. And the greatest of each query, if none is NaN.
template <int VECTORS>
inline void score_tile(const AttentionTile& tile, const SeenPositions& seen,
                       Doubles* greatest) {
    constexpr int KEYS = KEYS_AT_ONCE;
    const ScoreDivisor divisor(tile.head_size);
    Longs from[VECTORS], to[VECTORS];
    __builtin_memcpy(from, tile.first, sizeof from);
    __builtin_memcpy(to, tile.last, sizeof to);
    for (int v = 0; v < VECTORS; v++) greatest[v] = Doubles{} - __builtin_inf();
    const float* rows[KEYS];
    double *keys = tile.wide + LANES * tile.head_size, *next = keys + KEYS * tile.head_size;
    put_rows(tile, seen.first, seen.last, rows);
    for (int k = 0; k < KEYS; k++)
        for (int64_t e = 0; e < tile.head_size; e++)
            keys[k * tile.head_size + e] = static_cast<double>(rows[k][e]);
    for (int64_t p = seen.first; p <= seen.last; p += KEYS) {
        const bool all_see = p >= seen.all_first && p + KEYS - 1 <= seen.all_last;
        Doubles sums[KEYS][VECTORS];
#pragma GCC unroll 8
        for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[k][v] = Doubles{};
        put_rows(tile, p + KEYS, seen.last, rows);
        add_dots_of_keys<VECTORS>(tile, keys, rows, next, sums);
#pragma GCC unroll 8
        for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) {
                Doubles score = divisor.of(sums[k][v]);
                if (!all_see)
                    score = (from[v] <= p + k) & (to[v] >= p + k)
                                ? score : Doubles{} - __builtin_inf();
                greatest[v] = greater_of(score, greatest[v]);
                store_doubles(tile.scores + (p + k) * LANES + 8 * v, score);
            }
        double* const swapped = keys;
        keys = next;
        next = swapped;
    }
}

// Scores of N positions from `p` to weights, the softmax's numerators.
template <int VECTORS, int N, bool MAY_BE_NAN>
inline void weigh_some(const AttentionTile& tile, int64_t p, const Doubles* greatest,
                       Floats* total) {
    Floats weights[N];
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) {
        HalfFloats halves[2] = {};
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            halves[v] =
                narrowed(same_doubles(tile.scores + (p + i) * LANES + 8 * v) - greatest[v]);
        weights[i] = joined(halves[0], halves[1]);
    }
    if (MAY_BE_NAN)
        exponentials<N>(weights);
    else
        exponentials_or_some_nan<N>(weights);
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) {
        store_floats(tile.weights + (p + i) * LANES, weights[i]);
        *total += weights[i];
    }
}

// All of them, and their sums.
template <int VECTORS, bool MAY_BE_NAN>
inline Floats weigh(const AttentionTile& tile, const SeenPositions& seen,
                    const Doubles* greatest) {
    Floats total = {};
    int64_t p = seen.first;
    for (; p + 4 <= seen.last + 1; p += 4)
        weigh_some<VECTORS, 4, MAY_BE_NAN>(tile, p, greatest, &total);
    for (; p <= seen.last; p++)
        weigh_some<VECTORS, 1, MAY_BE_NAN>(tile, p, greatest, &total);
    return total;
}

// The greatest in order; of several NaN the last.
template <int VECTORS>
inline void find_greatest(const AttentionTile& tile, const SeenPositions& seen,
                          Doubles* greatest) {
    for (int v = 0; v < VECTORS; v++) greatest[v] = Doubles{} - __builtin_inf();
    for (int64_t p = seen.first; p <= seen.last; p++)
        for (int v = 0; v < VECTORS; v++) {
            const Doubles score = same_doubles(tile.scores + p * LANES + 8 * v);
            greatest[v] = ((score > greatest[v]) | (score != score)) ? score : greatest[v];
        }
}

// N queries from `from`, V times 16 values of the head from `e`.
template <int N, int V>
inline void mix_values(const AttentionTile& tile, const SeenPositions& seen, int from,
                       int64_t e, const float* sums) {
    Floats mixed[N][V];
#pragma GCC unroll 8
    for (int q = 0; q < N; q++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) mixed[q][v] = Floats{};
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
#pragma GCC unroll 2
                for (int v = 0; v < V; v++)
                    mixed[q][v] += weight[q] * load_floats(value + v * LANES);
    };
    int64_t p = seen.first;
    for (; p <= seen.last && p < all_first; p++) add_position(p, false);
    for (; p <= all_last; p++) add_position(p, true);
    for (; p <= seen.last; p++) add_position(p, false);
#pragma GCC unroll 8
    for (int q = 0; q < N; q++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            store_floats(tile.context[from + q] + e + v * LANES, mixed[q][v] / sums[from + q]);
}

// All queries of the tile, eight at a time and then the rest.
template <int V>
inline void mix_all(const AttentionTile& tile, const SeenPositions& seen, int64_t e,
                    const float* sums) {
    for (int from = 0; from < tile.num_queries; from += 8) switch (tile.num_queries - from) {
            case 1: mix_values<1, V>(tile, seen, from, e, sums); break;
            case 2: mix_values<2, V>(tile, seen, from, e, sums); break;
            case 3: mix_values<3, V>(tile, seen, from, e, sums); break;
            case 4: mix_values<4, V>(tile, seen, from, e, sums); break;
            case 5: mix_values<5, V>(tile, seen, from, e, sums); break;
            case 6: mix_values<6, V>(tile, seen, from, e, sums); break;
            case 7: mix_values<7, V>(tile, seen, from, e, sums); break;
            default: mix_values<8, V>(tile, seen, from, e, sums); break;
        }
}

inline void mix_one_value(const AttentionTile& tile, int query, int64_t e, const float* sums) {
    float mixed = 0.0f;
    for (int64_t p = tile.first[query]; p <= tile.last[query]; p++)
        mixed += tile.weights[p * LANES + query] * tile.values[p * tile.stride + e];
    tile.context[query][e] = mixed / sums[query];
}

template <int VECTORS>
inline void attend_n(const AttentionTile& tile) {
    const SeenPositions seen(tile);
    Doubles greatest[VECTORS];
    spread_queries(tile);
    score_tile<VECTORS>(tile, seen, greatest);
    Floats total = weigh<VECTORS, false>(tile, seen, greatest);
    if (any_true(total != total)) {
        find_greatest<VECTORS>(tile, seen, greatest);
        total = weigh<VECTORS, true>(tile, seen, greatest);
    }
    float sums[LANES];
    store_floats(sums, total);
    int64_t e = 0;
    for (; VALUES_AT_ONCE == 2 && e + 2 * LANES <= tile.head_size; e += 2 * LANES)
        mix_all<VALUES_AT_ONCE>(tile, seen, e, sums);
    for (; e + LANES <= tile.head_size; e += LANES) mix_all<1>(tile, seen, e, sums);
    for (; e < tile.head_size; e++)
        for (int q = 0; q < tile.num_queries; q++) mix_one_value(tile, q, e, sums);
}

}  // namespace
}  // namespace cotejar
