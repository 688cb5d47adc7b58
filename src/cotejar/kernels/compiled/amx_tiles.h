// The eight tile registers behind one small interface: the instructions of AMX-BF16 and
// AMX-INT8, and the same in plain C++, after the pseudo-code of Intel's manual (SDM volume 2,
// "LDTILECFG", "TILELOADD", "TILESTORED", "TDPBF16PS", "TDPBUSD").
//
// An object of either is a region: its configuration is loaded when it begins and released
// when it ends. Nothing else may use tiles on this thread in between.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bf16_float.h"

namespace cotejar {
namespace {

constexpr int TILE_ROWS = 16, TILE_ROW_BYTES = 64, NUM_TILES = 8;

// What LDTILECFG reads.
struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    TileConfig() {
        for (int tile = 0; tile < NUM_TILES; tile++) {
            row_bytes[tile] = TILE_ROW_BYTES;
            rows[tile] = TILE_ROWS;
        }
    }
};
static_assert(sizeof(TileConfig) == 64, "the size is the instruction's");

#if defined(COTEJAR_TILE_INSTRUCTIONS)

class TileInstructions {
  public:
    // Written out, since the intrinsic of GCC 12 declares 8 bytes of its operand as read, and
    // the stores to the other 56 are then dropped.
    TileInstructions() {
        const TileConfig config;
        __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
    }
    ~TileInstructions() { __asm__ volatile("tilerelease" ::: "memory"); }
    TileInstructions(const TileInstructions&) = delete;
    TileInstructions& operator=(const TileInstructions&) = delete;

    template <int TILE>
    void zero() {
        __asm__ volatile("tilezero %%tmm%c0" ::"i"(TILE));
    }
    // 16 rows of 64 bytes, `stride` bytes apart.
    template <int TILE>
    void load(const void* at, int64_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(stride), "i"(TILE)
                         : "memory");
    }
    template <int TILE>
    void store(void* at, int64_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(at), "r"(stride), "i"(TILE)
                         : "memory");
    }
    // C += A times B.
    template <int C, int A, int B>
    void dot() {
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
    // The same of integers: signed bytes of A, unsigned ones of B.
    template <int C, int A, int B>
    void dot_bytes() {
        __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
};

#endif

class TileEmulation {
  public:
    TileEmulation() : tiles_{} {}
    TileEmulation(const TileEmulation&) = delete;
    TileEmulation& operator=(const TileEmulation&) = delete;

    template <int TILE>
    void zero() {
        tiles_[TILE] = {};
    }
    template <int TILE>
    void load(const void* at, int64_t stride) {
        for (int row = 0; row < config_.rows[TILE]; row++)
            __builtin_memcpy(tiles_[TILE].bytes[row],
                             static_cast<const char*>(at) + row * stride,
                             config_.row_bytes[TILE]);
    }
    template <int TILE>
    void store(void* at, int64_t stride) {
        for (int row = 0; row < config_.rows[TILE]; row++)
            __builtin_memcpy(static_cast<char*>(at) + row * stride, tiles_[TILE].bytes[row],
                             config_.row_bytes[TILE]);
    }
    template <int C, int A, int B>
    void dot() {
        const int pairs = config_.row_bytes[A] / 4, columns = config_.row_bytes[C] / 4;
        for (int m = 0; m < config_.rows[C]; m++) {
            float sums[TILE_ROW_BYTES / 2] = {};
            for (int k = 0; k < pairs; k++)
                for (int n = 0; n < columns; n++)
                    for (int odd = 0; odd < 2; odd++)
                        sums[2 * n + odd] =
                            fused_flushed(half(A, m, 2 * k + odd), half(B, k, 2 * n + odd),
                                          sums[2 * n + odd]);
            for (int n = 0; n < columns; n++) {
                const float both = added_flushed(sums[2 * n], sums[2 * n + 1]);
                float total;
                __builtin_memcpy(&total, tiles_[C].bytes[m] + 4 * n, 4);
                total = added_flushed(total, both);
                __builtin_memcpy(tiles_[C].bytes[m] + 4 * n, &total, 4);
            }
        }
    }

    template <int C, int A, int B>
    void dot_bytes() {
        const int quads = config_.row_bytes[A] / 4, columns = config_.row_bytes[C] / 4;
        for (int m = 0; m < config_.rows[C]; m++)
            for (int n = 0; n < columns; n++) {
                int32_t total;
                __builtin_memcpy(&total, tiles_[C].bytes[m] + 4 * n, 4);
                for (int k = 0; k < quads; k++)
                    for (int j = 0; j < 4; j++)
                        total += static_cast<int8_t>(tiles_[A].bytes[m][4 * k + j]) *
                                 tiles_[B].bytes[k][4 * n + j];
                __builtin_memcpy(tiles_[C].bytes[m] + 4 * n, &total, 4);
            }
    }

  private:
    struct Tile {
        uint8_t bytes[TILE_ROWS][TILE_ROW_BYTES];
    };

    float half(int tile, int row, int index) const {
        return float_of_bfloat(read_u16(tiles_[tile].bytes[row] + 2 * index));
    }

    const TileConfig config_;
    Tile tiles_[NUM_TILES];
};

}  // namespace
}  // namespace cotejar
