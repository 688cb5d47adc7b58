"""What became of a tensor between two files: explained from the two tensors themselves.

A search over products sees a weight through what it does to some tokens, and only with the
bits of one file. Two files at hand say more: zeros, rows that stand elsewhere, a transposition,
tiles, bytes that are read in another way, all of it within what the two types' rounding leaves.

Shape letters: R rows (outputs), C columns (inputs), N rows of a pool, B blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.hypotheses.blocks.scaled_blocks import name_scaled_part
from cotejar.diagnosis.hypotheses.numbers import factor_text
from cotejar.diagnosis.hypotheses.weight.order_names import order_words
from cotejar.diagnosis.hypotheses.weight.other_basis import (
    TILES,
    inverse,
    tile_order,
    turned_tiles,
)
from cotejar.diagnosis.hypotheses.weight.tensor_swap import name_swap
from cotejar.diagnosis.products import ROWS_AT_ONCE_BYTES
from cotejar.diagnosis.stored_lower import find_lower_type
from cotejar.diagnosis.weight_variants import weight_variants
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Bool, Float64

    from cotejar.quant.block_matrix import BlockMatrix

MOST_ELEMENTS = 1 << 23
"""Of a larger tensor nothing is tried that needs it whole."""

_HALF = 2.0**-11
_EXACT = {BlockType.F32: 1e-6, BlockType.APR_Q8: 1e-6, BlockType.BF16: 2.0**-8}
"""Relative L2 of two tensors that differ by one rounding of a value, or of a block's scale,
which is a float16 but in these types."""
_LOWERED = 4.0
"""What explains a difference leaves at most this part of it."""
_SAMPLE_ROWS = 16
_MOST_RUNS = 6
"""Runs of rows that a sentence names."""
_SHOWN = 4
"""Rows, or columns, that are named one by one."""
_BLOCKS = (256, 128, 64, 32, 16)
_MOST_RANK = 64
_LEAST_SHARE = 1 / 8
"""Of the smaller side of a tensor: a difference of more rank is no adapter."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Changed:
    """A tensor of the reference, the candidate's, and what else the reference's layer has."""

    name: str
    reference: BlockMatrix
    candidate: BlockMatrix
    allowed: float
    """Relative L2 that the rounding of the two types leaves."""
    siblings: Mapping[str, BlockMatrix]
    """Tensors of the reference whose rows are as long."""

    def fits(
        self, found: Float64[np.ndarray, "..."], wanted: Float64[np.ndarray, "..."]
    ) -> bool:
        """Are two tensors one, but for rounding?"""
        size = float(np.linalg.norm(wanted))
        return size > 0 and float(np.linalg.norm(found - wanted)) <= self.allowed * size


def explain_tensor(changed: Changed) -> tuple[str, str] | None:
    """Id and title of what became of it; None where nothing known did.

    What was done to the values before they were quantised again fits as well as the types do;
    what was done to the bytes fits exactly, and is tried first.
    """
    a, b = changed.reference, changed.candidate
    exactly = replace(changed, allowed=max(_EXACT.get(m.block_type, _HALF) for m in (a, b)))
    if a.rows * a.columns > MOST_ELEMENTS:
        return next(_read_otherwise(exactly), None) or next(_read_otherwise(changed), None)
    a_RC, b_RC = (m.decode_rows(0, m.rows).astype(np.float64) for m in (a, b))
    with np.errstate(all="ignore"):
        lost = find_not_finite(changed.name, b)
        away = float(np.linalg.norm(b_RC - a_RC)) / max(float(np.linalg.norm(a_RC)), 1e-300)
        for tried in (exactly, changed):
            if away < _LOWERED * tried.allowed:
                continue  # a row or a block of it: the whole is within the rounding
            how = next(_read_otherwise(tried), None)
            if lost is not None and how is not None:
                return how[0], f"{lost[1]}: {how[1]}"
            how = how or (None if lost else next(_ways(tried, a_RC, b_RC), None))
            if how is not None:
                return how
    return lost


def _ways(
    changed: Changed, a_RC: Float64[np.ndarray, "R C"], b_RC: Float64[np.ndarray, "R C"]
) -> Iterator[tuple[str, str]]:
    yield from _zeros(changed, a_RC, b_RC)
    scaled = name_scaled_part(changed.reference, changed.candidate, changed.allowed)
    if scaled is not None and len(a_RC) > 1:
        yield "block-scale", f"{changed.name}: {scaled}"
    yield from _gains(changed, a_RC, b_RC)
    if len(a_RC) > 1:
        yield from _layouts(changed, a_RC, b_RC)
        yield from _turned_tiles(changed, a_RC, b_RC)
        yield from _moved_rows(changed, b_RC)
        yield from _by_blocks(changed, a_RC, b_RC)
        yield from _low_rank(changed, a_RC, b_RC)
        lower = find_lower_type(
            changed.name, a_RC, b_RC, changed.candidate.block_type, changed.fits
        )
        if lower is not None:
            yield lower


def find_not_finite(name: str, matrix: BlockMatrix) -> tuple[str, str] | None:
    """Id and title of a tensor that holds NaN or infinity."""
    bad = rows = 0
    with np.errstate(all="ignore"):
        for run in _runs(matrix):
            values = matrix.decode_rows(*run)
            bad_R = (~np.isfinite(values)).sum(axis=1)
            bad, rows = bad + int(bad_R.sum()), rows + int((bad_R > 0).sum())
    if not bad:
        return None
    where = f" in {rows:,} of {matrix.rows:,} rows" if matrix.rows > 1 else ""
    count = "1 value" if bad == 1 else f"{bad:,} values"
    verb = "is" if bad == 1 else "are"
    return "weight-not-finite", f"{count} of {name} {verb} NaN or infinite{where}"


def _read_otherwise(changed: Changed) -> Iterator[tuple[str, str]]:
    """The candidate's bytes read in another way are the reference's values; or the reverse.

    Some rows, the furthest off among them, tell whether a reading is worth all of them.
    """
    a, b = changed.reference, changed.candidate
    if a.rows == 1:
        return
    few = _telling_rows(a, b)
    for used, other, words in ((b, a, "the candidate's"), (a, b, "the reference's")):
        wanted, plain = (
            np.concatenate([m.decode_rows(r, r + 1) for r in few]) for m in (other, used)
        )
        if not np.isfinite(wanted).all() or changed.fits(plain, wanted):
            continue
        for variant in weight_variants(used):
            if variant.id == "weights-rounded":
                continue
            found = np.concatenate([variant.rows(r, r + 1).values for r in few])
            if found.shape != wanted.shape or not changed.fits(found, wanted):
                continue
            parts = (
                (variant.rows(start, stop).values, other.decode_rows(start, stop))
                for start, stop in _runs(a)
            )
            if all(changed.fits(read, values) for read, values in parts):
                yield (
                    variant.id,
                    f"{variant.title}: {words} {changed.name} read so is the other file's",
                )
                return


def _runs(matrix: BlockMatrix) -> list[tuple[int, int]]:
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * matrix.columns))
    return [
        (start, min(start + at_once, matrix.rows)) for start in range(0, matrix.rows, at_once)
    ]


def _telling_rows(a: BlockMatrix, b: BlockMatrix) -> list[int]:
    """The rows that are furthest off, and some from all over."""
    off_R = np.concatenate(
        [
            np.linalg.norm(b.decode_rows(*run).astype(np.float64) - a.decode_rows(*run), axis=1)
            for run in _runs(a)
        ]
    )
    worst = np.argsort(-np.nan_to_num(off_R, nan=np.inf), kind="stable")[: _SAMPLE_ROWS // 2]
    spread = np.linspace(0, a.rows - 1, _SAMPLE_ROWS).astype(int)
    return sorted({*worst.tolist(), *spread.tolist()})


def _zeros(
    changed: Changed, a_RC: Float64[np.ndarray, "R C"], b_RC: Float64[np.ndarray, "R C"]
) -> Iterator[tuple[str, str]]:
    if not b_RC.any():
        yield "weight-zero", f"{changed.name} is all zeros: it was not written, or not loaded"
        return
    tail = np.zeros(b_RC.size, bool)
    tail[int(np.flatnonzero(b_RC.reshape(-1))[-1]) + 1 :] = True
    rows = np.asarray(~b_RC.any(axis=1))
    columns = np.asarray(~b_RC.any(axis=0))
    first, name = int(b_RC.size - tail.sum()), changed.name
    at = f" (row {first // b_RC.shape[1]:,})" if len(b_RC) > 1 else ""
    pruned = b_RC == 0
    masks = (
        (
            "weight-cut",
            f"{name} is 0 from value {first:,} of {b_RC.size:,} on{at}: it was cut",
            tail.reshape(b_RC.shape),
        ),
        ("rows-zero", f"{_run(rows, 'row')} of {name}", rows[:, None]),
        ("column-zero", f"{_run(columns, 'column')} of {name}", columns[None]),
        ("weight-hole", *_hole(name, a_RC, b_RC)),
        ("weight-pruned", f"{pruned.mean():.1%} of {name} is 0, the rest is right", pruned),
    )
    for id_, title, mask in masks:
        if mask.any() and changed.fits(b_RC, np.where(mask, 0.0, a_RC)):
            yield id_, title
            return


def _hole(
    name: str, a_RC: Float64[np.ndarray, "R C"], b_RC: Float64[np.ndarray, "R C"]
) -> tuple[str, Bool[np.ndarray, "R C"]]:
    """Values beside one another, as they lie in the file, that alone are lost."""
    lost = np.flatnonzero((b_RC == 0) & (a_RC != 0))
    mask = np.zeros(b_RC.shape, bool)
    if not len(lost) or b_RC.reshape(-1)[lost[0] : lost[-1] + 1].any():
        return "", mask
    mask.reshape(-1)[lost[0] : lost[-1] + 1] = True
    first, last = (int(place) // b_RC.shape[1] for place in (lost[0], lost[-1]))
    rows = f"row {first}" if first == last else f"rows {first} to {last}"
    return (
        f"{mask.sum():,} values of {name} beside one another are 0, in {rows}: a part of the "
        "file was not written, or not loaded"
    ), mask


def _run(mask: np.ndarray, word: str) -> str:
    places = [int(place) for place in np.flatnonzero(mask)]
    if len(places) == 1:
        return f"zeros are {word} {places[0]}"
    if places and places[-1] - places[0] + 1 == len(places):
        return f"zeros are {word}s {places[0]}..{places[-1]}"
    shown = ", ".join(str(place) for place in places[:_SHOWN])
    more = len(places) - _SHOWN
    return f"zeros are {word}s {shown}" + (f" and {more} more" if more > 0 else "")


def _gains(
    changed: Changed, a_RC: Float64[np.ndarray, "R C"], b_RC: Float64[np.ndarray, "R C"]
) -> Iterator[tuple[str, str]]:
    """A factor for all, a row or a column; a number added."""
    name = changed.name
    for number in (1.0, -1.0):
        if changed.fits(b_RC, a_RC + number):
            what = "more" if number > 0 else "less"
            yield "norm-one-plus-weight", f"{name} is 1 {what} in every value"
    gain = float((a_RC * b_RC).sum() / (a_RC * a_RC).sum())
    if changed.fits(b_RC, gain * a_RC):
        yield "weight-scaled", f"{name} is multiplied by {factor_text(gain)}"
    most = float(np.abs(b_RC).max())
    if changed.fits(b_RC, np.clip(a_RC, -most, most)):
        yield "weight-clipped", f"{name} is cut to {most:.3g} on both sides"
    if len(a_RC) == 1:
        return
    for axis, id_, words in ((1, "rows-scaled", "row"), (0, "columns-scaled", "column")):
        below = (a_RC * a_RC).sum(axis=axis, keepdims=True)
        gains = (a_RC * b_RC).sum(axis=axis, keepdims=True) / np.where(below > 0, below, 1.0)
        if changed.fits(b_RC, gains * a_RC):
            yield (
                id_,
                f"each {words} of {name} is multiplied by a number of its own, "
                f"{gains.min():.3g} to {gains.max():.3g}",
            )


def _layouts(
    changed: Changed, a_RC: Float64[np.ndarray, "R C"], b_RC: Float64[np.ndarray, "R C"]
) -> Iterator[tuple[str, str]]:
    """Transposed, reversed, in tiles."""
    rows, columns = a_RC.shape
    name = changed.name
    for id_, words, found in (
        ("weight-transposed", "written transposed", a_RC.T.reshape(rows, columns)),
        (
            "weight-transposed",
            "the transpose of one that has the other shape",
            a_RC.reshape(columns, rows).T,
        ),
        ("mis-tiled", "written with its columns in reverse", a_RC[:, ::-1]),
    ):
        if changed.fits(found, b_RC):
            yield id_, f"{name} is {words}"
    few = np.unique(np.linspace(0, rows - 1, _SAMPLE_ROWS).astype(int))
    flat = a_RC.reshape(-1)
    for high, wide in product((*TILES, rows), (*TILES, columns)):
        if rows % high or columns % wide:
            continue
        for transposed, also in ((False, ""), (True, ", each transposed")):
            order = tile_order(rows, columns, high, wide, transposed=transposed)
            for used, said in ((order, "in tiles of"), (inverse(order), "as if in tiles of")):
                places = used.reshape(rows, columns)[few]
                if (places == np.arange(rows * columns).reshape(rows, columns)[few]).all():
                    continue
                if changed.fits(flat[places], b_RC[few]):
                    yield "mis-tiled", f"{name} is written {said} {high} x {wide}{also}"
                    return


def _turned_tiles(
    changed: Changed, a_RC: Float64[np.ndarray, "R C"], b_RC: Float64[np.ndarray, "R C"]
) -> Iterator[tuple[str, str]]:
    few = np.unique(np.linspace(0, len(a_RC) - 1, _SAMPLE_ROWS).astype(int))
    flat = a_RC.reshape(-1)
    for words, places in turned_tiles(*a_RC.shape):
        if changed.fits(flat[places(few)], b_RC[few]):
            title = f"each tile of {words} of {changed.name} is transposed in its place"
            yield "mis-tiled", title


def _moved_rows(
    changed: Changed, b_RC: Float64[np.ndarray, "R C"]
) -> Iterator[tuple[str, str]]:
    """Rows that are other rows, of this tensor or of another one."""
    names, pool = [], []
    for name, matrix in changed.siblings.items():
        names += [(name, row) for row in range(matrix.rows)]
        pool.append(matrix.decode_rows(0, matrix.rows).astype(np.float64))
    pool_NC = np.concatenate(pool)
    source = np.empty(len(b_RC), np.int64)
    square_N = (pool_NC**2).sum(axis=1)
    for start in range(0, len(b_RC), 256):
        part = b_RC[start : start + 256]
        source[start : start + 256] = (square_N - 2 * part @ pool_NC.T).argmin(axis=1)
    off_R = np.linalg.norm(pool_NC[source] - b_RC, axis=1)
    size_R = np.linalg.norm(b_RC, axis=1)
    most = max(2 * changed.allowed, 1e-6)
    if not (off_R <= most * size_R).all():
        return
    found = [names[i] for i in source.tolist()]
    if all(one == (changed.name, row) for row, one in enumerate(found)):
        return
    yield _name_rows(changed, found)


def _name_rows(changed: Changed, found: list[tuple[str, int]]) -> tuple[str, str]:
    owners = list(dict.fromkeys(name for name, _ in found))
    rows = np.array([row for _, row in found])
    name = changed.name
    if len(owners) == 1 and (rows == np.arange(len(rows))).all():
        return name_swap(name, owners[0])
    if owners == [name] and (np.sort(rows) == np.arange(len(rows))).all():
        words = order_words(rows)
        moved = int((rows != np.arange(len(rows))).sum())
        return "output-order", (
            f"the rows of {name} are {words}"
            if words
            else f"{moved:,} of {len(rows):,} rows of {name} stand in another order"
        )
    runs = []
    start = 0
    for row in range(1, len(found) + 1):
        if row < len(found) and found[row] == (found[row - 1][0], found[row - 1][1] + 1):
            continue
        owner, first = found[start]
        runs.append(f"{start}..{row - 1} are {first}..{found[row - 1][1]} of {owner}")
        start = row
    id_ = "fused-cut" if len(owners) > 1 else "rows-shifted"
    more = f", and {len(runs) - _MOST_RUNS} more runs" if len(runs) > _MOST_RUNS else ""
    return id_, f"rows of {name}: {'; '.join(runs[:_MOST_RUNS])}{more}"


def _by_blocks(
    changed: Changed, a_RC: Float64[np.ndarray, "R C"], b_RC: Float64[np.ndarray, "R C"]
) -> Iterator[tuple[str, str]]:
    """One number is added in each block, or each block is multiplied by one."""
    columns = a_RC.shape[1]
    for width in _BLOCKS:
        if columns % width:
            continue
        a_NW, b_NW = a_RC.reshape(-1, width), b_RC.reshape(-1, width)
        added_N1 = (b_NW - a_NW).mean(axis=1, keepdims=True)
        if changed.fits(b_NW, a_NW + added_N1):
            yield (
                "block-offset",
                f"{changed.name} is more by one number in each block of {width}: another "
                "offset, minimum or centre of its codes",
            )
            return
        below = (a_NW * a_NW).sum(axis=1, keepdims=True)
        gains_N1 = (a_NW * b_NW).sum(axis=1, keepdims=True) / np.where(below > 0, below, 1.0)
        if changed.fits(b_NW, gains_N1 * a_NW):
            yield (
                "block-scale",
                f"each block of {width} of {changed.name} is multiplied by a number of its "
                f"own, {gains_N1.min():.3g} to {gains_N1.max():.3g}",
            )
            return


def _low_rank(
    changed: Changed, a_RC: Float64[np.ndarray, "R C"], b_RC: Float64[np.ndarray, "R C"]
) -> Iterator[tuple[str, str]]:
    """An adapter: the difference has few dimensions, and no tensor's rounding has."""
    least = min(a_RC.shape)
    if least > 1024:  # noqa: PLR2004 - a second of one core
        return
    sizes = np.linalg.svd(b_RC - a_RC, compute_uv=False)
    total = float(np.linalg.norm(b_RC))
    for rank in range(1, min(_MOST_RANK, int(_LEAST_SHARE * least)) + 1):
        if np.linalg.norm(sizes[rank:]) <= changed.allowed * total:
            yield (
                "weight-low-rank",
                f"{changed.name} differs by a matrix of rank {rank}: an adapter (LoRA) is left "
                "out, merged twice or scaled in another way",
            )
            return
