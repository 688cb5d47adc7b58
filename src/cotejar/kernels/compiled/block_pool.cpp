#include "block_pool.h"

#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>

#include "thread_pool.h"

namespace cotejar {

namespace {

constexpr size_t MAX_FREE_BLOCKS = 12;
constexpr size_t MAX_FREE_BYTES = size_t{64} << 20;
constexpr size_t PAGE = 4096, HUGE_PAGE = size_t{2} << 20;

std::mutex pool_mutex;
void* free_blocks[MAX_FREE_BLOCKS];
size_t num_free = 0, free_bytes = 0;

// Of all blocks. Not in the block: to write there would have its first page made, alone.
std::unordered_map<void*, size_t> sizes;

// The smallest free one that is large enough, and not four times too large.
void* find_free(size_t size) {
    size_t best = MAX_FREE_BLOCKS;
    for (size_t i = 0; i < num_free; i++) {
        const size_t here = sizes.at(free_blocks[i]);
        if (here < size || here / 4 > size) continue;
        if (best == MAX_FREE_BLOCKS || here < sizes.at(free_blocks[best])) best = i;
    }
    if (best == MAX_FREE_BLOCKS) return nullptr;
    void* memory = free_blocks[best];
    free_blocks[best] = free_blocks[--num_free];
    free_bytes -= sizes.at(memory);
    return memory;
}

}  // namespace

void* take_block(size_t bytes) {
    const size_t page = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : PAGE;
    const size_t size = (bytes / page + 1) * page;
    std::lock_guard<std::mutex> lock(pool_mutex);
    if (void* const block = find_free(size)) return block;
    void* const block = std::aligned_alloc(page, size);
    if (block == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (page == HUGE_PAGE) madvise(block, size, MADV_HUGEPAGE);
#endif
    try {
        sizes[block] = size;
    } catch (...) {
        std::free(block);
        throw;
    }
    return block;
}

void give_block(void* block) noexcept {
    std::lock_guard<std::mutex> lock(pool_mutex);
    const auto size = sizes.find(block);
    if (num_free < MAX_FREE_BLOCKS && free_bytes + size->second <= MAX_FREE_BYTES) {
        free_blocks[num_free++] = block;
        free_bytes += size->second;
        return;
    }
    sizes.erase(size);
    std::free(block);
}

void make_pages(const std::vector<Memory>& all) {
    // Huge pages are dealt out in turn: each takes the system as long as many small ones.
    auto work = [&](int part, int parts) {
        size_t turn = 0;
        for (const Memory& one : all)
            for (size_t first = 0; first < one.bytes; first += HUGE_PAGE, turn++) {
                if (turn % static_cast<size_t>(parts) != static_cast<size_t>(part)) continue;
                const size_t end = one.bytes < first + HUGE_PAGE ? one.bytes : first + HUGE_PAGE;
                for (size_t at = first; at < end; at += PAGE) {
                    volatile char* const byte = one.at + at;
                    *byte = *byte;
                }
            }
    };
    parallel(num_threads(), work);
}

}  // namespace cotejar
