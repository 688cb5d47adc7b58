// The operations of operations.h in vectors of 64 bytes, which the compiler splits where the
// CPU's are shorter. Included once by each isa_*.cpp and compiled with its flags; everything
// here has internal linkage (see isa.h). Every lane does what the scalar formula says, so the
// bits are the same everywhere.
#pragma once

#include "operations.h"
#include "statistics_kernels.h"
#include "vectors.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace cotejar {
namespace {

// --- exp ---------------------------------------------------------------------------------

// Cephes' expf (S. Moshier), operation by operation; see kernels/operations.py.
inline Floats exponential(Floats x) {
    const Ints is_number = x == x;
    Floats clean = reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & is_number);
    clean = clean < -104.0f ? Floats{} - 104.0f : clean;
    clean = clean > 89.0f ? Floats{} + 89.0f : clean;
    const Floats turns = (clean * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    const Floats rest = (clean - turns * 0.693359375f) - turns * -2.12194440e-4f;
    Floats poly = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    poly = poly * rest + 8.3334519073e-3f;
    poly = poly * rest + 4.1665795894e-2f;
    poly = poly * rest + 1.6666665459e-1f;
    poly = poly * rest + 5.0000001201e-1f;
    const Floats base = (poly * (rest * rest) + rest) + 1.0f;
    const Ints power = __builtin_convertvector(turns, Ints);
    const Ints half = power >> 1;
    const Floats first = reinterpret_cast<Floats>((half + 127) << 23);
    const Floats second = reinterpret_cast<Floats>((power - half + 127) << 23);
    return is_number ? (base * first) * second : x;
}

inline Floats sigmoid_product(Floats x) { return x / (1.0f + exponential(-x)); }

void silu(const float* values, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store_floats(out + i, sigmoid_product(load_floats(values + i)));
    if (i == count) return;
    Floats rest = {};
    __builtin_memcpy(&rest, values + i, static_cast<size_t>(count - i) * sizeof(float));
    rest = sigmoid_product(rest);
    __builtin_memcpy(out + i, &rest, static_cast<size_t>(count - i) * sizeof(float));
}

// The compiler's own vectors.
bool greatest(const float* values, int64_t count, int32_t& order) {
    constexpr int32_t EXPONENT = 0x7F800000;
    int32_t most = order_of(-__builtin_inff()), exponent = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t here = order_of(values[i]);
        int32_t bits;
        __builtin_memcpy(&bits, values + i, sizeof bits);
        most = here > most ? here : most;
        exponent = (bits & EXPONENT) > exponent ? bits & EXPONENT : exponent;
    }
    order = most;
    return exponent != EXPONENT;
}

void multiply(const float* a, const float* b, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i++) out[i] = a[i] * b[i];
}

void add(const float* a, const float* b, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i++) out[i] = a[i] + b[i];
}

void add_rows(const float* apart, int64_t stride, const float* beside, int64_t rows,
              float* sums_beside) {
    for (int64_t row = 0; row < rows; row++)
        store_floats(sums_beside + row * LANES,
                     load_floats(apart + row * stride) + load_floats(beside + row * LANES));
}

void store_rows(const float* beside, int64_t rows, int64_t stride, float* apart) {
    for (int64_t row = 0; row < rows; row++)
        store_floats(apart + row * stride, load_floats(beside + row * LANES));
}

// --- norm and rotation -------------------------------------------------------------------

void rms_norm(const float* values, const float* weight, int64_t width, double eps, float* out) {
    double lanes[LANES] = {};
    Doubles low = {}, high = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        const Doubles a = load_doubles(values + i), b = load_doubles(values + i + 8);
        low += a * a;
        high += b * b;
    }
    __builtin_memcpy(lanes, &low, sizeof low);
    __builtin_memcpy(lanes + 8, &high, sizeof high);
    for (int lane = 0; i + lane < width; lane++) {
        const double value = static_cast<double>(values[i + lane]);
        lanes[lane] += value * value;
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    const double mean = lanes[0] / static_cast<double>(width);
    const float scale = static_cast<float>(1.0 / __builtin_sqrt(mean + eps));
    for (int64_t j = 0; j < width; j++) out[j] = (values[j] * scale) * weight[j];
}

void rotate(const float* values, const float* cosine, const float* sine, int64_t pairs,
            int64_t first, int64_t second, int64_t step, float* out) {
    for (int64_t i = 0; i < pairs; i++) {
        const float a = values[first + i * step], b = values[second + i * step];
        out[first + i * step] = a * cosine[i] - b * sine[i];
        out[second + i * step] = a * sine[i] + b * cosine[i];
    }
}

// --- attention ---------------------------------------------------------------------------

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

// Queries in lanes: wide[e][16]. Absent ones are 0.
inline void spread_queries(const AttentionTile& tile) {
    for (int64_t e = 0; e < tile.head_size; e++)
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

// Scores of KEYS_AT_ONCE keys from `position`, VECTORS times 8 queries. Past the last they are
// scores of the last key; there is room for them.
template <int VECTORS>
inline void score_keys(const AttentionTile& tile, int64_t position, int64_t last) {
    constexpr int KEYS = KEYS_AT_ONCE;
    const int64_t size = tile.head_size;
    double* const keys = tile.wide + LANES * size;
    for (int k = 0; k < KEYS; k++) {
        const int64_t at = position + k <= last ? position + k : last;
        const float* key = tile.keys + at * tile.stride;
        int64_t e = 0;
        for (; e + 8 <= size; e += 8) store_doubles(keys + k * size + e, load_doubles(key + e));
        for (; e < size; e++) keys[k * size + e] = static_cast<double>(key[e]);
    }
    Doubles sums[KEYS][VECTORS];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) sums[k][v] = Doubles{};
    for (int64_t e = 0; e < size; e++) {
        Doubles query[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) query[v] = same_doubles(tile.wide + e * LANES + 8 * v);
#pragma GCC unroll 8
        for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                sums[k][v] = add_exact_product(sums[k][v], query[v], keys[k * size + e]);
    }
    double* const scores = tile.scores + position * LANES;
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) store_doubles(scores + k * LANES + 8 * v, sums[k][v]);
}

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

// Scores to weights: the softmax's numerators. A query's unseen positions weigh 0.
template <int VECTORS>
inline void weigh(const AttentionTile& tile, int64_t first, int64_t last, float* sums) {
    const ScoreDivisor divisor(tile.head_size);
    Longs from[VECTORS], to[VECTORS];
    __builtin_memcpy(from, tile.first, sizeof from);
    __builtin_memcpy(to, tile.last, sizeof to);
    Doubles greatest[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) greatest[v] = Doubles{} - __builtin_inf();
    for (int64_t p = first; p <= last; p++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            double* at = tile.scores + p * LANES + 8 * v;
            const Longs seen = (from[v] <= p) & (to[v] >= p);
            const Doubles score =
                seen ? divisor.of(same_doubles(at)) : Doubles{} - __builtin_inf();
            greatest[v] = ((score > greatest[v]) | (score != score)) ? score : greatest[v];
            store_doubles(at, score);
        }
    Floats total = {};
    for (int64_t p = first; p <= last; p++) {
        HalfFloats halves[2] = {};
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            halves[v] = narrowed(same_doubles(tile.scores + p * LANES + 8 * v) - greatest[v]);
        const Floats weight = exponential(joined(halves[0], halves[1]));
        store_floats(tile.weights + p * LANES, weight);
        total += weight;
    }
    store_floats(sums, total);
}

// N queries from `from`, V times 16 values of the head from `e`.
template <int N, int V>
inline void mix_values(const AttentionTile& tile, int64_t first, int64_t last, int from,
                       int64_t e, const float* sums) {
    Floats mixed[N][V];
#pragma GCC unroll 8
    for (int q = 0; q < N; q++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) mixed[q][v] = Floats{};
    int64_t all_first = first, all_last = last;  // what all N see
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
    int64_t p = first;
    for (; p <= last && p < all_first; p++) add_position(p, false);
    for (; p <= all_last; p++) add_position(p, true);
    for (; p <= last; p++) add_position(p, false);
#pragma GCC unroll 8
    for (int q = 0; q < N; q++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            store_floats(tile.context[from + q] + e + v * LANES, mixed[q][v] / sums[from + q]);
}

// All queries of the tile, eight at a time and then the rest.
template <int V>
inline void mix_all(const AttentionTile& tile, int64_t first, int64_t last, int64_t e,
                    const float* sums) {
    for (int from = 0; from < tile.num_queries; from += 8) switch (tile.num_queries - from) {
            case 1: mix_values<1, V>(tile, first, last, from, e, sums); break;
            case 2: mix_values<2, V>(tile, first, last, from, e, sums); break;
            case 3: mix_values<3, V>(tile, first, last, from, e, sums); break;
            case 4: mix_values<4, V>(tile, first, last, from, e, sums); break;
            case 5: mix_values<5, V>(tile, first, last, from, e, sums); break;
            case 6: mix_values<6, V>(tile, first, last, from, e, sums); break;
            case 7: mix_values<7, V>(tile, first, last, from, e, sums); break;
            default: mix_values<8, V>(tile, first, last, from, e, sums); break;
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
    int64_t first = tile.first[0], last = tile.last[0];
    for (int q = 1; q < tile.num_queries; q++) {
        first = tile.first[q] < first ? tile.first[q] : first;
        last = tile.last[q] > last ? tile.last[q] : last;
    }
    spread_queries(tile);
    for (int64_t p = first; p <= last; p += KEYS_AT_ONCE) score_keys<VECTORS>(tile, p, last);
    float sums[LANES];
    weigh<VECTORS>(tile, first, last, sums);
    int64_t e = 0;
    for (; VALUES_AT_ONCE == 2 && e + 2 * LANES <= tile.head_size; e += 2 * LANES)
        mix_all<VALUES_AT_ONCE>(tile, first, last, e, sums);
    for (; e + LANES <= tile.head_size; e += LANES) mix_all<1>(tile, first, last, e, sums);
    for (; e < tile.head_size; e++)
        for (int q = 0; q < tile.num_queries; q++) mix_one_value(tile, q, e, sums);
}

// --- attention of one token: positions in lanes, N queries that see the same ----------------

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
        store_floats(weights + i, exponential(joined(low, high)));
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

void attend(const AttentionTile& tile) {
    if (tile.num_queries > 8) return attend_n<2>(tile);
    if (!all_see_the_same(tile)) return attend_n<1>(tile);
    switch (tile.num_queries) {
        case 1: return attend_one_token<1>(tile);
        case 2: return attend_one_token<2>(tile);
        case 3: return attend_one_token<3>(tile);
        case 4: return attend_one_token<4>(tile);
        case 5: return attend_one_token<5>(tile);
        case 6: return attend_one_token<6>(tile);
        case 7: return attend_one_token<7>(tile);
        default: return attend_one_token<8>(tile);
    }
}

constexpr Operations OPERATIONS = {
    rms_norm, rotate,     silu,        multiply,     add,               attend,
    add_rows, store_rows, start_lanes, add_to_lanes, add_rows_to_lanes, finish_lanes,
    greatest};

}  // namespace
}  // namespace cotejar
