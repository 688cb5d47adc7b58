// A matrix in blocks times a few tokens, for AVX512-VNNI.
//
// As over strips, 16 rows stand in 16 lanes and no sum crosses lanes; but a block's codes go
// from memory to registers and from there into every token's dots, and no strip is written.
// For few tokens the writing would take longer than the dots.
//
// What limits it is the number of instructions for the two vector ports: for 8 tokens and one
// block of Q4_1 in 16 rows they are 64 dots, 40 on floats, and 41 that take the block apart.

#include "avx512_tile.h"

#include "avx512_codes.h"

namespace cotejar {
namespace {

// One block of each of 16 rows, so many bytes apart: by a distance the compiler needs few
// registers, where it kept 16 free addresses among the vectors.
struct Blocks {
    const uint8_t* at;
    int64_t stride;
    __m512i offsets;  // of the 16

    __m512i words_from(int byte) const { return gather_u32(at + byte, offsets); }
};

// Blocks of 16 rows from `first` on.
template <int BYTES>
class SixteenRows {
  public:
    SixteenRows(const uint8_t* first, int64_t row_bytes)
        : first_(first), row_bytes_(row_bytes), offsets_(row_offsets(ROWS, row_bytes)) {}

    Blocks block(int64_t index) { return {first_ + index * BYTES, row_bytes_, offsets_}; }

    // A piece of the next 16 rows for every block of these.
    void fetch_ahead(int64_t index) const {
        const uint8_t* const at = first_ + ROWS * (row_bytes_ + index * BYTES);
        for (int line = 0; line < (ROWS * BYTES + 63) / 64; line++)
            _mm_prefetch(reinterpret_cast<const char*>(at + 64 * line), _MM_HINT_T1);
    }

  private:
    const uint8_t* const first_;
    const int64_t row_bytes_;
    const __m512i offsets_;
};

// Fewer rows, the last of them repeated: in copies, which have a fixed distance.
template <int BYTES>
class FewerRows {
  public:
    FewerRows(const uint8_t* first, int64_t row_bytes, int64_t num_rows)
        : first_(first), row_bytes_(row_bytes), num_rows_(num_rows),
          offsets_(row_offsets(ROWS, BYTES)) {}

    // A copy lives until the next but one.
    Blocks block(int64_t index) {
        uint8_t* const copy = copies_[index % 2];
        for (int64_t row = 0; row < ROWS; row++) {
            const int64_t from = row < num_rows_ ? row : num_rows_ - 1;
            const uint8_t* const block = first_ + from * row_bytes_ + index * BYTES;
            __builtin_memcpy(copy + row * BYTES, block, BYTES);
        }
        return {copy, BYTES, offsets_};
    }

    void fetch_ahead(int64_t) const {}

  private:
    const uint8_t* const first_;
    const int64_t row_bytes_, num_rows_;
    const __m512i offsets_;
    uint8_t copies_[2][ROWS * BYTES];
};

// 16 bytes of each of 16 rows to columns: lane r of register q holds word q of row r.
inline void columns_of_16(const Blocks& blocks, int byte, __m512i* columns) {
    const int64_t stride = blocks.stride, rows[4] = {0, stride, 2 * stride, 3 * stride};
    const uint8_t* fours[4] = {blocks.at};
    for (int four = 1; four < 4; four++) {
        fours[four] = fours[four - 1] + 4 * stride;
    }
    __m512i v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        v[j] = _mm512_castsi128_si512(load_128(fours[0] + rows[j] + byte));
        v[j] = _mm512_mask_broadcast_i32x4(v[j], 0x00F0, load_128(fours[1] + rows[j] + byte));
        v[j] = _mm512_mask_broadcast_i32x4(v[j], 0x0F00, load_128(fours[2] + rows[j] + byte));
        v[j] = _mm512_mask_broadcast_i32x4(v[j], 0xF000, load_128(fours[3] + rows[j] + byte));
    }
    const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    columns[0] = _mm512_unpacklo_epi64(a, c);
    columns[1] = _mm512_unpackhi_epi64(a, c);
    columns[2] = _mm512_unpacklo_epi64(b, d);
    columns[3] = _mm512_unpackhi_epi64(b, d);
}

// Code q and q + 4 of a lane are the low and the high nibbles of column q.
inline __m512i nibbles_of(const __m512i* columns, int quad) {
    const __m512i low = _mm512_set1_epi8(15);
    return quad < 4 ? _mm512_and_si512(columns[quad], low)
                    : _mm512_and_si512(_mm512_srli_epi16(columns[quad - 4], 4), low);
}

// --- types of 32-blocks: one block of 16 rows, taken apart as late as possible ----------------
//
// What `load` keeps fits beside the sums while another block is at work: so the next block is
// on its way before its codes are needed. codes(quad) are four neighbours of each row.

template <int SIZE, bool WITH_OFFSET>
struct FourBits {
    static constexpr int BYTES = SIZE;
    static constexpr bool OFFSET = WITH_OFFSET, AHEAD = true;
    __m512i columns[4];

    void load(const Blocks& blocks) {
        columns_of_16(blocks, BYTES - 16, columns);
    }
    __m512i codes(int quad) const { return nibbles_of(columns, quad); }
};

template <int SIZE, bool WITH_OFFSET>
struct FiveBits {
    static constexpr int BYTES = SIZE;
    static constexpr bool OFFSET = WITH_OFFSET, AHEAD = true;
    __m512i bits, columns[4];

    void load(const Blocks& blocks) {
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

    void load(const Blocks& blocks) {
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

// One block of 16 rows with N tokens; `load_next` in between.
template <int N, class Kind, class LoadNext>
inline void add_block(const Kind& block, __m512i words, const TokensOfBlock& tokens,
                      __m512* totals, LoadNext&& load_next) {
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
        if (quad == 3) load_next();
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
        rows.fetch_ahead(index);
        const __m512i words = blocks.words_from(0);
        if (!Kind::AHEAD) next.load(blocks);
        const Kind present = next;
        blocks = rows.block(index + 1 < num_blocks ? index + 1 : index);
        add_block<N>(present, words, tokens, totals, [&]() __attribute__((always_inline)) {
            if (Kind::AHEAD) next.load(blocks);
        });
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

// --- super-blocks: sixteen codes of a run and their neighbours at a time -------------------------

// Tokens whose dots grow in turn, so that none waits for its own last instruction.
constexpr int IN_TURN = 4;

template <int N>
struct Count {
    static constexpr int value = N;
};

// Calls work(first token, how many) for all tokens; how many is a Count.
template <class Work>
inline void in_turn(int num_tokens, Work&& work) {
    int t = 0;
    for (; t + IN_TURN <= num_tokens; t += IN_TURN)
        work(t, Count<IN_TURN>());
    for (; t < num_tokens; t++) work(t, Count<1>());
}

inline void split_nibbles(const __m512i* columns, __m512i* codes) {
    for (int quad = 0; quad < 8; quad++) codes[quad] = nibbles_of(columns, quad);
}

// Dots of QUADS registers of codes with N tokens, whose codes lie QUADS * 4 apart.
template <int N, int QUADS>
inline void dots_of(const __m512i* codes, const int8_t* x, const int32_t* initial,
                    __m512i* dots) {
#pragma GCC unroll 4
    for (int t = 0; t < N; t++) dots[t] = _mm512_set1_epi32(initial[t]);
#pragma GCC unroll 8
    for (int quad = 0; quad < QUADS; quad++)
#pragma GCC unroll 4
        for (int t = 0; t < N; t++) add_dots(dots[t], codes[quad], x + 4 * (QUADS * t + quad));
}

struct Subs {
    __m512i scales[16];   // of each sub-block: int16 in 32 bits, the upper half 0
    __m512i minimums[4];  // of two sub-blocks, int16 each
    __m512 scale, offset;
};

// Sixteen codes of a run in four registers, in pieces whose dots fit int16, with N tokens.
template <int N, int PIECE>
inline void add_scaled(__m512i* sums, const __m512i* codes, __m512i scale, const TokenTile& tile,
                       int64_t first_code, int first) {
#pragma GCC unroll 2
    for (int j = 0; j < 16 / PIECE; j++) {
        const int64_t at = (first_code / PIECE + j) * tile.num_tokens + first;
        __m512i dots[N];
        dots_of<N, PIECE / 4>(codes + j * PIECE / 4, tile.codes + at * PIECE, tile.initial + at,
                              dots);
#pragma GCC unroll 4
        for (int t = 0; t < N; t++) sums[t] = _mm512_dpwssd_epi32(sums[t], dots[t], scale);
    }
}

// Q4_K and Q5_K: chunk c holds sixteen codes of run 2 (c / 2), and of the run after it.
inline void put_minimums(const Blocks& blocks, Subs& subs) {
    const __m512i byte = _mm512_set1_epi32(0xFF), third = _mm512_set1_epi32(0xFF0000);
    const __m512i words = blocks.words_from(0);
    subs.scale = low_halves_as_floats(words);
    subs.offset = negated(high_halves_as_floats(words));
    const SubScales of_rows = sub_scales_of_rows(blocks.at, blocks.offsets);
    for (int half = 0; half < 2; half++) {
        for (int j = 0; j < 4; j++)
            subs.scales[4 * half + j] = _mm512_and_si512(
                _mm512_srlv_epi32(of_rows.scales[half], _mm512_set1_epi32(8 * j)), byte);
        const __m512i minimums = of_rows.minimums[half];
        subs.minimums[2 * half] = and_or(_mm512_slli_epi32(minimums, 8), third,
                                         _mm512_and_si512(minimums, byte));
        subs.minimums[2 * half + 1] =
            and_or(_mm512_srli_epi32(minimums, 8), third,
                   _mm512_and_si512(_mm512_srli_epi32(minimums, 16), byte));
    }
}

struct FourBitsK {
    static constexpr int BYTES = 144, PIECE = 16;
    static constexpr bool OFFSET = true;
    static constexpr int CHUNKS = 8, RUNS = 2;
    static void put_subs(const Blocks& blocks, Subs& subs) { put_minimums(blocks, subs); }
    static int64_t first_code(int chunk, int run) {
        return 32 * (chunk / 2 * 2 + run) + 16 * (chunk % 2);
    }
    static int sub_of(int chunk, int run) { return chunk / 2 * 2 + run; }
    static void codes_of(const Blocks& blocks, int chunk, __m512i* codes) {
        __m512i columns[4];
        columns_of_16(blocks, 16 + 16 * chunk, columns);
        split_nibbles(columns, codes);
    }
};

struct FiveBitsK : FourBitsK {
    static constexpr int BYTES = 176, PIECE = 8;
    static void codes_of(const Blocks& blocks, int chunk, __m512i* codes) {
        const __m512i top = _mm512_set1_epi8(16);
        __m512i columns[4], bits[4];
        columns_of_16(blocks, 48 + 16 * chunk, columns);
        split_nibbles(columns, codes);
        columns_of_16(blocks, 16 + 16 * (chunk % 2), bits);
        // A rotation brings bit k, k the run, to bit 4; no byte reaches into its neighbour.
        const __m512i turn = _mm512_set1_epi32(4 - chunk / 2 * 2 + 32);
        const __m512i next = _mm512_set1_epi32(3 - chunk / 2 * 2 + 32);
        for (int q = 0; q < 4; q++) {
            codes[q] = and_or(_mm512_rolv_epi32(bits[q], turn), top, codes[q]);
            codes[4 + q] = and_or(_mm512_rolv_epi32(bits[q], next), top, codes[4 + q]);
        }
    }
};

// Chunk c holds sixteen codes of each of four runs of a half.
struct SixBitsK {
    static constexpr int BYTES = 210, PIECE = 8;
    static constexpr bool OFFSET = false;
    static constexpr int CHUNKS = 4, RUNS = 4;
    static void put_subs(const Blocks& blocks, Subs& subs) {
        const __m512i low = _mm512_set1_epi32(0xFFFF);
        subs.scale = high_halves_as_floats(blocks.words_from(206));
        for (int quarter = 0; quarter < 4; quarter++) {
            const __m512i words = blocks.words_from(192 + 4 * quarter);
            for (int j = 0; j < 4; j++) {
                const __m512i top = _mm512_sllv_epi32(words, _mm512_set1_epi32(24 - 8 * j));
                subs.scales[4 * quarter + j] =
                    _mm512_and_si512(_mm512_srai_epi32(top, 24), low);
            }
        }
    }
    static int64_t first_code(int chunk, int run) {
        return 128 * (chunk / 2) + 32 * run + 16 * (chunk % 2);
    }
    static int sub_of(int chunk, int run) { return 8 * (chunk / 2) + 2 * run + chunk % 2; }
    static void codes_of(const Blocks& blocks, int chunk, __m512i* codes) {
        const __m512i top = _mm512_set1_epi8(48);
        const int low = 64 * (chunk / 2) + 16 * (chunk % 2);
        __m512i columns[4], first[8], second[8], bits[4];
        columns_of_16(blocks, low, columns);
        split_nibbles(columns, first);
        columns_of_16(blocks, low + 32, columns);
        split_nibbles(columns, second);
        columns_of_16(blocks, 128 + 32 * (chunk / 2) + 16 * (chunk % 2), bits);
        for (int q = 0; q < 4; q++) {
            codes[q] = and_or(_mm512_slli_epi32(bits[q], 4), top, first[q]);
            codes[4 + q] = and_or(_mm512_slli_epi32(bits[q], 2), top, second[q]);
            codes[8 + q] = and_or(bits[q], top, first[4 + q]);
            codes[12 + q] = and_or(_mm512_srli_epi32(bits[q], 2), top, second[4 + q]);
        }
    }
};

template <class Kind>
inline void add_super_block(const Blocks& blocks, const TokenTile& tile, int64_t block,
                            float* totals) {
    const int n = tile.num_tokens;
    Subs subs;
    Kind::put_subs(blocks, subs);
    __m512i sums[MAX_TILE];
    for (int t = 0; t < n; t++) sums[t] = _mm512_setzero_si512();
    for (int chunk = 0; chunk < Kind::CHUNKS; chunk++) {
        __m512i codes[4 * Kind::RUNS];
        Kind::codes_of(blocks, chunk, codes);
        in_turn(n, [&](int first, auto count) {
            for (int run = 0; run < Kind::RUNS; run++)
                add_scaled<decltype(count)::value, Kind::PIECE>(
                    sums + first, codes + 4 * run, subs.scales[Kind::sub_of(chunk, run)], tile,
                    256 * block + Kind::first_code(chunk, run), first);
        });
    }
    for (int t = 0; t < n; t++) {
        const __m512 scale = _mm512_set1_ps(tile.scale[block * n + t]);
        __m512 term =
            _mm512_mul_ps(_mm512_mul_ps(subs.scale, scale), _mm512_cvtepi32_ps(sums[t]));
        if (Kind::OFFSET) {
            __m512i sum = _mm512_setzero_si512();
            for (int pair = 0; pair < 4; pair++)
                sum = _mm512_dpwssd_epi32(sum, subs.minimums[pair],
                                          _mm512_set1_epi32(tile.sums[(4 * block + pair) * n + t]));
            term = _mm512_add_ps(term, _mm512_mul_ps(_mm512_mul_ps(scale, subs.offset),
                                                     _mm512_cvtepi32_ps(sum)));
        }
        float* const total = totals + t * ROWS;
        _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), term));
    }
}

template <class Kind, class Rows>
void multiply_super(Rows rows, int64_t num_blocks, const TokenTile& tile, float* product,
                    int64_t stride, int64_t num_rows) {
    alignas(64) float totals[MAX_TILE * ROWS];
    for (int t = 0; t < tile.num_tokens; t++)
        _mm512_store_ps(totals + t * ROWS, _mm512_setzero_ps());
    for (int64_t index = 0; index < num_blocks; index++) {
        rows.fetch_ahead(index);
        add_super_block<Kind>(rows.block(index), tile, index, totals);
    }
    for (int t = 0; t < tile.num_tokens; t++)
        store_rows(product + t * stride, num_rows, _mm512_load_ps(totals + t * ROWS));
}

template <class Kind>
void multiply_super_blocks(const Weight& weight, const TokenTile& tile, int64_t begin,
                           int64_t end, float* product) {
    const int64_t row_bytes = weight.row_bytes(), blocks = weight.num_blocks();
    for (int64_t row = begin; row < end; row += ROWS) {
        const uint8_t* const at = weight.blocks + row * row_bytes;
        if (end - row < ROWS)
            multiply_super<Kind>(FewerRows<Kind::BYTES>(at, row_bytes, end - row), blocks, tile,
                                 product + row, weight.rows, end - row);
        else
            multiply_super<Kind>(SixteenRows<Kind::BYTES>(at, row_bytes), blocks, tile,
                                 product + row, weight.rows, ROWS);
    }
}

}  // namespace

Isa::MultiplyTile avx512_tile_kernel(int block_type) {
    switch (block_type) {
        case Q4_0: return multiply_blocks<FourBits<18, false>>;
        case Q4_1: return multiply_blocks<FourBits<20, true>>;
        case Q5_0: return multiply_blocks<FiveBits<22, false>>;
        case Q5_1: return multiply_blocks<FiveBits<24, true>>;
        case Q8_0: return multiply_blocks<EightBits>;
        case Q4_K: return multiply_super_blocks<FourBitsK>;
        case Q5_K: return multiply_super_blocks<FiveBitsK>;
        case Q6_K: return multiply_super_blocks<SixBitsK>;
        default: return nullptr;
    }
}

}  // namespace cotejar
