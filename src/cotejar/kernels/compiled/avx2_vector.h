#pragma once

#include "isa.h"

namespace cotejar {

// Null where a type has no kernel of its own.
Isa::MultiplyVector avx2_vector_kernel(int block_type);

}  // namespace cotejar
