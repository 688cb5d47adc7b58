"""Embeddings and logits of steps that are scaled otherwise than those of the prompt.

Shape letters: T tokens, D width (of logits: the vocabulary).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.cache.fed_tokens import FedTokens
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice
from cotejar.diagnosis.operations import Embed
from cotejar.diagnosis.some_rows import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.case import Case


_ONE = 1e-3
"""A factor as near to 1 is none."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the embedding and of logits, where steps alone are wrong."""
    step, fed = case.operation.step, FedTokens.of(case)
    is_logits = case.operation.site.slot == "logits"
    if fed is None or not (isinstance(step, Embed) or is_logits):
        return
    wrong, steps = case.error.ratios > 1, fed.is_step
    if not steps.any() or (wrong & ~steps).any():
        return
    right_TD = case.right[steps]
    gain = float((case.recorded[steps] * right_TD).sum() / max((right_TD**2).sum(), 1e-300))
    if not np.isfinite(gain) or abs(gain - 1) < _ONE:
        return
    scale = step.scale if isinstance(step, Embed) else 1.0
    left_out = bool(np.isclose(gain * scale, 1, rtol=1e-5)) and scale != 1.0
    what = "the logits are" if is_logits else "the embedding is"
    factors = (nice(gain, 2), 1 / nice(1 / gain, 2), nice(gain, 4), gain)
    for factor in (1 / scale,) if left_out else dict.fromkeys(factors):
        title = f"{what} multiplied by {factor_text(factor)}"
        if left_out:
            title = f"the embedding's scale of {factor_text(scale)} is left out"
        yield Alternative(
            id="product-scaled" if is_logits else "embedding-scale",
            title=f"{title}, {STEPS}",
            output=np.where(steps[:, None], factor, 1.0) * case.right,
            parameters=int(not left_out),
            declared=left_out,
        )
