"""RMSNorm in a low precision: which of its steps are rounded, and how its squares are summed.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, UNIT
from cotejar.diagnosis.case import Alternative

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case


_STAGES = ("input", "squares", "mean square", "gain", "normed input", "weight", "output")
"""Where a norm can round on its way."""


def rounded_norms(
    case: Case, x_TW: Float64[np.ndarray, "T W"], weight_W: Float64[np.ndarray, "W"], eps: float
) -> Iterator[Alternative]:
    """Every set of stages rounded: programs differ in which they keep in float32."""
    for how in ("f16", "bf16"):
        # A gain near the middle of two is rounded to either: asked after what is plain.
        for mask, beside in _masks():
            stages = [s for i, s in enumerate(_STAGES) if mask >> i & 1]
            if beside and "gain" not in stages:
                continue

            def low(
                stage: str, values: np.ndarray, stages: list[str] = stages, how: str = how
            ) -> np.ndarray:
                return ROUNDINGS[how](values) if stage in stages else values

            given_TW = low("input", x_TW)
            square_T1 = low("squares", given_TW * given_TW).mean(axis=1, keepdims=True)
            mean_T1 = low("mean square", square_T1) + eps
            outputs = []
            # With eps added it is rounded once more, or not.
            for raised_T1 in (low("mean square", mean_T1), mean_T1)[: 1 + (mask >> 2 & 1)]:
                gains_T1 = _gains_in(how, raised_T1) if beside else [1 / np.sqrt(raised_T1)]
                for gain_T1 in gains_T1:
                    normed_TW = low("normed input", given_TW * low("gain", gain_T1))
                    outputs.append(low("output", normed_TW * low("weight", weight_W[None])))
            yield Alternative(
                id=f"norm-{how}",
                title=f"the norm runs in {how}: rounded are {', '.join(stages)}",
                output=case.but_for_ties(_nearest_rows(case.recorded, outputs), UNIT[how]),
            )
        yield from _low_squares(case, x_TW, weight_W, eps, how)
        yield from _low_sums(case, x_TW, weight_W, eps, how)


def _masks() -> list[tuple[int, bool]]:
    """Every set of stages; and each with gains beside."""
    return [(mask, beside) for beside in (False, True) for mask in range(1, 1 << len(_STAGES))]


def _gains_in(
    how: str, raised_T1: Float64[np.ndarray, "T 1"]
) -> list[Float64[np.ndarray, "T 1"]]:
    """The rounded gain; that of a rounded root; and what lies beside the two.

    A gain near the middle of two is rounded to either.
    """
    rounded, beside = ROUNDINGS[how], 1.2 * UNIT[how]
    gains = (1 / np.sqrt(raised_T1), 1 / rounded(np.sqrt(raised_T1)))
    return [rounded(gain * (1 + step)) for gain in gains for step in (0.0, beside, -beside)]


def _nearest_rows(
    recorded_TW: Float64[np.ndarray, "T W"], outputs: list[Float64[np.ndarray, "T W"]]
) -> Float64[np.ndarray, "T W"]:
    """Of each token, that output which is nearest."""
    left = np.stack([np.linalg.norm(recorded_TW - one, axis=1) for one in outputs])
    nearest: np.ndarray = np.stack(outputs)[left.argmin(axis=0), np.arange(len(recorded_TW))]
    return nearest


_LANES = (1, 4, 8, 16, 32)


def _low_sums(
    case: Case,
    x_TW: Float64[np.ndarray, "T W"],
    weight_W: Float64[np.ndarray, "W"],
    eps: float,
    how: str,
) -> Iterator[Alternative]:
    """Squares that are added up in a low precision, one after the other or in lanes."""
    rounded, width = ROUNDINGS[how], x_TW.shape[1]
    for given, words in ((x_TW, ""), (rounded(x_TW), " of a rounded input")):
        squares_TW = rounded(given * given)
        for lanes in (n for n in _LANES if width % n == 0):
            sum_TL = np.zeros((len(x_TW), lanes))
            for part_TL in np.split(squares_TW, width // lanes, axis=1):
                sum_TL = rounded(sum_TL + part_TL)
            while sum_TL.shape[1] > 1:
                half = sum_TL.shape[1] // 2
                sum_TL = rounded(sum_TL[:, :half] + sum_TL[:, half:])
            order = "one after the other" if lanes == 1 else f"in {lanes} lanes"
            title = f"the squares{words} are added up in {how}, {order}"
            exactly = given / np.sqrt(sum_TL / width + eps) * weight_W
            yield Alternative(id=f"norm-{how}", title=title, output=exactly)
            raised_T1 = rounded(rounded(sum_TL / width) + rounded(np.array([[eps]])))
            gains_T1 = _gains_in(how, raised_T1)
            for last, end in ((_as_it_is, ""), (rounded, ", and so is the output")):
                outputs = [last(rounded(given * gain) * weight_W) for gain in gains_T1]
                yield Alternative(
                    id=f"norm-{how}",
                    title=f"{title}; mean, gain and normed input are rounded{end}",
                    output=case.but_for_ties(_nearest_rows(case.recorded, outputs), UNIT[how]),
                )


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


def _low_squares(
    case: Case,
    x_TW: Float64[np.ndarray, "T W"],
    weight_W: Float64[np.ndarray, "W"],
    eps: float,
    how: str,
) -> Iterator[Alternative]:
    """The squares alone, of an input rounded for them; those too large are infinite."""
    rounded = ROUNDINGS[how]
    with np.errstate(over="ignore"):
        mean_T1 = rounded(rounded(x_TW) ** 2).mean(axis=1, keepdims=True)
    for words, mean in (("", mean_T1), (", and so is their mean", rounded(mean_T1))):
        output = x_TW / np.sqrt(mean + eps) * weight_W
        yield Alternative(
            id=f"norm-{how}",
            title=f"the norm's squares, and its input for them alone, are rounded to {how}"
            f"{words}",
            output=case.but_for_ties(output, UNIT[how]) if words else output,
        )
