#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cotejar {

namespace {

// Some 50 to 100 us: longer than the numpy and Python between two products.
constexpr int SPINS_BEFORE_YIELD = 2000;

// About a millisecond more, at the pleasure of whoever else wants the core. A thread that sleeps
// is late: of a prefill of 60 ms, a system that other load shares took 5 to 15 % for waking them.
constexpr int YIELDS_BEFORE_SLEEP = 1000, SPINS_OF_A_YIELD = 16;

// Few enough that what a part starts with (a first strip not fetched ahead) stays small.
constexpr int PARTS_PER_THREAD = 4;

void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

// What is left of one thread's share of the present work, in one word, so that taking a part
// is one exchange: the number of the work, the next part, the end.
struct alignas(64) Share {
    std::atomic<uint64_t> word{0};

    static uint64_t packed(uint32_t work, uint32_t next, uint32_t end) {
        return (static_cast<uint64_t>(work) << 32) | (next << 16) | end;
    }
    static uint32_t next_of(uint64_t word) { return (word >> 16) & 0xFFFF; }
    static uint32_t end_of(uint64_t word) { return word & 0xFFFF; }
};

class Pool {
  public:
    explicit Pool(int num_threads)
        : num_threads_(num_threads), shares_(static_cast<size_t>(num_threads)) {
        for (int index = 1; index < num_threads; index++)
            workers_.emplace_back([this, index] { serve(index); });
    }

    ~Pool() {
        stop_.store(true);
        publish();
        for (std::thread& worker : workers_) worker.join();
    }

    int num_threads() const { return num_threads_; }

    void run(Part part, void* context, int num_parts) {
        part_ = part;
        context_ = context;
        num_parts_ = num_parts;
        done_.store(0, std::memory_order_relaxed);
        const uint32_t work = work_.load(std::memory_order_relaxed) + 1;
        for (int index = 0; index < num_threads_; index++) {
            const Range share = range_of_part(num_parts, index, num_threads_);
            shares_[static_cast<size_t>(index)].word.store(
                Share::packed(work, static_cast<uint32_t>(share.begin),
                              static_cast<uint32_t>(share.end)),
                std::memory_order_release);
        }
        publish();
        take_parts(0);
        for (int spins = 0; done_.load(std::memory_order_acquire) != num_parts; spins++)
            spins < SPINS_BEFORE_YIELD ? pause_briefly() : static_cast<void>(sched_yield());
    }

  private:
    // Sequentially consistent on both sides: either the sleeper sees the new work, or we see
    // the sleeper.
    void publish() {
        work_.store(work_.load(std::memory_order_relaxed) + 1);
        if (sleepers_.load() == 0) return;
        std::lock_guard<std::mutex> lock(mutex_);
        awake_.notify_all();
    }

    // The same part of the same work goes to the same thread where it can, in whose cache the
    // part's memory is; who has nothing left takes of the others'. A taken part keeps `run`
    // waiting, so part_ and context_ are those of its work.
    void take_parts(int thread) {
        for (int other = 0; other < num_threads_; other++) {
            const size_t whose = static_cast<size_t>((thread + other) % num_threads_);
            std::atomic<uint64_t>& share = shares_[whose].word;
            uint64_t word = share.load(std::memory_order_acquire);
            while (Share::next_of(word) < Share::end_of(word)) {
                if (!share.compare_exchange_weak(word, word + (1 << 16))) continue;
                part_(context_, static_cast<int>(Share::next_of(word)), num_parts_);
                done_.fetch_add(1, std::memory_order_release);
                word = share.load(std::memory_order_acquire);
            }
        }
    }

    void serve(int thread) {
        uint32_t seen = 0;
        while (true) {
            seen = wait_after(seen);
            if (stop_.load()) return;
            take_parts(thread);
        }
    }

    uint32_t present_work() const { return work_.load(); }

    uint32_t wait_after(uint32_t seen) {
        constexpr int MOST = SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP * SPINS_OF_A_YIELD;
        for (int spins = 0; spins < MOST; spins++) {
            const uint32_t now = present_work();
            if (now != seen) return now;
            if (spins > SPINS_BEFORE_YIELD && spins % SPINS_OF_A_YIELD == 0) sched_yield();
            pause_briefly();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        awake_.wait(lock, [&] { return present_work() != seen; });
        sleepers_.fetch_sub(1);
        return present_work();
    }

    const int num_threads_;
    std::vector<Share> shares_;
    std::atomic<uint32_t> work_{0};
    std::atomic<int> done_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable awake_;
    Part part_ = nullptr;
    void* context_ = nullptr;
    int num_parts_ = 0;
    std::vector<std::thread> workers_;  // last: they start when all else is there
};

std::mutex pool_mutex;
std::atomic<int> wanted_threads{1};
Pool* pool = nullptr;

// A child process has none of its parent's threads. The old pool is left as it is: its
// threads cannot be joined.
void forget_pool_in_child() {
    pool = nullptr;
    new (&pool_mutex) std::mutex;
}

}  // namespace

void set_num_threads(int num_threads) { wanted_threads.store(num_threads < 1 ? 1 : num_threads); }

int num_threads() { return wanted_threads.load(); }

// On the pool of `threads`, or, where it is busy or one thread is all, in one part here.
static void run_on_pool(Part part, void* context, int threads, int num_parts) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    static_cast<void>(registered);
    if (threads == 1 || num_parts == 1) return part(context, 0, 1);
    std::unique_lock<std::mutex> lock(pool_mutex, std::try_to_lock);
    if (!lock.owns_lock()) return part(context, 0, 1);
    if (pool == nullptr || pool->num_threads() != threads) {
        delete pool;
        pool = nullptr;
        pool = new Pool(threads);
    }
    pool->run(part, context, num_parts);
}

int most_parts() { return wanted_threads.load() * PARTS_PER_THREAD; }

void run_parts(Part part, void* context, int64_t units) {
    const int threads = wanted_threads.load();
    const int64_t most = int64_t{threads} * PARTS_PER_THREAD;
    if (units > most) units = most;
    run_on_pool(part, context, threads, units < 2 ? 1 : static_cast<int>(units));
}

// --- teams ------------------------------------------------------------------------------

// What is left of a member's share, begin and end in one word; on a cache line of its own.
struct alignas(64) Team::Share {
    std::atomic<uint64_t> left{0};
};

static uint64_t packed(int64_t begin, int64_t end) {
    return (static_cast<uint64_t>(begin) << 32) | static_cast<uint64_t>(end);
}

Team::Team(int size) : size_(size), shares_(new Share[static_cast<size_t>(size)]) {}

Team::~Team() { delete[] shares_; }

void Team::begin(int member, int64_t units) {
    const Range mine = range_of_part(units, member, size_);
    shares_[member].left.store(packed(mine.begin, mine.end), std::memory_order_release);
}

// One's own share from the front, then the others' from the back. A share whose owner has not
// begun looks empty; the owner will do it.
bool Team::take(int member, int64_t run, Range& range) {
    for (int other = 0; other < size_; other++) {
        std::atomic<uint64_t>& left = shares_[(member + other) % size_].left;
        uint64_t word = left.load(std::memory_order_acquire);
        while (true) {
            const int64_t begin = static_cast<int64_t>(word >> 32);
            const int64_t end = static_cast<int64_t>(word & 0xFFFFFFFF);
            if (begin >= end) break;
            const int64_t some = run < end - begin ? run : end - begin;
            range = other == 0 ? Range{begin, begin + some} : Range{end - some, end};
            const uint64_t rest =
                other == 0 ? packed(begin + some, end) : packed(begin, end - some);
            if (left.compare_exchange_weak(word, rest)) return true;
        }
    }
    return false;
}

void Team::meet() {
    const uint32_t now = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.store(now + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == now; spins++)
        spins < SPINS_BEFORE_YIELD ? pause_briefly() : static_cast<void>(sched_yield());
}

void run_team(TeamWork work, void* context, int most) {
    struct Call {
        TeamWork work;
        void* context;
        Team team;  // for the pool; a part that is alone has a team of its own
    };
    const int threads = wanted_threads.load();
    Call call{work, context, Team(threads < most ? threads : most)};
    const Part part = [](void* raw, int index, int parts) {
        Call& all = *static_cast<Call*>(raw);
        if (parts == all.team.size()) return all.work(all.context, all.team, index);
        Team alone(1);
        all.work(all.context, alone, 0);
    };
    run_on_pool(part, &call, threads, call.team.size());
}

}  // namespace cotejar
