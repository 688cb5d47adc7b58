"""Orders of a weight's columns that a wrong tiling, or a transposition of tiles, gives.

Shape letters: C columns (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int


def column_orders(columns: int) -> dict[str, Int[np.ndarray, "C"]]:
    """By what a title says: of each column the one that is read in its place."""
    index = np.arange(columns)
    orders: dict[str, np.ndarray] = {"backwards": index[::-1]}
    for tile in (2, 4, 8, 16, 32, 64, 128, 256):
        if columns % tile or columns <= tile:
            continue
        tiles = index.reshape(-1, tile)
        count = len(tiles)
        orders[f"in tiles of {tile}, transposed"] = tiles.T.reshape(-1)
        orders[f"in {tile} tiles, transposed"] = index.reshape(tile, -1).T.reshape(-1)
        orders[f"in tiles of {tile}, backwards"] = tiles[::-1].reshape(-1)
        orders[f"in tiles of {tile}, one late"] = np.roll(tiles, 1, axis=0).reshape(-1)
        orders[f"in tiles of {tile}, one early"] = np.roll(tiles, -1, axis=0).reshape(-1)
        pairs = np.minimum(np.arange(count) ^ 1, count - 1)
        orders[f"with neighbouring tiles of {tile} exchanged"] = tiles[pairs].reshape(-1)
        for first, last in ((0, 1), (0, count - 1), (count - 2, count - 1)):
            swapped = np.arange(count)
            swapped[[first, last]] = last, first
            name = f"with tiles {first} and {last} of {tile} exchanged"
            orders[name] = tiles[swapped].reshape(-1)
    return orders
