"""Keys and values that some tokens alone made wrongly, on the way to a recorded site.

Where an operation is wrong in steps alone, those wrote wrong rows beside the right ones of the
prompt, and all that read the cache find both.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.some_rows import RowsCase, rows_looked_at
from cotejar.trace.site import parse_site

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_READ_BY_OTHERS = frozenset({"k", "v", "k_rope"})
"""Slots whose rows later tokens read; of the others a token reads its own."""


_FEWEST = 4
"""Tokens of a first pass that has turned enough to show it."""


def later_passes_alone(case: Case) -> bool:
    """Are all tokens of a first pass right, and is the case one of all tokens?"""
    passes = case.observed.trace.passes
    if isinstance(case, RowsCase) or len(passes) < 2 or sum(passes) != len(case.recorded):  # noqa: PLR2004 - one pass
        return False
    return passes[0] >= _FEWEST and not (case.error.ratios[: passes[0]] > 1).any()


def beside_right_rows(
    case: RowsCase, outputs: Mapping[str, Float64[np.ndarray, "T W"]]
) -> dict[str, Float64[np.ndarray, "T W"]]:
    """The same, with the right rows of such sites at the tokens that are not looked at."""
    found = dict(outputs)
    for name, output_TW in outputs.items():
        operation = case.observed.truth.operations.get(name)
        if operation is None or parse_site(name).slot not in _READ_BY_OTHERS:
            continue
        observed = replace(case.observed, _derived={})
        inputs = observed.inputs(operation)
        if inputs is None:
            continue
        mixed_TW = replay(operation, inputs.arrays, observed)
        if mixed_TW.shape == output_TW.shape:
            rows = rows_looked_at(case) if case.made is None else case.made
            mixed_TW = mixed_TW.copy()
            mixed_TW[rows] = output_TW[rows]
            found[name] = mixed_TW
    return found
