"""What became of a tensor between two files, told from the two tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.hypotheses.function.norm import _rule_of_layers
from cotejar.diagnosis.tensor_causes import Changed, explain_tensor, find_not_finite
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    Edit = Callable[[np.ndarray], np.ndarray]

ROWS, COLUMNS = 96, 128
NAME, SIBLING = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
)
Q4_0_ROUNDING = 2 * 4 / 16 / np.sqrt(12)
"""Half of the relative L2 that two tensors in Q4_0 may be apart: a step is a sixteenth of twice
four root mean squares, and rounding errs by 1 / sqrt(12) of it."""


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (ROWS, COLUMNS)).astype(np.float32)


def stored(block_type: BlockType, of: np.ndarray) -> BlockMatrix:
    flat = np.ascontiguousarray(of, np.float32)
    raw = encode(block_type, flat.reshape(-1))
    return BlockMatrix(block_type=block_type, rows=len(of), columns=of.shape[1], raw=raw)


def changed_of(
    a: BlockMatrix, b: BlockMatrix, allowed: float = 2.0**-23, sibling: int = 2
) -> Changed:
    siblings = {NAME: a, SIBLING: stored(BlockType.F32, values(sibling))}
    return Changed(name=NAME, reference=a, candidate=b, allowed=allowed, siblings=siblings)


def noise(w: np.ndarray) -> np.ndarray:
    return values(5)


def rows_lost(w: np.ndarray) -> np.ndarray:
    return np.where(np.isin(np.arange(ROWS), (3, 40))[:, None], 0, w)


def from_the_middle(w: np.ndarray) -> np.ndarray:
    return np.concatenate([values(2)[:32], w[:64]])


def with_offsets(w: np.ndarray) -> np.ndarray:
    added = np.random.default_rng(7).normal(0, 0.1, (ROWS, COLUMNS // 32))
    return w + np.repeat(added, 32, axis=1)


def with_adapter(w: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(8)
    return w + 0.02 * rng.normal(size=(ROWS, 4)) @ rng.normal(size=(4, COLUMNS))


def in_tiles(w: np.ndarray) -> np.ndarray:
    return w.reshape(ROWS // 8, 8, COLUMNS // 16, 16).swapaxes(1, 2).reshape(w.shape)


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (
            lambda w: 0 * w,
            ("weight-zero", f"{NAME} is all zeros: it was not written, or not loaded"),
        ),
        (rows_lost, ("rows-zero", f"zeros are rows 3, 40 of {NAME}")),
        (
            lambda w: np.where(np.arange(w.size).reshape(w.shape) < 8000, w, 0),
            ("weight-cut", f"{NAME} is 0 from value 8,000 of 12,288 on (row 62): it was cut"),
        ),
        (lambda w: 1.5 * w, ("weight-scaled", f"{NAME} is multiplied by 1.5")),
        (
            lambda w: np.clip(w, -0.125, 0.125),
            ("weight-clipped", f"{NAME} is cut to 0.125 on both sides"),
        ),
        (
            lambda w: w.T.reshape(w.shape),
            ("weight-transposed", f"{NAME} is written transposed"),
        ),
        (in_tiles, ("mis-tiled", f"{NAME} is written in tiles of 8 x 16")),
        (lambda w: w[::-1], ("output-order", f"the rows of {NAME} are in reverse order")),
        (
            from_the_middle,
            (
                "fused-cut",
                f"rows of {NAME}: 0..31 are 0..31 of {SIBLING}; 32..95 are 0..63 of {NAME}",
            ),
        ),
        (
            with_offsets,
            (
                "block-offset",
                f"{NAME} is more by one number in each block of 32: another offset, minimum "
                "or centre of its codes",
            ),
        ),
        (
            with_adapter,
            (
                "weight-low-rank",
                f"{NAME} differs by a matrix of rank 4: an adapter (LoRA) is left out, merged "
                "twice or scaled in another way",
            ),
        ),
        (
            lambda _: values(2),
            ("other-weight", f"the weight is {SIBLING} and ought to be {NAME}"),
        ),
    ],
)  # fmt: skip
def test_a_change_is_named(edit: Edit, cause: tuple[str, str]) -> None:
    a = values(1)

    found = explain_tensor(changed_of(stored(BlockType.F32, a), stored(BlockType.F32, edit(a))))

    assert found == cause


def test_an_unrelated_tensor_gets_no_name() -> None:
    a, b = stored(BlockType.F32, values(1)), stored(BlockType.F32, noise(values(1)))

    assert explain_tensor(changed_of(a, b)) is None


def test_one_row_among_many_is_no_other_reading() -> None:
    """The rest of the rows, read as they are, would hide it."""
    whole = values(1)
    changed = np.where(np.arange(ROWS)[:, None] == 5, 0, whole)

    found = explain_tensor(
        changed_of(stored(BlockType.Q4_0, whole), stored(BlockType.Q4_0, changed))
    )

    assert found == ("rows-zero", f"zeros are row 5 of {NAME}")


def test_what_was_quantised_again_is_named_within_its_rounding() -> None:
    a = stored(BlockType.Q4_0, values(1))
    whole = a.decode_rows(0, ROWS)
    b = stored(BlockType.Q4_0, whole.T.reshape(ROWS, COLUMNS))

    found = explain_tensor(changed_of(a, b, allowed=2 * Q4_0_ROUNDING))

    assert found == ("weight-transposed", f"{NAME} is written transposed")


def test_wrong_bytes_are_read_back_against_a_file_of_another_type() -> None:
    sound = stored(BlockType.Q4_1, values(1))
    blocks = np.array(sound.raw).reshape(-1, 20)
    blocks[:, 4:] = blocks[:, 4:] << 4 | blocks[:, 4:] >> 4
    b = BlockMatrix(
        block_type=BlockType.Q4_1, rows=ROWS, columns=COLUMNS, raw=blocks.reshape(-1)
    )

    found = explain_tensor(
        changed_of(stored(BlockType.F32, values(1)), b, allowed=Q4_0_ROUNDING)
    )

    assert found == (
        "nibble-order",
        f"the wrong half of each byte is read first: the candidate's {NAME} read so is the "
        "other file's",
    )


def test_scales_of_the_other_byte_order_are_named_with_what_they_break() -> None:
    a = stored(BlockType.Q8_0, 40 * values(1))
    blocks = np.array(a.raw).reshape(-1, 34)
    blocks[:, :2] = blocks[:, 1::-1]
    b = BlockMatrix(
        block_type=BlockType.Q8_0, rows=ROWS, columns=COLUMNS, raw=blocks.reshape(-1)
    )
    bad = find_not_finite(NAME, b)

    found = explain_tensor(changed_of(a, b))

    assert bad is not None
    assert bad[0] == "weight-not-finite"
    assert found == (
        "byte-order",
        f"{bad[1]}: the bytes of each block's scale change places (big-endian for "
        f"little-endian): the candidate's {NAME} read so is the other file's",
    )


def test_a_finite_tensor_is_finite() -> None:
    assert find_not_finite(NAME, stored(BlockType.Q8_0, values(1))) is None


def turn_tiles(w: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Value by value: each tile holds its columns, one after the other, in rows."""
    turned = w.copy()
    for top in range(0, w.shape[0], high):
        for left in range(0, w.shape[1], wide):
            tile = w[top : top + high, left : left + wide]
            columns = [value for column in range(wide) for value in tile[:, column]]
            turned[top : top + high, left : left + wide] = np.reshape(columns, (high, wide))
    return turned


@pytest.mark.parametrize(
    ("high", "wide", "words"),
    [
        (8, 8, "8 x 8"),
        (16, 16, "16 x 16"),
        (32, 32, "32 x 32"),
        (8, 32, "8 x 32, taken by columns,"),
    ],
)
def test_tiles_that_are_transposed_in_place_are_named(high: int, wide: int, words: str) -> None:
    a = stored(BlockType.F32, values(1))
    b = stored(BlockType.F32, turn_tiles(values(1), high, wide))

    assert explain_tensor(changed_of(a, b)) == (
        "mis-tiled",
        f"each tile of {words} of {NAME} is transposed in its place",
    )
    if high != wide:
        assert explain_tensor(changed_of(b, a)) == (
            "mis-tiled",
            f"each tile of {high} x {wide}, taken by rows, of {NAME} is transposed in its "
            "place",
        )


def test_tiles_are_seen_through_a_coarse_type() -> None:
    a = stored(BlockType.Q4_0, values(1))
    b = stored(BlockType.Q4_0, turn_tiles(a.decode_rows(0, ROWS), 16, 16))

    assert explain_tensor(changed_of(a, b, allowed=2 * Q4_0_ROUNDING)) == (
        "mis-tiled",
        f"each tile of 16 x 16 of {NAME} is transposed in its place",
    )


def with_scales(block_type: BlockType, blocks: list[int], factor: float) -> BlockMatrix:
    """A power of two as the factor changes no bit but those of a float16's exponent."""
    sound = stored(block_type, values(1))
    raw = np.array(sound.raw).reshape(ROWS, 4, -1)
    scales = raw[:, :, :2].copy().view(np.float16)
    scales[:, blocks] *= np.float16(factor)
    raw[:, :, :2] = scales.view(np.uint8)
    return BlockMatrix(block_type=block_type, rows=ROWS, columns=COLUMNS, raw=raw.reshape(-1))


@pytest.mark.parametrize("block_type", [BlockType.Q8_0, BlockType.Q4_1])
@pytest.mark.parametrize(
    ("blocks", "factor", "words"),
    [
        ([3], 2.0, "the scale of block 3 of every row is doubled"),
        ([0, 2], 0.25, "the scale of blocks 0, 2 of every row is multiplied by 1/4"),
    ],
)
def test_the_scale_of_one_block_of_every_row_is_named(
    block_type: BlockType, blocks: list[int], factor: float, words: str
) -> None:
    a, b = stored(block_type, values(1)), with_scales(block_type, blocks, factor)

    assert explain_tensor(changed_of(a, b)) == ("block-scale", f"{NAME}: {words}")


def test_the_scale_of_one_block_of_one_row_is_not_that_of_every_row() -> None:
    a = stored(BlockType.Q8_0, values(1))
    raw = np.array(with_scales(BlockType.Q8_0, [3], 2.0).raw).reshape(ROWS, -1)
    raw[1:] = np.array(a.raw).reshape(ROWS, -1)[1:]
    b = BlockMatrix(block_type=BlockType.Q8_0, rows=ROWS, columns=COLUMNS, raw=raw.reshape(-1))

    found = explain_tensor(changed_of(a, b))

    assert found is not None
    assert "every row" not in found[1]


@pytest.mark.parametrize(
    ("layers", "num_layers", "rule"),
    [
        ((2, 10, 18), 30, ": layers are sorted as text, 0, 1, 10, 11 ..."),
        ((0, 1, 2), 3, ": layer l takes the weights of l + 1"),
        ((2, 10, 5), 15, ": layers are sorted as text, 0, 1, 10, 11 ..."),
        ((2, 10, 5), 30, ""),
        ((2, 1, 0), 3, ": layer l takes the weights of l - 1"),
        ((0, 2, 1), 3, ""),
    ],
)
def test_a_rule_of_layers_is_said_where_two_layers_bear_it_out(
    layers: tuple[int, int, int], num_layers: int, rule: str
) -> None:
    assert _rule_of_layers(*layers, num_layers) == rule
