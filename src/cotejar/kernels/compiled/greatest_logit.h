// What greedy choice and the check for numbers need of a context's logits, noted while they
// are still in the cache.
#pragma once

#include "operations.h"

namespace cotejar {

// The greatest of some logits and its least index; -0 and 0 are equal.
struct GreatestLogit {
    float value;
    int64_t index;  // -1: there is none yet
    bool all_finite;

    static GreatestLogit of_none();

    // The logits begin..end of a row, which were not looked at before.
    void look_at(const Operations& operations, const float* logits, int64_t begin, int64_t end);
    void merge(const GreatestLogit& other);

    // The index; -1 where one logit is NaN or infinite.
    int64_t found() const { return all_finite ? index : -1; }
};

}  // namespace cotejar
