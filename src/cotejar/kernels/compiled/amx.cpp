#include "amx.h"

#include "amx_int8.h"

#include <cstring>
#include <utility>
#include <vector>

#if defined(COTEJAR_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cotejar {

namespace {

// Odd counts, so that a tile is cut short on each side.
constexpr int NUM_TOKENS = 37, NUM_STRIPS = 3, NUM_ROWS = 45, COLUMNS = 90, K = 96;

// Numbers of very different size, from a fixed sequence (Numerical Recipes' generator).
class Sequence {
  public:
    uint32_t next_bits() {
        state_ = state_ * 1664525u + 1013904223u;
        return state_ >> 8;
    }
    float next() {
        const float unit = static_cast<float>(next_bits()) / 16777216.0f - 0.5f;
        return unit * static_cast<float>(1u << (state_ & 15u));
    }

  private:
    uint32_t state_ = 1;
};

std::vector<float> product_of(const Bf16Kernels& kernels) {
    Sequence sequence;
    std::vector<float> rows(NUM_STRIPS * ROWS * K), tokens(NUM_TOKENS * COLUMNS);
    for (float& value : rows) value = sequence.next();
    for (float& value : tokens) value = sequence.next();
    std::vector<uint16_t> pairs(rows.size());
    for (size_t at = 0; at < rows.size(); at += ROWS * K)
        kernels.pairs_of_rows(rows.data() + at, K, pairs.data() + at);
    const int tile = kernels.tile_tokens;
    std::vector<float> tiles((NUM_TOKENS + tile) * K);  // of 4 bytes a value or less
    for (int first = 0; first < NUM_TOKENS; first += tile)
        kernels.round_tile(
            tokens.data() + first * COLUMNS,
            NUM_TOKENS - first < tile ? NUM_TOKENS - first : tile, COLUMNS, K,
            reinterpret_cast<char*>(tiles.data()) + first * K * kernels.value_bytes);
    std::vector<float> product(NUM_TOKENS * NUM_ROWS);
    kernels.multiply({pairs.data(), K, 0, NUM_ROWS, NUM_STRIPS}, {tiles.data(), NUM_TOKENS},
                     product.data(), NUM_ROWS);
    return product;
}

// Of a full tile of tokens and five groups, of codes as small and as great as they can be.
std::vector<float> product_of(MultiplyGroups multiply_groups) {
    constexpr int NUM_GROUPS = 5;
    const Weight weight{find_type(Q8_0), nullptr, ROWS, NUM_GROUPS * GROUP, 0.0f, true};
    Strip strip;
    TokenTile tile;
    const auto carve = [&](void* memory) {
        Carver carver(memory);
        strip.carve(carver, weight);
        tile.carve(carver, weight, MAX_TILE);
        float* totals = carver.take<float>(MAX_TILE * ROWS);
        return std::make_pair(totals, carver.used());
    };
    Scratch memory;
    float* const totals = carve(memory.get(carve(nullptr).second)).first;
    Sequence sequence;
    const auto code = [&] { return static_cast<int>(sequence.next_bits() % 255) - 127; };
    for (int i = 0; i < NUM_GROUPS * GROUP * ROWS; i++)
        strip.codes[i] = static_cast<uint8_t>(code() + GROUPS.centre);
    for (int i = 0; i < NUM_GROUPS * ROWS; i++) strip.group_scale[i] = sequence.next();
    for (int i = 0; i < NUM_GROUPS * MAX_TILE; i++) {
        tile.scale[i] = sequence.next();
        tile.initial[i] = 0;
        for (int j = 0; j < GROUP; j++) {
            tile.codes[i * GROUP + j] = static_cast<int8_t>(code());
            tile.initial[i] -= GROUPS.centre * tile.codes[i * GROUP + j];
        }
    }
    multiply_groups(weight, strip, tile, totals);
    return {totals, totals + MAX_TILE * ROWS};
}

std::vector<float> products_of(const Bf16Kernels& kernels, MultiplyGroups multiply_groups) {
    std::vector<float> all = product_of(kernels);
    const std::vector<float> of_groups = product_of(multiply_groups);
    all.insert(all.end(), of_groups.begin(), of_groups.end());
    return all;
}

#if defined(COTEJAR_AMX)

constexpr int AMX_BF16_BIT = 22, AMX_TILE_BIT = 24, AMX_INT8_BIT = 25;  // of CPUID leaf 7, EDX
constexpr unsigned TILE_STATE = 3u << 17;            // of XCR0: configuration and data
constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM

bool system_saves_tiles() {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & TILE_STATE) == TILE_STATE;
}

bool cpu_has_tiles() {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) return false;  // OSXSAVE
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    for (int bit : {AMX_BF16_BIT, AMX_TILE_BIT, AMX_INT8_BIT})
        if (!(edx >> bit & 1)) return false;
    // Palette 1: bytes a row and tiles in EBX, rows in ECX.
    if (!__get_cpuid_count(0x1D, 1, &eax, &ebx, &ecx, &edx)) return false;
    const bool is_whole = (ebx & 0xFFFF) == 64 && ebx >> 16 >= 8 && (ecx & 0xFFFF) >= 16;
    return is_whole && system_saves_tiles();
}

Amx look() {
    if (!cpu_has_tiles()) return Amx::ABSENT;
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0) return Amx::REFUSED;
    return passes_self_test(BF16_AMX, amx_multiply_groups, -1) ? Amx::READY : Amx::DIFFERENT;
}

#else

Amx look() { return Amx::ABSENT; }

#endif

}  // namespace

Amx amx_state() {
    static const Amx found = look();
    return found;
}

bool passes_self_test(const Bf16Kernels& kernels, MultiplyGroups multiply_groups, int fault) {
    std::vector<float> found = products_of(kernels, multiply_groups);
    const std::vector<float> expected = products_of(BF16_PORTABLE, PORTABLE.multiply_groups);
    if (fault >= 0 && fault < static_cast<int>(found.size())) {
        uint32_t bits;
        std::memcpy(&bits, &found[fault], 4);
        bits ^= 1;
        std::memcpy(&found[fault], &bits, 4);
    }
    return std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0;
}

}  // namespace cotejar
