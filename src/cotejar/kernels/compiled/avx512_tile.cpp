// A matrix in blocks times a few tokens, for AVX512-VNNI.
//
// As over strips, 16 rows stand in 16 lanes and no sum crosses lanes; but a block's codes go
// from memory to registers and from there into every token's dots, and no strip is written.
// For few tokens the writing would take longer than the dots.

#include "avx512_tile.h"

#include "avx512_codes.h"

namespace cotejar {
namespace {

// 16 bytes of each of 16 rows to columns: lane r of register q holds word q of row r.
inline void columns_of_16(const uint8_t* at, const int32_t* rows, __m512i* columns) {
    __m512i v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        v[j] = _mm512_castsi128_si512(load_128(at + rows[j]));
        v[j] = _mm512_mask_broadcast_i32x4(v[j], 0x00F0, load_128(at + rows[4 + j]));
        v[j] = _mm512_mask_broadcast_i32x4(v[j], 0x0F00, load_128(at + rows[8 + j]));
        v[j] = _mm512_mask_broadcast_i32x4(v[j], 0xF000, load_128(at + rows[12 + j]));
    }
    const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    columns[0] = _mm512_unpacklo_epi64(a, c);
    columns[1] = _mm512_unpackhi_epi64(a, c);
    columns[2] = _mm512_unpacklo_epi64(b, d);
    columns[3] = _mm512_unpackhi_epi64(b, d);
}

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

// Low nibbles of four columns, then high ones.
inline void split_nibbles(const __m512i* columns, __m512i* codes) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int q = 0; q < 4; q++) {
        codes[q] = _mm512_and_si512(columns[q], low);
        codes[4 + q] = _mm512_and_si512(_mm512_srli_epi16(columns[q], 4), low);
    }
}

inline void fetch_ahead(const uint8_t* at, int bytes) {
    for (int line = 0; line < (bytes + 63) / 64; line++)
        _mm_prefetch(reinterpret_cast<const char*>(at + 64 * line), _MM_HINT_T1);
}

// --- types of 32-blocks: a block of 16 rows in eight registers --------------------------------

template <int SIZE, bool WITH_OFFSET>
struct FourBits {
    static constexpr int BYTES = SIZE;
    static constexpr bool OFFSET = WITH_OFFSET;
    static void codes_of(const uint8_t* at, __m512i, const int32_t* offsets, __m512i* codes) {
        __m512i columns[4];
        columns_of_16(at + BYTES - 16, offsets, columns);
        split_nibbles(columns, codes);
    }
};

template <int SIZE, bool WITH_OFFSET>
struct FiveBits {
    static constexpr int BYTES = SIZE;
    static constexpr bool OFFSET = WITH_OFFSET;
    static void codes_of(const uint8_t* at, __m512i rows, const int32_t* offsets,
                         __m512i* codes) {
        FourBits<SIZE, WITH_OFFSET>::codes_of(at, rows, offsets, codes);
        const __m512i top = _mm512_set1_epi8(16);
        const __m512i bits = gather_u32(at + BYTES - 20, rows);
#pragma GCC unroll 4
        for (int byte = 0; byte < 4; byte++) {
            // Byte `byte` of a lane in all four; its low half goes with one quad.
            const __m512i where = _mm512_or_si512(
                _mm512_set_epi64(0x0C0C0C0C08080808, 0x0404040400000000, 0x0C0C0C0C08080808,
                                 0x0404040400000000, 0x0C0C0C0C08080808, 0x0404040400000000,
                                 0x0C0C0C0C08080808, 0x0404040400000000),
                _mm512_set1_epi8(static_cast<char>(byte)));
            const __m512i eight = _mm512_shuffle_epi8(bits, where);
            const __mmask64 first = _mm512_test_epi8_mask(eight, _mm512_set1_epi32(0x08040201));
            const __mmask64 second =
                _mm512_test_epi8_mask(eight, _mm512_set1_epi32(static_cast<int>(0x80402010)));
            __m512i* pair = codes + 2 * byte;
            pair[0] = _mm512_mask_add_epi8(pair[0], first, pair[0], top);
            pair[1] = _mm512_mask_add_epi8(pair[1], second, pair[1], top);
        }
    }
};

struct EightBits {
    static constexpr int BYTES = 34;
    static constexpr bool OFFSET = false;
    static void codes_of(const uint8_t* at, __m512i, const int32_t* offsets, __m512i* codes) {
        columns_of_16(at + 2, offsets, codes);
        columns_of_16(at + 18, offsets, codes + 4);
        for (int quad = 0; quad < 8; quad++)
            codes[quad] = _mm512_xor_si512(codes[quad], _mm512_set1_epi8(-128));
    }
};

inline void add_to(float* total, __m512 term) {
    _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), term));
}

// One block of 16 rows with every token of the tile.
template <class Kind>
inline void add_block(const uint8_t* at, __m512i rows, const int32_t* offsets,
                      const TokenTile& tile, int64_t block, float* totals) {
    __m512i codes[8];
    Kind::codes_of(at, rows, offsets, codes);
    const __m512i words = gather_u32(at, rows);
    const __m512 scale = low_halves_as_floats(words), offset = high_halves_as_floats(words);
    const int64_t at_block = block * tile.num_tokens;
    in_turn(tile.num_tokens, [&](int first, auto count) {
        constexpr int N = decltype(count)::value;
        const int64_t i = at_block + first;
        __m512i dots[N];
        dots_of<N, 8>(codes, tile.codes + 32 * i, tile.initial + i, dots);
        for (int t = 0; t < N; t++) {
            __m512 term = _mm512_mul_ps(scale, _mm512_set1_ps(tile.scale[i + t]));
            term = _mm512_mul_ps(term, _mm512_cvtepi32_ps(dots[t]));
            if (Kind::OFFSET)
                // The product of two float16 is exact: nothing is rounded but the sum.
                term = _mm512_fmadd_ps(offset, _mm512_set1_ps(tile.scaled_sum[i + t]), term);
            add_to(totals + (first + t) * ROWS, term);
        }
    });
}

// --- super-blocks: sixteen codes of a run and their neighbours at a time -------------------------

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
inline void put_minimums(const uint8_t* at, __m512i rows, Subs& subs) {
    const __m512i byte = _mm512_set1_epi32(0xFF), third = _mm512_set1_epi32(0xFF0000);
    const __m512i words = gather_u32(at, rows);
    subs.scale = low_halves_as_floats(words);
    subs.offset = negated(high_halves_as_floats(words));
    const SubScales of_rows = sub_scales_of_rows(at, rows);
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
    static void put_subs(const uint8_t* at, __m512i rows, Subs& subs) {
        put_minimums(at, rows, subs);
    }
    static int64_t first_code(int chunk, int run) {
        return 32 * (chunk / 2 * 2 + run) + 16 * (chunk % 2);
    }
    static int sub_of(int chunk, int run) { return chunk / 2 * 2 + run; }
    static void codes_of(const uint8_t* at, const int32_t* offsets, int chunk, __m512i* codes) {
        __m512i columns[4];
        columns_of_16(at + 16 + 16 * chunk, offsets, columns);
        split_nibbles(columns, codes);
    }
};

struct FiveBitsK : FourBitsK {
    static constexpr int BYTES = 176, PIECE = 8;
    static void codes_of(const uint8_t* at, const int32_t* offsets, int chunk, __m512i* codes) {
        const __m512i top = _mm512_set1_epi8(16);
        __m512i columns[4], bits[4];
        columns_of_16(at + 48 + 16 * chunk, offsets, columns);
        split_nibbles(columns, codes);
        columns_of_16(at + 16 + 16 * (chunk % 2), offsets, bits);
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
    static void put_subs(const uint8_t* at, __m512i rows, Subs& subs) {
        const __m512i low = _mm512_set1_epi32(0xFFFF);
        subs.scale = high_halves_as_floats(gather_u32(at + 206, rows));
        for (int quarter = 0; quarter < 4; quarter++) {
            const __m512i words = gather_u32(at + 192 + 4 * quarter, rows);
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
    static void codes_of(const uint8_t* at, const int32_t* offsets, int chunk, __m512i* codes) {
        const __m512i top = _mm512_set1_epi8(48);
        const uint8_t* low = at + 64 * (chunk / 2) + 16 * (chunk % 2);
        __m512i columns[4], first[8], second[8], bits[4];
        columns_of_16(low, offsets, columns);
        split_nibbles(columns, first);
        columns_of_16(low + 32, offsets, columns);
        split_nibbles(columns, second);
        columns_of_16(at + 128 + 32 * (chunk / 2) + 16 * (chunk % 2), offsets, bits);
        for (int q = 0; q < 4; q++) {
            codes[q] = and_or(_mm512_slli_epi32(bits[q], 4), top, first[q]);
            codes[4 + q] = and_or(_mm512_slli_epi32(bits[q], 2), top, second[q]);
            codes[8 + q] = and_or(bits[q], top, first[4 + q]);
            codes[12 + q] = and_or(_mm512_srli_epi32(bits[q], 2), top, second[4 + q]);
        }
    }
};

template <class Kind>
inline void add_super_block(const uint8_t* at, __m512i rows, const int32_t* offsets,
                            const TokenTile& tile, int64_t block, float* totals) {
    const int n = tile.num_tokens;
    Subs subs;
    Kind::put_subs(at, rows, subs);
    __m512i sums[MAX_TILE];
    for (int t = 0; t < n; t++) sums[t] = _mm512_setzero_si512();
    for (int chunk = 0; chunk < Kind::CHUNKS; chunk++) {
        __m512i codes[4 * Kind::RUNS];
        Kind::codes_of(at, offsets, chunk, codes);
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
        add_to(totals + t * ROWS, term);
    }
}

// --- all rows ------------------------------------------------------------------------------

using AddBlock = void (*)(const uint8_t* at, __m512i rows, const int32_t* offsets,
                          const TokenTile& tile, int64_t block, float* totals);

template <int BYTES, AddBlock ADD>
void multiply(const Weight& weight, const TokenTile& tile, int64_t begin, int64_t end,
              float* product) {
    const int64_t row_bytes = weight.row_bytes(), blocks = weight.num_blocks();
    alignas(64) float totals[MAX_TILE * ROWS];
    for (int64_t row = begin; row < end; row += ROWS) {
        const uint8_t* at = weight.blocks + row * row_bytes;
        const uint8_t* ahead = at + ROWS * row_bytes;
        const __m512i rows = row_offsets(end - row, row_bytes);
        alignas(64) int32_t offsets[ROWS];
        _mm512_store_si512(offsets, rows);
        for (int t = 0; t < tile.num_tokens; t++)
            _mm512_store_ps(totals + t * ROWS, _mm512_setzero_ps());
        for (int64_t block = 0; block < blocks; block++) {
            fetch_ahead(ahead, ROWS * BYTES);
            ahead += ROWS * BYTES;
            ADD(at, rows, offsets, tile, block, totals);
            at += BYTES;
        }
        for (int t = 0; t < tile.num_tokens; t++)
            store_rows(product + t * weight.rows + row, end - row,
                       _mm512_load_ps(totals + t * ROWS));
    }
}

template <class Kind>
constexpr Isa::MultiplyTile of_blocks() {
    return multiply<Kind::BYTES, add_block<Kind>>;
}

template <class Kind>
constexpr Isa::MultiplyTile of_super_blocks() {
    return multiply<Kind::BYTES, add_super_block<Kind>>;
}

}  // namespace

Isa::MultiplyTile avx512_tile_kernel(int block_type) {
    switch (block_type) {
        case Q4_0: return of_blocks<FourBits<18, false>>();
        case Q4_1: return of_blocks<FourBits<20, true>>();
        case Q5_0: return of_blocks<FiveBits<22, false>>();
        case Q5_1: return of_blocks<FiveBits<24, true>>();
        case Q8_0: return of_blocks<EightBits>();
        case Q4_K: return of_super_blocks<FourBitsK>();
        case Q5_K: return of_super_blocks<FiveBitsK>();
        case Q6_K: return of_super_blocks<SixBitsK>();
        default: return nullptr;
    }
}

}  // namespace cotejar
