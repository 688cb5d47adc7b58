// Memory that is wanted soon, fetched while a product of several tokens is at work: such a
// product waits for its instructions, and the memory would stand still.
#pragma once

#include <cstdint>

namespace cotejar {

struct Span {
    const uint8_t *at, *end;
};

// A walk through some spans, line by line.
struct Aside {
    const Span *next = nullptr, *past = nullptr;  // of those that are not begun
    Span present{nullptr, nullptr};
};

// The next line, or null.
static inline const uint8_t* line_of(Aside& aside) {
    constexpr int LINE_BYTES = 64;
    while (aside.present.at >= aside.present.end) {
        if (aside.next == aside.past) return nullptr;
        aside.present = *aside.next++;
    }
    const uint8_t* const line = aside.present.at;
    aside.present.at += LINE_BYTES;
    return line;
}

}  // namespace cotejar
