// Threads that wait for work: spinning a short while, then asleep.
//
// Work is cut into fixed parts, more than there are threads, and threads take one after the
// other, so that a thread that the system holds up delays little. What a part computes does
// not depend on who computes it, nor do results on the number of threads. A caller that
// finds the pool busy (a second engine in another thread, say) does all parts itself.
#pragma once

#include <cstdint>

namespace cotejar {

using Part = void (*)(void* context, int part, int num_parts);

// Run all parts of `units` units of work, return when all are done. `part` must not throw.
void run_parts(Part part, void* context, int64_t units);

// The same for a callable `work(part, num_parts)`.
template <class Work>
void parallel(int64_t units, Work& work) {
    const Part part = [](void* context, int index, int parts) {
        (*static_cast<Work*>(context))(index, parts);
    };
    run_parts(part, &work, units);
}

// At least 1; takes effect at the next run.
void set_num_threads(int num_threads);
int num_threads();

// The half-open range of units that a part owns.
struct Range {
    int64_t begin, end;
};

static inline Range range_of_part(int64_t units, int part, int num_parts) {
    return {units * part / num_parts, units * (part + 1) / num_parts};
}

}  // namespace cotejar
