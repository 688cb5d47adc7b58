#include "decoder_products.h"

#include <cstring>

namespace cotejar {

namespace {

// Kernels over strips take powers of 2; the tokens past the last repeat the last.
int tile_width(const Isa& isa, const Weight& weight, int64_t tokens_left) {
    const int most = static_cast<int>(std::min<int64_t>(tokens_left, MAX_TILE));
    if (tile_kernel_of(isa, weight) != nullptr) return most;
    int width = 1;
    while (width < most) width *= 2;
    return width;
}

// Calls work(first token, tile) for each tile of a form.
template <class Work>
void each_tile(const Isa& isa, const Weight& weight, int64_t num_tokens, Carver carver,
               Work&& work) {
    for (int64_t first = 0; first < num_tokens; first += MAX_TILE) {
        TokenTile tile;
        tile.carve(carver, weight, tile_width(isa, weight, num_tokens - first));
        work(first, tile, carver);
    }
}

// Where the instruction set has no kernel over tiles.
void multiply_strips(const Isa& isa, const Weight& weight, const TokenTile& tile, int64_t tokens,
                     Range range, void* memory, float* product) {
    Strip strip;
    Carver carver(memory);
    strip.carve(carver, weight);
    alignas(64) float totals[MAX_TILE * ROWS];
    for (int64_t index = range.begin; index < range.end; index++) {
        const int64_t first = index * ROWS, rows = std::min<int64_t>(ROWS, weight.rows - first);
        isa.unpack_strip(weight, first, strip);
        multiply_tile(isa, weight, strip, tile, totals);
        for (int64_t t = 0; t < tokens; t++)
            std::memcpy(product + t * weight.rows + first, totals + t * ROWS,
                        static_cast<size_t>(rows) * sizeof(float));
    }
}

bool same_form(const Weight& a, const Weight& b, int64_t num_tokens) {
    return same_rounding(a, b) &&
           (num_tokens == 1 ||
            (a.type->piece == b.type->piece && a.type->num_sub == b.type->num_sub));
}

}  // namespace

void Operands::Sizes::count(const Isa& isa, const Weight& weight, int64_t num_tokens) {
    widest = std::max(widest, weight.columns);
    if (num_tokens == 1) return;
    each_tile(isa, weight, num_tokens, Carver(nullptr),
              [&](int64_t, const TokenTile&, const Carver& used) {
                  tile_bytes = std::max(tile_bytes, used.used());
              });
    if (tile_kernel_of(isa, weight) != nullptr) return;
    Carver counter(nullptr);
    Strip().carve(counter, weight);
    strip_bytes = std::max(strip_bytes, counter.used());
}

void Operands::carve(Carver& carver, int members, const Sizes& sizes) {
    each_for_itself_ = members <= FEW_MEMBERS;
    owns_ = carver.take<Own>(static_cast<size_t>(members));
    Own own;
    own.tiles[SHARED] = carver.take<char>(sizes.tile_bytes);
    for (int member = 0; member < members; member++) {
        if (member == 0 || each_for_itself_)
            for (int form = 0; form < MAX_FORMS; form++)
                own.tiles[form] = carver.take<char>(sizes.tile_bytes);
        for (VectorToken& vector : own.vectors) vector = carve_vector(carver, sizes.widest);
        own.strip = carver.take<char>(sizes.strip_bytes);
        if (owns_ != nullptr) owns_[member] = own;
    }
}

int Operands::form_of(const Weight* const* weights, int index) const {
    for (int before = 0; before < index; before++)
        if (same_form(*weights[index], *weights[before], num_tokens_)) return before;
    return index;
}

void Operands::put(const Weight& weight, char* tiles, Range tokens, int64_t column,
                   int64_t count, const float* values, int64_t stride) const {
    each_tile(isa_, weight, num_tokens_, Carver(tiles),
              [&](int64_t first, const TokenTile& tile, const Carver&) {
                  const int64_t begin = std::max(tokens.begin, first);
                  for (int64_t token = begin; token < std::min(tokens.end, first + MAX_TILE);
                       token++) {
                      const int t = static_cast<int>(token - first);
                      const int end = token == num_tokens_ - 1 ? tile.num_tokens : t + 1;
                      for (int at = t; at < end; at++)
                          round_part(isa_, weight, values + (token - tokens.begin) * stride,
                                     column, count, at, tile);
                  }
              });
}

void Operands::multiply(int member, const Linear& linear, int form, Range range,
                        float* product, Aside* aside) const {
    const Weight& weight = linear.weight;
    const int64_t begin = range.begin * ROWS, end = std::min(range.end * ROWS, weight.rows);
    if (num_tokens_ == 1)
        vector_kernel_of(isa_, weight)(weight, owns_[member].vectors[form], begin, end, product);
    else
        each_tile(isa_, weight, num_tokens_, Carver(owns_[member].tiles[form]),
                  [&](int64_t first, TokenTile& tile, const Carver&) {
                      tile.aside = aside;
                      float* to = product + first * weight.rows;
                      const auto kernel = tile_kernel_of(isa_, weight);
                      if (kernel != nullptr) return kernel(weight, tile, begin, end, to);
                      multiply_strips(isa_, weight, tile,
                                      std::min<int64_t>(MAX_TILE, num_tokens_ - first), range,
                                      owns_[member].strip, to);
                  });
    if (linear.bias == nullptr) return;
    for (int64_t t = 0; t < num_tokens_; t++)
        for (int64_t row = begin; row < end; row++)
            product[t * weight.rows + row] += linear.bias[row];
}

}  // namespace cotejar
