"""A weight or an input in another basis or layout: Hadamard turns undone on one side, tiles.

A turn by a Hadamard matrix spreads what is large in few channels, and is its own inverse up to
a factor; a kernel that does it to one of two factors alone computes nothing of use. A weight in
tiles is all there, in another order of its bytes.

Shape letters: T tokens, R rows (outputs), C columns (inputs), n a block's width.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.products import multiply
from cotejar.diagnosis.weight_variants import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Case

    Places = Callable[[Int[np.ndarray, "R"]], Int[np.ndarray, "R C"]]

_LEAST_WIDTH, _MOST_WIDTH = 4, 4096
TILES = (4, 8, 16, 32, 64, 128)
"""Rows and columns of a tile."""
_MOST_ELEMENTS = 1 << 24
"""Of a larger weight no tiles are tried: it is decoded whole."""
_BETTER = 2.0
"""So many times less does a layout leave of some rows, at every token, to be worth them all."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product."""
    if not isinstance(case.operation.step, Project) or case.project.softcap is not None:
        return
    yield from _turned_inputs(case)
    yield from _turned_outputs(case)
    if case.matrix.rows * case.matrix.columns <= _MOST_ELEMENTS:
        yield from _tiled(case)


def _turn(values_TC: Float64[np.ndarray, "T C"], width: int) -> Float64[np.ndarray, "T C"]:
    """By Hadamard's matrix in Sylvester's order, block by block; not normed.

    Source: Fino and Algazi, 1976, "Unified matrix treatment of the fast Walsh-Hadamard
    transform".
    """
    turned = values_TC.reshape(-1, width).copy()
    half = 1
    while half < width:
        pairs = turned.reshape(len(turned), -1, 2, half)
        turned = np.concatenate(
            [pairs[:, :, :1] + pairs[:, :, 1:], pairs[:, :, :1] - pairs[:, :, 1:]], axis=2
        ).reshape(len(turned), width)
        half *= 2
    return turned.reshape(values_TC.shape)


def _widths(size: int) -> list[int]:
    powers = (1 << bits for bits in range(2, 13))
    return [n for n in powers if size % n == 0 and _LEAST_WIDTH <= n <= _MOST_WIDTH]


def _turned_inputs(case: Case) -> Iterator[Alternative]:
    sample = SampledProduct.of(case)
    for width in _widths(case.matrix.columns):
        for words, factor in (("", width**-0.5), (" and not normed", 1.0)):
            x_TC = factor * _turn(case.inputs[0], width)
            title = (
                f"the input is turned by a Hadamard matrix of {width}{words}, the weight not"
            )
            if not sample.is_worth(x_TC):
                case.screened.append(title)
                continue
            given = case.round_input(x_TC)
            for product_TR in multiply(case.matrix, given):
                yield Alternative(
                    id="input-turned", title=title, output=case.finish(product_TR)
                )


def _turned_outputs(case: Case) -> Iterator[Alternative]:
    bias_R = np.zeros(case.matrix.rows) if case.bias is None else case.bias
    few = slice(0, 2)
    for width in _widths(case.matrix.rows):
        turned_TR = width**-0.5 * _turn(case.products[-1], width)
        left = np.linalg.norm((case.recorded_rows - bias_R - turned_TR)[few], axis=1)
        before = np.linalg.norm((case.recorded_rows - bias_R - case.products[-1])[few], axis=1)
        title = f"the output is turned by a Hadamard matrix of {width}"
        if not (_BETTER * left <= before).all():
            case.screened.append(title)
            continue
        yield Alternative(id="output-turned", title=title, output=case.finish(turned_TR))


def _tiled(case: Case) -> Iterator[Alternative]:
    """Tiles of a x b weights, one after the other, taken for rows; and the reverse."""
    rows, columns = case.matrix.rows, case.matrix.columns
    weight = case.matrix.decode_rows(0, rows).astype(np.float64).reshape(-1)
    sample = np.unique(np.linspace(0, rows - 1, 16).astype(int))
    bias_R = np.zeros(rows) if case.bias is None else case.bias
    wanted_TR = case.recorded_rows[:, sample] - bias_R[sample]
    before = np.linalg.norm(wanted_TR - case.products[-1][:, sample], axis=1)
    for title, places in _layouts(rows, columns):
        found_RC = weight[places(sample)]
        left = np.linalg.norm(wanted_TR - case.inputs[0] @ found_RC.T, axis=1)
        if not (_BETTER * left <= before).all():
            case.screened.append(title)
            continue
        whole = Rows(values=weight[places(np.arange(rows))])
        for given in case.givens:
            output = case.finish(given.values @ whole.rounded(given.weights).T)
            yield Alternative(id="mis-tiled", title=title, output=output)


def _layouts(rows: int, columns: int) -> Iterator[tuple[str, Places]]:
    """Title, and of some rows the places in the flat weight that their values come from."""
    for high, wide in product((*TILES, rows), (*TILES, columns)):
        if rows % high or columns % wide:
            continue
        for transposed, words in ((False, ""), (True, ", each transposed")):
            if (wide == columns and not transposed) or (high == rows and transposed):
                continue  # rows in their own order; and the whole transposed
            order = tile_order(rows, columns, high, wide, transposed=transposed)
            for used, said in (
                (order, "in tiles and read as rows"),
                (inverse(order), "as rows and read in tiles"),
            ):
                title = f"the weight is stored {said}, {high} x {wide}{words}"
                yield title, used.reshape(rows, columns).__getitem__
    for words, places in turned_tiles(rows, columns):
        yield f"each tile of {words} of the weight is transposed in its place", places


def turned_tiles(rows: int, columns: int) -> Iterator[tuple[str, Places]]:
    """Size of a tile, and the places of some rows if each tile is transposed in its place.

    One that is not square holds its own columns, one after the other, in rows; or the reverse.
    """
    for high, wide in dict.fromkeys(product((*TILES, rows), (*TILES, columns))):
        if rows % high or columns % wide or wide == columns or min(high, wide) == 1:
            continue  # whole rows, or all of it: other layouts are those
        yield (
            f"{high} x {wide}" + ("" if high == wide else ", taken by columns,"),
            partial(_turned_places, columns=columns, high=high, wide=wide, back=False),
        )
        if high != wide:
            yield (
                f"{high} x {wide}, taken by rows,",
                partial(_turned_places, columns=columns, high=high, wide=wide, back=True),
            )


def _turned_places(
    rows_R: Int[np.ndarray, "R"], *, columns: int, high: int, wide: int, back: bool
) -> Int[np.ndarray, "R C"]:
    """Value p of a tile is its value p counted down the columns; `back` is the reverse."""
    row_R1 = rows_R[:, None].astype(np.int32)
    column_C = np.arange(columns, dtype=np.int32)
    if back:
        place_RC = column_C % wide * high + row_R1 % high
        row_RC, column_RC = place_RC // wide, place_RC % wide
    else:
        place_RC = row_R1 % high * wide + column_C % wide
        row_RC, column_RC = place_RC % high, place_RC // high
    top_R1, left_C = row_R1 // high * high, column_C // wide * wide
    places: np.ndarray = (top_R1 + row_RC) * columns + left_C + column_RC
    return places


def tile_order(
    rows: int, columns: int, high: int, wide: int, *, transposed: bool
) -> Int[np.ndarray, "n"]:
    """Of each place of the weight in tiles, the place in rows that it is of."""
    places = np.arange(rows * columns, dtype=np.int32)
    tiles = places.reshape(rows // high, high, columns // wide, wide)
    axes = (0, 2, 3, 1) if transposed else (0, 2, 1, 3)
    return tiles.transpose(axes).reshape(-1)


def inverse(order: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The order that undoes one."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order), dtype=order.dtype)
    return back
