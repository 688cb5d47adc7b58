#include "added_product.h"

#include "own_blocks.h"
#include "strip_products.h"

namespace cotejar {

void add_product(const Isa& isa, const Linear& linear, const Tiles& tiles, int64_t num_tokens,
                 const float* residual, float* out, BlockMoments* measured, int first,
                 float* last) {
    const int64_t width = linear.weight.rows;
    const BlockGrid grid{num_tokens, width};
    const int at_once = strips_at_once(tiles);
    over_units(isa, units_of(grid, at_once), &linear.weight, 1, at_once, measured,
               [&](int64_t unit, const Strip* strips, Meters& meters) {
        const Range mine = strips_of_unit(grid, unit, at_once);
        StripProducts products(isa, tiles);
        for (int64_t strip = mine.begin; strip < mine.end; strip++)
            products.unpack(linear, strips[strip - mine.begin], strip);
        const int count = products.count();
        OwnBlocks<MOST_STRIPS> values(measured != nullptr), sums(measured != nullptr);
        for (int64_t piece = 0; piece < grid.down(); piece++) {
            Block blocks[MOST_STRIPS] = {};
            for (int s = 0; s < count; s++) blocks[s] = grid.block(mine.begin + s, piece);
            for (int64_t at = 0; at < tiles_in(blocks[0]); at++) {
                float* to[MOST_STRIPS];
                for (int s = 0; s < count; s++) {
                    const TileRows tile(blocks[s], at);
                    to[s] = values.at(s, tile);
                    fetch_rows(residual + tile.rows.first_row * width + tile.rows.first_column,
                               width, tile.rows.rows);
                }
                products.fill(TileRows(blocks[0], at).index(), to);
                for (int s = 0; s < count; s++) {
                    const TileRows tile(blocks[s], at);
                    float* const sum = sums.at(measured == nullptr ? 0 : s, tile);
                    add_rows(isa, residual, width, tile.rows, to[s], sum);
                    store_rows(isa, sum, width, tile.rows, out);
                }
            }
            for (int s = 0; measured != nullptr && s < count; s++) {
                meters.of(first).measure(mine.begin + s, piece, values.whole(s));
                meters.of(first + 1).measure(mine.begin + s, piece, sums.whole(s));
                keep_last_row(values.whole(s), blocks[s], num_tokens, last);
            }
        }
    });
}

}  // namespace cotejar
