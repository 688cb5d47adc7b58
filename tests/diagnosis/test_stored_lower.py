"""A tensor that lost bits, or a page, before it was stored: told from two files."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.diagnosis.stored_lower import rounded
from cotejar.diagnosis.tensor_causes import Changed, explain_tensor
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode

NAME = "model.layers.0.self_attn.o_proj.weight"


def values(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (64, 256)).astype(np.float32)


def matrix(of: np.ndarray) -> BlockMatrix:
    raw = np.ascontiguousarray(of, np.float32).reshape(-1).view(np.uint8)
    return BlockMatrix(block_type=BlockType.F32, rows=len(of), columns=of.shape[1], raw=raw)


def explained(reference: np.ndarray, candidate: np.ndarray) -> tuple[str, str] | None:
    return explain_tensor(
        Changed(
            name=NAME,
            reference=matrix(reference),
            candidate=matrix(candidate),
            allowed=2.0**-23,
            siblings={NAME: matrix(reference)},
        )
    )


@pytest.mark.parametrize(
    "kind", [BlockType.Q4_0, BlockType.Q4_1, BlockType.Q8_0, BlockType.Q6_K, BlockType.Q4_K]
)
def test_the_type_that_it_went_through_is_named(kind: BlockType) -> None:
    title = f"{NAME} was rounded to {kind.label} before it was stored"
    assert explained(values(), rounded(values(), kind)) == ("weights-rounded", title)


def to_levels(w: np.ndarray, width: int, levels: int) -> np.ndarray:
    """As no type of ours does: the ends of each block are levels."""
    blocks = w.reshape(-1, width).astype(np.float64)
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    step = (high - low) / (levels - 1)
    return (np.rint((blocks - low) / step) * step + low).reshape(w.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("width", "levels", "types"),
    [
        (16, 4, "Q2_K has 4"),
        (16, 8, "Q3_K has 8"),
        (32, 16, "Q4_K, Q4_1 and Q4_0 have 16"),
    ],
)
def test_the_levels_of_another_writer_are_counted(width: int, levels: int, types: str) -> None:
    assert explained(values(), to_levels(values(), width, levels)) == (
        "weights-rounded",
        f"{NAME} was rounded to fewer bits before it was stored: each {width} values lie on "
        f"{levels} levels at the most ({types})",
    )


def test_an_unrelated_tensor_of_few_levels_is_no_rounding() -> None:
    assert explained(values(), to_levels(values(2), 16, 4)) is None


def test_another_rounding_of_few_levels_to_few_levels_has_no_name_here() -> None:
    """The reference's values lie on as few."""
    reference = to_levels(values(), 16, 4)
    candidate = to_levels(reference + 0.05 * values(3), 16, 4)

    assert explained(reference, candidate) is None


@pytest.mark.parametrize("kind", [BlockType.Q4_0, BlockType.Q4_1, BlockType.Q4_K])
def test_few_levels_of_the_file_s_own_type_are_no_lost_bits(kind: BlockType) -> None:
    """Something else is wrong with it."""
    wrong = (values() + 0.4 * values(2)).astype(np.float32)
    raw = encode(kind, wrong.reshape(-1))
    changed = Changed(
        name=NAME,
        reference=matrix(values()),
        candidate=BlockMatrix(block_type=kind, rows=64, columns=256, raw=raw),
        allowed=0.1,
        siblings={NAME: matrix(values())},
    )

    assert explain_tensor(changed) is None


def test_a_page_of_zeros_is_named_with_its_rows() -> None:
    candidate = values()
    candidate.reshape(-1)[5 * 256 + 100 :][:1024] = 0

    assert explained(values(), candidate) == (
        "weight-hole",
        f"1,024 values of {NAME} beside one another are 0, in rows 5 to 9: a part of the file "
        "was not written, or not loaded",
    )


def test_zeros_that_lie_apart_are_no_page() -> None:
    candidate = values()
    candidate[::7, ::5] = 0

    found = explained(values(), candidate)

    assert found is not None
    assert found[0] == "weight-pruned"
