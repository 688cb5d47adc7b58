#include "greatest_logit.h"

namespace cotejar {

GreatestLogit GreatestLogit::of_none() { return {-__builtin_inff(), -1, true}; }

void GreatestLogit::look_at(const Operations& operations, const float* logits, int64_t begin,
                            int64_t end) {
    const float most = operations.greatest(logits + begin, end - begin, &all_finite);
    if (!all_finite || most < value) return;
    if (most == value && begin > index) return;
    int64_t first = begin;
    while (logits[first] != most) first++;
    merge({most, first, true});
}

void GreatestLogit::merge(const GreatestLogit& other) {
    all_finite = all_finite && other.all_finite;
    if (other.index < 0 || other.value < value) return;
    if (other.value == value && index < other.index) return;
    value = other.value;
    index = other.index;
}

}  // namespace cotejar
