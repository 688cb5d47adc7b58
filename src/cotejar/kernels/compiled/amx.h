// May AMX be used in this process, and does it compute what it should?
#pragma once

#include "isa.h"

namespace cotejar {

enum class Amx {
    ABSENT,    // of the build, of the CPU, or of the operating system
    REFUSED,   // the operating system gives this process no tile registers
    DIFFERENT, // its self test did not give the bits of the portable kernels
    READY,
};

// Asks the system and runs the self test, once; later calls only look.
Amx amx_state();

using MultiplyGroups = decltype(Isa::multiply_groups);

// A small product of each kind, by these and by the portable kernels: equal bits? The lowest bit
// of value `fault` of the first is turned over before, for a test of this test; -1: of none.
bool passes_self_test(const Bf16Kernels& kernels, MultiplyGroups multiply_groups, int fault);

}  // namespace cotejar
