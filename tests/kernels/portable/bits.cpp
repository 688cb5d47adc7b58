// What the portable kernels compute, as one line of text a kernel: built for two machines and
// run on both, the lines must be the same. `make arm64` does that.

#include <cstdio>
#include <vector>

#include "amx.h"
#include "bf16_products.h"
#include "products.h"
#include "sequence_operations.h"
#include "statistics.h"
#include "thread_pool.h"

using namespace cotejar;

namespace {

uint32_t state = 1;

uint32_t next() { return state = state * 1664525u + 1013904223u; }

float next_float() { return static_cast<float>(next() >> 8) / 8388608.0f - 1.0f; }

std::vector<float> floats(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = next_float();
    return values;
}

// FNV-1a, 64 bits.
void say(const char* name, int which, const void* data, size_t bytes) {
    uint64_t hash = 14695981039346656037ull;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 1099511628211ull;
    std::printf("%s %d %016llx\n", name, which, static_cast<unsigned long long>(hash));
}

void say(const char* name, int which, const std::vector<float>& values) {
    say(name, which, values.data(), values.size() * sizeof(float));
}

// Any bytes, but floats that are finite: machines differ in the bits of a NaN.
std::vector<uint8_t> blocks_of(const TypeInfo& type, size_t count) {
    std::vector<uint8_t> raw(count * type.bytes);
    for (uint8_t& byte : raw) byte = static_cast<uint8_t>(next() >> 24);
    const int at_end = type.id == Q2_K ? 80 : type.id == Q3_K ? 108 : type.id == Q6_K ? 208 : 0;
    for (size_t block = 0; block < count; block++) {
        uint8_t* bytes = raw.data() + block * type.bytes;
        if (type.id == F32) bytes[3] = static_cast<uint8_t>(0x3C | (bytes[3] & 0x83));
        if (type.id == F16 || type.id == BF16) bytes[1] &= 0xBF;
        if (type.rounding == Rounding::FLOAT || type.id == APR_Q8) continue;
        bytes[at_end + 1] = 0x24;
        if (type.has_offset) bytes[at_end + 3] = 0x20;
    }
    return raw;
}

void say_products(const Isa& isa, const TypeInfo& type) {
    constexpr int64_t ROW_COUNT = 37, COLUMNS = 512;
    const size_t blocks = static_cast<size_t>(ROW_COUNT * COLUMNS / type.elements);
    const std::vector<uint8_t> raw = blocks_of(type, blocks);
    const Weight weight{&type, raw.data(), ROW_COUNT, COLUMNS, 0.0123f};
    for (const int64_t tokens : {1, 21}) {
        const std::vector<float> x = floats(static_cast<size_t>(tokens * COLUMNS));
        std::vector<float> product(static_cast<size_t>(tokens * ROW_COUNT));
        multiply_q8(isa, weight, x.data(), tokens, product.data());
        say("q8", type.id, product);
        multiply_f32(isa, weight, x.data(), tokens, product.data());
        say("f32", type.id, product);
        multiply_bf16(isa, weight, x.data(), tokens, product.data());
        say("bf16", type.id, product);
        multiply_w8a8(isa, weight, x.data(), tokens, product.data());
        say("w8a8", type.id, product);
    }
}

void say_operations(const Isa& isa) {
    const int64_t tokens = 19, heads = 6, kv_heads = 2, size = 24, width = heads * size;
    const std::vector<float> x = floats(static_cast<size_t>(tokens * width));
    const std::vector<float> weight = floats(static_cast<size_t>(width));
    const std::vector<float> keys = floats(static_cast<size_t>(tokens * kv_heads * size));
    const std::vector<float> angles = floats(static_cast<size_t>(tokens * size / 2));
    std::vector<float> out(x.size());
    BothMoments moments;
    rms_norm(isa, x.data(), weight.data(), tokens, width, 1e-5, out.data());
    say("rms_norm", 0, out);
    const Rotation rotation{tokens, heads, size, size / 2, false, angles.data(), angles.data(),
                            x.data(), out.data()};
    rotate(isa, &rotation, 1, &moments);
    say("rotate", 0, out);
    say("moments", 0, &moments, sizeof moments);
    const float* kv = keys.data();
    for (const bool in_float32 : {false, true})
        for (const int64_t last : {tokens, int64_t{1}}) {
            attend(isa, {{last, tokens, heads, kv_heads, size, 7, x.data(), kv, kv, in_float32}},
                   {out.data()});
            say("attend", in_float32, out);
        }
    swiglu(isa, x.data(), out.data(), tokens * width, out.data());
    say("swiglu", 0, out);
}

}  // namespace

int main() {
    set_num_threads(2);
    for (const char* name : {"portable", "amx-emulated"}) {
        state = 1;
        const Isa* isa = find_isa(name);
        if (isa == nullptr || !passes_self_test(*isa->bf16, isa->multiply_groups, -1)) return 1;
        for (const TypeInfo& type : TYPE_INFOS) say_products(*isa, type);
        say_operations(*isa);
    }
    return 0;
}
