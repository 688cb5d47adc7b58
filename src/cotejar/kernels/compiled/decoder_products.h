// The products of a decoder's step: one or more tokens, each the last of its context.
//
// A token that is alone is rounded by every thread for itself, which is faster than to wait
// for one. Several are shared out, and meet a weight as a tile, so that a block is taken
// apart once for all of them.
#pragma once

#include <algorithm>

#include "thread_pool.h"
#include "token_tiles.h"
#include "vector_product.h"

namespace cotejar {

class Operands {
  public:
    static constexpr int MAX_FORMS = 3;

    // The sizes that memory is needed for.
    struct Sizes {
        int64_t widest = 0;     // columns of any weight
        size_t tile_bytes = 0;  // of all tokens in any form
        size_t strip_bytes = 0;
        void count(const Isa& isa, const Weight& weight, int64_t num_tokens);
    };

    Operands(const Isa& isa, int64_t num_tokens) : isa_(isa), num_tokens_(num_tokens) {}

    void carve(Carver& carver, int members, const Sizes& sizes);

    // All members call this: each token's values, `row(token)`, in the form that each of the
    // weights takes; two weights that take the same share a form, see `form_of`.
    template <class Row>
    void round(Team& team, int member, const Weight* const* weights, int count,
               Row&& row) const {
        if (num_tokens_ == 1) {
            const float* values = row(0);
            for (int i = 0; i < count; i++)
                if (form_of(weights, i) == i)
                    round_vector(isa_, *weights[i], values, owns_[member].vectors[i]);
            return;
        }
        team.each(member, num_tokens_, 1, [&](Range range) {
            for (int64_t token = range.begin; token < range.end; token++) {
                const float* values = row(token);
                for (int i = 0; i < count; i++)
                    if (form_of(weights, i) == i) put(*weights[i], i, token, values);
            }
        });
    }

    // Which of the forms weight `index` takes: its own, or that of one before it.
    int form_of(const Weight* const* weights, int index) const;

    // product[token][row] for the rows of the strips `range`, the bias added.
    void multiply(int member, const Linear& linear, int form, Range range, float* product) const;

  private:
    struct Own {
        VectorToken vectors[MAX_FORMS];
        char* strip;
    };

    void put(const Weight& weight, int form, int64_t token, const float* values) const;

    const Isa& isa_;
    const int64_t num_tokens_;
    char* forms_[MAX_FORMS] = {};
    Own* owns_ = nullptr;
};

}  // namespace cotejar
