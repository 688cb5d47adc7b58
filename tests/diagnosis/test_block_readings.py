"""Blocks of a weight misread in ways that no list holds are found from the outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import find_causes
from cotejar.model.language_model import open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

from .conftest import observe, run
from .planted import find_planted, first

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.model.language_model import LanguageModel

    from .conftest import Models

WEIGHT = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def q6_k(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    decoder = TinyDecoder(
        hidden_size=256, num_heads=8, ffn_size=256, num_layers=2, block_type=BlockType.Q6_K
    )
    path = tmp_path_factory.mktemp("blocks") / "q6_k.gguf"
    return open_language_model(write_tiny_gguf(path, decoder))


def misread(edit: Callable[[np.ndarray], object]) -> Callable[..., np.ndarray]:
    """The product of the weight whose blocks' bytes `edit` has changed."""

    def fault(right, model):
        matrix = model.declared.weights[WEIGHT]
        raw = np.array(matrix.raw).reshape(-1, matrix.block_type.bytes_per_block)
        edit(raw)
        wrong = replace(matrix, raw=raw.reshape(-1)).decode_rows(0, matrix.rows)
        return right["layer.1.ffn_swiglu_inner"].astype(np.float64) @ wrong.T.astype(float)

    return fault


def words_reversed(raw: np.ndarray) -> None:
    raw[:, 2:] = raw[:, 2:].reshape(-1, 4, 4)[:, :, ::-1].reshape(-1, 16)


def awq(raw: np.ndarray) -> None:
    raw[:, 4:] = raw[:, 4:].reshape(-1, 2, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(-1, 16)


def highest_bit_lost(raw: np.ndarray) -> None:
    raw[:, 2:] &= 0x77


def third_bit_inverted(raw: np.ndarray) -> None:
    raw[:, 2:] ^= 0x44


def scale_shared_by_two(raw: np.ndarray) -> None:
    raw[1::2, :2] = raw[0::2, :2][: len(raw[1::2])]


def half_the_scale(raw: np.ndarray) -> None:
    raw[:, :2] = (raw[:, :2].copy().view(np.float16) / 2).view(np.uint8)


def sub_scale_bytes_turned(raw: np.ndarray) -> None:
    raw[:, 4:8] = np.roll(raw[:, 4:8], 1, axis=1)


def minima_without_high_bits(raw: np.ndarray) -> None:
    raw[:, 8:12] &= 0x3F


def one_block_doubled(raw: np.ndarray) -> None:
    raw[7, :2] = (raw[7, :2].copy().view(np.float16) * 2).view(np.uint8)


def one_code_changed(raw: np.ndarray) -> None:
    raw[7, 12] ^= 0x40


def low_halves_exchanged(raw: np.ndarray) -> None:
    raw[:, :128] = np.roll(raw[:, :128], 64, axis=1)


def sub_scales_without_sign(raw: np.ndarray) -> None:
    signed = raw[:, 192:208].view(np.int8).astype(int)
    raw[:, 192:208] = np.abs(signed).clip(0, 127).astype(np.uint8)


def sub_scales_of_the_one_before(raw: np.ndarray) -> None:
    raw[:, 192:208] = raw[:, [207, *range(192, 207)]]


def sub_scales_of_the_one_after(raw: np.ndarray) -> None:
    raw[:, 192:208] = raw[:, [*range(193, 208), 192]]


def one_block_zeroed(raw: np.ndarray) -> None:
    raw[7] = 0


def codes_one_more(raw: np.ndarray) -> None:
    """Both codes of a byte, and what is 15 stays."""
    low, high = np.minimum((raw[:, 2:] & 15) + 1, 15), np.minimum((raw[:, 2:] >> 4) + 1, 15)
    raw[:, 2:] = low | high << 4


def packed_scales_exchanged(raw: np.ndarray) -> None:
    raw[:, 4:12] = np.roll(raw[:, 4:12], 4, axis=1)


CASES = {
    "a block of zeros": ("mistral", one_block_zeroed, "block-wrong",
                         "block 2 of row 1 is read as 0"),
    "a block of zeros and no minimum": ("llama", one_block_zeroed, "block-wrong",
                                        "block 2 of row 1 is read as 0"),
    "a wide block of zeros": ("Q4_K", one_block_zeroed, "block-wrong",
                              "block 1 of row 3 is read as 0"),
    "codes that saturate": ("qwen2", codes_one_more, "code-offset",
                            "codes are 1 too large, and cut to their range"),
    "scales by fours": ("Q4_K", packed_scales_exchanged, "sub-scales",
                        "the packed bytes of scales are read from 8 4 12"),
    "bytes of words reversed": (
        "qwen2", words_reversed, "code-order",
        "codes are read in another order within each 32: 3 2 1 0 7 6 5 4 ..."),
    "AWQ": ("llama", awq, "code-order",
            "codes are read in another order within each 32: 0 2 4 6 1 3 5 7 ..."),
    "a bit lost": ("qwen2", highest_bit_lost, "code-sign", "codes lose their highest bit"),
    "a bit inverted": ("qwen2", third_bit_inverted, "code-bits",
                       "bit 2 of each code inverted"),
    "scale of two blocks": ("qwen2", scale_shared_by_two, "block-scale",
                            "each block has the scale of the first of 2 blocks"),
    "scale without minimum": ("Q4_K", half_the_scale, "block-scale",
                              "scales are multiplied by 1/2"),
    "bytes of sub-scales": (
        "Q4_K", sub_scale_bytes_turned, "sub-scales",
        "bytes 4..8 of each block (sub-scales) are read in the order 3 0 1 2 of every 4"),
    "high bits of minima": ("Q4_K", minima_without_high_bits, "sub-scales",
                            "sub-minima from 4 on keep 4 low bits alone"),
    "one block": ("mistral", one_block_doubled, "block-wrong",
                  "block 2 of row 1 counts 2 times"),
    "one scale": ("llama", one_block_doubled, "block-wrong",
                  "the scale of block 2 of row 1 counts 2 times"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_misread_weight_is_named(models: Models, name: str) -> None:
    model, edit, id_, title = CASES[name]

    found = find_planted(models(model), "layer.1.ffn_out", misread(edit))

    assert first(found) == (id_, title)
    assert found.causes[0].residual_after <= 3 * found.causes[0].limit


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "Q4_K"])
def test_a_block_of_zeros_is_named_in_the_numerics_that_generates(
    models: Models, name: str
) -> None:
    """Integer dots over activations in 8 bits, whose block sums are rounded apart."""
    model = models(name)
    matrix = model.declared.weights[WEIGHT]
    raw = np.array(matrix.raw).reshape(-1, matrix.block_type.bytes_per_block)
    raw[7] = 0
    changed = {WEIGHT: replace(matrix, raw=raw.reshape(-1))}
    altered = model.altered(weights=model.weights.replaced(changed))
    side = observe(run(altered, "q8"), model)
    error = next(e for e in replay_sides([side]) if not e.explained)
    operation = side.truth.operations[error.site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None

    found = find_causes(Case(operation, side, inputs.arrays, recorded, error))

    assert error.site == "layer.1.ffn_out"
    assert found.causes[0].id == "block-wrong"
    assert found.causes[0].title.endswith(" is read as 0")


@pytest.mark.parametrize(
    ("edit", "id_", "title"),
    [
        (
            low_halves_exchanged,
            "code-order",
            "the low 4 bits of codes are read in another order in groups of 32: "
            "4 5 6 7 0 1 2 3",
        ),
        (
            sub_scales_without_sign,
            "sub-scales",
            "sub-scales lose their sign, -128 becoming 127",
        ),
        (
            sub_scales_of_the_one_before,
            "sub-scales",
            "sub-scales are those of the sub-block before",
        ),
        (
            sub_scales_of_the_one_after,
            "sub-scales",
            "sub-scales are those of the sub-block after",
        ),
    ],
)
def test_a_misread_weight_of_six_bits_is_named(
    q6_k: LanguageModel, edit: Callable[[np.ndarray], object], id_: str, title: str
) -> None:
    found = find_planted(q6_k, "layer.1.ffn_out", misread(edit))

    assert first(found) == (id_, title)


def test_one_wrong_element_is_named_with_its_place(models: Models) -> None:
    model = models("mistral")
    right = model.declared.weights[WEIGHT].decode_rows(1, 2)[0]

    found = find_planted(model, "layer.1.ffn_out", misread(one_code_changed))

    assert found.causes[0].id == "element-wrong"
    assert found.causes[0].title.startswith("one element of the weight, row 1 column 74, is ")
    assert found.causes[0].title.endswith(f" and ought to be {right[74]:.4g}")


def test_a_column_that_is_left_out_is_named(models: Models) -> None:
    def fault(right, model):
        x = right["layer.1.ffn_swiglu_inner"].astype(np.float64)
        x[:, 33] = 0
        matrix = model.declared.weights[WEIGHT]
        return x @ matrix.decode_rows(0, matrix.rows).T.astype(float)

    found = find_planted(models("llama"), "layer.1.ffn_out", fault)

    assert first(found) == ("column-zero", "column 33 of the weight (input 33) is left out")


def test_the_scale_of_one_block_of_every_row_is_named(models: Models) -> None:
    """A row of 160 is five blocks."""

    def doubled(raw: np.ndarray) -> None:
        scales = raw[:, :2].copy().view(np.float16).reshape(-1, 5)
        scales[:, 2] *= 2
        raw[:, :2] = scales.reshape(-1, 1).view(np.uint8)

    found = find_planted(models("mistral"), "layer.1.ffn_out", misread(doubled))

    assert first(found) == ("block-scale", "the scale of block 2 of every row is doubled")
