// May AMX be used in this process, and does it compute what it should?
#pragma once

#include "bf16.h"

namespace cotejar {

enum class Amx {
    ABSENT,    // of the build, of the CPU, or of the operating system
    REFUSED,   // the operating system gives this process no tile registers
    DIFFERENT, // its self test did not give the bits of the portable kernel
    READY,
};

// Asks the system and runs the self test, once; later calls only look.
Amx amx_state();

// A small product by `kernels` and by the portable ones: equal bits? The lowest bit of value
// `fault` of the first is turned over before, for a test of this test; -1: of none.
bool passes_self_test(const Bf16Kernels& kernels, int fault);

}  // namespace cotejar
