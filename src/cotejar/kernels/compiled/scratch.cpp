#include "scratch.h"

#include <cstdlib>
#include <new>

namespace cotejar {

Scratch::~Scratch() { std::free(data_); }

void* Scratch::get(size_t bytes) {
    if (bytes > bytes_) {
        std::free(data_);
        bytes_ = 0;
        const size_t rounded = (bytes + 4095) / 4096 * 4096;
        data_ = std::aligned_alloc(64, rounded);
        if (data_ == nullptr) throw std::bad_alloc();
        bytes_ = rounded;
    }
    return data_;
}

}  // namespace cotejar
