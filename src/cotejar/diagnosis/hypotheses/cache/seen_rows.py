"""How often each wrong query saw each row, solved for.

A context c is the mean of values v by weights exp(s): with n_s rows of slot s, the sum of
n_s exp(s) (v_s - c) is 0. Of a query's own row there is one; the others' numbers, and that of
slots that hold zeros, are solved for and rounded. What several queries have in common is named.

Shape letters: T tokens, H heads, E head size, W width, R known directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.cache.cache_reader import ZEROS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.hypotheses.cache.cache_reader import CacheReader

_MOST_TOKENS, _MOST_WRONG = 128, 48
"""Of a longer text, or of more wrong queries, the equations are too many."""
_WHOLE = 0.2
"""From a whole number: a number of rows that is as far from it is none."""
_MOST_ROWS = 256
"""Slots that a query may see more than there are tokens."""
_STEPS = 40
"""Of least squares."""
_SHOWN = 6


def solved_rows(reader: CacheReader) -> Iterator[Alternative]:
    """Rows that all wrong queries do not see, or see twice, and zeros that they see."""
    attended = reader.attended
    wrong = attended.wrong.tolist()
    if len(attended.q) > _MOST_TOKENS or len(wrong) > _MOST_WRONG:
        return
    found: dict[int, Int[np.ndarray, "n"]] = {}
    for position in wrong:
        counts = _counts(reader, position)
        if counts is None:
            return
        found[position] = counts
    words, numbers = _named(found, _who(reader))
    if not words:
        return

    def read(position: int) -> list[int]:
        if position not in found:
            return reader.right(position)
        counts = found[position]
        rows = np.repeat(np.arange(position + 1), counts[:-1]).tolist()
        return [*rows, *[ZEROS] * int(counts[-1])]

    yield Alternative(
        id="cache-rows",
        title=words,
        output=reader.output(read, read),
        parameters=numbers,
    )


def _who(reader: CacheReader) -> str:
    """The wrong queries, in words."""
    wrong, last = reader.attended.wrong, len(reader.attended.q) - 1
    first, end = int(wrong[0]), int(wrong[-1])
    if end < last:
        return f"tokens {first} to {end}" if first < end else f"token {first}"
    return "steps" if first == reader.first else f"the tokens from {first} on"


def _counts(reader: CacheReader, position: int) -> Int[np.ndarray, "n"] | None:
    """Of each row up to the query's own, and of zeros; None where they are not whole."""
    attended = reader.attended
    scores, values = [], []
    for head, kv in enumerate(attended.heads):
        seen = attended.k[: position + 1, kv]
        scores.append(attended.scores(attended.q[position : position + 1, head], seen)[0])
        values.append(attended.v[: position + 1, kv])
    scores_HS = np.stack([np.append(one, 0.0) for one in scores])
    values_HSE = np.stack([np.concatenate([v, np.zeros_like(v[:1])]) for v in values])
    size_HS = np.exp(scores_HS - scores_HS.max(axis=1, keepdims=True))
    away_HSE = values_HSE - attended.recorded[position][:, None]
    moved_SW = (size_HS[..., None] * away_HSE).swapaxes(0, 1).reshape(position + 2, -1)
    others = [*range(position), position + 1]
    if attended.known is not None:
        wanted_W = attended.recorded[position].reshape(-1) @ attended.known
        if len(wanted_W) <= len(others):
            return None
        solved = _solved_in_part(size_HS, values_HSE, wanted_W, attended.known)
    elif moved_SW.shape[1] <= len(others):
        return None
    else:
        solved = np.linalg.lstsq(moved_SW[others].T, -moved_SW[position], rcond=1e-12)[0]
    whole = np.rint(solved)
    if (np.abs(solved - whole) > _WHOLE).any() or (whole < 0).any() or whole.sum() > _MOST_ROWS:
        return None
    counts = np.ones(position + 2, int)
    counts[others] = whole.astype(int)
    return counts


def _solved_in_part(
    size_HS: Float64[np.ndarray, "H S"],
    values_HSE: Float64[np.ndarray, "H S E"],
    wanted_R: Float64[np.ndarray, "R"],
    known_WR: Float64[np.ndarray, "W R"],
) -> Float64[np.ndarray, "n"]:
    """Of a context that is known in some directions: least squares, step by step from ones.

    Source of the damping: Marquardt, 1963 (see `carried_rope`).
    """
    own = size_HS.shape[1] - 2
    others = [*range(own), own + 1]

    def off(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.ones(own + 2)
        numbers[others] = counts
        weighed_HS = numbers * size_HS
        below_H1 = weighed_HS.sum(axis=1, keepdims=True)
        context_HE = np.einsum("hs,hse->he", weighed_HS, values_HSE) / below_H1
        slopes = size_HS[..., None] * (values_HSE - context_HE[:, None]) / below_H1[..., None]
        slopes_SR = slopes[:, others].swapaxes(0, 1).reshape(len(others), -1) @ known_WR
        return context_HE.reshape(-1) @ known_WR - wanted_R, slopes_SR

    counts = np.append(np.ones(own), 0.0)
    (left, slopes), damping = off(counts), 1e-3
    for _ in range(_STEPS):
        normal = slopes @ slopes.T
        held = normal + np.diag(damping * np.diag(normal) + 1e-14 * np.trace(normal) + 1e-300)
        tried = counts - np.linalg.solve(held, slopes @ left)
        then = off(tried)
        if np.linalg.norm(then[0]) < np.linalg.norm(left):
            counts, (left, slopes), damping = tried, then, damping / 8
        else:
            damping *= 8
    return counts


def _named(found: dict[int, Int[np.ndarray, "n"]], who: str) -> tuple[str, int]:
    """What is said of rows that all queries lose, or see more than once; and how many."""
    widest = max(found)
    lost: set[int] | None = None
    more: dict[int, set[int]] = {}
    zeros = {int(counts[-1]) for counts in found.values()}
    for position, counts in found.items():
        gone = {s for s in range(position) if counts[s] == 0}
        lost = gone if lost is None else lost & gone
        for slot in np.flatnonzero(counts[:position] > 1).tolist():
            more.setdefault(slot, set()).add(int(counts[slot]))
    lost = lost or set()
    same = all(
        {s for s in range(position) if counts[s] == 0} == lost
        for position, counts in found.items()
    )
    twice = sorted(more)
    steady = all(
        int(counts[slot]) == max(more[slot])
        for position, counts in found.items()
        for slot in twice
        if slot < position
    )
    if not same or not steady or len(zeros) > 1 or widest < 1:
        return "", 0
    said = []
    if lost:
        said.append(f"do not read {_tokens(sorted(lost))}")
    if twice:
        times = {n for slot in twice for n in more[slot]}
        often = "twice" if times == {2} else f"{max(times)} times"
        said.append(f"read {_tokens(twice)} {often}")
    count = zeros.pop()
    if count:
        slots = f"{count} slot{'s' if count > 1 else ''}"
        said.append(f"read {slots} more, which hold zeros")
    numbers = len(_runs(sorted(lost))) + len(_runs(twice)) + (count > 0)
    return (f"{who} {', and '.join(said)}", numbers) if said else ("", 0)


def _runs(slots: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for slot in slots:
        if runs and runs[-1][1] == slot - 1:
            runs[-1] = (runs[-1][0], slot)
        else:
            runs.append((slot, slot))
    return runs


def _tokens(slots: list[int]) -> str:
    """`the keys and values of tokens 2, 3 and 6 to 8`."""
    runs = _runs(slots)
    said = [f"{a}" if a == b else f"{a} to {b}" for a, b in runs[:_SHOWN]]
    if len(runs) > _SHOWN:
        said.append(f"{len(runs) - _SHOWN} more")
    text = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"the keys and values of token{'s' if len(slots) > 1 else ''} {text}"
