"""A run is observed whole, and the model is afterwards as it was."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.oracle import OracleEngine
from cotejar.errors import EngineDataError
from cotejar.parity.compare import compare_traces
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, TraceRecorder
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from cotejar.engines.transformers import observation  # noqa: E402 - only with torch
from cotejar.engines.transformers.engine import TransformersEngine  # noqa: E402

TOKENS = [5, 77, 300, 12]
CAPTURE = Capture(array_slots=EVERY_ARRAY)


def observe(model: Any) -> TraceRecorder:
    recorder = TraceRecorder(CAPTURE)
    observation.observe(model, TOKENS, recorder)
    return recorder


def attention_table(model: Any) -> Any:
    return sys.modules[type(model).__module__].ALL_ATTENTION_FUNCTIONS


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_model_is_as_it_was(
    attention: str, hold: Callable[..., Any], hooks_in: Callable[[Any], int]
) -> None:
    model = hold(attn_implementation=attention)
    model.train()
    model.model.layers[1].eval()
    flags = [module.training for module in model.modules()]
    table = dict(attention_table(model))

    observe(model)

    assert hooks_in(model) == 0
    assert [module.training for module in model.modules()] == flags
    assert dict(attention_table(model)) == table
    assert torch.is_grad_enabled()
    assert model.config._attn_implementation == attention


def test_the_model_is_as_it_was_after_an_exception(
    hold: Callable[..., Any], hooks_in: Callable[[Any], int]
) -> None:
    model = hold().train()
    table = dict(attention_table(model))

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    handle = model.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match=r"^in the middle$"):
        observe(model)

    handle.remove()
    assert hooks_in(model) == 0
    assert all(module.training for module in model.modules())
    assert dict(attention_table(model)) == table
    assert torch.is_grad_enabled()


def test_a_hook_left_behind_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, hold: Callable[..., Any], hooks_in: Callable[[Any], int]
) -> None:
    """What the two tests above rest on."""
    model = hold()
    monkeypatch.setattr(torch.utils.hooks.RemovableHandle, "remove", lambda _: None)

    observe(model)

    assert hooks_in(model) > 0


def test_a_hook_of_the_callers_stays_and_sees_the_run(hold: Callable[..., Any]) -> None:
    model, calls = hold(), []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))

    observe(model)

    assert calls == [1]
    assert len(model.lm_head._forward_hooks) == 1


def test_a_hook_of_the_callers_may_trace_another_model_meanwhile(
    hold: Callable[..., Any],
) -> None:
    outer, inner, traced = hold(), hold(TinyDecoder(seed=1)), []
    table = dict(attention_table(outer))
    alone = observe(outer).arrays
    outer.model.layers[0].register_forward_hook(lambda *_: traced.append(observe(inner)))

    arrays = observe(outer).arrays

    assert all(np.array_equal(arrays[name], alone[name]) for name in alone)
    assert traced[0].arrays.keys() == alone.keys()
    assert not np.array_equal(traced[0].arrays["logits"], alone["logits"])
    assert dict(attention_table(outer)) == table


def test_what_is_observed_is_what_the_model_computes_without_hooks(
    hold: Callable[..., Any],
) -> None:
    model = hold()
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()

    assert np.array_equal(observe(model).arrays["logits"], expected)


def test_eager_and_sdpa_attention_show_the_same_queries_and_keys(
    hold: Callable[..., Any],
) -> None:
    eager = observe(hold(attn_implementation="eager")).arrays
    sdpa = observe(hold(attn_implementation="sdpa")).arrays

    # The first layer's come before any attention.
    for slot in ("q_rope", "k_rope"):
        name = f"layer.0.{slot}"
        assert eager[name].shape == (len(TOKENS), {"q_rope": 96, "k_rope": 32}[slot])
        assert np.array_equal(eager[name], sdpa[name])


def test_where_attention_is_not_looked_up_its_arguments_are_not_observed(
    monkeypatch: pytest.MonkeyPatch, hold: Callable[..., Any]
) -> None:
    model = hold()
    monkeypatch.setattr(observation, "_modeling_module", lambda _: None)
    recorder = TraceRecorder(CAPTURE)

    not_observed = observation.observe(model, TOKENS, recorder)

    assert not_observed == {"q_rope", "k_rope"}
    assert not any(name.endswith("rope") for name in recorder.sites)


def test_a_missing_hook_makes_a_comparison_incomparable(
    monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    model = tiny(TinyDecoder())
    engine = TransformersEngine(model, numerics="f64")
    reference = OracleEngine(model).trace(TOKENS, capture=CAPTURE)
    assert compare_traces(reference, engine.trace(TOKENS, capture=CAPTURE)).verdict is (
        Verdict.PASS
    )
    find_taps = observation.find_taps
    monkeypatch.setattr(
        observation,
        "find_taps",
        lambda model: [t for t in find_taps(model) if (t.slot, t.layer) != ("ffn_gate", 1)],
    )

    comparison = compare_traces(reference, engine.trace(TOKENS, capture=CAPTURE))

    assert comparison.verdict is Verdict.INCOMPARABLE
    assert [(p.id, p.message) for p in comparison.broken] == [
        ("sites", "of 23 sites the candidate lacks 1, first layer.1.ffn_gate")
    ]


def test_a_module_that_gives_other_tokens_is_refused(
    hold: Callable[..., Any], hooks_in: Callable[[Any], int]
) -> None:
    model = hold()
    handle = model.model.norm.register_forward_hook(lambda _m, _i, out: out[:, :2])

    with pytest.raises(EngineDataError) as raised:
        observe(model)

    assert str(raised.value) == (
        "error[APR-E005]: transformers gave no activation of 4 tokens\n"
        "  where     final_norm\n"
        "  expected  a tensor of (1, 4, ...)\n"
        "  found     (1, 2, 96)\n"
        "  try       is something else hooked into the model?"
    )
    handle.remove()
    assert hooks_in(model) == 0


def test_bfloat16_keeps_its_name_where_numpy_holds_it_wider(hold: Callable[..., Any]) -> None:
    model = hold(dtype=torch.bfloat16)

    recorder = observe(model)

    assert {record.dtype for record in recorder.sites.values()} == {"bfloat16"}
    for name, array in recorder.arrays.items():
        assert array.dtype == np.float32, name
        # The lower half of a bfloat16's bits in float32 is empty.
        assert not np.any(array.view(np.uint32) & 0xFFFF), name


def test_layers_that_are_not_asked_for_are_left_out(hold: Callable[..., Any]) -> None:
    recorder = TraceRecorder(replace(CAPTURE, layers=frozenset({1})))

    observation.observe(hold(), TOKENS, recorder)

    layers = {record.site.layer for record in recorder.sites.values()}
    assert layers == {None, 1}
