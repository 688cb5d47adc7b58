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

// About 50 us on a 3 GHz core: longer than the numpy and Python between two products.
constexpr int SPINS_BEFORE_SLEEP = 2000;

void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

class Pool {
  public:
    explicit Pool(int num_threads) : num_parts_(num_threads) {
        for (int part = 1; part < num_threads; part++)
            workers_.emplace_back([this, part] { work(part); });
    }

    ~Pool() {
        stop_.store(true);
        wake(generation_.load() + 1);
        for (std::thread& worker : workers_) worker.join();
    }

    int num_parts() const { return num_parts_; }

    void run(Part part, void* context) {
        part_ = part;
        context_ = context;
        running_.store(num_parts_ - 1, std::memory_order_relaxed);
        wake(generation_.load(std::memory_order_relaxed) + 1);
        part(context, 0, num_parts_);
        for (int spins = 0; running_.load(std::memory_order_acquire) != 0; spins++)
            spins < SPINS_BEFORE_SLEEP ? pause_briefly() : static_cast<void>(sched_yield());
    }

  private:
    // Sequentially consistent on both sides: either the sleeper sees the new generation, or
    // we see the sleeper.
    void wake(uint64_t generation) {
        generation_.store(generation);
        if (sleepers_.load() == 0) return;
        std::lock_guard<std::mutex> lock(mutex_);
        awake_.notify_all();
    }

    void work(int part) {
        uint64_t seen = 0;
        while (true) {
            seen = wait_after(seen);
            if (stop_.load()) return;
            part_(context_, part, num_parts_);
            running_.fetch_sub(1, std::memory_order_release);
        }
    }

    uint64_t wait_after(uint64_t seen) {
        for (int spins = 0; spins < SPINS_BEFORE_SLEEP; spins++) {
            const uint64_t now = generation_.load(std::memory_order_acquire);
            if (now != seen) return now;
            pause_briefly();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        awake_.wait(lock, [&] { return generation_.load() != seen; });
        sleepers_.fetch_sub(1);
        return generation_.load();
    }

    const int num_parts_;
    std::vector<std::thread> workers_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<int> running_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable awake_;
    Part part_ = nullptr;
    void* context_ = nullptr;
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

void run_parts(Part part, void* context) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    static_cast<void>(registered);
    const int wanted = wanted_threads.load();
    std::unique_lock<std::mutex> lock(pool_mutex, std::try_to_lock);
    if (wanted == 1 || !lock.owns_lock()) {
        for (int index = 0; index < wanted; index++) part(context, index, wanted);
        return;
    }
    if (pool == nullptr || pool->num_parts() != wanted) {
        delete pool;
        pool = new Pool(wanted);
    }
    pool->run(part, context);
}

}  // namespace cotejar
