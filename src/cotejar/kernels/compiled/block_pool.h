// Memory of large arrays, kept for the next one. The C library gives such memory back to the
// system at once, and fetching it again, page by page, costs more than filling it (measured:
// 14 % of a prefill of 128 tokens).
#pragma once

#include <cstddef>
#include <vector>

namespace cotejar {

// At least `bytes`, aligned to 64; they may hold anything. Throws std::bad_alloc.
void* take_block(size_t bytes);

// Back to the pool, or to the system where the pool holds enough.
void give_block(void* block) noexcept;

// What nobody else uses yet.
struct Memory {
    char* at;
    size_t bytes;
};

// Has the system make the pages of all that is new here, over all threads; the bytes stay.
void make_pages(const std::vector<Memory>& all);

}  // namespace cotejar
