#include <cstring>

#include "isa.h"

namespace cotejar {

namespace {

struct Runnable {
    const Isa* isas[3];
    int count = 0;

    Runnable() {
#if defined(COTEJAR_X86)
        __builtin_cpu_init();
        // These ask the operating system too, whether it saves the wide registers.
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          has_f16c();
        const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vnni");
        if (avx512) isas[count++] = &AVX512VNNI;
        if (avx2) isas[count++] = &AVX2;
#endif
        isas[count++] = &PORTABLE;
    }

#if defined(COTEJAR_X86)
    // Compilers of before 2021 know no __builtin_cpu_supports("f16c").
    static bool has_f16c() {
        unsigned eax = 1, ebx = 0, ecx = 0, edx = 0;
        __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
        return (ecx >> 29) & 1;
    }
#endif
};

const Runnable& runnable() {
    static const Runnable found;
    return found;
}

}  // namespace

int num_isas() { return runnable().count; }

const Isa* isa_at(int index) {
    return index >= 0 && index < num_isas() ? runnable().isas[index] : nullptr;
}

const Isa* find_isa(const char* name) {
    for (int index = 0; index < num_isas(); index++)
        if (std::strcmp(isa_at(index)->name, name) == 0) return isa_at(index);
    return nullptr;
}

}  // namespace cotejar
