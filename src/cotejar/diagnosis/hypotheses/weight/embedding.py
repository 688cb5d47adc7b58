"""The embedding: other tokens, a scale, the table misread or transposed.

Shape letters: T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice
from cotejar.diagnosis.observed import embed
from cotejar.diagnosis.operations import Embed
from cotejar.diagnosis.products import ROWS_AT_ONCE_BYTES
from cotejar.diagnosis.weight_variants import plain_rows, weight_variants

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.quant.block_matrix import BlockMatrix


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the embedding."""
    step = case.operation.step
    if not isinstance(step, Embed):
        return
    truth, ids = case.observed.truth, case.observed.trace.token_ids
    table = truth.weights[step.weight]
    right = embed(step, truth, ids)
    yield from _scaled(case, step, right)
    yield from _positions_added(right)
    yield from _waves_added(case, right)
    yield from _normed(case, right)
    yield from _cut_to_length(case, right)
    yield from _one_row(case, right)
    yield from _rows_late(case, step, table)
    used = _nearest_tokens(table, case.recorded / step.scale)
    yield from _other_tokens(case, step, used)
    yield from _misread(case, step, table)
    yield from _other_tables(case, step, table)


def _other_tables(case: Case, step: Embed, table: BlockMatrix) -> Iterator[Alternative]:
    """Every other weight of that shape: the LM head's, of a model that ties nothing."""
    weights, ids = case.observed.truth.weights, case.observed.trace.token_ids
    for name, other in weights.items():
        if name == step.weight or (other.rows, other.columns) != (table.rows, table.columns):
            continue
        rows_TD = np.concatenate([other.decode_rows(i, i + 1) for i in ids])
        yield Alternative(
            id="embedding-table",
            title=f"tokens are looked up in {name}, not in {step.weight}",
            output=step.scale * rows_TD.astype(np.float64),
        )


def _scaled(
    case: Case, step: Embed, right: Float64[np.ndarray, "T D"]
) -> Iterator[Alternative]:
    """The declared scale left out or rounded, or another."""
    truth, ids = case.observed.truth, case.observed.trace.token_ids
    width = right.shape[1]
    gain = float((case.recorded * right).sum() / max((right * right).sum(), 1e-300))
    left_out = f"the embedding's scale of {factor_text(step.scale)} is left out"
    if step.scale != 1.0:
        yield Alternative(
            id="embedding-scale",
            title=left_out,
            output=embed(replace(step, scale=1.0), truth, ids),
            declared=True,
        )
    for factor in (width**0.5, width**-0.5, gain):
        title = f"the embedding is multiplied by {factor_text(factor)}"
        if step.scale != 1.0 and np.isclose(factor * step.scale, 1, rtol=1e-3):
            title = left_out
        elif step.scale != 1.0:
            used, scale = factor_text(factor * step.scale), factor_text(step.scale)
            title = f"the embedding's scale is {used} and ought to be {scale}"
        yield Alternative(
            id="embedding-scale",
            title=title,
            output=factor * right,
            parameters=int(factor == gain),
        )
    for how in ("bf16", "f16"):
        rounded = float(ROUNDINGS[how](np.array([step.scale]))[0])
        if rounded != step.scale:
            yield Alternative(
                id="embedding-scale",
                title=f"the embedding's scale of {step.scale:.7g} is rounded to {how}, to "
                f"{rounded:.7g}",
                output=rounded / step.scale * right,
            )


def _misread(case: Case, step: Embed, table: BlockMatrix) -> Iterator[Alternative]:
    """The table transposed, or its blocks read in another way; and its scale left out."""
    truth, ids = case.observed.truth, case.observed.trace.token_ids
    plain_TD = embed(replace(step, scale=1.0), truth, ids)
    transposed = _transposed_rows(table, ids)
    for scale in dict.fromkeys((step.scale, 1.0)):
        words = "" if scale == step.scale else ", and its scale is left out"
        yield Alternative(
            id="weight-transposed",
            title=f"{step.weight} is read transposed{words}",
            output=scale * transposed,
        )
        for variant in weight_variants(table):
            rows_TD = np.concatenate([variant.rows(i, i + 1).values for i in ids])
            if not np.array_equal(rows_TD, plain_TD):  # else it is no other way to read them
                yield Alternative(
                    id=variant.id,
                    title=f"{variant.title}{words}",
                    output=scale * rows_TD,
                )


_BASES = (10_000.0, 1_000.0, 100_000.0, 500_000.0, 1_000_000.0)
_FEWEST_TOKENS = 3


def _positions_added(right: Float64[np.ndarray, "T D"]) -> Iterator[Alternative]:
    """Sines and cosines of the position; source: Vaswani et al., 2017 (arXiv:1706.03762)."""
    tokens, width = right.shape
    half = width // 2
    if width % 2:
        return
    for base in _BASES:
        for first in (0, 1):
            for last in dict.fromkeys((half, max(half - 1, 1))):
                angles = np.outer(first + np.arange(tokens), base ** (-np.arange(half) / last))
                sine, cosine = np.sin(angles), np.cos(angles)
                for table in (
                    np.stack([sine, cosine], axis=2).reshape(tokens, width),
                    np.concatenate([sine, cosine], axis=1),
                    np.concatenate([cosine, sine], axis=1),
                ):
                    yield Alternative(
                        id="positions-added",
                        title=f"sines and cosines of the position (base {base:g}) are added to "
                        "the embedding",
                        output=right + table,
                    )


_FEWEST_TURNS = 6


_WAVES, _FINER, _TIMES = 512, 9, 24
"""Frequencies that are tried first, then about the best one, and how often closer."""


def _waves_added(case: Case, right: Float64[np.ndarray, "T D"]) -> Iterator[Alternative]:
    """A sine of the position in every channel, of any frequency, phase and size."""
    if len(right) < _FEWEST_TURNS:
        return
    added_TD = case.recorded - right
    tried = np.geomspace(1e-5, np.pi, _WAVES)
    left = np.stack([np.square(_less_wave(added_TD, w)).sum(axis=0) for w in tried])
    turn_D = tried[left.argmin(axis=0)]
    apart = np.log(tried[1] / tried[0])
    for _ in range(_TIMES):
        near = [turn_D * np.exp(apart * step) for step in np.linspace(-1, 1, _FINER)]
        left = np.stack([np.square(_less_wave(added_TD, w)).sum(axis=0) for w in near])
        turn_D = np.stack(near)[left.argmin(axis=0), np.arange(len(turn_D))]
        apart *= 2 / (_FINER - 1)
    yield Alternative(
        id="positions-added",
        title="a sine of the position is added in each channel of the embedding",
        output=case.recorded - _less_wave(added_TD, turn_D),
        parameters=3 * right.shape[1],
    )


def _less_wave(
    values_TD: Float64[np.ndarray, "T D"], turn: float | Float64[np.ndarray, "D"]
) -> Float64[np.ndarray, "T D"]:
    """What is left of each channel less its nearest wave of that frequency."""
    angles = np.arange(len(values_TD))[:, None] * np.atleast_1d(turn)[None, :]
    cos = np.cos(angles)
    cos = cos / np.linalg.norm(cos, axis=0)
    sin = np.sin(angles) - cos * (cos * np.sin(angles)).sum(axis=0)
    sin = sin / np.maximum(np.linalg.norm(sin, axis=0), 1e-300)
    left = values_TD - cos * (cos * values_TD).sum(axis=0)
    result: np.ndarray = left - sin * (sin * left).sum(axis=0)
    return result


def _normed(case: Case, right: Float64[np.ndarray, "T D"]) -> Iterator[Alternative]:
    """Each row brought to one size."""
    square_T1 = np.mean(right * right, axis=1, keepdims=True)
    eps = case.observed.truth.config.rms_eps
    weights = case.observed.truth.weights
    gains: list[tuple[str, float | np.ndarray]] = [("", 1.0)]
    for name, matrix in weights.items():
        if matrix.rows == 1 and matrix.columns == right.shape[1] and "layers.0." in name:
            gains.append((f", with the weight {name}", weights.vector(name).astype(np.float64)))
    for words, gain in gains:
        for added in (eps, 0.0):
            yield Alternative(
                id="embedding-normed",
                title=f"the embedding is normed (RMS){words}",
                output=right / np.sqrt(square_T1 + added) * gain,
            )


def _cut_to_length(case: Case, right: Float64[np.ndarray, "T D"]) -> Iterator[Alternative]:
    """Rows that are longer than some length are brought to it."""
    length = float(np.linalg.norm(case.recorded, axis=1).max())
    size_T1 = np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-300)
    for value in dict.fromkeys((nice(length, 2), nice(length, 4), length)):
        yield Alternative(
            id="embedding-normed",
            title=f"rows of the embedding longer than {value:.4g} are cut to that length",
            output=right * np.minimum(value / size_T1, 1.0),
            parameters=1,
        )


def _one_row(case: Case, right: Float64[np.ndarray, "T D"]) -> Iterator[Alternative]:
    """Every token of one id is wrong in the same way, and no other is."""
    ids = np.array(case.observed.trace.token_ids[-len(right) :])
    wrong = case.error.ratios > 1
    tokens = sorted(set(ids[wrong].tolist()))
    same = np.isin(ids, tokens)
    if not tokens or not wrong[same].all():
        return
    if not case.recorded[same].any():
        shown = " and ".join(str(token) for token in tokens[:4])
        output = right.copy()
        output[same] = 0.0
        yield Alternative(
            id="embedding-row",
            title=f"{'the row' if len(tokens) == 1 else f'{len(tokens)} rows'} of the table "
            f"that {'is' if len(tokens) == 1 else 'are'} 0: token {shown}",
            output=output,
            parameters=1,
        )
    if len(right) < _FEWEST_TOKENS or len(tokens) != 1:
        return
    output = right.copy()
    output[same] = case.recorded[same][0]
    yield Alternative(
        id="embedding-row",
        title=f"the row of token {tokens[0]} in the table is another",
        output=output,
        parameters=right.shape[1],
    )


def _rows_late(case: Case, step: Embed, table: BlockMatrix) -> Iterator[Alternative]:
    """The table starts some rows early or late: which no token id says."""
    ids = case.observed.trace.token_ids[-len(case.recorded) :]
    for shift in (1, -1, 2, -2):
        moved = [(i - shift) % table.rows for i in ids]
        output = embed(step, case.observed.truth, moved)
        yield Alternative(
            id="rows-shifted",
            title=f"rows of the table are read {abs(shift)} "
            f"{'late' if shift > 0 else 'early'}: token {ids[0]} gets the row of {moved[0]}",
            output=output,
        )


def _nearest_tokens(table: BlockMatrix, rows_TD: Float64[np.ndarray, "T D"]) -> Sequence[int]:
    """The token whose row each recorded one is nearest to."""
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * table.columns))
    best = np.zeros(len(rows_TD), int)
    least = np.full(len(rows_TD), np.inf)
    for start in range(0, table.rows, at_once):
        stop = min(start + at_once, table.rows)
        part = plain_rows(table, start, stop).values
        distance = (part * part).sum(axis=1) - 2 * rows_TD @ part.T
        index = distance.argmin(axis=1)
        value = distance[np.arange(len(rows_TD)), index]
        nearer = value < least
        best[nearer], least[nearer] = start + index[nearer], value[nearer]
    return [int(i) for i in best]


def _wrong_row(used: Sequence[int], ids: Sequence[int]) -> tuple[str, str] | None:
    """One token is taken for one other wherever it stands, more than once: a row is wrong."""
    taken = {(a, b) for a, b in zip(used, ids, strict=True) if a != b}
    if len(taken) != 1:
        return None
    other, own = taken.pop()
    if ids.count(own) < 2 or own in used:  # noqa: PLR2004 - of one alone nobody can tell
        return None
    return "embedding-row", f"row {own} of the table is row {other}: token {own} has its values"


def _other_tokens(case: Case, step: Embed, used: Sequence[int]) -> Iterator[Alternative]:
    ids = list(case.observed.trace.token_ids)
    wrong = [i for i, (a, b) in enumerate(zip(used, ids, strict=True)) if a != b]
    if not wrong:
        return
    i = wrong[0]
    title = f"{len(wrong)} of {len(ids)} rows are other tokens': token {i} is {used[i]}, not "
    title += str(ids[i])
    id_ = "tokens"
    if used[1:] == ids[:-1]:
        id_, title = "tokens-shifted", f"tokens are one late, behind token {used[0]} (a BOS?)"
    elif used[:-1] == ids[1:]:
        id_, title = "tokens-shifted", "tokens are one early: the first is left out"
    elif len({a - b for a, b in zip(used, ids, strict=True)}) == 1:
        by = used[0] - ids[0]
        title = f"every token id is {by:+d}, or each row of the table stands {abs(by)} "
        title += f"{'before' if by > 0 else 'behind'} its place"
    else:
        id_, title = _by_one_step(used, ids) or _wrong_row(used, ids) or (id_, title)
    output = embed(step, case.observed.truth, used)
    yield Alternative(id=id_, title=title, output=output)


def _by_one_step(used: Sequence[int], ids: Sequence[int]) -> tuple[str, str] | None:
    """All ids from some one on, as far as they occur, get the row so many before or after."""
    moved = {i: a - i for a, i in zip(used, ids, strict=True) if a != i}
    kept = [i for a, i in zip(used, ids, strict=True) if a == i]
    first, steps = min(moved), set(moved.values())
    if len(steps) > 1 or len(moved) < 2 or any(i >= first for i in kept):  # noqa: PLR2004 - one may be anything
        return None
    step = steps.pop()
    before = f" (ids up to {max(kept)} are right)" if kept else ""
    return "rows-shifted", (
        f"rows of the table from {first} on are those {abs(step)} "
        f"{'before' if step < 0 else 'after'}{before}"
    )


def _transposed_rows(table: BlockMatrix, ids: Sequence[int]) -> Float64[np.ndarray, "T D"]:
    """Value d of token i as it stands in (D, V): place d * V + i of the flat table."""
    rows, columns = table.rows, table.columns
    out = np.empty((len(ids), columns))
    for t, i in enumerate(ids):
        flat = np.arange(columns) * rows + i
        for d, place in enumerate(flat):
            row, column = divmod(int(place), columns)
            out[t, d] = table.decode_rows(row, row + 1)[0, column]
    return out
