#include "bf16_products.h"

#include <algorithm>

#include "bf16.h"
#include "failure.h"
#include "thread_pool.h"
#include "vector_product.h"

namespace cotejar {

namespace {

thread_local Scratch token_scratch;  // of the calling thread: the rounded activations
thread_local Scratch strip_scratch;  // of every thread: the strips that it multiplies

// Strips that are unpacked together and multiplied with all tokens: each token is then read
// from afar once for all of them, and they still fit a core's own cache. An even number, since
// tiles take two at a time.
constexpr int64_t GROUP_BYTES = 512 << 10;
constexpr int64_t MOST_STRIPS = 16;

struct Group {
    Strip strip;       // quantised types
    float* rows;       // types of floats
    uint16_t* pairs;
    int64_t most;

    void carve(Carver& carver, const Weight& weight, int64_t k) {
        const size_t size = static_cast<size_t>(ROWS * k);
        most = std::clamp<int64_t>(GROUP_BYTES / (ROWS * k * 2), 2, MOST_STRIPS) / 2 * 2;
        pairs = carver.take<uint16_t>(size * static_cast<size_t>(most));
        if (weight.type->rounding == Rounding::FLOAT)
            rows = carver.take<float>(size);
        else
            strip.carve(carver, weight);
    }
};

void unpack(const Isa& isa, const Weight& weight, int64_t first_row, int64_t k,
            const Group& group, uint16_t* pairs) {
    if (weight.type->rounding == Rounding::FLOAT) {
        isa.decode_strip(weight, first_row, k, group.rows);
        isa.bf16->pairs_of_rows(group.rows, k, pairs);
        return;
    }
    isa.unpack_strip(weight, first_row, group.strip);
    isa.bf16->pairs_of_strip(weight, group.strip, pairs);
}

// Of the strips in `range`, a group at a time.
void multiply_range(const Isa& isa, const Weight& weight, Range range, int64_t k,
                    const Bf16Tokens& tokens, float* product) {
    Carver counter(nullptr);
    Group group;
    group.carve(counter, weight, k);
    Carver carver(strip_scratch.get(counter.used()));
    group.carve(carver, weight, k);
    for (int64_t first = range.begin; first < range.end; first += group.most) {
        const int count = static_cast<int>(std::min(group.most, range.end - first));
        for (int index = 0; index < count; index++)
            unpack(isa, weight, (first + index) * ROWS, k, group,
                   group.pairs + index * ROWS * k);
        const int64_t first_row = first * ROWS;
        isa.bf16->multiply({group.pairs, k, first_row, weight.rows - first_row, count}, tokens,
                           product, weight.rows);
    }
}

}  // namespace

void multiply_bf16(const Isa& isa, const Weight& weight, const float* activations,
                   int64_t num_tokens, float* product) {
    const int64_t k = (weight.columns + CHUNK - 1) / CHUNK * CHUNK;
    const int64_t tile = isa.bf16->tile_tokens, num_tiles = (num_tokens + tile - 1) / tile;
    const int64_t tile_bytes = tile * k * isa.bf16->value_bytes;
    char* tiles = token_scratch.array<char>(static_cast<size_t>(num_tiles * tile_bytes));
    auto round = [&](int part, int parts) {
        const Range mine = range_of_part(num_tiles, part, parts);
        for (int64_t index = mine.begin; index < mine.end; index++) {
            const int64_t first = index * tile;
            isa.bf16->round_tile(activations + first * weight.columns,
                                 static_cast<int>(std::min(tile, num_tokens - first)),
                                 weight.columns, k, tiles + index * tile_bytes);
        }
    };
    parallel(num_tiles, round);
    const int64_t num_strips = strips_of(weight), num_pairs = (num_strips + 1) / 2;
    Failure failure;
    auto multiply = [&](int part, int parts) {
        const Range pairs = range_of_part(num_pairs, part, parts);
        const Range mine = {2 * pairs.begin, std::min(2 * pairs.end, num_strips)};
        failure.guard([&] {
            if (mine.begin < mine.end)
                multiply_range(isa, weight, mine, k, {tiles, num_tokens}, product);
        });
    };
    parallel(num_pairs, multiply);
    failure.rethrow();
}

}  // namespace cotejar
