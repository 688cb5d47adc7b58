"""Logits of which nothing can be chosen are the model's fault, and no text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float


def require_finite(logits: Float[np.ndarray, "..."], where: str = "logits") -> None:
    """Refuse logits that are no numbers.

    Raises:
        ModelError: one is NaN or infinite.
    """
    is_finite = np.isfinite(logits)
    if not is_finite.all():
        num_bad = int((~is_finite).sum())
        raise ModelError(
            "the model computes no usable numbers",
            where=where,
            expected=f"{logits.size} finite logits",
            found=f"{num_bad} NaN or infinite",
            hint="`apr trace MODEL --payload` names the first layer that breaks",
        )
