"""A weight that is wrong in some of its rows, its bytes in another order, a bounded sum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.search import find_causes
from cotejar.model.language_model import open_language_model
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.site import CONTRACT_SLOTS

from .conftest import first_wrong_case, observe, run
from .planted import find_planted, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel

    from .conftest import Models

    Arrays = dict[str, np.ndarray]

GATE = "model.layers.1.mlp.gate_proj.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


def with_bytes(matrix: BlockMatrix, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Decoded, from blocks (rows, blocks, bytes) that were changed."""
    raw = np.array(matrix.raw).reshape(matrix.rows, -1, matrix.block_type.bytes_per_block)
    changed = np.ascontiguousarray(change(raw)).reshape(-1)
    other = BlockMatrix(
        block_type=matrix.block_type, rows=matrix.rows, columns=matrix.columns, raw=changed
    )
    return other.decode_rows(0, other.rows).astype(np.float64)


def nibbles_in(start: int, stop: int) -> Callable[[np.ndarray], np.ndarray]:
    """Low and high four bits of Q4_0's and Q4_1's codes change places in those rows."""

    def change(raw: np.ndarray) -> np.ndarray:
        header = raw.shape[2] - 16
        codes = raw[start:stop, :, header:]
        raw[start:stop, :, header:] = codes >> 4 | codes << 4
        return raw

    return change


@pytest.mark.parametrize(
    ("name", "start", "stop", "with_bias"),
    [("llama", 80, 160, False), ("llama", 156, 160, False), ("qwen2", 0, 48, True)],
)
def test_nibbles_that_are_exchanged_in_some_rows(
    models: Models, name: str, start: int, stop: int, *, with_bias: bool
) -> None:
    """The upper half, the last four rows, the first heads of queries that have a bias."""
    model = models(name)
    tensor, slot, read = (
        (QUERY, "q", "attn_norm") if with_bias else (GATE, "ffn_gate", "ffn_norm")
    )

    def fault(right: Arrays, _: LanguageModel) -> np.ndarray:
        wrong = with_bytes(model.declared.weights[tensor], nibbles_in(start, stop))
        output = right[f"layer.1.{read}"] @ wrong.T
        bias = tensor.replace(".weight", ".bias")
        return output + (model.declared.weights.vector(bias) if with_bias else 0.0)

    found = find_planted(model, f"layer.1.{slot}", fault)

    assert first(found) == (
        "nibble-order",
        f"the wrong half of each byte is read first, in rows {start}..{stop - 1} of the weight "
        "alone",
    )


@pytest.mark.parametrize("name", ["qwen2", "llama"])
@pytest.mark.parametrize("slot", ["q", "k"])
@pytest.mark.parametrize("rows", [slice(0, 3), slice(21, 30), slice(24, 32)])
def test_a_part_of_a_head_is_no_whole_one(
    models: Models, name: str, slot: str, rows: slice
) -> None:
    """What knows of heads passes over rows that are none; rows of noise have no name."""
    weight = f"model.layers.1.self_attn.{slot}_proj.weight"

    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        change = np.random.default_rng(5).normal(size=(rows.stop - rows.start, 96))
        output = right[f"layer.1.{slot}"].astype(np.float64)
        output[:, rows] += 0.1 * right["layer.1.attn_norm"] @ change.T
        return output

    found = find_planted(models(name), f"layer.1.{slot}", fault)

    assert weight_of(models(name), weight).shape[1] == 96
    assert not [cause for cause in found.causes if "of the weight alone" in cause.title]


def test_rows_that_are_something_else_are_no_reading_of_them(models: Models) -> None:
    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        weight = weight_of(model, GATE)
        weight[80:] = 0.1 * np.random.default_rng(1).normal(size=weight[80:].shape)
        return right["layer.1.ffn_norm"] @ weight.T

    found = find_planted(models("llama"), "layer.1.ffn_gate", fault)

    assert not [cause for cause in found.causes if "of the weight alone" in cause.title]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (np.arange(128)[::-1], "backwards"),
        (np.roll(np.arange(128), 16), "16 late"),
        (np.roll(np.arange(128), -1), "1 early"),
    ],
)
def test_bytes_of_codes_in_another_order(tmp_path: Path, order: np.ndarray, words: str) -> None:
    decoder = TinyDecoder(
        hidden_size=256, num_heads=8, ffn_size=512, num_layers=2, block_type=BlockType.Q4_K
    )
    model = open_language_model(write_tiny_gguf(tmp_path / "tiny.gguf", decoder))

    def fault(right: Arrays, _: LanguageModel) -> np.ndarray:
        def change(raw: np.ndarray) -> np.ndarray:
            return np.concatenate([raw[..., :16], raw[..., 16:][..., order]], axis=2)

        return right["layer.1.ffn_norm"] @ with_bytes(model.declared.weights[GATE], change).T

    found = find_planted(model, "layer.1.ffn_gate", fault)

    assert first(found) == ("code-order", f"the bytes of codes are read {words}")


@pytest.mark.parametrize(
    ("change", "id_", "words"),
    [
        (lambda x: np.clip(x, -1.5, 1.5), "output-clipped", "the output is clipped to 1.5"),
        (lambda x: np.clip(x, -0.25, 0.25), "output-clipped", "the output is clipped to 0.25"),
        (lambda x: np.where(np.abs(x) > 1.5, 0.75 * x, x), "", ""),
    ],
)
def test_a_sum_that_is_bounded_and_that_nobody_recorded(
    models: Models, change: Callable[[np.ndarray], np.ndarray], id_: str, words: str
) -> None:
    """Of the ten slots; what is smaller where it was great has no bound."""
    model = models("llama")
    trace = run(model, "f32")
    arrays = {name: np.asarray(a, np.float64) for name, a in trace.arrays.items()}
    changed = change(arrays["layer.1.attn_residual"])
    norm = weight_of(model, "model.layers.1.post_attention_layernorm.weight")[0]
    gain = 1 / np.sqrt(np.square(changed).mean(axis=1, keepdims=True) + 2.0**-10)
    arrays["layer.1.ffn_norm"] = changed * gain * norm
    arrays["layer.1.output"] = changed + arrays["layer.1.ffn_out"]
    kept = (*CONTRACT_SLOTS, "embed")
    few = {n: a.astype(np.float32) for n, a in arrays.items() if n.split(".")[-1] in kept}

    case = first_wrong_case(observe(replace(trace, arrays=few), model))
    found = first(find_causes(case))

    assert case.error.site == "layer.1.ffn_norm"
    if id_:
        assert found == (id_, f"{words}, in layer.1.attn_residual")
    else:
        assert found[0] != "output-clipped"


def test_rows_that_are_moved_in_one_half(models: Models) -> None:
    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        weight = weight_of(model, GATE)
        weight[80:] = np.roll(weight[80:], 1, axis=0)
        return right["layer.1.ffn_norm"] @ weight.T

    found = find_planted(models("llama"), "layer.1.ffn_gate", fault)

    words = (
        "80 of 160 outputs are in another order: 80..159 are those of the rows 1 late, in a "
    )
    assert first(found) == ("rows-shifted", words + "ring")


def test_rows_that_are_moved_where_pairs_are_stored_side_by_side(models: Models) -> None:
    """Queries are compared in halves, and a row of the file is another there."""

    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        weight = weight_of(model, QUERY)
        weight[48:] = np.roll(weight[48:], -1, axis=0)
        halves = weight.reshape(-1, 8, 2, 96).swapaxes(1, 2).reshape(96, 96)
        return right["layer.1.attn_norm"] @ halves.T

    found = find_planted(models("llama"), "layer.1.q", fault)

    words = (
        "48 of 96 outputs are in another order: 48..95 are in the file's order those of the "
    )
    assert first(found) == ("rows-shifted", words + "rows 1 early, in a ring")


def other_norm(right: Arrays, model: LanguageModel) -> np.ndarray:
    used, own = (
        weight_of(model, f"model.layers.{layer}.input_layernorm.weight")[0] for layer in (0, 1)
    )
    return right["layer.1.attn_norm"] / own * used


@pytest.mark.parametrize("whole", [False, True])
def test_a_norm_of_another_layer_says_nothing_of_the_rest(
    models: Models, *, whole: bool
) -> None:
    """With the other layer's q behind it the layer is taken for the other."""
    model = models("llama")
    trace = run(model, "f32")
    arrays = {name: np.asarray(a, np.float64) for name, a in trace.arrays.items()}
    arrays["layer.1.attn_norm"] = other_norm(arrays, model)
    for slot in "qkv":
        weight = weight_of(
            model, f"model.layers.{0 if whole else 1}.self_attn.{slot}_proj.weight"
        )
        if slot in "qk":  # stored in neighbouring pairs, recorded in halves
            weight = (
                weight.reshape(-1, 8, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
            )
        arrays[f"layer.1.{slot}"] = arrays["layer.1.attn_norm"] @ weight.T
    planted = {name: a.astype(np.float32) for name, a in arrays.items()}

    case = first_wrong_case(observe(replace(trace, arrays=planted), model))
    id_, title = first(find_causes(case))

    assert case.error.site == "layer.1.attn_norm"
    if whole:
        assert (id_, title) == (
            "layer-repeated", "layer 1 takes the weights of layer 0, which has them as well"
        )  # fmt: skip
    else:
        assert (id_, title) == (
            "other-layer",
            "layer 1 takes the weight of layer 0: the weight is model.layers.0."
            "input_layernorm.weight and ought to be model.layers.1.input_layernorm.weight",
        )


@pytest.mark.parametrize("gain", [0.5, 10.0])
def test_a_scale_of_the_embedding_is_said_whole(models: Models, gain: float) -> None:
    """Of a model that has one: not by how much it is off, but what it is."""
    model = models("gemma3")
    scale = float(model.declared.config.embedding_scale or 1.0)

    found = find_planted(model, "embed", lambda right, _: gain * right["embed"])

    title = f"the embedding's scale is {gain * scale:.4g} and ought to be {scale:.4g}"
    assert first(found) == ("embedding-scale", title)


def test_heads_of_the_context_are_said_to_be_heads(models: Models) -> None:
    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        heads = right["layer.1.attn_context"].reshape(12, 6, 16)[:, [1, 0, 2, 3, 4, 5]]
        weight = weight_of(model, "model.layers.1.self_attn.o_proj.weight")
        return heads.reshape(12, 96) @ weight.T

    found = find_planted(models("llama"), "layer.1.attn_out", fault)

    words = "columns are read with tiles 0 and 1 of 16 exchanged: each is a head of the context"
    assert first(found) == ("mis-tiled", words)
