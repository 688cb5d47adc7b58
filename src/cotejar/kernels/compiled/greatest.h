// The first of the greatest in each row of some numbers, as greedy asks for it.
#pragma once

#include <vector>

#include "isa.h"

namespace cotejar {

// Column by column over the threads, so that each reads what it is likely to have written. -1
// for a row that holds a NaN or an infinity. Throws std::bad_alloc.
std::vector<int64_t> first_greatest(const Isa& isa, const float* values, int64_t rows,
                                    int64_t columns);

}  // namespace cotejar
