"""Numbers that are said as well as they are known, and what rounding alone does not hide."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.hypotheses.function.norm_eps import known_eps
from cotejar.diagnosis.hypotheses.numbers import as_known, factor_text
from cotejar.diagnosis.hypotheses.rotation.position_patterns import (
    pattern_words,
    position_patterns,
)
from cotejar.diagnosis.hypotheses.rotation.rope_angles import table_words
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import find_causes
from cotejar.quant.floats import round_to_bfloat16
from cotejar.trace.site import CONTRACT_SLOTS

from .conftest import first_wrong_case, observe, run
from .planted import attend, attention_inputs, find_planted, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models

    Arrays = dict[str, np.ndarray]

CAUSAL = np.arange(12)[None] <= np.arange(12)[:, None]


def to_bf16(values: np.ndarray) -> np.ndarray:
    return round_to_bfloat16(np.ascontiguousarray(values, np.float32)).astype(np.float64)


def right_run(model: LanguageModel) -> tuple[ForwardTrace, Arrays]:
    trace = run(model, "f32")
    return trace, {name: np.asarray(a, np.float64) for name, a in trace.arrays.items()}


def first_wrong(model: LanguageModel, trace: ForwardTrace) -> tuple[str, str, str]:
    """Site, id and title of the first cause at the first site that is wrong."""
    case = first_wrong_case(observe(trace, model))
    return (case.error.site, *first(find_causes(case)))


def with_context(
    trace: ForwardTrace, model: LanguageModel, arrays: Arrays, context: np.ndarray
) -> ForwardTrace:
    """Of the ten slots alone: layer 1 with the product of that context."""
    weight = weight_of(model, "model.layers.1.self_attn.o_proj.weight")
    weight = to_bf16(weight) if trace.engine.numerics == "bf16" else weight
    kept = (*CONTRACT_SLOTS, "embed", "final_norm", "logits")
    few = {n: a for n, a in arrays.items() if n.split(".")[-1] in kept}
    few["layer.1.attn_out"] = context @ weight.T
    return replace(trace, arrays={n: a.astype(np.float32) for n, a in few.items()})


def stranger_in_bf16(model: LanguageModel) -> tuple[ForwardTrace, Arrays]:
    """An engine that rounds every value to bfloat16, as far as it is looked at here."""
    trace, arrays = right_run(model)
    engine = replace(trace.engine, name="stranger", numerics="bf16")
    return replace(trace, engine=engine), {name: to_bf16(a) for name, a in arrays.items()}


def find_at(trace: ForwardTrace, model: LanguageModel, site: str) -> tuple[str, str]:
    """Id and title of the first cause at that site."""
    side = observe(trace, model)
    error = next(e for e in replay_sides([side]) if e.site == site)
    operation = side.truth.operations[site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None
    return first(find_causes(Case(operation, side, inputs.arrays, recorded, error)))


# --- eps ------------------------------------------------------------------------------------


def normed(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """In float32, as an engine does it."""
    x = x.astype(np.float32)
    mean = np.mean(x * x, axis=1, keepdims=True)
    result: np.ndarray = x / np.sqrt(mean + np.float32(eps)) * weight.astype(np.float32)
    return result


def norm_with(eps: float, gain: float = 1.0) -> Callable[[Arrays, LanguageModel], np.ndarray]:
    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        weight = weight_of(model, "model.layers.1.input_layernorm.weight")[0]
        return normed(gain * right["layer.0.output"], weight, eps)

    return fault


@pytest.mark.parametrize(("eps", "said"), [(1e-5, "1e-05"), (3e-4, "0.0003"), (0.02, "0.02")])
def test_eps_has_the_digits_that_float32_tells(models: Models, eps: float, said: str) -> None:
    found = find_planted(models("llama"), "layer.1.attn_norm", norm_with(eps))

    assert first(found)[0] == "norm-eps"
    assert first(found)[1].startswith(f"eps of the norm is {said} ")


def test_eps_that_nothing_tells_from_none_is_said_to_be_so(models: Models) -> None:
    """Tokens have mean squares about 1, whose last place is some 1e-7."""
    found = find_planted(models("llama"), "layer.1.attn_norm", norm_with(1e-9))

    id_, title = first(found)
    assert id_ == "norm-eps"
    assert title.startswith("eps of the norm is 0 (or anything below ")
    assert title.endswith(" and ought to be 0.000977")


def test_the_other_norms_of_a_layer_tell_its_eps_too(models: Models) -> None:
    """What one norm blurs another shows, where both have the same wrong eps."""
    model = models("llama")
    trace, arrays = right_run(model)
    blurred = norm_with(1.4e-5)(arrays, model).astype(np.float64)
    # Each token is off by another 2e-6, as one with an approximate root would be.
    blurred *= 1 + 2e-6 * np.sin(np.arange(12.0))[:, None]
    weight = weight_of(model, "model.layers.1.post_attention_layernorm.weight")[0]
    arrays["layer.1.attn_norm"] = blurred
    alone = first_wrong(model, replace(trace, arrays=dict(arrays)))
    arrays["layer.1.ffn_norm"] = normed(arrays["layer.1.attn_residual"], weight, 1.4e-5)

    both = first_wrong(model, replace(trace, arrays=arrays))

    assert alone[1] == both[1] == "norm-eps"
    assert " (or " in alone[2]
    assert both[2] == "eps of the norm is 1.4e-05 and ought to be 0.000977"


def test_a_wrong_gain_is_no_eps(models: Models) -> None:
    found = find_planted(
        models("llama"),
        "layer.1.attn_norm",
        lambda right, _: right["layer.1.attn_norm"] * 1.001,
    )

    assert "norm-eps" not in [cause.id for cause in found.causes]


def test_every_eps_that_leaves_as_little_is_known() -> None:
    square = np.full(16, 1.0)
    gain = 1 / np.sqrt(square + 1e-4 + 1e-6 * np.cos(np.arange(16)))

    def left(eps: float) -> float:
        return float(((1 / np.sqrt(square + eps) / gain - 1) ** 2).sum())

    known = known_eps(left, 1e-4, 16)

    # Of 16 tokens, each off by 7e-7 in the mean, three deviations of the mean are 5e-7.
    assert (known.value, known.low < 1e-4 < known.high) == (1e-4, True)
    assert known.high - known.low == pytest.approx(2 * 3 * 1e-6 / np.sqrt(2) / 4, rel=0.1)


# --- RoPE -----------------------------------------------------------------------------------


def turned(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    heads = values.astype(np.float64).reshape(len(values), -1, 16)
    angles = np.outer(positions, 10_000.0 ** (-np.arange(8) / 8))[:, None]
    a, b = heads[..., :8], heads[..., 8:]
    both = [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]
    return np.concatenate(both, axis=-1).reshape(values.shape)


@pytest.mark.parametrize(
    ("slot", "positions", "words"),
    [
        ("k", 11 - np.arange(12), "keys are others: they run backwards from 11"),
        ("q", np.arange(12) % 5, "queries are others: they begin again at 0 every 5 tokens"),
        ("k", np.minimum(np.arange(12), 9), "keys are others: they stop at 9"),
    ],
)
def test_positions_of_one_side_alone_behind_the_projection(
    models: Models, slot: str, positions: np.ndarray, words: str
) -> None:
    model = models("llama")
    trace, arrays = right_run(model)
    arrays[f"layer.1.{slot}_rope"] = turned(arrays[f"layer.1.{slot}"], positions)
    context = attend(*attention_inputs(arrays), CAUSAL)

    found = first_wrong(model, with_context(trace, model, arrays, context))

    assert found == (
        "layer.1.attn_out",
        "rope-positions",
        f"positions of {words}, in layer.1.{slot}_rope",
    )


def test_positions_without_a_pattern_have_no_words() -> None:
    assert pattern_words(np.array([0, 1, 5, 2, 4, 3])) == ""
    assert pattern_words(np.array([0, 0, 1, 1, 2, 2])) == (
        ": they are divided by 2 and rounded down"
    )


def test_no_pattern_is_the_right_positions() -> None:
    assert not any((found == np.arange(9)).all() for _, found in position_patterns(9))


def test_a_table_is_described_as_far_as_it_is_known() -> None:
    right = 10_000.0 ** (-np.arange(8) / 8)
    used = right * np.array([1, 1, 0.7, 0.125, 0.125, 0.125, -3, 40])
    sure, unsure = np.full(8, 1e-9), 1e-3 * np.ones(8)
    unsure[:6] *= right[:6]

    assert "0.125" not in table_words(right * 0.5, right, unsure * 0)
    assert table_words(used, right, sure) == (
        ", as another scaling or table gives: -3 to 40 times the right ones"
    )
    assert table_words(used, right, unsure) == (
        ": the 2 fastest are right, the 5 slowest turn 1/8 times as fast, a scaling by "
        "frequency as YaRN or llama3 have it"
    )


@pytest.mark.parametrize(
    ("known", "text"), [(1e-5, "0.493"), (1e-3, "0.49"), (0.02, "0.5"), (0.1, "about 0.5")]
)
def test_a_number_has_no_digit_that_is_not_known(known: float, text: str) -> None:
    assert as_known(0.493, known) == text


# --- attention ------------------------------------------------------------------------------


def bounded(arrays: Arrays, cap: float, *, times_cap: bool) -> np.ndarray:
    q, k, v = attention_inputs(arrays)
    q, k, v = (a.astype(np.float64).reshape(12, -1, 16) for a in (q, k, v))
    out = np.empty((12, 6, 16))
    for head in range(6):
        scores = np.tanh(q[:, head] @ k[:, head // 3].T / 4 / cap) * (cap if times_cap else 1)
        weights = np.exp(np.where(CAUSAL, scores, -np.inf))
        out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, head // 3]
    return out.reshape(12, -1)


@pytest.mark.parametrize("ten_slots", [False, True])
@pytest.mark.parametrize("times_cap", [False, True])
def test_a_softcap_that_does_not_multiply_again(
    models: Models, *, ten_slots: bool, times_cap: bool
) -> None:
    model = models("llama")
    trace, arrays = right_run(model)
    context = bounded(arrays, 5.0, times_cap=times_cap)
    if ten_slots:
        found = first_wrong(model, with_context(trace, model, arrays, context))[1:]
    else:
        found = first(find_planted(model, "layer.1.attn_context", lambda *_: context))

    words = "scores are bounded by a softcap of 5"
    if not times_cap:
        words = "scores are the tanh of a 5th of themselves: a softcap of 5 that does not "
        words += "multiply by the cap again"
    assert found == ("softcap", words + (", in layer.1.attn_context" if ten_slots else ""))


def test_keys_in_int4_by_eight(models: Models) -> None:
    def fault(right: Arrays, _: LanguageModel) -> np.ndarray:
        q, k, v = attention_inputs(right)
        groups = k.astype(np.float32).reshape(-1, 8)
        step = np.abs(groups).max(axis=1, keepdims=True) / np.float32(7)
        return attend(q, (np.rint(groups / step) * step).reshape(k.shape), v, CAUSAL)

    found = find_planted(models("llama"), "layer.1.attn_context", fault)

    assert first(found) == ("cache-rounded", "keys are rounded to int4 by 8")


@pytest.mark.parametrize("factor", [np.log(2), 2**-0.5])
def test_a_scale_in_bfloat16_is_not_the_nearest_of_a_list(
    models: Models, factor: float
) -> None:
    """ln 2 and 1/sqrt(2) are two hundredths apart, and a limit of ten slots is wider."""
    model = models("llama")
    trace, arrays = stranger_in_bf16(model)
    q, k = (to_bf16(turned(arrays[f"layer.1.{slot}"], np.arange(12))) for slot in "qk")
    context = to_bf16(attend(factor * q, k, arrays["layer.1.v"], CAUSAL))
    planted = with_context(trace, model, arrays, context)
    planted.arrays["layer.1.attn_out"][:] = to_bf16(planted.arrays["layer.1.attn_out"])

    found = find_at(planted, model, "layer.1.attn_out")

    assert found[0] == "attention-scale"
    said = found[1].removeprefix("scores are scaled by ").partition(",")[0]
    # To half of the last of three digits: the two factors are 14 such units apart.
    assert float(said) == pytest.approx(0.25 * factor, abs=0.0005)


@pytest.mark.parametrize("theta", [15_000.0, 8_000.0])
def test_theta_in_bfloat16_is_not_taken_for_fewer_pairs(models: Models, theta: float) -> None:
    """Of queries alone, near the right one: fewer turning pairs are within the limit too."""
    model = models("llama")
    trace, arrays = stranger_in_bf16(model)
    heads = arrays["layer.1.q"].reshape(12, -1, 16)
    angles = np.outer(np.arange(12), theta ** (-np.arange(8) / 8))[:, None]
    a, b = heads[..., :8], heads[..., 8:]
    both = [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]
    q = to_bf16(np.concatenate(both, axis=-1).reshape(12, -1))
    k = to_bf16(turned(arrays["layer.1.k"], np.arange(12)))
    planted = with_context(
        trace, model, arrays, to_bf16(attend(q, k, arrays["layer.1.v"], CAUSAL))
    )
    planted.arrays["layer.1.attn_out"][:] = to_bf16(planted.arrays["layer.1.attn_out"])

    found = find_at(planted, model, "layer.1.attn_out")

    assert found == (
        "rope-theta",
        f"theta is {theta:,.6g} and ought to be 10,000, in layer.1.q_rope",
    )


# --- products -------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "words"), [(0.0, "are 0"), (2.0, "are multiplied by 2")])
def test_outputs_that_are_wrong_alike_in_bfloat16(
    models: Models, factor: float, words: str
) -> None:
    """The others' gains are off by bfloat16's rounding, and are right."""
    model = models("llama")
    trace, arrays = stranger_in_bf16(model)
    logits = arrays["final_norm"] @ to_bf16(weight_of(model, "lm_head.weight")).T
    logits[:, 256:] *= factor
    planted = {
        n: a.astype(np.float32) for n, a in {**arrays, "logits": to_bf16(logits)}.items()
    }

    found = find_at(replace(trace, arrays=planted), model, "logits")

    id_ = "rows-scaled" if factor else "rows-zero"
    assert found == (id_, f"outputs 256..319 (64) {words}")


@pytest.mark.parametrize("weighted", [False, True])
def test_an_input_that_is_normed_once_more(models: Models, *, weighted: bool) -> None:
    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        weight = weight_of(model, "model.norm.weight")[0]
        x = normed(right["final_norm"], weight if weighted else np.ones_like(weight), 2.0**-10)
        return x.astype(np.float64) @ weight_of(model, "lm_head.weight").T

    found = find_planted(models("qwen3"), "logits", fault)

    by = "by the same norm" if weighted else "without a weight"
    title = f"the input, final_norm, is normed once more before the product, {by}"
    assert first(found) == ("input-normed", title)


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_stream_before_the_last_norm_that_nobody_recorded(
    models: Models, *, is_stream: bool
) -> None:
    """Of logits and `final_norm` alone; tokens of other lengths are not another input."""
    model = models("qwen3")
    trace, arrays = right_run(model)
    x = arrays["layer.1.output"] if is_stream else arrays["final_norm"]
    gains = 1.0 if is_stream else np.linspace(2, 3, 12)[:, None]
    few = {
        "final_norm": arrays["final_norm"],
        "logits": gains * x @ weight_of(model, "lm_head.weight").T,
    }
    planted = replace(trace, arrays={n: a.astype(np.float32) for n, a in few.items()})

    id_, title = find_at(planted, model, "logits")

    stream = ("other-input", "the input is layer.1.output, before the norm, not final_norm")
    assert ((id_, title) == stream) == is_stream


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda w: w[::-1], "in reverse order"), (lambda w: np.roll(w, 1), "one channel late")],
)
def test_a_norm_s_weight_in_another_order_in_bfloat16(
    models: Models, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    """Sorted by size, rounded weights would stand in an order that nobody made."""
    model = models("llama")
    trace, arrays = stranger_in_bf16(model)
    weight = weight_of(model, "model.layers.1.input_layernorm.weight")[0]
    x = arrays["layer.0.output"]
    arrays["layer.1.attn_norm"] = to_bf16(normed(x, change(weight), 2.0**-10))
    planted = {n: a.astype(np.float32) for n, a in arrays.items()}

    found = find_at(replace(trace, arrays=planted), model, "layer.1.attn_norm")

    title = f"the weight's channels are in another order: {words}"
    assert found == ("norm-weight-order", title)


def test_a_factor_whose_inverse_is_no_number_is_written() -> None:
    """Least squares gives such ones where a summand is nearly 0."""
    assert [factor_text(x) for x in (1e-310, -1e-310, 1 / 8)] == ["1e-310", "-1e-310", "1/8"]
