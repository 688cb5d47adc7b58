#include "block_pool.h"

#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>

namespace cotejar {

namespace {

constexpr size_t MAX_FREE_BLOCKS = 12;
constexpr size_t MAX_FREE_BYTES = size_t{64} << 20;
constexpr size_t HUGE_PAGE = size_t{2} << 20;
constexpr size_t HEADER = 64;  // before each block: its size

std::mutex pool_mutex;
void* free_blocks[MAX_FREE_BLOCKS];
size_t num_free = 0, free_bytes = 0;

size_t& size_of(void* memory) { return *static_cast<size_t*>(memory); }

// The smallest free one that is large enough, and not four times too large.
void* find_free(size_t size) {
    size_t best = MAX_FREE_BLOCKS;
    for (size_t i = 0; i < num_free; i++) {
        const size_t here = size_of(free_blocks[i]);
        if (here < size || here / 4 > size) continue;
        if (best == MAX_FREE_BLOCKS || here < size_of(free_blocks[best])) best = i;
    }
    if (best == MAX_FREE_BLOCKS) return nullptr;
    void* memory = free_blocks[best];
    free_blocks[best] = free_blocks[--num_free];
    free_bytes -= size_of(memory);
    return memory;
}

}  // namespace

void* take_block(size_t bytes) {
    const size_t page = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 4096;
    const size_t size = (bytes + HEADER + page - 1) / page * page;
    void* memory;
    {
        std::lock_guard<std::mutex> lock(pool_mutex);
        memory = find_free(size);
    }
    if (memory == nullptr) {
        memory = std::aligned_alloc(page, size);
        if (memory == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        if (page == HUGE_PAGE) madvise(memory, size, MADV_HUGEPAGE);
#endif
        size_of(memory) = size;
    }
    return static_cast<char*>(memory) + HEADER;
}

void give_block(void* block) noexcept {
    void* memory = static_cast<char*>(block) - HEADER;
    {
        std::lock_guard<std::mutex> lock(pool_mutex);
        if (num_free < MAX_FREE_BLOCKS && free_bytes + size_of(memory) <= MAX_FREE_BYTES) {
            free_blocks[num_free++] = memory;
            free_bytes += size_of(memory);
            return;
        }
    }
    std::free(memory);
}

}  // namespace cotejar
