"""An operation that is wrong in some rows alone, as a case of those rows.

A kernel for one token is another program than one for many, a second chunk of a prompt takes
another way than the first, and a padded row is written by other code: what is wrong there
shows in those rows and nowhere else. A family that fits its numbers to all tokens would find
nothing; so it is given the wrong rows alone, and what it finds is put beside the right ones.

Shape letters: T tokens, N rows that are looked at, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.operations import Attend, Embed, Rotate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Alternative, Judged

STEPS = "in the tokens fed one at a time"
"""Of a trace that says how its tokens were fed."""


@dataclass(frozen=True, eq=False)
class RowsCase(Case):
    """Of attention, and of what was derived: such a row is made of other rows, so all stay."""

    looked_at: Int[np.ndarray, "N"] | None = None
    """The others are right, whatever an alternative makes of them."""
    made: Int[np.ndarray, "N"] | None = None
    """Whose keys are made wrongly, where those are not the same: others read them too."""

    def judge(self, output_TW: Float64[np.ndarray, "T W"], slack: float = 0.0) -> Judged:
        """Of those rows alone."""
        if output_TW.shape != self.recorded.shape or self.looked_at is None:
            return super().judge(output_TW, slack)
        judged_TW = self.recorded.copy()
        judged_TW[self.looked_at] = output_TW[self.looked_at]
        return super().judge(judged_TW, slack)


def rows_looked_at(case: Case) -> Int[np.ndarray, "N"]:
    """The rows that a family has to explain."""
    if isinstance(case, RowsCase) and case.looked_at is not None:
        return case.looked_at
    return np.arange(len(case.recorded))


@dataclass(frozen=True, kw_only=True, eq=False)
class SomeRows:
    """Rows of an operation by themselves."""

    case: Case
    rows: Int[np.ndarray, "N"]
    words: str
    """Which those are, for a title."""

    def among_all(self, whole: Case, found: Alternative) -> Alternative:
        """What an alternative of these rows makes of all: beside them, what is right."""
        output_TW = whole.right.copy()
        same = len(found.output) == len(output_TW)
        output_TW[self.rows] = found.output[self.rows] if same else found.output
        title = found.title if self.words in found.title else f"{found.title}, {self.words}"
        return replace(found, title=title, output=output_TW)


def rows_alone(case: Case) -> Iterator[SomeRows]:
    """The steps, where those alone are wrong; then the wrong rows, where others are right."""
    tokens = len(case.recorded)
    wrong = np.flatnonzero(case.error.ratios > 1)
    is_whole = tokens == len(case.observed.trace.token_ids)
    if not is_whole or not len(wrong) or isinstance(case.operation.step, Embed):
        return
    first = tokens - case.observed.trace.num_steps
    steps = np.arange(first, tokens)
    if len(steps) and wrong[0] >= first:
        yield _of(case, steps, STEPS)
    elif len(steps):
        later = case.observed.trace.passes[0]
        if wrong[0] < later:
            return
        yield _of(case, np.arange(later, tokens), "in the passes after the first")
        if case.error.derived and first > later and len(wrong) > first - later:
            # What later chunks made wrongly steps read as well.
            part = _of(case, np.arange(later, tokens), "in later chunks of the prompt")
            if isinstance(part.case, RowsCase):
                yield replace(part, case=replace(part.case, made=np.arange(later, first)))
    if len(wrong) < tokens and not np.array_equal(wrong, steps) and _tells(case, wrong):
        yield _of(case, wrong, _which(wrong, tokens))


def _tells(case: Case, wrong: Int[np.ndarray, "N"]) -> bool:
    """Are the right rows ones that the fault might have reached? Token 0 sees itself alone."""
    reaches = isinstance(case.operation.step, Attend | Rotate) or bool(case.error.derived)
    if isinstance(case.operation.step, Rotate) and wrong[-1] - wrong[0] >= len(wrong):
        return False  # positions count on from the first of the rows
    return not reaches or len(wrong) < len(case.recorded) - 1


def _of(case: Case, rows: Int[np.ndarray, "N"], words: str) -> SomeRows:
    step = case.operation.step
    if isinstance(step, Attend) or case.error.derived:
        alone: Case = RowsCase(
            case.operation, case.observed, case.inputs, case.recorded, case.error,
            looked_at=rows,
        )  # fmt: skip
        return SomeRows(case=alone, rows=rows, words=words)
    operation = case.operation
    if isinstance(step, Rotate):
        operation = replace(operation, step=replace(step, first_position=int(rows[0])))
    error = replace(
        case.error,
        **{
            name: getattr(case.error, name)[rows]
            for name in ("exact", "left", "limits", "output_norm")
        },
    )
    inputs = tuple(array[rows] for array in case.inputs)
    alone = Case(operation, case.observed, inputs, case.recorded[rows], error, rows=rows)
    return SomeRows(case=alone, rows=rows, words=words)


def _which(rows: Int[np.ndarray, "N"], tokens: int) -> str:
    first, last = int(rows[0]), int(rows[-1])
    if last - first >= len(rows):
        return f"at {len(rows)} of {tokens} tokens alone, the first {first}"
    if last == tokens - 1:
        if len(rows) == 1:
            return f"at the last token, {last}, alone: as in a step over the KV cache"
        return f"from token {first} on alone: as in steps over the KV cache, or a later chunk"
    if len(rows) == 1:
        return f"at token {first} alone"
    return f"at tokens {first} to {last} alone"
