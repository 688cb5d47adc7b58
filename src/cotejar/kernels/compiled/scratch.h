// Memory that a thread keeps between products: 64-byte aligned, grown when needed.
#pragma once

#include <cstddef>

namespace cotejar {

class Scratch {
  public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch();

    // The bytes may hold anything. Throws std::bad_alloc.
    void* get(size_t bytes);

    template <class T>
    T* array(size_t count) {
        return static_cast<T*>(get(count * sizeof(T)));
    }

  private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

// Cuts one piece of memory into arrays, each aligned to 64 bytes. Without memory it counts.
class Carver {
  public:
    explicit Carver(void* memory) : memory_(static_cast<char*>(memory)) {}

    template <class T>
    T* take(size_t count) {
        char* at = memory_ ? memory_ + used_ : nullptr;
        used_ += (count * sizeof(T) + 63) / 64 * 64;
        return reinterpret_cast<T*>(at);
    }

    size_t used() const { return used_; }

  private:
    char* memory_;
    size_t used_ = 0;
};

}  // namespace cotejar
