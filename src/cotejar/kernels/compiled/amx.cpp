#include "amx.h"

#include <cstring>
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
    float next() {
        state_ = state_ * 1664525u + 1013904223u;
        const float unit = static_cast<float>(state_ >> 8) / 16777216.0f - 0.5f;
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

#if defined(COTEJAR_AMX)

constexpr int AMX_BF16_BIT = 22, AMX_TILE_BIT = 24;  // of CPUID leaf 7, EDX
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
    if (!(edx >> AMX_BF16_BIT & 1) || !(edx >> AMX_TILE_BIT & 1)) return false;
    // Palette 1: bytes a row and tiles in EBX, rows in ECX.
    if (!__get_cpuid_count(0x1D, 1, &eax, &ebx, &ecx, &edx)) return false;
    const bool is_whole = (ebx & 0xFFFF) == 64 && ebx >> 16 >= 8 && (ecx & 0xFFFF) >= 16;
    return is_whole && system_saves_tiles();
}

Amx look() {
    if (!cpu_has_tiles()) return Amx::ABSENT;
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0) return Amx::REFUSED;
    return passes_self_test(BF16_AMX, -1) ? Amx::READY : Amx::DIFFERENT;
}

#else

Amx look() { return Amx::ABSENT; }

#endif

}  // namespace

Amx amx_state() {
    static const Amx found = look();
    return found;
}

bool passes_self_test(const Bf16Kernels& kernels, int fault) {
    std::vector<float> found = product_of(kernels);
    const std::vector<float> expected = product_of(BF16_PORTABLE);
    if (fault >= 0 && fault < static_cast<int>(found.size())) {
        uint32_t bits;
        std::memcpy(&bits, &found[fault], 4);
        bits ^= 1;
        std::memcpy(&found[fault], &bits, 4);
    }
    return std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0;
}

}  // namespace cotejar
