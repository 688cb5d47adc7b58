"""Parts of heads, caches of later passes, sums that nobody recorded, scales, bits of scales."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Case
from cotejar.diagnosis.hypotheses.blocks.scaled_blocks import name_scaled_part
from cotejar.diagnosis.hypotheses.blocks.sub_scale_bits import STORED
from cotejar.diagnosis.hypotheses.weight.order_names import paired_for
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import find_causes
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.floats import round_to_bfloat16, round_to_float16
from cotejar.trace.site import CONTRACT_SLOTS

from .conftest import first_wrong_case, observe, run
from .planted import attend, attention_inputs, find_planted, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models

    Arrays = dict[str, np.ndarray]

QUERY, KEY = np.arange(12)[:, None], np.arange(12)[None]
CAUSAL = KEY <= QUERY
E = 16


def first_wrong(model: LanguageModel, trace: ForwardTrace) -> tuple[str, str, str]:
    """Site, id and title of the first cause at the first site that is wrong."""
    side = observe(trace, model)
    case = first_wrong_case(side)
    return (case.error.site, *first(find_causes(case)))


def of_ten_slots(trace: ForwardTrace, arrays: Arrays) -> ForwardTrace:
    kept = (*CONTRACT_SLOTS, "embed", "final_norm", "logits")
    few = {n: a.astype(np.float32) for n, a in arrays.items() if n.split(".")[-1] in kept}
    return replace(trace, arrays=few)


def right_run(model: LanguageModel) -> tuple[ForwardTrace, Arrays]:
    trace = run(model, "f32")
    return trace, {name: np.asarray(a, np.float64) for name, a in trace.arrays.items()}


def with_context(model: LanguageModel, arrays: Arrays, context: np.ndarray) -> Arrays:
    """Layer 1 with that context and its product, whatever comes behind it."""
    weight = weight_of(model, "model.layers.1.self_attn.o_proj.weight")
    out = context @ weight.T
    return {**arrays, "layer.1.attn_context": context, "layer.1.attn_out": out}


# --- a part of each head ----------------------------------------------------------------


def end_turned(values: np.ndarray, count: int) -> np.ndarray:
    heads = values.reshape(len(values), -1, E)
    frequencies = 10_000.0 ** (-np.arange(count) / count)
    angles = np.outer(np.arange(len(values)), frequencies)[:, None]
    a, b = heads[..., E - 2 * count : E - count], heads[..., E - count :]
    turned = [
        heads[..., : E - 2 * count],
        a * np.cos(angles) - b * np.sin(angles),
        b * np.cos(angles) + a * np.sin(angles),
    ]
    return np.concatenate(turned, axis=-1).reshape(values.shape)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_end_of_each_head_turns(models: Models, count: int) -> None:
    found = find_planted(
        models("llama"),
        "layer.1.q_rope",
        lambda right, _: end_turned(right["layer.1.q"], count),
    )

    words = f"the last {2 * count} of 16 values of a head turn, the first do not"
    assert first(found) == ("rope-partial", words)


def test_the_end_of_keys_turns_and_only_what_is_behind_was_recorded(models: Models) -> None:
    model = models("llama")
    trace, arrays = right_run(model)
    arrays["layer.1.k_rope"] = end_turned(arrays["layer.1.k"], 4)
    context = attend(*attention_inputs(arrays), CAUSAL)

    found = first_wrong(model, of_ten_slots(trace, with_context(model, arrays, context)))

    words = "the last 8 of 16 values of a head turn, the first do not, in layer.1.k_rope"
    assert found == ("layer.1.attn_out", "rope-partial", words)


def test_the_fast_pairs_stand_still(models: Models) -> None:
    def fault(right: Arrays, _: LanguageModel) -> np.ndarray:
        frequencies = exact.frequencies(10_000.0, E)
        slow = np.where(np.arange(8) < 6, 0.0, frequencies)
        heads = exact.split_heads(right["layer.1.k"].astype(np.float64), E)
        return exact.join_heads(exact.turn(heads, np.outer(np.arange(12), slow)))

    found = find_planted(models("llama"), "layer.1.k_rope", fault)

    assert first(found) == ("rope-partial", "the first 6 of 8 pairs do not turn")


# --- caches that later passes read ------------------------------------------------------


def in_passes(model: LanguageModel, *passes: int) -> tuple[ForwardTrace, Arrays]:
    trace, arrays = right_run(model)
    return replace(trace, passes=passes), arrays


@pytest.mark.parametrize(
    ("row", "whose", "which"),
    [
        (6, "written last", "v"),
        (0, "of token 0", "k"),
        (4, "of the last prompt token", "kv"),
    ],
)
def test_a_cache_that_stops_being_written_holds_older_rows(
    models: Models, row: int, whose: str, which: str
) -> None:
    model = models("llama")
    trace, arrays = in_passes(model, 5, *[1] * 7)
    q, k, v = attention_inputs(arrays)
    k, v = k.copy(), v.copy()
    for name, array in (("k", k), ("v", v)):
        if name in which:
            array[7:] = array[row]
    context = attend(q, k, v, CAUSAL)

    site, id_, title = first_wrong(
        model, replace(trace, arrays=with_context(model, arrays, context))
    )

    rows = {"k": "keys", "v": "values", "kv": "keys and values"}[which]
    assert (site, id_) == ("layer.1.attn_context", "cache-stale")
    assert title == f"from token 7 on the {rows} are not written: those {whose} are read"


LATER = " (a step: each token of the passes after the first)"


def test_a_chunk_reads_keys_of_the_next_slot(models: Models) -> None:
    """Passes of 4, 5, 1, 1 and 1: the chunk of 5 reads a key of its own end."""
    model = models("llama")
    trace, arrays = in_passes(model, 4, 5, 1, 1, 1)
    q, k, v = attention_inputs(arrays)
    context = attend(q, k, v, CAUSAL)
    for start, end in ((4, 9), (9, 10), (10, 11), (11, 12)):
        late = np.concatenate([k[1:end], k[end - 1 :]])
        context[start:end] = attend(q, late, v, CAUSAL)[start:end]

    found = first_wrong(model, of_ten_slots(trace, with_context(model, arrays, context)))

    title = f"steps read the keys 1 early{LATER}, in layer.1.attn_context"
    assert found == ("layer.1.attn_out", "cache-shifted", title)


def test_a_window_is_one_short_in_the_passes_after_the_first(models: Models) -> None:
    model = models("mistral")
    trace, arrays = in_passes(model, 6, 3, 1, 1, 1)
    seen = CAUSAL & (np.where(QUERY < 6, 5, 4) > QUERY - KEY)
    context = attend(*attention_inputs(arrays), seen)

    found = first_wrong(model, of_ten_slots(trace, with_context(model, arrays, context)))

    title = (
        "steps read the keys and values of the last 4 tokens and ought to read 5"
        f"{LATER}, in layer.1.attn_context"
    )
    assert found == ("layer.1.attn_out", "cache-ring-off-by-one", title)


# --- sums that nobody recorded ----------------------------------------------------------


def wrong_sum(
    model: LanguageModel, change: Callable[[np.ndarray, np.ndarray], np.ndarray], *, borne: bool
) -> ForwardTrace:
    """Layer 1's sum behind attention; the layer's end reads it too, or the right one."""
    trace, arrays = right_run(model)
    stream, branch = arrays["layer.0.output"], arrays["layer.1.attn_out"]
    total = change(stream, branch)
    weight = model.declared.weights.vector("model.layers.1.post_attention_layernorm.weight")
    eps = model.declared.config.rms_eps
    arrays["layer.1.ffn_norm"] = exact.rms_norm(total, weight.astype(float), eps)
    if borne:
        arrays["layer.1.output"] = total + arrays["layer.1.ffn_out"]
    return of_ten_slots(trace, arrays)


def to_f16(x: np.ndarray) -> np.ndarray:
    return round_to_float16(x.astype(np.float32)).astype(np.float64)


def to_bf16(x: np.ndarray) -> np.ndarray:
    return round_to_bfloat16(x.astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize(
    ("change", "id_", "title"),
    [
        (
            lambda _, b: b,
            "residual-missing",
            "the residual stream is left out: only the branch is there",
        ),
        (lambda x, b: 2 * x + b, "residual-doubled", "the residual stream is added twice"),
        (lambda x, b: x - b, "branch-sign", "the branch is subtracted"),
        (lambda x, b: to_f16(x + b), "output-rounded", "the output is rounded to f16"),
        (lambda x, b: to_bf16(x + b), "output-rounded", "the output is rounded to bf16"),
    ],
)
def test_the_layers_end_tells_a_wrong_sum(
    models: Models,
    change: Callable[[np.ndarray, np.ndarray], np.ndarray],
    id_: str,
    title: str,
) -> None:
    found = first_wrong(models("llama"), wrong_sum(models("llama"), change, borne=True))

    assert found == ("layer.1.ffn_norm", id_, f"{title}, in layer.1.attn_residual")


def test_a_right_layers_end_tells_another_input_of_the_norm(models: Models) -> None:
    found = first_wrong(
        models("llama"), wrong_sum(models("llama"), lambda _, b: b, borne=False)
    )

    title = "the input is layer.1.attn_out, not layer.1.attn_residual"
    assert found == ("layer.1.ffn_norm", "other-input", title)


def test_a_stream_kept_in_bf16_is_told_though_the_layers_end_is_rounded_as_well(
    models: Models,
) -> None:
    model = models("llama")
    trace = wrong_sum(model, lambda x, b: to_bf16(x + b), borne=True)
    end = np.asarray(trace.arrays["layer.1.output"], np.float64)
    rounded = {**trace.arrays, "layer.1.output": to_bf16(end).astype(np.float32)}

    found = first_wrong(model, replace(trace, arrays=rounded))

    title = "the output is rounded to bf16, in layer.1.attn_residual"
    assert found == ("layer.1.ffn_norm", "output-rounded", title)


# --- scales of scores, masks, a bias behind RoPE ----------------------------------------


def test_scores_scaled_twice_come_before_a_norm_of_the_same_factor(models: Models) -> None:
    model = models("qwen3")
    config = model.declared.config
    trace, arrays = right_run(model)
    q, k, v = (exact.split_heads(a, config.head_dim) for a in attention_inputs(arrays))
    group = config.num_heads // config.num_kv_heads
    context = exact.join_heads(
        exact.attend(
            q,
            k,
            v,
            scale=1 / config.head_dim,
            visible_TT=CAUSAL,
            key_heads=[head // group for head in range(config.num_heads)],
        )
    )

    site, id_, title = first_wrong(
        model, of_ten_slots(trace, with_context(model, arrays, context))
    )

    assert config.qk_norm
    assert (site, id_) == ("layer.1.attn_out", "attention-scale")
    assert title.startswith(f"scores are scaled by {1 / config.head_dim:.6g}, ")
    assert title.endswith(": they are scaled twice, in layer.1.attn_context")


@pytest.mark.parametrize("ten_slots", [False, True])
def test_a_range_of_keys_is_hidden_from_a_range_of_queries(
    models: Models, *, ten_slots: bool
) -> None:
    model = models("llama")
    trace, arrays = right_run(model)
    seen = CAUSAL & ~((QUERY >= 8) & (KEY >= 3) & (KEY <= 5))
    planted = with_context(model, arrays, attend(*attention_inputs(arrays), seen))
    trace = of_ten_slots(trace, planted) if ten_slots else replace(trace, arrays=planted)

    _, id_, title = first_wrong(model, trace)

    where = ", in layer.1.attn_context" if ten_slots else ""
    assert id_ == "mask-range-hidden"
    assert title == f"the tokens from 8 on do not see tokens 3 to 5{where}"


@pytest.mark.parametrize("ten_slots", [False, True])
def test_a_bias_added_after_rope(models: Models, *, ten_slots: bool) -> None:
    model = models("qwen2")
    trace, arrays = right_run(model)
    name = "model.layers.1.self_attn.q_proj.bias"
    bias = model.declared.weights.vector(name).astype(np.float64)
    angles = np.outer(np.arange(12), exact.frequencies(model.declared.config.rope.theta, E))
    turned = exact.join_heads(
        exact.turn(exact.split_heads(arrays["layer.1.q"] - bias, E), angles)
    )
    width = arrays["layer.1.q"].shape[1]
    whole = arrays["layer.1.qkv"].copy()
    whole[:, :width] -= bias
    arrays |= {"layer.1.q": arrays["layer.1.q"] - bias, "layer.1.q_rope": turned + bias}
    arrays["layer.1.qkv"] = whole
    planted = with_context(model, arrays, attend(*attention_inputs(arrays), CAUSAL))
    trace = of_ten_slots(trace, planted) if ten_slots else replace(trace, arrays=planted)

    found = first_wrong(model, trace)

    title = f"the bias {name} is added after RoPE, and ought to be before"
    assert found == ("layer.1.q", "bias-after-rope", title)


def test_two_faults_of_an_attention_are_told_from_its_projection(models: Models) -> None:
    model = models("mistral")
    trace, arrays = right_run(model)
    q, k, v = attention_inputs(arrays)
    context = attend(2 * q, k, v, CAUSAL & (QUERY - KEY < 6))

    site, id_, title = first_wrong(
        model, of_ten_slots(trace, with_context(model, arrays, context))
    )

    assert (site, id_) == ("layer.1.attn_out", "window-off-by-one+attention-scale")
    assert title == (
        "there is a window of 6 and ought to be one of 5; and scores are scaled by 0.5, 2 "
        "times the right 0.25, in layer.1.attn_context"
    )


# --- bits of sub-scales, rows in pairs --------------------------------------------------


def random_blocks(kind: BlockType, rows: int = 64, columns: int = 256) -> BlockMatrix:
    """Any bytes, and float16 scales of about 0.01."""
    rng = np.random.default_rng(int(kind))
    count = rows * columns // kind.elements_per_block
    raw = rng.integers(0, 256, (count, kind.bytes_per_block), np.uint8)
    for start in SCALES[kind]:
        scale = (0.01 * rng.uniform(1, 2, count)).astype(np.float16)
        raw[:, start : start + 2] = scale.view(np.uint8).reshape(-1, 2)
    return BlockMatrix(block_type=kind, rows=rows, columns=columns, raw=raw.reshape(-1))


SCALES = {
    BlockType.Q2_K: (80, 82),
    BlockType.Q3_K: (108,),
    BlockType.Q4_K: (0, 2),
    BlockType.Q5_K: (0, 2),
    BlockType.Q6_K: (208,),
}
HIGH_LOST: dict[BlockType, tuple[slice, int]] = {
    BlockType.Q3_K: (slice(104, 108), 0),
    BlockType.Q6_K: (slice(192, 208), 0x0F),
    BlockType.Q2_K: (slice(0, 16), 0xF3),
}


def high_lost(matrix: BlockMatrix) -> BlockMatrix:
    where, mask = HIGH_LOST[matrix.block_type]
    raw = np.array(matrix.raw).reshape(-1, matrix.block_type.bytes_per_block)
    raw[:, where] &= np.uint8(mask)
    return replace(matrix, raw=raw.reshape(-1))


@pytest.mark.parametrize("kind", HIGH_LOST)
def test_high_bits_of_sub_scales_are_lost_between_two_files(kind: BlockType) -> None:
    matrix = random_blocks(kind)

    kept = STORED[kind].low

    assert name_scaled_part(matrix, high_lost(matrix), 2.0**-11) == (
        f"sub-scales keep {kept} low bits alone"
    )


def test_high_bits_of_sub_scales_are_those_of_the_neighbour() -> None:
    matrix = random_blocks(BlockType.Q3_K)
    raw = np.array(matrix.raw).reshape(-1, 110)
    raw[:, 104:108] = raw[:, [105, 104, 107, 106]]

    assert name_scaled_part(matrix, replace(matrix, raw=raw.reshape(-1)), 2.0**-11) == (
        "sub-scales have the high bits of another sub-block: 1 0 3 2 5 4 7 6 ..."
    )


@pytest.mark.parametrize("kind", HIGH_LOST)
def test_high_bits_of_sub_scales_are_lost_in_a_run(models: Models, kind: BlockType) -> None:
    model = models("Q4_K")
    name = "model.layers.1.mlp.gate_proj.weight"
    matrix = random_blocks(kind, rows=512)
    trace, arrays = right_run(model)
    wrong = high_lost(matrix).decode_rows(0, 512).astype(np.float64)
    planted = (arrays["layer.1.ffn_norm"] @ wrong.T).astype(np.float32)
    trace = replace(trace, arrays={**trace.arrays, "layer.1.ffn_gate": planted})
    side = observe(trace, model)
    weights = side.truth.weights.replaced({name: matrix})
    side = replace(side, truth=replace(side.truth, weights=weights))
    error = next(e for e in replay_sides([side]) if e.site == "layer.1.ffn_gate")
    operation = side.truth.operations[error.site]
    inputs = side.inputs(operation)
    assert inputs is not None

    found = find_causes(Case(operation, side, inputs.arrays, planted.astype(float), error))

    assert first(found) == ("sub-scales", f"sub-scales keep {STORED[kind].low} low bits alone")


@pytest.mark.parametrize("other", [1, 2, 8, 16])
def test_rows_in_pairs_of_another_number_of_heads(other: int) -> None:
    def in_pairs(heads: int) -> np.ndarray:
        return np.arange(64).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)

    taken_out = in_pairs(other)[np.argsort(in_pairs(4))]

    assert paired_for(taken_out, 4) == other
    assert paired_for(in_pairs(other), 4) is None
    assert paired_for(np.roll(np.arange(64), 5), 4) is None


# --- numbers with a name ----------------------------------------------------------------


def test_a_scale_of_the_embedding_that_is_rounded(models: Models) -> None:
    model = models("gemma3")
    scale = model.declared.config.embedding_scale
    rounded = float(to_bf16(np.array([scale]))[0])

    found = find_planted(model, "embed", lambda right, _: right["embed"] * (rounded / scale))

    assert rounded != scale
    words = f"the embedding's scale of {scale:.7g} is rounded to bf16, to {rounded:.7g}"
    assert first(found) == ("embedding-scale", words)
