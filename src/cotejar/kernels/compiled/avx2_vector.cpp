// A matrix in blocks times one token, for AVX2: as avx512_vector.cpp, 8 rows together.

#include "avx2_vector.h"

#include "avx2_codes.h"

namespace cotejar {
namespace {

constexpr int EIGHT = 8;

// Each row's place of the block at work; rows past the last repeat it.
struct EightRows {
    const uint8_t* at[EIGHT];

    EightRows(const Weight& weight, int64_t first) {
        for (int row = 0; row < EIGHT; row++) {
            const int64_t which = first + row < weight.rows ? first + row : weight.rows - 1;
            at[row] = weight.blocks + which * weight.row_bytes();
        }
    }

    __m256 halves_at(int64_t offset) const {
        alignas(32) float values[EIGHT];
        for (int row = 0; row < EIGHT; row++) values[row] = half_at(at[row] + offset);
        return _mm256_load_ps(values);
    }
};

inline void fetch_ahead(const uint8_t* at, int bytes) {
    for (int line = 0; line < bytes; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(at + line), _MM_HINT_T1);
    if (reinterpret_cast<uintptr_t>(at) % 4096 < static_cast<uintptr_t>(bytes))  // once a page
        _mm_prefetch(reinterpret_cast<const char*>(at + LOOK_UP_AHEAD_BYTES), _MM_HINT_T1);
}

inline void store_rows(__m256 total, int64_t rows, float* product) {
    alignas(32) float values[EIGHT];
    _mm256_store_ps(values, total);
    for (int64_t row = 0; row < rows && row < EIGHT; row++) product[row] = values[row];
}

inline __m256i narrow_dot(__m256i codes, __m256i x) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1));
}

template <class Codes>
inline __m256 term_of_block(const EightRows& rows, const VectorToken& token, int64_t block) {
    const int64_t at = block * Codes::BYTES;
    const __m256i x = load_256(token.codes + 32 * block);
    __m256i dots[EIGHT];
    for (int row = 0; row < EIGHT; row++) {
        const __m256i codes = Codes::of(rows.at[row] + at);
        dots[row] = Codes::MAX_CODE > 127 ? wide_dot(codes, x) : narrow_dot(codes, x);
    }
    __m256i exact = sums_of_eight(dots);
    if (Codes::MAX_CODE <= 127)  // the signed way has its centre taken out
        exact = _mm256_sub_epi32(exact, _mm256_set1_epi32(token.centred[block]));
    __m256 term = _mm256_mul_ps(rows.halves_at(at), _mm256_set1_ps(token.scale[block]));
    term = _mm256_mul_ps(term, _mm256_cvtepi32_ps(exact));
    if (Codes::OFFSET)
        term = _mm256_add_ps(term, _mm256_mul_ps(rows.halves_at(at + 2),
                                                 _mm256_set1_ps(token.scaled_sum[block])));
    return term;
}

template <class Codes>
void multiply_blocks(const Weight& weight, const VectorToken& token, int64_t begin, int64_t end,
                     float* product) {
    for (int64_t row = begin; row < end; row += EIGHT) {
        const EightRows rows(weight, row);
        const uint8_t* ahead = rows.at[0] + 2 * EIGHT * weight.row_bytes();
        __m256 total = _mm256_setzero_ps();
        for (int64_t block = 0; block < weight.num_blocks(); block++) {
            fetch_ahead(ahead, EIGHT * Codes::BYTES);
            ahead += EIGHT * Codes::BYTES;
            total = _mm256_add_ps(total, term_of_block<Codes>(rows, token, block));
        }
        store_rows(total, end - row, product + row);
    }
}

// Q4_K and Q5_K: sum(sub_scale * code * x) in lanes, and sum(sub_minimum * sum of codes).
template <class Codes>
inline __m256i scaled_dot(const uint8_t* block, const VectorToken& token, int64_t index,
                          int32_t* minimums) {
    const SubScales subs(block);
    __m256i sum = _mm256_setzero_si256();
    for (int run = 0; run < 8; run++) {
        const __m256i x = load_256(token.codes + 256 * index + 32 * run);
        const __m256i pairs = _mm256_maddubs_epi16(Codes::of(block, run), x);
        const short scale = static_cast<short>((subs.scales >> (8 * run)) & 0xFF);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(scale)));
    }
    const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(subs.minimums));
    const __m128i four =
        _mm_madd_epi16(_mm_cvtepu8_epi16(bytes), load_128(token.sums_32 + 8 * index));
    const __m128i two = _mm_hadd_epi32(four, four);
    *minimums = _mm_cvtsi128_si32(_mm_hadd_epi32(two, two));
    return sum;
}

inline __m256i scaled_dot_q6_k(const uint8_t* block, const VectorToken& token, int64_t index) {
    const __m256i scales = _mm256_cvtepi8_epi16(load_128(block + 192));
    alignas(32) int16_t of_sub[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(of_sub), scales);
    // -32 in every code, taken out of the sum.
    const __m256i centred =
        _mm256_slli_epi32(_mm256_madd_epi16(scales, load_256(token.sums_16 + 16 * index)), 5);
    __m256i sum = _mm256_sub_epi32(_mm256_setzero_si256(), centred);
    for (int run = 0; run < 8; run++) {
        const __m256i x = load_256(token.codes + 256 * index + 32 * run);
        const __m256i pairs = _mm256_maddubs_epi16(CodesQ6_K::of(block, run), x);
        const __m256i scale = _mm256_set_m128i(_mm_set1_epi16(of_sub[2 * run + 1]),
                                               _mm_set1_epi16(of_sub[2 * run]));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, scale));
    }
    return sum;
}

template <class Codes>
inline __m256 term_of_super_block(const EightRows& rows, const VectorToken& token,
                                  int64_t index) {
    const int64_t at = index * Codes::BYTES;
    alignas(32) int32_t minimums[EIGHT];
    __m256i sums[EIGHT];
    for (int row = 0; row < EIGHT; row++)
        sums[row] = scaled_dot<Codes>(rows.at[row] + at, token, index, minimums + row);
    const __m256 scale = _mm256_set1_ps(token.scale[index]);
    const __m256 negative = _mm256_set1_ps(-0.0f);
    const __m256 offset = _mm256_xor_ps(rows.halves_at(at + 2), negative);
    const __m256i exact = _mm256_load_si256(reinterpret_cast<const __m256i*>(minimums));
    const __m256 part =
        _mm256_mul_ps(_mm256_mul_ps(scale, offset), _mm256_cvtepi32_ps(exact));
    const __m256 main = _mm256_mul_ps(_mm256_mul_ps(scale, rows.halves_at(at)),
                                      _mm256_cvtepi32_ps(sums_of_eight(sums)));
    return _mm256_add_ps(main, part);
}

template <>
inline __m256 term_of_super_block<CodesQ6_K>(const EightRows& rows, const VectorToken& token,
                                             int64_t index) {
    const int64_t at = index * CodesQ6_K::BYTES;
    __m256i sums[EIGHT];
    for (int row = 0; row < EIGHT; row++)
        sums[row] = scaled_dot_q6_k(rows.at[row] + at, token, index);
    const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(token.scale[index]),
                                       rows.halves_at(at + 208));
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(sums_of_eight(sums)));
}

template <class Codes>
void multiply_super_blocks(const Weight& weight, const VectorToken& token, int64_t begin,
                           int64_t end, float* product) {
    for (int64_t row = begin; row < end; row += EIGHT) {
        const EightRows rows(weight, row);
        const uint8_t* ahead = rows.at[0] + EIGHT * weight.row_bytes();
        __m256 total = _mm256_setzero_ps();
        for (int64_t index = 0; index < weight.num_blocks(); index++) {
            fetch_ahead(ahead, EIGHT * Codes::BYTES);
            ahead += EIGHT * Codes::BYTES;
            total = _mm256_add_ps(total, term_of_super_block<Codes>(rows, token, index));
        }
        store_rows(total, end - row, product + row);
    }
}

}  // namespace

Isa::MultiplyVector avx2_vector_kernel(int block_type) {
    switch (block_type) {
        case Q4_0: return multiply_blocks<CodesQ4_0>;
        case Q4_1: return multiply_blocks<CodesQ4_1>;
        case Q5_0: return multiply_blocks<CodesQ5_0>;
        case Q5_1: return multiply_blocks<CodesQ5_1>;
        case Q8_0: return multiply_blocks<CodesQ8_0>;
        case Q4_K: return multiply_super_blocks<CodesQ4_K>;
        case Q5_K: return multiply_super_blocks<CodesQ5_K>;
        case Q6_K: return multiply_super_blocks<CodesQ6_K>;
        default: return nullptr;
    }
}

}  // namespace cotejar
