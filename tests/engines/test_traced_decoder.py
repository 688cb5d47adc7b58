"""A traced step of the compiled decoder: the statistics of `Pass`, every number's bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.native.decoder import Decoder
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.native.forward import Pass
from cotejar.kernels import _compiled
from cotejar.kernels.instruction_set import chosen_isa
from cotejar.model.inventory import layer_tensor
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import BOTH_SCOPES, Capture, Scope, TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

DECODERS = {
    "llama, biases": TinyDecoder(attention_bias=True, mlp_bias=True, block_type=BlockType.Q5_1),
    "mistral": TinyDecoder(architecture="mistral", sliding_window=5, block_type=BlockType.Q8_0),
    "qwen3": TinyDecoder(architecture="qwen3", block_type=BlockType.Q4_1),
    # Sites of more than one chunk of 4096 values, whose moments are merged.
    "wide": TinyDecoder(ffn_size=8224, vocab_size=4160, block_type=BlockType.Q4_0),
}
WITH_VECTOR_KERNELS = [
    isa
    for isa in _compiled.isa_names()
    if _compiled.has_vector_kernel(isa, int(BlockType.Q4_0))
]
IDS = [(7919 * index + 101) % 320 for index in range(12)]
STEPS = 8

pytestmark = pytest.mark.skipif(
    not WITH_VECTOR_KERNELS, reason="this CPU has no kernel for one token"
)


@pytest.fixture(params=[1, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    chosen_isa()  # which sets the number of threads, once
    before = _compiled.num_threads()
    _compiled.set_num_threads(request.param)
    yield request.param
    _compiled.set_num_threads(before)


def trace_both(
    model: LanguageModel,
    capture: Capture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    numerics: str = "q8",
    num_steps: int = STEPS,
) -> tuple[ForwardTrace, ForwardTrace, int]:
    """As the engine runs them, and as `Pass` does; how many steps were compiled."""
    compiled = 0
    run = Decoder.step_traced

    def counted(self: Decoder, *arguments: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return run(self, *arguments)

    monkeypatch.setattr(Decoder, "step_traced", counted)
    found, expected = (
        engine.trace_steps(IDS, num_steps=num_steps, capture=capture)
        for engine in (
            NativeEngine(model, numerics=numerics),
            NativeEngine(model, numerics=numerics, forward=Pass),
        )
    )
    return found, expected, compiled


def assert_same(found: ForwardTrace, expected: ForwardTrace) -> None:
    assert [*found.sites] == [*expected.sites]
    assert found.sites == expected.sites
    assert found.arrays.keys() == expected.arrays.keys()
    for name, rows in expected.arrays.items():
        assert (found.arrays[name] == rows).all(), name


@pytest.mark.parametrize("isa", WITH_VECTOR_KERNELS)
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.usefixtures("num_threads")
def test_every_site_has_the_statistics_of_the_pass(
    name: str, isa: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotejar.engines.native.decoder.chosen_isa", lambda: isa)

    found, expected, compiled = trace_both(tiny(DECODERS[name]), Capture(), monkeypatch)

    assert compiled == STEPS
    assert_same(found, expected)


@pytest.mark.parametrize(
    "capture",
    [
        Capture(scopes=(Scope.LAST,)),
        Capture(scopes=(Scope.ALL,)),
        Capture(layers=frozenset({1})),
        Capture(layers=frozenset()),
        Capture(scopes=BOTH_SCOPES, array_slots=frozenset({"logits"})),
    ],
    ids=["last", "all", "layer 1", "no layer", "logits"],
)
@pytest.mark.parametrize("num_steps", [1, len(IDS)])
def test_what_is_asked_for_is_recorded(
    capture: Capture, num_steps: int, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, expected, compiled = trace_both(
        tiny(DECODERS["qwen3"]), capture, monkeypatch, num_steps=num_steps
    )

    assert compiled == num_steps
    assert_same(found, expected)


@pytest.mark.parametrize("numerics", ["q8-kvf16", "q8-kvq8"])
def test_keys_are_measured_before_a_cache_rounds_them(
    numerics: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, expected, compiled = trace_both(
        tiny(DECODERS["mistral"]), Capture(), monkeypatch, numerics=numerics
    )

    assert compiled == STEPS
    assert_same(found, expected)


def test_arrays_of_a_layer_are_left_to_the_pass(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture(array_slots=frozenset({"logits", "q"}))

    found, expected, compiled = trace_both(tiny(DECODERS["qwen3"]), capture, monkeypatch)

    assert compiled == 0
    assert_same(found, expected)


def with_byte(model: LanguageModel, part: str, change: Any) -> LanguageModel:
    name = layer_tensor(1, f"{part}.weight")
    old = model.weights[name]
    raw = old.raw.copy()
    change(raw)
    changed = BlockMatrix(
        block_type=old.block_type, rows=old.rows, columns=old.columns, raw=raw
    )
    return model.altered(weights=model.weights.replaced({name: changed}))


def flip(raw: np.ndarray) -> None:
    raw[-1] ^= 16


def break_scale(raw: np.ndarray) -> None:
    raw[:2] = np.array([np.nan], "<f2").view(np.uint8)


@pytest.mark.parametrize(
    ("part", "slot", "before"),
    [
        ("self_attn.q_proj", "q", "attn_norm"),
        ("self_attn.k_proj", "k", "q"),
        ("self_attn.v_proj", "v", "k_rope"),
        ("self_attn.o_proj", "attn_out", "attn_context"),
        ("mlp.gate_proj", "ffn_gate", "ffn_norm"),
        ("mlp.up_proj", "ffn_up", "ffn_gate"),
        ("mlp.down_proj", "ffn_out", "ffn_swiglu_inner"),
    ],
)
def test_one_changed_weight_is_seen_where_it_is(
    part: str, slot: str, before: str, tiny: Any
) -> None:
    model = tiny(DECODERS["llama, biases"])
    sound, changed = (
        NativeEngine(one, numerics="q8").trace_steps(IDS[:1], num_steps=1, capture=Capture())
        for one in (model, with_byte(model, part, flip))
    )

    differs = {name for name, record in sound.sites.items() if record != changed.sites[name]}

    assert f"layer.1.{slot}" in differs
    assert f"layer.1.{before}" not in differs
    assert not any(name.startswith("layer.0") for name in differs)


def test_a_broken_weight_is_counted(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_byte(tiny(DECODERS["qwen3"]), "mlp.up_proj", break_scale)

    found, expected, _ = trace_both(model, Capture(), monkeypatch, num_steps=len(IDS))

    assert found.sites["layer.1.ffn_up"].stats[Scope.LAST].nan_count == 1
    assert_same(found, expected)


def test_a_traced_step_leaves_what_an_untraced_one_leaves(tiny: Any) -> None:
    model = tiny(DECODERS["mistral"])
    decoder = Decoder(model)
    plain, traced = (NativeEngine(model, numerics="q8").start().cache for _ in range(2))

    for token in IDS:
        expected_1V = decoder.step([(plain, token)])
        logits_1V = decoder.step_traced(traced, token, TraceRecorder(Capture()))
        assert (logits_1V == expected_1V).all()

    state = plain.state()
    assert all((rows == state[key]).all() for key, rows in traced.state().items())


def test_steps_and_slower_passes_are_joined_in_order(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a model's decoder is there for some of the passes only."""
    taken = iter([True, True, False, True, False, False, True, True])
    monkeypatch.setattr(TraceRecorder, "takes_step", property(lambda _: next(taken)))

    found, expected, compiled = trace_both(tiny(DECODERS["qwen3"]), Capture(), monkeypatch)

    assert compiled == 5
    assert found.sites == expected.sites
