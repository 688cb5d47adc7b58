// The statistics of a decoder's step: every site of one token, in the order of the pass.
//
// A site is one row. Its chunks are dealt out to the threads, each of which measures its own
// between two products, while the others may have begun the next; what is measured must stand
// still until all have met again.
#pragma once

#include "decoder.h"

namespace cotejar {

// Of a layer, in order; engines/native/decoder.py has the names of the slots.
enum class LayerSite {
    ATTN_NORM, Q, K, V, Q_ROPE, K_ROPE, ATTN_CONTEXT, ATTN_OUT, ATTN_RESIDUAL,
    FFN_NORM, FFN_GATE, FFN_UP, FFN_SILU_GATE, FFN_SWIGLU_INNER, FFN_OUT, OUTPUT,
};
static constexpr int64_t LAYER_SITES = 16;

class StepMoments {
  public:
    explicit StepMoments(const Decoder& decoder);

    // The embedding, the layers' sites, the final norm, the logits.
    static int64_t count(const Decoder& decoder);

    void carve(Carver& carver);

    // All `members` call this; each measures its part.
    void embed(int members, int member, const float* values) const;
    void of_layer(int members, int member, size_t layer, LayerSite site,
                  const float* values) const;
    void final_norm(int members, int member, const float* values) const;
    void logits(int members, int member, const float* values) const;

    // When all is measured: `count` moments.
    void merged(Moments* moments) const;

  private:
    int64_t width_of(int64_t site) const;
    void measure(int members, int member, int64_t site, const float* values) const;

    const Decoder& decoder_;
    int64_t stride_;  // chunks of the widest site but the logits, which come last
    Chunk* parts_ = nullptr;
};

}  // namespace cotejar
