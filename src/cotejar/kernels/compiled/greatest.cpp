#include "greatest.h"

#include <algorithm>
#include <limits>

#include "thread_pool.h"

namespace cotejar {

namespace {

constexpr int64_t AT_ONCE = 1024;  // what is looked through once more for where it is

struct Greatest {
    int32_t order = std::numeric_limits<int32_t>::min();
    int64_t index = -1;
    bool finite = true;
};

Greatest look_through(const Isa& isa, const float* row, Range columns) {
    Greatest all;
    int64_t chunk = columns.begin;
    for (int64_t at = columns.begin; at < columns.end; at += AT_ONCE) {
        int32_t order;
        const int64_t count = std::min(AT_ONCE, columns.end - at);
        if (!isa.operations->greatest(row + at, count, order)) all.finite = false;
        if (order <= all.order) continue;
        all.order = order;
        chunk = at;
    }
    all.index = chunk;
    while (all.finite && order_of(row[all.index]) != all.order) all.index++;
    return all;
}

}  // namespace

std::vector<int64_t> first_greatest(const Isa& isa, const float* values, int64_t rows,
                                    int64_t columns) {
    const int64_t chunks = (columns + AT_ONCE - 1) / AT_ONCE;
    const int64_t most = std::max<int64_t>(1, std::min<int64_t>(chunks, num_threads()));
    std::vector<Greatest> found(static_cast<size_t>(rows * most));
    auto work = [&](int part, int parts) {
        for (int64_t piece = part; piece < most; piece += parts)
            for (int64_t row = 0; row < rows; row++)
                found[static_cast<size_t>(row * most + piece)] = look_through(
                    isa, values + row * columns,
                    range_of_part(columns, static_cast<int>(piece), static_cast<int>(most)));
    };
    parallel(most, work);
    std::vector<int64_t> indices;
    for (int64_t row = 0; row < rows; row++) {
        Greatest all;
        for (int64_t piece = 0; piece < most; piece++) {
            const Greatest& part = found[static_cast<size_t>(row * most + piece)];
            const bool finite = all.finite && part.finite;
            if (part.order > all.order) all = part;
            all.finite = finite;
        }
        indices.push_back(all.finite ? all.index : -1);
    }
    return indices;
}

}  // namespace cotejar
