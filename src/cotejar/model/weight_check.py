"""A quick look at the weights before a model is run: is this a model, or debris?

Looks at every norm and bias and at `SAMPLED_ROWS` rows, spread evenly, of every matrix, so
that opening a large model stays fast. A sample cannot prove weights right; what it finds
is wrong for certain: a NaN or an infinity, or a tensor of nothing but one value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import WeightValueError

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix

SAMPLED_ROWS = 8


def require_plausible_weights(model: LanguageModel) -> int:
    """Check a sample of every tensor; return how many values were looked at.

    Raises:
        WeightValueError: a sampled value is NaN or infinite, or a sampled matrix is constant.
    """
    num_checked = 0
    for name, matrix in model.weights.items():
        values = _sample(matrix)
        num_checked += values.size
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            _refuse(model, name, values.size, "finite numbers", f"{bad} NaN or infinite")
        # A bias or a norm may well be constant; rows of a matrix never are.
        if matrix.rows > 1 and float(values.min()) == float(values.max()):
            found = f"every one is {float(values.flat[0]):g}"
            _refuse(model, name, values.size, "weights that differ", found)
    return num_checked


def _sample(matrix: BlockMatrix) -> np.ndarray:
    count = min(SAMPLED_ROWS, matrix.rows)
    rows = np.linspace(0, matrix.rows - 1, count).astype(int)
    return np.concatenate([matrix.decode_rows(row, row + 1) for row in rows])


def _refuse(model: LanguageModel, name: str, size: int, expected: str, found: str) -> None:
    raise WeightValueError(
        f"tensor {name} cannot be a trained weight",
        where=f"{model.name}, {size} values of {name} looked at",
        expected=expected,
        found=found,
        hint="fetch or convert the model again, or run it all the same with --skip-contract",
    )
