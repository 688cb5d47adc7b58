"""Codes of a quantised weight that were read as other numbers, one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import find_planted, first

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cotejar.model.language_model import LanguageModel

    from .conftest import Models

    Edit = Callable[[np.ndarray], np.ndarray]

UP = "model.layers.1.mlp.up_proj.weight"
HEADER_BYTES = {"qwen2": 2, "llama": 4, "Q4_K": 16, "mistral": 2}
"""Before the codes: of Q4_0, Q4_1, Q4_K and Q8_0."""


def four_bits(edit: Edit) -> Edit:
    """Both codes of a byte."""

    def edited(codes: np.ndarray) -> np.ndarray:
        low, high = (
            edit(part.astype(int)).astype(np.uint8) for part in (codes & 15, codes >> 4)
        )
        return low | high << 4

    return edited


def eight_bits(edit: Edit) -> Edit:
    def edited(codes: np.ndarray) -> np.ndarray:
        return edit(codes.view(np.int8).astype(int)).astype(np.int8).view(np.uint8)

    return edited


@pytest.mark.parametrize(
    ("model", "edit", "cause"),
    [
        (
            "qwen2",
            four_bits(lambda c: (c + 1) % 16),
            ("code-offset", "codes are 1 too large and wrap around"),
        ),
        (
            "llama",
            four_bits(lambda c: np.where(c == 15, 0, c)),
            ("code-offset", "codes of 15 are read as 0: they wrap around"),
        ),
        (
            "Q4_K",
            four_bits(lambda c: np.minimum(c, 13)),
            ("code-values", "codes above 13 are cut to that"),
        ),
        (
            "llama",
            four_bits(lambda c: np.where(c == 3, 5, c)),
            ("code-values", "codes of 3 are read as 5"),
        ),
        (
            "mistral",
            eight_bits(lambda c: np.clip(c, -64, 63)),
            ("code-values", "codes above 63 and below -64 are cut to that"),
        ),
        ("mistral", eight_bits(np.abs), ("code-values", "codes lose their sign")),
    ],
)
def test_codes_read_as_other_numbers_are_named(
    models: Models, model: str, edit: Edit, cause: tuple[str, str]
) -> None:
    def fault(right: Mapping[str, np.ndarray], opened: LanguageModel) -> np.ndarray:
        matrix = opened.declared.weights[UP]
        blocks = np.array(matrix.raw).reshape(-1, matrix.block_type.bytes_per_block)
        start = HEADER_BYTES[model]
        blocks[:, start:] = edit(blocks[:, start:].copy())
        wrong = replace(matrix, raw=blocks.reshape(-1))
        weight = wrong.decode_rows(0, wrong.rows).astype(np.float64)
        return right["layer.1.ffn_norm"] @ weight.T

    assert first(find_planted(models(model), "layer.1.ffn_up", fault)) == cause
