#include "sequence_operations.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "failure.h"
#include "thread_pool.h"

namespace cotejar {

namespace {

thread_local Scratch attention_scratch;

// Fewer values than this are not worth waking a thread for.
constexpr int64_t SMALL = 1 << 14;

template <class Work>
void over_units(int64_t units, int64_t values, Work work) {
    auto part_of = [&](int part, int parts) {
        const Range mine = range_of_part(units, part, parts);
        if (mine.begin < mine.end) work(mine);
    };
    if (values < SMALL)
        part_of(0, 1);
    else
        parallel(units, part_of);
}

void turn(const Isa& isa, const Rotation& all, Range rows) {
    const int64_t row_size = all.heads * all.head_size;
    const int64_t second = all.adjacent ? 1 : all.pairs, step = all.adjacent ? 2 : 1;
    std::memcpy(all.out + rows.begin * row_size, all.values + rows.begin * row_size,
                static_cast<size_t>((rows.end - rows.begin) * row_size) * sizeof(float));
    for (int64_t token = rows.begin; token < rows.end; token++)
        for (int64_t head = 0; head < all.heads; head++) {
            const int64_t at = token * row_size + head * all.head_size;
            isa.operations->rotate(all.values + at, all.cosine + token * all.pairs,
                                   all.sine + token * all.pairs, all.pairs, 0, second, step,
                                   all.out + at);
        }
}

// Rows of a piece are turned, and measured while the first cache holds them.
void turn_piece(const Isa& isa, const Rotation& all, int64_t piece, GrowingRows& growing) {
    constexpr int64_t AT_ONCE = 16;
    const int64_t row_size = all.heads * all.head_size;
    const int64_t end = std::min(all.tokens, (piece + 1) * BLOCK_ROWS);
    for (int64_t first = piece * BLOCK_ROWS; first < end; first += AT_ONCE) {
        const Range some{first, std::min(end, first + AT_ONCE)};
        turn(isa, all, some);
        growing.add(all.out + some.begin * row_size, some.end - some.begin);
    }
    growing.finish(piece, all.out);
}

AttentionTile tile_of(const Attention& all, int64_t kv_head, int64_t first_row,
                      int64_t num_rows, float* context) {
    const int64_t group = all.heads / all.kv_heads;
    AttentionTile tile;
    tile.num_queries = static_cast<int>(num_rows);
    tile.head_size = all.head_size;
    tile.stride = all.kv_heads * all.head_size;
    tile.keys = all.keys + kv_head * all.head_size;
    tile.values = all.values + kv_head * all.head_size;
    for (int64_t q = 0; q < MAX_QUERIES; q++) {
        // Lanes past the last query see what the last one sees; nothing of them is stored.
        const int64_t row = first_row + std::min(q, num_rows - 1);
        const int64_t token = row / group, head = kv_head * group + row % group;
        const int64_t at = (token * all.heads + head) * all.head_size;
        const int64_t position = all.positions - all.tokens + token;
        tile.query[q] = all.queries + at;
        tile.context[q] = context + at;
        tile.last[q] = position;
        tile.first[q] = all.window ? std::max<int64_t>(0, position - all.window + 1) : 0;
    }
    return tile;
}

void carve(Carver& carver, int64_t head_size, int64_t positions, AttentionTile& tile) {
    const size_t cells = static_cast<size_t>(MAX_QUERIES * (positions + ROWS));
    tile.wide = carver.take<double>(static_cast<size_t>((MAX_QUERIES + 2 * 8) * head_size));
    tile.scores = carver.take<double>(cells);
    tile.weights = carver.take<float>(cells);
}

}  // namespace

void rms_norm(const Isa& isa, const float* values, const float* weight, int64_t rows,
              int64_t width, double eps, float* out) {
    over_units(rows, rows * width, [&](Range mine) {
        for (int64_t row = mine.begin; row < mine.end; row++)
            isa.operations->rms_norm(values + row * width, weight, width, eps, out + row * width);
    });
}

void silu(const Isa& isa, const float* values, int64_t count, float* out) {
    over_units(count, count, [&](Range mine) {
        isa.operations->silu(values + mine.begin, mine.end - mine.begin, out + mine.begin);
    });
}

void multiply_elements(const Isa& isa, const float* a, const float* b, int64_t count,
                       float* out) {
    over_units(count, count, [&](Range mine) {
        isa.operations->multiply(a + mine.begin, b + mine.begin, mine.end - mine.begin,
                                 out + mine.begin);
    });
}

void swiglu(const Isa& isa, const float* gate, const float* up, int64_t count, float* out) {
    over_units(count, count, [&](Range mine) {
        constexpr int64_t AT_ONCE = 2048;  // so that the activated stays in the first cache
        alignas(64) float activated[AT_ONCE];
        for (int64_t first = mine.begin; first < mine.end; first += AT_ONCE) {
            const int64_t size = std::min(AT_ONCE, mine.end - first);
            isa.operations->silu(gate + first, size, activated);
            isa.operations->multiply(activated, up + first, size, out + first);
        }
    });
}

void add(const Isa& isa, const float* a, const float* b, int64_t count, float* out) {
    over_units(count, count, [&](Range mine) {
        isa.operations->add(a + mine.begin, b + mine.begin, mine.end - mine.begin,
                            out + mine.begin);
    });
}

void rotate(const Isa& isa, const Rotation* rotations, int count, BothMoments* moments) {
    const int64_t tokens = rotations[0].tokens;
    int64_t values = 0;
    BlockGrid grids[MOST_ROTATIONS];
    for (int one = 0; one < count; one++) {
        grids[one] = {tokens, rotations[one].heads * rotations[one].head_size};
        values += tokens * grids[one].width;
    }
    if (moments == nullptr || tokens < 2) {
        over_units(tokens, values, [&](Range mine) {
            for (int one = 0; one < count; one++) turn(isa, rotations[one], mine);
        });
        for (int one = 0; moments != nullptr && one < count; one++)
            moments[one] = measure(isa, rotations[one].out, tokens, grids[one].width);
        return;
    }
    BlockMoments measured(grids, count, count);
    Failure failure;
    const int64_t units = count * grids[0].down();
    auto part_of = [&](int part, int parts) {
        const Range mine = range_of_part(units, part, parts);
        failure.guard([&] {
            for (int64_t unit = mine.begin; unit < mine.end; unit++) {
                const int one = static_cast<int>(unit % count);
                GrowingRows growing(isa, measured.array(one), part);
                turn_piece(isa, rotations[one], unit / count, growing);
            }
        });
    };
    if (values < SMALL)
        part_of(0, 1);
    else
        parallel(std::min<int64_t>(units, measured.num_parts()), part_of);
    failure.rethrow();
    for (int one = 0; one < count; one++)
        moments[one] = {measured.merged(one),
                        measure_row(isa, rotations[one].out + (tokens - 1) * grids[one].width,
                                    grids[one].width)};
}

size_t attention_bytes(int64_t head_size, int64_t positions) {
    Carver counter(nullptr);
    AttentionTile tile;
    carve(counter, head_size, positions, tile);
    return counter.used();
}

void attend_rows(const Isa& isa, const Attention& all, int64_t kv_head, int64_t first_row,
                 int64_t num_rows, void* scratch, float* context) {
    AttentionTile tile = tile_of(all, kv_head, first_row, num_rows, context);
    Carver carver(scratch);
    carve(carver, all.head_size, tile.last[num_rows - 1] + 1, tile);
    (all.in_float32 ? isa.operations->attend_f32 : isa.operations->attend)(tile);
}

void attend(const Isa& isa, const std::vector<Attention>& all,
            const std::vector<float*>& contexts) {
    // A unit is a tile of one attention; `ends` says whose.
    std::vector<int64_t> ends;
    int64_t units = 0, products = 0, bytes = 0;
    for (const Attention& one : all) {
        const int64_t rows = one.tokens * (one.heads / one.kv_heads);
        units += (rows + MAX_QUERIES - 1) / MAX_QUERIES * one.kv_heads;
        ends.push_back(units);
        products += one.tokens * one.heads * one.positions * one.head_size;
        bytes = std::max(bytes, static_cast<int64_t>(
                                    attention_bytes(one.head_size, one.positions)));
    }
    Failure failure;
    // Tiles dealt out in turn: later queries see more, so halves would not be equal work.
    auto work = [&](int part, int parts) {
        failure.guard([&] {
            void* scratch = attention_scratch.get(static_cast<size_t>(bytes));
            size_t at = 0;
            for (int64_t unit = part; unit < units; unit += parts) {
                while (unit >= ends[at]) at++;
                const Attention& one = all[at];
                const int64_t mine = unit - (at == 0 ? 0 : ends[at - 1]);
                const int64_t rows = one.tokens * (one.heads / one.kv_heads);
                const int64_t first = mine / one.kv_heads * MAX_QUERIES;
                attend_rows(isa, one, mine % one.kv_heads, first,
                            std::min(MAX_QUERIES, rows - first), scratch, contexts[at]);
            }
        });
    };
    if (products < 4 * SMALL)
        work(0, 1);
    else
        parallel(units, work);
    failure.rethrow();
}

}  // namespace cotejar
