#include "decoder_moments.h"

#include <algorithm>

namespace cotejar {

namespace {

int64_t chunks_of(int64_t width) { return (width + BLOCK_VALUES - 1) / BLOCK_VALUES; }

}  // namespace

StepMoments::StepMoments(const Decoder& decoder) : decoder_(decoder) {
    stride_ = chunks_of(std::max({decoder.hidden_size(), decoder.q_size(), decoder.ffn_size()}));
}

int64_t StepMoments::count(const Decoder& decoder) {
    return 3 + LAYER_SITES * static_cast<int64_t>(decoder.layers.size());
}

void StepMoments::carve(Carver& carver) {
    const int64_t chunks =
        (count(decoder_) - 1) * stride_ + chunks_of(decoder_.lm_head.weight.rows);
    parts_ = carver.take<Chunk>(static_cast<size_t>(chunks));
}

int64_t StepMoments::width_of(int64_t site) const {
    if (site == count(decoder_) - 1) return decoder_.lm_head.weight.rows;
    if (site == 0 || site == count(decoder_) - 2) return decoder_.hidden_size();
    switch (static_cast<LayerSite>((site - 1) % LAYER_SITES)) {
        case LayerSite::Q:
        case LayerSite::Q_ROPE:
        case LayerSite::ATTN_CONTEXT: return decoder_.q_size();
        case LayerSite::K:
        case LayerSite::V:
        case LayerSite::K_ROPE: return decoder_.k_size();
        case LayerSite::FFN_GATE:
        case LayerSite::FFN_UP:
        case LayerSite::FFN_SILU_GATE:
        case LayerSite::FFN_SWIGLU_INNER: return decoder_.ffn_size();
        default: return decoder_.hidden_size();
    }
}

void StepMoments::measure(int members, int member, int64_t site, const float* values) const {
    const int64_t width = width_of(site);
    for (int64_t chunk = 0; chunk < chunks_of(width); chunk++) {
        if ((site + chunk) % members != member) continue;
        const int64_t first = chunk * BLOCK_VALUES;
        decoder_.isa->measure_chunk(values + first, std::min(BLOCK_VALUES, width - first),
                                    parts_[site * stride_ + chunk]);
    }
}

void StepMoments::embed(int members, int member, const float* values) const {
    measure(members, member, 0, values);
}

void StepMoments::of_layer(int members, int member, size_t layer, LayerSite site,
                           const float* values) const {
    const int64_t before = 1 + LAYER_SITES * static_cast<int64_t>(layer);
    measure(members, member, before + static_cast<int64_t>(site), values);
}

void StepMoments::final_norm(int members, int member, const float* values) const {
    measure(members, member, count(decoder_) - 2, values);
}

void StepMoments::logits(int members, int member, const float* values) const {
    measure(members, member, count(decoder_) - 1, values);
}

void StepMoments::merged(Moments* moments) const {
    for (int64_t site = 0; site < count(decoder_); site++) {
        Total total;
        for (int64_t chunk = 0; chunk < chunks_of(width_of(site)); chunk++)
            total.add(parts_[site * stride_ + chunk]);
        moments[site] = total.moments();
    }
}

}  // namespace cotejar
