// One table of functions an instruction set. Every table computes the same bits.
//
// The files isa_*.cpp are compiled with their own instruction flags. They must not use inline
// functions of external linkage (most of the standard library): the linker could hand such a
// function, compiled for AVX-512, to the portable code.
#pragma once

#include "activations.h"
#include "bf16.h"
#include "operations.h"
#include "statistics.h"
#include "strip.h"

namespace cotejar {

// Where a page's address is not yet known, looking it up holds up every line that is fetched
// behind it: kernels that read a long way ask for one line of a page this far ahead, before
// they fetch the page itself (measured on Qwen 0.5B, 2 threads: 6 % of a decode step).
static constexpr int64_t LOOK_UP_AHEAD_BYTES = 8192;

struct Isa {
    const char* name;

    // 16 rows from `first` into the strip; rows past the last repeat the last.
    void (*unpack_strip)(const Weight& weight, int64_t first, const Strip& strip);

    // totals[N][ROWS] of a strip and a tile, for types of 32-blocks and of super-blocks.
    void (*multiply_blocks)(const Weight& weight, const Strip& strip, const TokenTile& tile,
                            float* totals);
    void (*multiply_super_blocks)(const Weight& weight, const Strip& strip,
                                  const TokenTile& tile, float* totals);
    // The strip's codes, or values, become those of groups of 64.
    void (*group_strip)(const Weight& weight, const Strip& strip);
    void (*multiply_groups)(const Weight& weight, const Strip& strip, const TokenTile& tile,
                            float* totals);
    // The same of two strips of any such type, of one weight or of two that are alike; null
    // where it would be no faster.
    void (*multiply_two_strips)(const Weight& weight, const Strip* const* strips,
                                const TokenTile& tile, FetchAhead ahead,
                                float* const* totals);

    // rows (ROWS x K) times tokens (N x K) in 16 float32 lanes; K a multiple of 16.
    void (*multiply_lanes)(const float* rows, const float* tokens, int num_tokens, int64_t k,
                           float* totals);

    // Rows of floats or of quantised blocks as float32, ROWS x K, zeros after C.
    void (*decode_strip)(const Weight& weight, int64_t first, int64_t k, float* rows);

    // Rows begin..end times one token; null where the type has no such kernel.
    using MultiplyVector = void (*)(const Weight& weight, const VectorToken& token,
                                    int64_t begin, int64_t end, float* product);
    MultiplyVector (*vector_kernel)(int block_type);

    // Rows begin..end times a tile of 1..16 tokens; product[t][weight.rows]. Null likewise.
    using MultiplyTile = void (*)(const Weight& weight, const TokenTile& tile, int64_t begin,
                                  int64_t end, float* product);
    MultiplyTile (*tile_kernel)(int block_type);

    const Bf16Kernels* bf16;
    const Operations* operations;
    RoundActivations round_activations;
    // Up to BLOCK_VALUES values. Where their sums do not tell enough, false and the `other`: all
    // but extremes and zeros.
    bool (*measure_block)(const float* values, int64_t count, Extremes& extremes,
                          BlockSums& block, Moments& other);
    // The same of values of which none is 0: an eighth less work.
    bool (*measure_nonzeros)(const float* values, int64_t count, Extremes& extremes,
                             BlockSums& block, Moments& other);
    void (*measure_chunk)(const float* values, int64_t count, Chunk& chunk);
};

extern const Isa PORTABLE;
#if defined(COTEJAR_X86)
extern const Isa AVX2;
extern const Isa AVX512VNNI;
#endif

// Instruction sets that this build has and this CPU runs, best first.
int num_isas();
const Isa* isa_at(int index);

// Null: not in this build, or not on this CPU. Finds "amx-emulated" too, which is on every CPU
// and of no use but to tests.
const Isa* find_isa(const char* name);

}  // namespace cotejar
