"""A wrong weight times the input, in every rounding of activations that the run may have used.

A program that takes a weight for another rounds the activations as ever, or as that other
weight asks for, or, since the wrong path is another path, not at all.

Shape letters: T tokens, R rows (outputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.limits import divide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.arithmetic import ProductInput
    from cotejar.diagnosis.case import Case

    Multiply = Callable[[ProductInput], Float64[np.ndarray, "T R"]]

_BETWEEN_ROUNDINGS = 2.0
"""How much further than those that are known here a rounding of as many steps may move a
product: its error is as large, and independent of theirs."""


def products(case: Case, id_: str, title: str, multiply: Multiply) -> Iterator[Alternative]:
    """The weight's products; failing these, the exact one within what a rounding moves.

    Args:
        case: of a product.
        id_: of the cause.
        title: what the weight is.
        multiply: the wrong weight times an input, in the order of the weight's rows.
    """
    made = [multiply(given) for given in case.other_givens]
    found = False
    for product_TR in made:
        for words, output_TR in case.finishes(product_TR):
            found = found or case.judge(output_TR).accepted
            yield Alternative(id=id_, title=f"{title}{words}", output=output_TR)
    if found or len(made) == 1:
        return
    exact = [output_TR for _, output_TR in case.finishes(made[case.exact_given])]
    for place, (words, _) in enumerate(case.finishes(made[case.exact_given])):
        others = [case.finishes(product_TR)[place][1] for product_TR in made]
        moved = max(_distance(case, one, exact[place]) for one in others)
        yield Alternative(
            id=id_,
            title=f"{title}{words}",
            output=exact[place],
            slack=_BETWEEN_ROUNDINGS * moved,
        )


def _distance(
    case: Case, one_TR: Float64[np.ndarray, "T R"], other_TR: Float64[np.ndarray, "T R"]
) -> float:
    """The greatest of a token, relative to what ought to come out."""
    off_T = np.linalg.norm(one_TR - other_TR, axis=1)
    return float(divide(off_T, case.error.output_norm).max())
