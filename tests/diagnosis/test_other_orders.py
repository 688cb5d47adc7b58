"""Rows in the other order, products in other roundings, scales and slots of whole passes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import product_input
from cotejar.model.language_model import open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

from .planted import attend, attention_inputs, find_planted, first, weight_of
from .test_equal_causes import CAUSAL, E, first_wrong, in_passes, of_ten_slots, with_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel

    from .conftest import Models

    Arrays = dict[str, np.ndarray]
    Change = Callable[[np.ndarray], np.ndarray]

# --- rows of q and k in the other order ---------------------------------------------------

K_PROJ = "model.layers.1.self_attn.k_proj"
HALVES = ", while its rows stand in the order in which halves turn"
NEIGHBOURS = ", while its rows stand in the order in which neighbours turn"


def halves_of(rows: int) -> np.ndarray:
    """Of neighbours in pairs: where the values of two halves stand."""
    return np.concatenate([start + exact.half_split_order(E, E) for start in range(0, rows, E)])


def transposed(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(weight.T).reshape(weight.shape)


def one_block_late(weight: np.ndarray) -> np.ndarray:
    return np.roll(weight.reshape(-1, 32), 1, axis=0).reshape(weight.shape)


LAYOUTS = [
    (transposed, "weight-transposed", f"{K_PROJ}.weight holds the bytes of its transpose"),
    (one_block_late, "block-shift", "the weight is read one block late"),
]


@pytest.mark.parametrize(("change", "id_", "title"), LAYOUTS)
def test_keys_are_laid_out_wrongly_once_halves_turn(
    models: Models, change: Change, id_: str, title: str
) -> None:
    """The file keeps neighbours together, and the fault came after that was undone."""

    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        weight = weight_of(model, f"{K_PROJ}.weight")
        return right["layer.1.attn_norm"] @ change(weight[halves_of(len(weight))]).T

    found = find_planted(models("llama"), "layer.1.k", fault)

    assert first(found) == (id_, f"{title}{HALVES}")


def test_keys_are_laid_out_wrongly_before_halves_turn(models: Models) -> None:
    """The file keeps halves, and the fault came where neighbours turned."""

    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        weight = weight_of(model, f"{K_PROJ}.weight")
        bias = weight_of(model, f"{K_PROJ}.bias")[0]
        order = halves_of(len(weight))
        wrong = transposed(weight[np.argsort(order)])[order]
        return right["layer.1.attn_norm"] @ wrong.T + bias

    found = find_planted(models("qwen2"), "layer.1.k", fault)

    title = f"{K_PROJ}.weight holds the bytes of its transpose{NEIGHBOURS}"
    assert first(found) == ("weight-transposed", title)


# --- a wrong weight and the rounding of what it multiplies ----------------------------------


def to_64(values: np.ndarray) -> np.ndarray:
    """8-bit integers of one scale for 64, which no numerics declares."""
    groups = values.reshape(len(values), -1, 64)
    step = np.abs(groups).max(axis=2, keepdims=True) / 127
    return (np.rint(groups / step) * step).reshape(values.shape)


@pytest.mark.parametrize(
    ("how", "is_written"),
    [("blocks", True), ("Q8_0", True), ("exact", True), ("by 64", True), ("by 64", False),
     ("Q8_0", False)],
)  # fmt: skip
def test_a_transposed_head_is_named_however_activations_are_rounded(
    models: Models, how: str, is_written: bool
) -> None:
    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        head = weight_of(model, "lm_head.weight")
        wrong = transposed(head) if is_written else head.reshape(-1, len(head)).T
        given = right["final_norm"].astype(np.float64)
        if how == "by 64":
            return to_64(given) @ wrong.T
        return product_input(given, how, BlockType.Q4_K).values @ wrong.T

    found = find_planted(models("Q4_K"), "logits", fault, numerics="q8")

    words = "holds the bytes of its transpose" if is_written else "is read transposed"
    assert first(found) == ("weight-transposed", f"lm_head.weight {words}")


def test_a_transposed_head_with_something_else_wrong_stays_unnamed(models: Models) -> None:
    """A tenth too large is ten times what 8 bits move."""

    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        return 1.1 * (right["final_norm"] @ transposed(weight_of(model, "lm_head.weight")).T)

    found = find_planted(models("Q4_K"), "logits", fault, numerics="q8")

    assert "weight-transposed" not in [cause.id for cause in found.causes]


# --- what changes nothing is no cause -------------------------------------------------------


@pytest.mark.parametrize("kind", [BlockType.Q5_0, BlockType.Q8_0, BlockType.Q4_1])
def test_the_embedding_s_scale_alone_is_left_out(tmp_path: Path, kind: BlockType) -> None:
    decoder = TinyDecoder(architecture="gemma3", num_layers=2, block_type=kind)
    model = open_language_model(write_tiny_gguf(tmp_path / "tiny.gguf", decoder))
    scale = model.declared.config.embedding_scale

    found = find_planted(model, "embed", lambda right, _: right["embed"] / scale)

    assert [cause.id for cause in found.causes] == ["embedding-scale"]
    assert first(found)[1] == f"the embedding's scale of {scale:.4g} is left out"


def test_an_epsilon_that_rounding_blurs_is_a_power_of_ten(models: Models) -> None:
    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        weight = weight_of(model, "model.layers.1.input_layernorm.weight")[0]
        x = right["layer.0.output"].astype(np.float64)
        normed = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + 1e-5) * weight
        return normed * (1 + 1e-7 * np.sin(np.arange(normed.size)).reshape(normed.shape))

    model = models("llama")
    eps = model.declared.config.rms_eps
    found = find_planted(model, "layer.1.attn_norm", fault)

    assert first(found) == ("norm-eps", f"eps of the norm is 1e-05 and ought to be {eps:.3g}")


def test_a_feed_forward_beside_attention_is_named(models: Models) -> None:
    """What is recorded behind attention lacks it, and the layer's end has it."""
    found = find_planted(
        models("llama"), "layer.1.attn_residual", lambda right, _: right["layer.0.output"]
    )

    assert [cause.id for cause in found.causes][:1] == ["parallel-block"]
    assert first(found)[1] == (
        "the feed-forward stands beside attention, not behind it: it reads the stream before "
        "attention is added, which layer.1.output shows"
    )


# --- what a pass keeps in the cache ---------------------------------------------------------

PASSES = (5, 4, 1, 1, 1)
ENDS = (5, 9, 10, 11, 12)


def int8(values: np.ndarray, axis: int | None) -> np.ndarray:
    step = np.abs(values).max(axis=axis, keepdims=True) / 127
    return np.rint(values / step) * step


def by_pass(values: np.ndarray, rounded: Change) -> np.ndarray:
    parts = np.split(values.astype(np.float64), ENDS[:-1])
    return np.concatenate([rounded(part) for part in parts])


def of_each_head(values: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [int8(h, None) for h in np.split(values, values.shape[1] // E, axis=1)], axis=1
    )


@pytest.mark.parametrize(
    ("rounded", "words", "which"),
    [
        (lambda a: int8(a, None), "int8 by one scale over a pass", "v"),
        (of_each_head, "int8 by one scale for each head over a pass", "k"),
        (of_each_head, "int8 by one scale for each head over a pass", "kv"),
        (lambda a: int8(a, 0), "int8 a channel over a pass", "kv"),
    ],
)
def test_one_scale_for_what_a_pass_stores(
    models: Models, rounded: Change, words: str, which: str
) -> None:
    model = models("llama")
    trace, arrays = in_passes(model, *PASSES)
    q, k, v = attention_inputs(arrays)
    kept = [by_pass(a, rounded) if name in which else a for name, a in (("k", k), ("v", v))]
    context = attend(q, *kept, CAUSAL)

    found = first_wrong(model, of_ten_slots(trace, with_context(model, arrays, context)))

    rows = {"k": "keys", "v": "values", "kv": "keys and values"}[which]
    title = f"{rows} are rounded to {words}, in layer.1.attn_context"
    assert found == ("layer.1.attn_out", "cache-rounded", title)


CHUNK = "of the chunk of tokens 5 to 8 are written"


def with_chunk_at(q: np.ndarray, k: np.ndarray, v: np.ndarray, slots: list[int]) -> np.ndarray:
    """The second pass's rows stand at these slots, and zeros at its own; of keys or both."""
    k, v = k.astype(np.float64), v.astype(np.float64)
    context = attend(q, k, v, CAUSAL)
    for array in (k, v):
        moved = array[5:9].copy()
        array[5:9] = 0
        array[slots] = moved
    context[5:] = attend(q, k, v, CAUSAL)[5:]
    return context


@pytest.mark.parametrize(
    ("slots", "where", "slots_shown"),
    [
        ([0, 1, 2, 3], "from slot 0 on again, whose own slots hold zeros", "all"),
        ([0, 1, 2, 3], "from slot 0 on again, whose own slots hold zeros", "ten"),
        ([8, 7, 6, 5], "in reverse order", "all"),
        ([4, 5, 6, 7], "one slot early, whose own slots hold zeros", "ten"),
    ],
)
def test_a_chunk_is_written_elsewhere(
    models: Models, slots: list[int], where: str, slots_shown: str
) -> None:
    model = models("llama")
    trace, arrays = in_passes(model, *PASSES)
    arrays = with_context(model, arrays, with_chunk_at(*attention_inputs(arrays), slots))
    shown = (
        of_ten_slots(trace, arrays) if slots_shown == "ten" else replace(trace, arrays=arrays)
    )

    site, id_, title = first_wrong(model, shown)

    tail = ", in layer.1.attn_context" if slots_shown == "ten" else ""
    assert site == ("layer.1.attn_out" if slots_shown == "ten" else "layer.1.attn_context")
    assert (id_, title) == (
        "cache-written-elsewhere",
        f"the keys and values {CHUNK} {where}{tail}",
    )


def test_the_rows_of_a_chunk_are_lost_to_the_passes_behind_it(models: Models) -> None:
    """It reads its own as they are, and its slots are not read afterwards."""
    model = models("llama")
    trace, arrays = in_passes(model, *PASSES)
    q, k, v = attention_inputs(arrays)
    seen = CAUSAL.copy()
    seen[9:, 5:9] = False
    arrays = with_context(model, arrays, attend(q, k, v, seen))

    site, id_, title = first_wrong(model, replace(trace, arrays=arrays))

    assert (site, id_) == ("layer.1.attn_context", "cache-written-elsewhere")
    assert title == f"the keys and values {CHUNK} nowhere; it reads its own as they are"
