#include <cstring>

#include "amx.h"
#include "amx_int8.h"
#include "isa.h"

namespace cotejar {

namespace {

struct Runnable {
    const Isa* isas[5];
    int count = 0;
    // What these add to AVX512-VNNI is in the products of bf16, and AMX in those of groups.
    Isa avx512bf16 = {}, amx = {}, amx_emulated = {};

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
        if (avx512) add_those_with_bf16();
        if (avx512) isas[count++] = &AVX512VNNI;
        if (avx2) isas[count++] = &AVX2;
#endif
        isas[count++] = &PORTABLE;
        amx_emulated = named("amx-emulated", *isas[0], BF16_AMX_EMULATED);
        amx_emulated.multiply_groups = emulated_multiply_groups;
        amx_emulated.multiply_two_strips = nullptr;
    }

    static Isa named(const char* name, const Isa& other, const Bf16Kernels& bf16) {
        Isa isa = other;
        isa.name = name;
        isa.bf16 = &bf16;
        return isa;
    }

#if defined(COTEJAR_X86)
    // Compilers of before 2021 know no __builtin_cpu_supports("f16c").
    static bool has_f16c() {
        unsigned eax = 1, ebx = 0, ecx = 0, edx = 0;
        __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
        return (ecx >> 29) & 1;
    }

    void add_those_with_bf16() {
#if defined(COTEJAR_AVX512BF16)
        if (!__builtin_cpu_supports("avx512bf16")) return;
#if defined(COTEJAR_AMX)
        if (amx_state() == Amx::READY) {
            amx = named("amx", AVX512VNNI, BF16_AMX);
            amx.multiply_groups = amx_multiply_groups;
            amx.multiply_two_strips = amx_multiply_two_strips;
            isas[count++] = &amx;
        }
#endif
        avx512bf16 = named("avx512bf16", AVX512VNNI, BF16_AVX512BF16);
        isas[count++] = &avx512bf16;
#endif
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
    const Isa& emulated = runnable().amx_emulated;
    return std::strcmp(emulated.name, name) == 0 ? &emulated : nullptr;
}

}  // namespace cotejar
