"""What can be said where no known way to be wrong reproduces what was recorded.

These reproduce nothing: they say of which kind the difference is, and the residual stays. Asked
last, and only where the difference is plainly of that kind.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.operations import Activate, Project

if TYPE_CHECKING:
    from cotejar.diagnosis.case import Case

_FEWEST_VALUES = 1024
_SURE = 5.0
"""Standard deviations of a correlation of that many numbers that are still chance."""
_FLAT = 0.5
"""Relative spread of the tokens' errors where noise is of one size."""
_KURTOSIS = (1.5, 4.5)
"""Of uniform noise it is 1.8 and of normal noise 3."""


def describe(case: Case) -> str | None:
    """The kind of difference in words; None where it has some form."""
    right, recorded = case.right, case.recorded
    if right.size < _FEWEST_VALUES or not np.isfinite(recorded).all():
        return None
    if isinstance(case.operation.step, Project) and _correlation(recorded, right) < _chance(
        right
    ):
        ratio = np.linalg.norm(recorded) / np.linalg.norm(right)
        return (
            f"the output has nothing in common with the right one (correlation "
            f"{_correlation(recorded, right):.2g}, {ratio:.3g} times its size): another "
            "weight, or one that was never loaded"
        )
    if isinstance(case.operation.step, Activate):
        return _function_of_the_gate(case) or _noise(case)
    return _weight_noise(case) or _noise(case)


def _function_of_the_gate(case: Case) -> str | None:
    """Between two near inputs the output lies between theirs: it depends on nothing else."""
    x, y = case.inputs[0].reshape(-1), case.recorded.reshape(-1)
    order = np.argsort(x)
    x, y = x[order], y[order]
    width = np.maximum(x[2:] - x[:-2], 1e-300)
    between = y[:-2] + (y[2:] - y[:-2]) * (x[1:-1] - x[:-2]) / width
    off = np.abs(y[1:-1] - between)
    # A smooth function is off by half its second derivative times the square of the gap.
    allowed = width**2 + _NEARLY * np.abs(y[1:-1]) + 1e-7
    if float((off <= allowed).mean()) < _MOSTLY:
        return None
    places = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
    shown = [p for p in places if x[0] <= p <= x[-1]]
    values = ", ".join(f"f({p:g}) = {float(np.interp(p, x, y)):.4g}" for p in shown)
    return f"the output is a function of the gate alone, and none that is known: {values}"


def _weight_noise(case: Case) -> str | None:
    """Errors of tokens are alike as their inputs are: every element of the weight is off.

    Of independent changes of R rows, of one size s, the products E of errors of two tokens are
    R s^2 times those of their inputs, up to one part in sqrt(R).
    """
    tokens = len(case.recorded)
    if not isinstance(case.operation.step, Project) or tokens < 2 or case.project.softcap:  # noqa: PLR2004 - of one, nothing is told
        return None
    x_TC, error_TR = case.inputs[0], case.recorded - case.right
    of_errors: np.ndarray = error_TR @ error_TR.T
    of_inputs: np.ndarray = x_TC @ x_TC.T
    share = float((of_errors * of_inputs).sum() / max((of_inputs**2).sum(), 1e-300))
    rows = error_TR.shape[1]
    all_errors = max(float(np.linalg.norm(of_errors)), 1e-300)
    left = float(np.linalg.norm(of_errors - share * of_inputs)) / all_errors
    by_row_R = np.linalg.norm(error_TR, axis=0)
    if share <= 0 or left > _ALIKE * np.sqrt(tokens / rows) or not _is_even(by_row_R, tokens):
        return None
    step = float(np.sqrt(share / rows))
    whole = float(np.linalg.norm(case.right) / np.linalg.norm(x_TC)) / np.sqrt(rows)
    if step > _AS_LARGE * whole:
        return (
            f"the weight is off by {step / whole:.2g} times its own size, in no order: another "
            "weight, or one that was never loaded"
        )
    return (
        f"the weight is off by {step:.2g} in each of its elements, about {step / whole:.2g} of "
        "their size, and in no order: another quantisation or another state of the training?"
    )


_ALIKE = 1.5
"""Times what chance leaves of the likeness of errors and inputs."""
_AS_LARGE = 0.7
"""Of a weight's own size: what is further off is another weight."""
_NEARLY, _MOSTLY = 1e-4, 0.98
"""Relative distance of a smooth function from the line between its neighbours, beside the
square of the gap; and the share of values of which that holds."""


def _is_even(by_row_R: np.ndarray, tokens: int) -> bool:
    """Every output errs, by sums of as many squares as there are tokens, or by fewer."""
    spread = float(by_row_R.std() / max(by_row_R.mean(), 1e-300))
    return bool(spread < _FLAT + 1 / np.sqrt(tokens))


def _noise(case: Case) -> str | None:
    """Independent of the output, the inputs and its neighbours, and of one size throughout."""
    right, error = case.right, case.recorded - case.right
    wrong = case.error.ratios > 1
    if wrong.sum() < 2 or error[wrong].size < _FEWEST_VALUES:  # noqa: PLR2004 - of one, nothing is told
        return None
    right, error = right[wrong], error[wrong]
    chance = _chance(right)
    shifted = [np.roll(error, 1, axis=axis) for axis in (0, 1)]
    same = [right, np.abs(right), *shifted, *(np.abs(one) for one in shifted)]
    same += [one[wrong] for one in case.inputs if one.shape == case.recorded.shape]
    if any(_correlation(error, one) > chance for one in same[:1] + same[2:4]):
        return None
    by_token = np.sqrt((error**2).mean(axis=1))
    by_channel = np.sqrt((error**2).mean(axis=0))
    size = np.sqrt(np.sqrt((right**2).mean(axis=1)))
    kurtosis = float((error**4).mean() / (error**2).mean() ** 2)
    is_flat = np.ptp(by_token) < _FLAT * by_token.mean() or _correlation(by_token, size) > 0
    spread = float(by_channel.std() / by_channel.mean())
    if not is_flat or not _KURTOSIS[0] < kurtosis < _KURTOSIS[1] or spread > _FLAT:
        return None
    relative = float(np.linalg.norm(error) / np.linalg.norm(right))
    return (
        f"the difference has no form: noise of {by_token.mean():.2g} ({relative:.2g} of the "
        "output), independent from value to value; drawn at random, or a rounding unknown here"
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.reshape(-1) - a.mean(), b.reshape(-1) - b.mean()
    below = float(np.linalg.norm(x) * np.linalg.norm(y))
    return abs(float(x @ y)) / below if below else 0.0


def _chance(values: np.ndarray) -> float:
    return _SURE / float(np.sqrt(values.size))
