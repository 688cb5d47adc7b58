// Memory of large arrays, kept for the next one. The C library gives such memory back to the
// system at once, and fetching it again, page by page, costs more than filling it (measured:
// 14 % of a prefill of 128 tokens).
#pragma once

#include <cstddef>

namespace cotejar {

// At least `bytes`, aligned to 64; they may hold anything. Throws std::bad_alloc.
void* take_block(size_t bytes);

// Back to the pool, or to the system where the pool holds enough.
void give_block(void* block) noexcept;

}  // namespace cotejar
