#pragma once

#include <atomic>
#include <new>

namespace cotejar {

// Memory that a part could not get is reported where the parts were started.
class Failure {
  public:
    template <class Work>
    void guard(Work&& work) {
        try {
            work();
        } catch (const std::bad_alloc&) {
            failed_.store(true);
        }
    }

    void rethrow() const {
        if (failed_.load()) throw std::bad_alloc();
    }

  private:
    std::atomic<bool> failed_{false};
};

}  // namespace cotejar
