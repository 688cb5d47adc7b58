"""Rings of caches, masks of blocks, norms behind branches, groups over rows, low precisions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import Found, find_causes
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.native.forward import Pass
from cotejar.engines.registry import parse_engine_name
from cotejar.faults.engine import faulty_engine
from cotejar.quant.floats import round_to_bfloat16, round_to_float16
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.trace.site import CONTRACT_SLOTS

from .conftest import TOKENS, observe, run
from .planted import attend, attention_inputs, find_planted, first, weight_of

if TYPE_CHECKING:
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models

CAPTURE = Capture(array_slots=EVERY_ARRAY)
STEPS = 7
"""Of 12 tokens: the first pass takes 5, as many as the window holds."""
QUERY, KEY = np.arange(12)[:, None], np.arange(12)[None]
GROUP = 64


def at_the_first_wrong_site(models: Models, name: str, trace: ForwardTrace) -> tuple:
    side = observe(trace, models(name))
    error = next(e for e in replay_sides([side]) if not e.explained)
    operation = side.truth.operations[error.site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None
    found: Found = find_causes(Case(operation, side, inputs.arrays, recorded, error))
    return (error.site, *first(found))


def of_ten_slots(models: Models, name: str, forward: type[Pass]) -> tuple:
    trace = run(models(name), "f32", forward)
    kept = (*CONTRACT_SLOTS, "embed", "final_norm", "logits")
    arrays = {n: np.asarray(a) for n, a in trace.arrays.items() if n.split(".")[-1] in kept}
    return at_the_first_wrong_site(models, name, replace(trace, arrays=arrays))


# --- caches of a window ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
@pytest.mark.parametrize(
    ("fault", "id_", "title"),
    [
        (
            "decode-written-early",
            "cache-written-elsewhere",
            "the first step writes its keys and values over those of the last prompt token: "
            "the window reaches one further back",
        ),
        (
            "decode-slot-empty",
            "cache-slots-unwritten",
            "steps read keys and values of a slot too many at the end, which hold zeros, and "
            "the window as many less",
        ),
    ],
)
def test_a_window_is_cut_behind_the_fault(
    models: Models, name: str, fault: str, id_: str, title: str
) -> None:
    engine = faulty_engine(parse_engine_name("native+f32:x"), models(name), fault)

    trace = engine.trace_steps(TOKENS, num_steps=STEPS, capture=CAPTURE)

    assert at_the_first_wrong_site(models, name, trace) == (
        "layer.0.attn_context",
        id_,
        title,
    )


def evicted_values(model, *, ten_slots: bool) -> ForwardTrace:
    """Its right run in steps, and the context of layer 1 with the values of t - 5 for t."""
    trace = NativeEngine(model, numerics="f32").trace_steps(
        TOKENS, num_steps=STEPS, capture=CAPTURE
    )
    right = {name: np.asarray(values) for name, values in trace.arrays.items()}
    q, k, v = attention_inputs(right)
    context = attend(q, k, v, (KEY <= QUERY) & (QUERY - KEY < 5))
    for step in range(5, 12):
        other = v.copy()
        other[step] = v[step - 5]
        seen = (KEY <= QUERY) & (QUERY - KEY < 5)
        context[step] = attend(q, k, other, seen)[step]
    right["layer.1.attn_context"] = context.astype(np.float32)
    if ten_slots:
        weight = weight_of(model, "model.layers.1.self_attn.o_proj.weight")
        right["layer.1.attn_out"] = (context @ weight.T).astype(np.float32)
        right = {n: a for n, a in right.items() if n.split(".")[-1] in CONTRACT_SLOTS}
    return replace(trace, arrays=right)


@pytest.mark.parametrize("ten_slots", [False, True])
def test_a_slot_that_holds_what_left_the_window_is_named(
    models: Models, *, ten_slots: bool
) -> None:
    trace = evicted_values(models("mistral"), ten_slots=ten_slots)

    site, id_, title = at_the_first_wrong_site(models, "mistral", trace)

    where = ", in layer.1.attn_context" if ten_slots else ""
    assert site == ("layer.1.attn_out" if ten_slots else "layer.1.attn_context")
    assert (id_, title) == (
        "cache-ring",
        "in the ring of 5 a step's own values are not written: the slot holds those that "
        f"have left the window{where}",
    )


class OfSteps(Pass):
    """In layer 1, from the second pass on, attention reads what `read` makes of the rows."""

    def extend_cache(self, layer, k_TKE, v_TKE):
        k_SKE, v_SKE = super().extend_cache(layer, k_TKE, v_TKE)
        self.rows = {**getattr(self, "rows", {}), layer: (k_SKE.copy(), v_SKE.copy())}
        if layer != 1 or not self.cache.num_tokens:
            return k_SKE, v_SKE
        return self.read(k_SKE.copy(), v_SKE.copy())


class KeysExchanged(OfSteps):
    def read(self, k, v):
        k[[2, 4]] = k[[4, 2]]
        return k, v


class PromptsValuesLost(OfSteps):
    def read(self, k, v):
        v[:5] = 0
        return k, v


class ValuesOfHeadOne(OfSteps):
    def read(self, k, v):
        v[5:, 0] = v[5:, 1]
        return k, v


class OfLayerZero(OfSteps):
    def read(self, k, v):
        k[:-1], v[:-1] = (rows[:-1] for rows in self.rows[0])
        return k, v


@pytest.mark.parametrize(
    ("forward", "id_", "title"),
    [
        (
            KeysExchanged,
            "cache-slot",
            "the keys of tokens 2 and 4 change places in the cache",
        ),
        (PromptsValuesLost, "cache-slots-unwritten", "the prompt's values are zeros to steps"),
        (
            ValuesOfHeadOne,
            "cache-head",
            "steps write the values of heads to other places: those of head 1 to the place of "
            "head 0",
        ),
        (
            OfLayerZero,
            "cache-other-layer",
            "the keys and values that steps read are those of layer 0, but for a step's own",
        ),
    ],
)
def test_what_steps_find_in_a_cache_is_named(
    models: Models, forward: type[Pass], id_: str, title: str
) -> None:
    engine = NativeEngine(models("qwen2"), numerics="f32", forward=forward)

    trace = engine.trace_steps(TOKENS, num_steps=STEPS, capture=CAPTURE)

    assert at_the_first_wrong_site(models, "qwen2", trace) == (
        "layer.1.attn_context",
        id_,
        title,
    )


# --- masks ------------------------------------------------------------------------------

MASKS = {
    "mask-blocks": (
        (KEY <= QUERY) | (QUERY // 4 == KEY // 4),
        "a token sees its whole block of 4 tokens, those after it too",
    ),
    "mask-chunks": (
        (KEY <= QUERY) & (QUERY // 3 - KEY // 3 <= 1),
        "a token sees its own chunk of 3 tokens and the one before",
    ),
    "mask-stride": (
        (KEY <= QUERY) & ((QUERY - KEY) % 2 == 0),
        "a token sees itself and those 2, 4, 6 ... before it alone",
    ),
    "mask-no-past": (
        (KEY <= QUERY) & ((QUERY < 7) | (KEY >= 7) | (KEY < 1)),
        "the tokens from 7 on see themselves and the first token alone",
    ),
}


@pytest.mark.parametrize("id_", MASKS)
def test_a_mask_of_blocks_is_named(models: Models, id_: str) -> None:
    seen, title = MASKS[id_]

    found = find_planted(
        models("qwen2"),
        "layer.1.attn_context",
        lambda right, _: attend(*attention_inputs(right), seen),
    )

    assert first(found) == (id_, title)


# --- gemma3's norms behind branches, of which ten slots hold none ---------------------------


class OtherPostNorm(Pass):
    def norm(self, layer, part, values):
        part = "ffn_post_norm" if (layer, part) == (1, "attn_post_norm") else part
        return super().norm(layer, part, values)


class PostNormTwice(Pass):
    def norm(self, layer, part, values):
        normed = super().norm(layer, part, values)
        twice = (layer, part) == (1, "attn_post_norm")
        return super().norm(layer, part, normed) if twice else normed


class NormOfTheSum(Pass):
    """Layer 1: norm(stream + branch) where stream + norm(branch) belongs."""

    def norm(self, layer, part, values):
        if (layer, part) == (1, "attn_post_norm"):
            return values
        return super().norm(layer, part, values)

    def add_residual(self, layer, which, hidden, branch):
        added = super().add_residual(layer, which, hidden, branch)
        if (layer, which) == (1, "attn"):
            return super().norm(layer, "attn_post_norm", added)
        return added


class BranchDropped(Pass):
    def add_residual(self, layer, which, hidden, branch):
        dropped = np.zeros_like(branch) if (layer, which) == (1, "attn") else branch
        return super().add_residual(layer, which, hidden, dropped)


LAYER = "model.layers.1"


@pytest.mark.parametrize(
    ("forward", "id_", "title"),
    [
        (
            OtherPostNorm,
            "norms-swapped",
            "two norms of the layer change places: the weight is "
            f"{LAYER}.post_feedforward_layernorm.weight and ought to be "
            f"{LAYER}.post_attention_layernorm.weight, in layer.1.attn_post_norm",
        ),
        (
            PostNormTwice,
            "norm-twice",
            "the norm is applied twice, with its weight, in layer.1.attn_post_norm",
        ),
        (
            NormOfTheSum,
            "residual-normed",
            "the sum is normed, not the branch, in the place of layer.1.attn_post_norm, in "
            "layer.1.attn_residual",
        ),
        (
            BranchDropped,
            "branch-missing",
            "the branch is not added: attention is skipped, in layer.1.attn_residual",
        ),
    ],
)
def test_a_norm_behind_a_branch_is_told_from_ten_slots(
    models: Models, forward: type[Pass], id_: str, title: str
) -> None:
    assert of_ten_slots(models, "gemma3", forward) == ("layer.1.ffn_norm", id_, title)


# --- products ---------------------------------------------------------------------------

NF4 = np.array(
    [-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0,
     0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
)  # fmt: skip
"""Source: Dettmers et al., 2023 (arXiv:2305.14314), appendix E."""


def product(change):
    """Gate of layer 1, whose rows have 96 columns, with another weight."""

    def fault(right, model):
        weight = change(weight_of(model, f"{LAYER}.mlp.gate_proj.weight"))
        return right["layer.1.ffn_norm"].astype(np.float64) @ weight.T

    return fault


def flat_nf4(weight):
    groups = weight.reshape(-1, GROUP)
    scale = np.abs(groups).max(axis=1, keepdims=True)
    nearest = np.abs((groups / scale)[..., None] - NF4).argmin(axis=2)
    return (NF4[nearest] * scale).reshape(weight.shape)


def uint4(weight):
    groups = weight.reshape(-1, 32)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    step = (high - low) / 15
    return (np.rint((groups - low) / step) * step + low).reshape(weight.shape)


def int8_tiles(weight):
    tiles = weight.reshape(-1, 32, 3, 32)
    step = np.abs(tiles).max(axis=(1, 3), keepdims=True) / 127
    return (np.rint(tiles / step) * step).reshape(weight.shape)


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (flat_nf4, "NF4 by 64 over its flattened values"),
        (uint4, "uint4 between the least and the greatest, by 32"),
        (int8_tiles, "int8 by tiles of 32 x 32"),
    ],
)
def test_groups_of_a_weight_are_named(models: Models, change, how: str) -> None:
    found = find_planted(models("qwen3"), "layer.1.ffn_gate", product(change))

    assert first(found) == ("weights-rounded", f"the weight is rounded to {how}")


def test_parts_of_rows_that_moved_are_no_heads(models: Models) -> None:
    def exchanged(weight):
        return weight.reshape(-1, 2, 32, 96)[:, ::-1].reshape(weight.shape)[: len(weight)]

    found = find_planted(
        models("qwen3"),
        "layer.1.ffn_gate",
        product(lambda w: np.concatenate([exchanged(w[:128]), w[128:]])),
    )

    assert first(found) == (
        "output-order",
        "parts of 32 rows are in another order: 1 0 3 2 4",
    )


def test_one_output_with_a_number_added_is_named(models: Models) -> None:
    found = find_planted(
        models("qwen3"), "logits", lambda right, _: right["logits"] + 2.0 * (KEY_320 == 77)
    )

    assert first(found) == (
        "bias-extra",
        "output 77 of 320 has 2 added in every token",
    )


KEY_320 = np.arange(320)


def test_a_bias_in_another_order_is_named(models: Models) -> None:
    def rolled(right, model):
        bias = model.declared.weights.vector(f"{LAYER}.self_attn.v_proj.bias")
        return right["layer.1.v"] - bias + np.roll(bias, 16)

    found = find_planted(models("qwen2"), "layer.1.v", rolled)

    # 2 heads of 16: one later is one earlier
    assert first(found) == ("bias-order", "the bias is in another order: shifted by 16")


def test_a_softcap_that_comes_twice_is_named(models: Models) -> None:
    found = find_planted(
        models("gemma3"),
        "logits",
        lambda right, _: 20 * np.tanh(right["logits"].astype(np.float64) / 20),
    )

    assert first(found) == (
        "softcap",
        "logits are bounded a second time, by a softcap of 20",
    )


# --- value by value, in a low precision -----------------------------------------------------


def to_bf16(values: np.ndarray) -> np.ndarray:
    return round_to_bfloat16(np.ascontiguousarray(values, np.float32)).astype(np.float64)


def to_f16(values: np.ndarray) -> np.ndarray:
    return round_to_float16(np.ascontiguousarray(values, np.float32)).astype(np.float64)


def silu_in_bf16(right, _):
    gate = to_bf16(right["layer.1.ffn_gate"])
    return to_bf16(gate * to_bf16(1 / (1 + np.exp(-gate))))


def product_in_f16(right, _):
    return to_f16(to_f16(right["layer.1.ffn_silu_gate"]) * to_f16(right["layer.1.ffn_up"]))


def cut_up(right, _):
    up = np.clip(right["layer.1.ffn_up"].astype(np.float64), -0.5, 0.5)
    return right["layer.1.ffn_silu_gate"] * up


@pytest.mark.parametrize(
    ("site", "fault", "id_", "title"),
    [
        (
            "layer.1.ffn_silu_gate",
            silu_in_bf16,
            "activation-bf16",
            "the activation runs in bf16: the sigmoid is rounded",
        ),
        (
            "layer.1.ffn_swiglu_inner",
            product_in_f16,
            "input-rounded",
            "the product runs in f16: what goes in and what comes out is rounded",
        ),
        (
            "layer.1.ffn_swiglu_inner",
            cut_up,
            "activation-clipped",
            "layer.1.ffn_up is cut to -0.5 .. 0.5 before the product",
        ),
    ],
)
def test_what_is_computed_value_by_value_is_named(
    models: Models, site: str, fault, id_: str, title: str
) -> None:
    found = find_planted(models("qwen2"), site, fault)

    assert first(found) == (id_, title)


def test_a_row_of_the_table_is_told_from_a_wrong_token(models: Models) -> None:
    """A token that comes twice and is another both times was not typed wrong."""
    model = models("llama")
    tokens = (3, 141, 59, 26, 53, 58, 97, 3, 238, 46, 264, 33)
    trace = run(model, "f32", tokens=tokens)
    arrays = {name: np.asarray(values).copy() for name, values in trace.arrays.items()}
    table = weight_of(model, "model.embed_tokens.weight")
    arrays["embed"][[0, 7]] = table[5]

    cause = at_the_first_wrong_site(models, "llama", replace(trace, arrays=arrays))

    assert cause == (
        "embed",
        "embedding-row",
        "row 3 of the table is row 5: token 3 has its values",
    )
