// The products of a decoder's step: one or more tokens, each the last of its context.
//
// Few threads each round every token for themselves, which is faster than to wait for one and
// to fetch from its cache; more share them out. Several tokens meet a weight as a tile, so that
// a block is taken apart once for all of them.
#pragma once

#include <algorithm>

#include "thread_pool.h"
#include "token_tiles.h"
#include "vector_product.h"

namespace cotejar {

class Operands {
  public:
    static constexpr int MAX_FORMS = 3;
    static constexpr int FEW_MEMBERS = 4;
    static constexpr int SHARED = MAX_FORMS;
    static constexpr int64_t COLUMNS = 256;  // whole blocks of every type

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
        const auto put_some = [&](Range range) {
            for (int64_t token = range.begin; token < range.end; token++) {
                const float* values = row(token);
                for (int i = 0; i < count; i++)
                    if (form_of(weights, i) == i)
                        put(*weights[i], owns_[member].tiles[i], {token, token + 1}, 0,
                            weights[i]->columns, values, 0);
            }
        };
        if (each_for_itself_) return put_some({0, num_tokens_});
        team.each(member, num_tokens_, 1, put_some);
    }

    // The same for one weight, of values that lie side by side; its form is SHARED. Columns are
    // shared out: who has made some will round them.
    void round_all(Team& team, int member, const Weight& weight, const float* values) const {
        if (num_tokens_ == 1)
            return round_vector(isa_, weight, values, owns_[member].vectors[SHARED]);
        const int64_t columns = weight.columns;
        team.each(member, (columns + COLUMNS - 1) / COLUMNS, 1, [&](Range range) {
            const int64_t begin = range.begin * COLUMNS;
            put(weight, owns_[member].tiles[SHARED], {0, num_tokens_}, begin,
                std::min(range.end * COLUMNS, columns) - begin, values + begin, columns);
        });
    }

    // Which of the forms weight `index` takes: its own, or that of one before it.
    int form_of(const Weight* const* weights, int index) const;

    // product[token][row] for the rows of the strips `range`, the bias added.
    void multiply(int member, const Linear& linear, int form, Range range, float* product,
                  Aside* aside = nullptr) const;

  private:
    struct Own {
        VectorToken vectors[MAX_FORMS + 1];
        char* tiles[MAX_FORMS + 1];  // where members share one, it is the same for all
        char* strip;
    };

    void put(const Weight& weight, char* tiles, Range tokens, int64_t column, int64_t count,
             const float* values, int64_t stride) const;

    const Isa& isa_;
    const int64_t num_tokens_;
    bool each_for_itself_ = true;
    Own* owns_ = nullptr;
};

}  // namespace cotejar
