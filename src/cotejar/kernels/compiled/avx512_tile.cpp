// A matrix in blocks times a few tokens, for AVX512-VNNI; types of 32-blocks.
//
// As over strips, 16 rows stand in 16 lanes and no sum crosses lanes; but a block's codes go
// from memory to registers and from there into every token's dots, and no strip is written.
// For few tokens the writing would take longer than the dots.
//
// What limits it is the number of instructions for the two vector ports: for 8 tokens and one
// block of Q4_1 in 16 rows they are 64 dots, 40 on floats, and 41 that take the block apart.

#include "avx512_tile.h"

#include "avx512_rows.h"

namespace cotejar {
namespace {

// One block of 16 rows, taken apart as late as possible.
//
// What `load` keeps fits beside the sums while another block is at work: so the next block is
// on its way before its codes are needed. codes(quad) are four neighbours of each row.

template <int SIZE, bool WITH_OFFSET>
struct FourBits {
    static constexpr int BYTES = SIZE;
    static constexpr bool OFFSET = WITH_OFFSET, AHEAD = true;
    __m512i columns[4];

    __attribute__((always_inline)) void load(const Blocks& blocks) {
        columns_of_16(blocks, BYTES - 16, columns);
    }
    __m512i codes(int quad) const { return nibbles_of(columns, quad); }
};

template <int SIZE, bool WITH_OFFSET>
struct FiveBits {
    static constexpr int BYTES = SIZE;
    static constexpr bool OFFSET = WITH_OFFSET, AHEAD = true;
    __m512i bits, columns[4];

    __attribute__((always_inline)) void load(const Blocks& blocks) {
        bits = blocks.words_from(BYTES - 20);
        columns_of_16(blocks, BYTES - 16, columns);
    }
    __m512i codes(int quad) const {
        // Byte quad / 2 of a lane in all four; one half of it goes with this quad.
        const __m512i where = _mm512_or_si512(
            _mm512_set_epi64(0x0C0C0C0C08080808, 0x0404040400000000, 0x0C0C0C0C08080808,
                             0x0404040400000000, 0x0C0C0C0C08080808, 0x0404040400000000,
                             0x0C0C0C0C08080808, 0x0404040400000000),
            _mm512_set1_epi8(static_cast<char>(quad / 2)));
        const int half = quad % 2 ? static_cast<int>(0x80402010) : 0x08040201;
        const __mmask64 set =
            _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, where), _mm512_set1_epi32(half));
        const __m512i low = nibbles_of(columns, quad);
        return _mm512_mask_add_epi8(low, set, low, _mm512_set1_epi8(16));
    }
};

struct EightBits {
    static constexpr int BYTES = 34;
    static constexpr bool OFFSET = false, AHEAD = false;
    __m512i columns[8];

    __attribute__((always_inline)) void load(const Blocks& blocks) {
        columns_of_16(blocks, 2, columns);
        columns_of_16(blocks, 18, columns + 4);
    }
    __m512i codes(int quad) const {
        return _mm512_xor_si512(columns[quad], _mm512_set1_epi8(-128));
    }
};

// Tokens whose sums the registers hold together.
constexpr int MOST_TOGETHER = 8;

// Some tokens of a tile, at one block. Pointers that move: with an index beside them the
// instructions that read would be two each.
struct TokensOfBlock {
    const int8_t* codes;
    const int32_t* initial;
    const float *scale, *scaled_sum;

    TokensOfBlock(const TokenTile& tile, int first)
        : codes(tile.codes + 32 * first), initial(tile.initial + first),
          scale(tile.scale + first), scaled_sum(tile.scaled_sum + first) {}

    void go_on(int64_t num_tokens) {
        codes += 32 * num_tokens;
        initial += num_tokens;
        scale += num_tokens;
        scaled_sum += num_tokens;
    }
};

// One block of 16 rows with N tokens; `between(quad)` after each quad's dots.
template <int N, class Kind, class Between>
inline void add_block(const Kind& block, __m512i words, const TokensOfBlock& tokens,
                      __m512* totals, Between&& between) {
    const __m512 scale = low_halves_as_floats(words), offset = high_halves_as_floats(words);
    __m512i dots[N];
#pragma GCC unroll 8
    for (int t = 0; t < N; t++)
        // Types with an offset have no centre.
        dots[t] = Kind::OFFSET ? _mm512_setzero_si512() : _mm512_set1_epi32(tokens.initial[t]);
#pragma GCC unroll 8
    for (int quad = 0; quad < 8; quad++) {
        const __m512i codes = block.codes(quad);
#pragma GCC unroll 8
        for (int t = 0; t < N; t++) add_dots(dots[t], codes, tokens.codes + 32 * t + 4 * quad);
        between(quad);
    }
#pragma GCC unroll 8
    for (int t = 0; t < N; t++) {
        __m512 term = _mm512_mul_ps(scale, _mm512_set1_ps(tokens.scale[t]));
        term = _mm512_mul_ps(term, _mm512_cvtepi32_ps(dots[t]));
        if (Kind::OFFSET)
            // The product of two float16 is exact: nothing is rounded but the sum.
            term = _mm512_fmadd_ps(offset, _mm512_set1_ps(tokens.scaled_sum[t]), term);
        totals[t] = _mm512_add_ps(totals[t], term);
    }
}

// N tokens of a tile from `first` on, 16 rows; product[t][stride].
template <class Kind, int N, class Rows>
inline void multiply_rows(Rows& rows, int64_t num_blocks, const TokenTile& tile, int first,
                          float* product, int64_t stride, int64_t num_rows) {
    __m512 totals[N];
#pragma GCC unroll 8
    for (int t = 0; t < N; t++) totals[t] = _mm512_setzero_ps();
    Blocks blocks = rows.block(0);
    Kind next;
    if (Kind::AHEAD) next.load(blocks);
    TokensOfBlock tokens(tile, first);
    for (int64_t index = 0; index < num_blocks; index++) {
        const __m512i words = blocks.words_from(0);
        if (!Kind::AHEAD) next.load(blocks);
        const Kind present = next;
        blocks = rows.block(index + 1 < num_blocks ? index + 1 : index);
        const auto between = [&](int quad) __attribute__((always_inline)) {
            rows.template fetch_ahead<8>(index, quad);
            if (!Kind::AHEAD) blocks.fetch_next(quad, Kind::BYTES);
            if (Kind::AHEAD && quad == 3) next.load(blocks);
        };
        add_block<N>(present, words, tokens, totals, between);
        fetch_aside(tile.aside);
        tokens.go_on(tile.num_tokens);
    }
#pragma GCC unroll 8
    for (int t = 0; t < N; t++) store_rows(product + t * stride, num_rows, totals[t]);
}

template <class Kind, int N>
void multiply_together(const Weight& weight, const TokenTile& tile, int first, int64_t begin,
                       int64_t end, float* product) {
    const int64_t row_bytes = weight.row_bytes(), blocks = weight.num_blocks();
    product += first * weight.rows;
    int64_t row = begin;
    for (; row + ROWS <= end; row += ROWS) {
        SixteenRows<Kind::BYTES> rows(weight.blocks + row * row_bytes, row_bytes);
        multiply_rows<Kind, N>(rows, blocks, tile, first, product + row, weight.rows, ROWS);
    }
    if (row == end) return;
    for (int t = 0; t < N; t++) {
        FewerRows<Kind::BYTES> rows(weight.blocks + row * row_bytes, row_bytes, end - row);
        multiply_rows<Kind, 1>(rows, blocks, tile, first + t, product + t * weight.rows + row,
                               weight.rows, end - row);
    }
}

template <class Kind>
void multiply_blocks(const Weight& weight, const TokenTile& tile, int64_t begin, int64_t end,
                     float* product) {
    constexpr auto multiply = multiply_together<Kind, MOST_TOGETHER>;
    constexpr decltype(multiply) fewer[MOST_TOGETHER] = {
        nullptr, multiply_together<Kind, 1>, multiply_together<Kind, 2>,
        multiply_together<Kind, 3>, multiply_together<Kind, 4>, multiply_together<Kind, 5>,
        multiply_together<Kind, 6>, multiply_together<Kind, 7>};
    int first = 0;
    for (; first + MOST_TOGETHER <= tile.num_tokens; first += MOST_TOGETHER)
        multiply(weight, tile, first, begin, end, product);
    if (first < tile.num_tokens)
        fewer[tile.num_tokens - first](weight, tile, first, begin, end, product);
}

// --- the same blocks to a strip ----------------------------------------------------------

template <class Kind, class Rows>
inline void unpack_rows(Rows rows, int64_t num_blocks, const Strip& strip) {
    for (int64_t index = 0; index < num_blocks; index++) {
        const Blocks blocks = rows.block(index);
        const __m512i words = blocks.words_from(0);
        Kind block;
        block.load(blocks);
#pragma GCC unroll 8
        for (int quad = 0; quad < 8; quad++)
            _mm512_store_si512(strip.codes + (8 * index + quad) * 4 * ROWS, block.codes(quad));
        _mm512_store_ps(strip.scale + index * ROWS, low_halves_as_floats(words));
        if (Kind::OFFSET)
            _mm512_store_ps(strip.offset + index * ROWS, high_halves_as_floats(words));
    }
}

template <class Kind>
void unpack_strip(const Weight& weight, int64_t first, const Strip& strip) {
    const int64_t row_bytes = weight.row_bytes(), blocks = weight.num_blocks();
    const uint8_t* const at = weight.blocks + first * row_bytes;
    if (weight.rows - first < ROWS)
        unpack_rows<Kind>(FewerRows<Kind::BYTES>(at, row_bytes, weight.rows - first), blocks,
                          strip);
    else
        unpack_rows<Kind>(SixteenRows<Kind::BYTES>(at, row_bytes), blocks, strip);
}

}  // namespace

UnpackStrip avx512_unpack_kernel(int block_type) {
    switch (block_type) {
        case Q4_0: return unpack_strip<FourBits<18, false>>;
        case Q4_1: return unpack_strip<FourBits<20, true>>;
        case Q5_0: return unpack_strip<FiveBits<22, false>>;
        case Q5_1: return unpack_strip<FiveBits<24, true>>;
        case Q8_0: return unpack_strip<EightBits>;
        default: return avx512_super_unpack_kernel(block_type);
    }
}

Isa::MultiplyTile avx512_tile_kernel(int block_type) {
    switch (block_type) {
        case Q4_0: return multiply_blocks<FourBits<18, false>>;
        case Q4_1: return multiply_blocks<FourBits<20, true>>;
        case Q5_0: return multiply_blocks<FiveBits<22, false>>;
        case Q5_1: return multiply_blocks<FiveBits<24, true>>;
        case Q8_0: return multiply_blocks<EightBits>;
        default: return avx512_super_tile_kernel(block_type);
    }
}

}  // namespace cotejar
