// Blocks to strips and products of floats, for AVX512-VNNI, and the table of all its kernels.

#include "avx512_codes.h"
#include "avx512_strips.h"
#include "avx512_tile.h"
#include "avx512_vector.h"
#include "isa.h"
#include "activation_kernels.h"
#include "group_kernels.h"
#include "operation_kernels.h"
#include "statistics_kernels.h"
#include "unpack.h"

namespace cotejar {
namespace {

// --- blocks to strips --------------------------------------------------------------------

void unpack_strip(const Weight& weight, int64_t first, const Strip& strip) {
    const bool far = weight.row_bytes() * ROWS >= int64_t{1} << 31;  // beyond a lane's offset
    const UnpackStrip unpack = far ? nullptr : avx512_unpack_kernel(weight.type->id);
    return (unpack ? unpack : PORTABLE.unpack_strip)(weight, first, strip);
}

// --- floats ------------------------------------------------------------------------------

// The canonical fold of 16 lanes: by halves.
inline float folded(__m512 lanes) {
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <int N>
inline void multiply_lanes_n(const float* rows, const float* tokens, int64_t k, float* totals) {
    for (int row = 0; row < ROWS; row += 4) {
        __m512 lanes[4][N];
        for (int r = 0; r < 4; r++)
            for (int t = 0; t < N; t++) lanes[r][t] = _mm512_setzero_ps();
        for (int64_t c = 0; c < k; c += 16) {
            __m512 w[4];
            for (int r = 0; r < 4; r++) w[r] = _mm512_loadu_ps(rows + (row + r) * k + c);
            for (int t = 0; t < N; t++) {
                const __m512 x = _mm512_loadu_ps(tokens + t * k + c);
                for (int r = 0; r < 4; r++)
                    lanes[r][t] = _mm512_add_ps(lanes[r][t], _mm512_mul_ps(w[r], x));
            }
        }
        for (int r = 0; r < 4; r++)
            for (int t = 0; t < N; t++) totals[t * ROWS + row + r] = folded(lanes[r][t]);
    }
}

void multiply_lanes(const float* rows, const float* tokens, int num_tokens, int64_t k,
                    float* totals) {
    int t = 0;
    for (; t + 4 <= num_tokens; t += 4)
        multiply_lanes_n<4>(rows, tokens + t * k, k, totals + t * ROWS);
    for (; t < num_tokens; t++) multiply_lanes_n<1>(rows, tokens + t * k, k, totals + t * ROWS);
}

void decode_strip(const Weight& weight, int64_t first, int64_t k, float* rows) {
    const int id = weight.type->id;
    if ((id != F16 && id != BF16) || weight.columns != k)
        return PORTABLE.decode_strip(weight, first, k, rows);
    for (int lane = 0; lane < ROWS; lane++) {
        const int64_t row = first + lane < weight.rows ? first + lane : weight.rows - 1;
        const uint8_t* from = weight.blocks + row * weight.row_bytes();
        for (int64_t c = 0; c < k; c += 16) {
            const __m256i halves = load_256(from + 2 * c);
            const __m512 values =
                id == F16 ? _mm512_cvtph_ps(halves)
                          : _mm512_castsi512_ps(
                                _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
            _mm512_storeu_ps(rows + lane * k + c, values);
        }
    }
}

}  // namespace

const Isa AVX512VNNI = {
    "avx512vnni",
    unpack_strip,
    avx512_multiply_strip,
    avx512_multiply_strip,
    group_strip,
    avx512_multiply_strip,
    avx512_multiply_two_strips,
    multiply_lanes,
    decode_strip,
    avx512_vector_kernel,
    avx512_tile_kernel,
    &BF16_AVX512,
    &OPERATIONS,
    round_activations,
    measure_block<Zeros::LOOKED_FOR>,
    measure_block<Zeros::ABSENT>,
    measure_chunk,
};

}  // namespace cotejar
