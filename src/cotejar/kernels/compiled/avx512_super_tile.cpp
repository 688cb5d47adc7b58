// A matrix in super-blocks times a few tokens, for AVX512-VNNI: sixteen codes of a run and
// their neighbours at a time. See avx512_tile.cpp.

#include "avx512_rows.h"
#include "avx512_tile.h"

namespace cotejar {
namespace {

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
inline void add_scaled(__m512i* sums, const __m512i* codes, __m512i scale,
                       const TokenTile& tile, int64_t first_code, int first) {
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

template <class Kind, class Rows>
inline void add_super_block(Rows& rows, const TokenTile& tile, int64_t block, float* totals) {
    const Blocks blocks = rows.block(block);
    const int n = tile.num_tokens;
    Subs subs;
    Kind::put_subs(blocks, subs);
    __m512i sums[MAX_TILE];
    for (int t = 0; t < n; t++) sums[t] = _mm512_setzero_si512();
    for (int chunk = 0; chunk < Kind::CHUNKS; chunk++) {
        __m512i codes[4 * Kind::RUNS];
        rows.template fetch_ahead<Kind::CHUNKS>(block, chunk);
        fetch_aside(tile.aside);
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
                sum = _mm512_dpwssd_epi32(
                    sum, subs.minimums[pair],
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
    for (int64_t index = 0; index < num_blocks; index++)
        add_super_block<Kind>(rows, tile, index, totals);
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

// --- the same blocks to a strip ----------------------------------------------------------

template <class Kind>
inline void unpack_subs(const Blocks& blocks, int64_t block, const Strip& strip) {
    constexpr int SUBS = Kind::OFFSET ? 8 : 16;
    Subs subs;
    Kind::put_subs(blocks, subs);
    _mm512_store_ps(strip.scale + block * ROWS, subs.scale);
    for (int sub = 0; sub < SUBS; sub++)
        _mm512_store_si512(strip.sub_scales + (block * SUBS + sub) * ROWS, subs.scales[sub]);
    if (!Kind::OFFSET) return;
    _mm512_store_ps(strip.offset + block * ROWS, subs.offset);
    for (int pair = 0; pair < SUBS / 2; pair++)
        _mm512_store_si512(strip.sub_offsets + (block * SUBS / 2 + pair) * ROWS,
                           subs.minimums[pair]);
}

template <class Kind, class Rows>
inline void unpack_rows(Rows rows, int64_t num_blocks, const Strip& strip) {
    for (int64_t block = 0; block < num_blocks; block++) {
        const Blocks blocks = rows.block(block);
        unpack_subs<Kind>(blocks, block, strip);
        for (int chunk = 0; chunk < Kind::CHUNKS; chunk++) {
            __m512i codes[4 * Kind::RUNS];
            Kind::codes_of(blocks, chunk, codes);
            for (int run = 0; run < Kind::RUNS; run++) {
                uint8_t* const to =
                    strip.codes + (256 * block + Kind::first_code(chunk, run)) * ROWS;
                for (int quad = 0; quad < 4; quad++)
                    _mm512_store_si512(to + 4 * ROWS * quad, codes[4 * run + quad]);
            }
        }
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

UnpackStrip avx512_super_unpack_kernel(int block_type) {
    switch (block_type) {
        case Q4_K: return unpack_strip<FourBitsK>;
        case Q5_K: return unpack_strip<FiveBitsK>;
        case Q6_K: return unpack_strip<SixBitsK>;
        default: return nullptr;
    }
}

Isa::MultiplyTile avx512_super_tile_kernel(int block_type) {
    switch (block_type) {
        case Q4_K: return multiply_super_blocks<FourBitsK>;
        case Q5_K: return multiply_super_blocks<FiveBitsK>;
        case Q6_K: return multiply_super_blocks<SixBitsK>;
        default: return nullptr;
    }
}

}  // namespace cotejar
