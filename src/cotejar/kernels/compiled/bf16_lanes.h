// The product of strips and tiles by fused multiply-adds, 16 rows in 16 lanes; included once by
// each bf16_*.cpp that has no better, see isa.h. A tile holds rounded tokens as float32,
// [column][token]: each value is spread over the lanes as it is read.
#pragma once

#include "bf16_kernels.h"

namespace cotejar {
namespace {

#if defined(__AVX512F__)

constexpr int FULL_TILE = 8;  // two sums and a total each: 24 of 32 registers
typedef __m512 Lanes;

inline Lanes no_lanes() { return _mm512_setzero_ps(); }
inline Lanes splat(const float* at) { return _mm512_set1_ps(*at); }
inline Lanes fused(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes added(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes evens(const uint16_t* pairs) {
    return reinterpret_cast<Lanes>(load<Words>(pairs) << 16);
}
inline Lanes odds(const uint16_t* pairs) {
    return reinterpret_cast<Lanes>(load<Words>(pairs) & 0xFFFF0000u);
}
inline void store_lanes(float* at, Lanes lanes) { _mm512_storeu_ps(at, lanes); }

#elif defined(__AVX2__)

constexpr int FULL_TILE = 2;  // 8 of 16 registers for the sums
struct Lanes {
    __m256 low, high;
};

inline Lanes no_lanes() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Lanes splat(const float* at) {
    const __m256 value = _mm256_broadcast_ss(at);
    return {value, value};
}
inline Lanes fused(Lanes a, Lanes b, Lanes c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Lanes added(Lanes a, Lanes b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Lanes evens(const uint16_t* pairs) {
    return {reinterpret_cast<__m256>(load<Words>(pairs) << 16),
            reinterpret_cast<__m256>(load<Words>(pairs + ROWS) << 16)};
}
inline Lanes odds(const uint16_t* pairs) {
    return {reinterpret_cast<__m256>(load<Words>(pairs) & 0xFFFF0000u),
            reinterpret_cast<__m256>(load<Words>(pairs + ROWS) & 0xFFFF0000u)};
}
inline void store_lanes(float* at, Lanes lanes) {
    _mm256_storeu_ps(at, lanes.low);
    _mm256_storeu_ps(at + 8, lanes.high);
}

#else

constexpr int FULL_TILE = 4;
struct Lanes {
    float at[ROWS];
};

inline Lanes no_lanes() { return {}; }
inline Lanes splat(const float* at) {
    Lanes lanes;
    for (float& lane : lanes.at) lane = *at;
    return lanes;
}
// Operands are no subnormals: rounding took those of the factors, and each sum its own.
inline Lanes fused(const Lanes& a, const Lanes& b, const Lanes& c) {
    Lanes lanes;
    for (int i = 0; i < ROWS; i++)
        lanes.at[i] = flushed(__builtin_fmaf(a.at[i], b.at[i], c.at[i]));
    return lanes;
}
inline Lanes added(const Lanes& a, const Lanes& b) {
    Lanes lanes;
    for (int i = 0; i < ROWS; i++) lanes.at[i] = flushed(a.at[i] + b.at[i]);
    return lanes;
}
inline Lanes evens(const uint16_t* pairs) {
    Lanes lanes;
    for (int i = 0; i < ROWS; i++) lanes.at[i] = float_of_bfloat(pairs[2 * i]);
    return lanes;
}
inline Lanes odds(const uint16_t* pairs) { return evens(pairs + 1); }
inline void store_lanes(float* at, const Lanes& lanes) {
    __builtin_memcpy(at, lanes.at, sizeof lanes.at);
}

#endif

// Subnormal operands and results of the vector instructions count as 0 while this lives.
#if defined(__AVX2__)
class Flushing {
  public:
    Flushing() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~Flushing() { _mm_setcsr(before_); }
    Flushing(const Flushing&) = delete;
    Flushing& operator=(const Flushing&) = delete;

  private:
    const unsigned before_;
};
#else
struct Flushing {
    Flushing() {}
};
#endif

int tile_size(int64_t tokens_left) {
    int size = 1;
    while (size < FULL_TILE && size < tokens_left) size *= 2;
    return size;
}

void round_tile(const float* activations, int num_tokens, int64_t columns, int64_t k,
                void* tile) {
    float* out = static_cast<float*>(tile);
    const int size = tile_size(num_tokens);
    uint16_t values[CHUNK];
    for (int64_t c = 0; c < k; c += CHUNK)
        for (int t = 0; t < size; t++) {
            const int64_t left = t < num_tokens ? columns - c : 0;
            round_row(activations + t * columns + c, smaller(left, CHUNK), CHUNK, values);
            for (int j = 0; j < CHUNK; j++)
                out[(c + j) * size + t] = float_of_bfloat(values[j]);
        }
}

// S strips times N tokens. Of a chunk, the products of even and of odd columns are summed
// apart, as the tile instruction does.
template <int S, int N>
void multiply_tile(const uint16_t* pairs, int64_t k, const float* tile, float* totals) {
    Lanes total[S][N];
    for (int s = 0; s < S; s++)
        for (int t = 0; t < N; t++) total[s][t] = no_lanes();
    for (int64_t chunk = 0; chunk < k; chunk += CHUNK) {
        Lanes even[S][N], odd[S][N];
        for (int s = 0; s < S; s++)
            for (int t = 0; t < N; t++) even[s][t] = odd[s][t] = no_lanes();
        for (int64_t c = chunk; c < chunk + CHUNK; c += 2)
            for (int s = 0; s < S; s++) {
                const uint16_t* at = pairs + (s * k + c) * ROWS;
                const Lanes w_even = evens(at), w_odd = odds(at);
#pragma GCC unroll 8
                for (int t = 0; t < N; t++) {
                    even[s][t] = fused(w_even, splat(tile + c * N + t), even[s][t]);
                    odd[s][t] = fused(w_odd, splat(tile + (c + 1) * N + t), odd[s][t]);
                }
            }
        for (int s = 0; s < S; s++)
            for (int t = 0; t < N; t++)
                total[s][t] = added(total[s][t], added(even[s][t], odd[s][t]));
    }
    for (int s = 0; s < S; s++)
        for (int t = 0; t < N; t++) store_lanes(totals + (s * N + t) * ROWS, total[s][t]);
}

template <int N>
void multiply_strips(const Bf16Strips& strips, const float* tile, int tokens,
                     int64_t first_token, float* product, int64_t row_stride) {
    constexpr int MOST = FULL_TILE / N < 4 ? FULL_TILE / N : 4;
    alignas(64) float totals[MOST * N * ROWS];
    int index = 0;
    for (; index + MOST <= strips.count; index += MOST) {
        multiply_tile<MOST, N>(strips.pairs + index * strips.k * ROWS, strips.k, tile, totals);
        for (int s = 0; s < MOST; s++)
            store_totals(totals + s * N * ROWS, tokens, first_token, strips, index + s, product,
                         row_stride);
    }
    for (; index < strips.count; index++) {
        multiply_tile<1, N>(strips.pairs + index * strips.k * ROWS, strips.k, tile, totals);
        store_totals(totals, tokens, first_token, strips, index, product, row_stride);
    }
}

template <int N>
void multiply_any(const Bf16Strips& strips, const float* tile, int tokens, int64_t first_token,
                  float* product, int64_t row_stride) {
    if constexpr (N < FULL_TILE)
        if (tokens > N)
            return multiply_any<2 * N>(strips, tile, tokens, first_token, product, row_stride);
    multiply_strips<N>(strips, tile, tokens, first_token, product, row_stride);
}

// Not inlined: no operation may leave the region where subnormals are flushed.
__attribute__((noinline)) void multiply_flushing(const Bf16Strips& strips,
                                                 const Bf16Tokens& tokens, float* product,
                                                 int64_t row_stride) {
    const float* tiles = static_cast<const float*>(tokens.tiles);
    for (int64_t first = 0; first < tokens.num_tokens; first += FULL_TILE) {
        const int left = smaller(tokens.num_tokens - first, FULL_TILE);
        multiply_any<1>(strips, tiles + first * strips.k, left, first, product, row_stride);
    }
}

void multiply(const Bf16Strips& strips, const Bf16Tokens& tokens, float* product,
              int64_t row_stride) {
    const Flushing flushing;
    multiply_flushing(strips, tokens, product, row_stride);
}

}  // namespace
}  // namespace cotejar
