// Threads that wait for work: spinning a short while, then asleep.
//
// Work is cut into fixed parts, more than there are threads, and threads take one after the
// other, so that a thread that the system holds up delays little. What a part computes does
// not depend on who computes it, nor do results on the number of threads. A caller that
// finds the pool busy (a second engine in another thread, say) does all parts itself.
#pragma once

#include <atomic>
#include <cstdint>

namespace cotejar {

// The half-open range of units that a part owns.
struct Range {
    int64_t begin, end;
};

static inline Range range_of_part(int64_t units, int part, int num_parts) {
    return {units * part / num_parts, units * (part + 1) / num_parts};
}

using Part = void (*)(void* context, int part, int num_parts);

// Run all parts of `units` units of work, return when all are done. `part` must not throw.
void run_parts(Part part, void* context, int64_t units);

// Into how many parts work is cut at most now. Another thread may ask for more threads meanwhile:
// who has memory for so many gives no more units.
int most_parts();

// The same for a callable `work(part, num_parts)`.
template <class Work>
void parallel(int64_t units, Work& work) {
    const Part part = [](void* context, int index, int parts) {
        (*static_cast<Work*>(context))(index, parts);
    };
    run_parts(part, &work, units);
}

// Threads that go through the phases of one piece of work together; see run_team.
class Team {
  public:
    explicit Team(int size);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // All members call this with the same units; when it returns, all units are done. A member
    // takes the units of its own share in order, at most `run` neighbours at once, so that
    // what it fetches ahead is what it needs next; at the end it helps the others from behind.
    template <class Work>
    void each(int member, int64_t units, int64_t run, Work&& work) {
        begin(member, units);
        Range range;
        while (take(member, run, range)) work(range);
        meet();
    }

    // Returns when all members have come here.
    void meet();

  private:
    void begin(int member, int64_t units);
    bool take(int member, int64_t run, Range& range);

    struct Share;
    const int size_;
    Share* const shares_;
    std::atomic<int> arrived_{0};
    std::atomic<uint32_t> phase_{0};
};

// `work(context, team, member)` once on each of up to `most` threads, all at the same time.
// It must not throw. Where the pool is busy, the team has one member.
using TeamWork = void (*)(void* context, Team& team, int member);
void run_team(TeamWork work, void* context, int most);

// At least 1; takes effect at the next run.
void set_num_threads(int num_threads);
int num_threads();

}  // namespace cotejar
