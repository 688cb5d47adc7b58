// The next 16 rows of a matrix in blocks, as the products of a few tokens read them. Only for
// files compiled for AVX-512; everything here has internal linkage (see isa.h).
#pragma once

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

    // To L1, two rows of the block after these, of 16: where no registers are left to load it.
    void fetch_next(int pair, int64_t bytes) const {
        const uint8_t* const next = at + 2 * pair * stride + bytes;
        _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(next + stride), _MM_HINT_T0);
    }
};

// Blocks of 16 rows from `first` on.
template <int BYTES>
class SixteenRows {
  public:
    SixteenRows(const uint8_t* first, int64_t row_bytes)
        : first_(first), row_bytes_(row_bytes), offsets_(row_offsets(ROWS, row_bytes)) {}

    Blocks block(int64_t index) { return {first_ + index * BYTES, row_bytes_, offsets_}; }

    // A piece of the next 16 rows for every block of these, in PARTS; see avx512_vector.cpp.
    template <int PARTS>
    void fetch_ahead(int64_t index, int part) const {
        constexpr int LINES = (ROWS * BYTES + 63) / 64;
        const uint8_t* const at = first_ + ROWS * (row_bytes_ + index * BYTES);
        if (part == 0) fetch(at + LOOK_UP_AHEAD_BYTES);
#pragma GCC unroll 8
        for (int round = 0; round < (LINES + PARTS - 1) / PARTS; round++)
            if (round * PARTS + part < LINES) fetch(at + 64 * (round * PARTS + part));
    }

  private:
    static void fetch(const uint8_t* line) {
        _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
    }

    const uint8_t* const first_;
    const int64_t row_bytes_;
    const __m512i offsets_;
};

// Two lines of what is wanted after the product: with the weights' own that is about what the
// memory gives while a block is at work.
inline void fetch_aside(Aside* aside) {
    if (aside == nullptr) return;
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        if (const uint8_t* const line = line_of(*aside))
            _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
}

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

    template <int PARTS>
    void fetch_ahead(int64_t, int) const {}

  private:
    const uint8_t* const first_;
    const int64_t row_bytes_, num_rows_;
    const __m512i offsets_;
    uint8_t copies_[2][ROWS * BYTES];
};

// 16 bytes of each of 16 rows to columns: lane r of register q holds word q of row r.
__attribute__((always_inline)) inline void columns_of_16(const Blocks& blocks, int byte,
                                                         __m512i* columns) {
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

}  // namespace
}  // namespace cotejar
