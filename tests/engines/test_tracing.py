"""What every engine promises of a trace: each slot, its shape and scopes, clear refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.engines.spec import ENGINES
from cotejar.errors import ContextLengthError, EmptyPromptError, TokenIdError
from cotejar.kernels.moments import MEAN_ERROR, STD_ERROR
from cotejar.model.inventory import EMBEDDING, layer_tensor
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope
from cotejar.trace.site import CAPTURE_POINTS, OPTIONAL_SLOTS
from cotejar.trace.site import SLOTS as EVERY_SLOT
from cotejar.trace.stats import measure_stats

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.stats import ActivationStats

IDS = [5, 77, 300, 12, 9]
EVERYTHING = Capture(array_slots=EVERY_ARRAY)
# One that runs in a process of its own has these promises tested where it is tested.
NAMES = [
    f"{spec.name}+{n}" for spec in ENGINES.values() for n in spec.numerics if not spec.isolated
]


def engine_of(name: str, model: LanguageModel) -> Any:
    return create_engine(parse_engine_name(f"{name}:x"), model)


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest, tiny: Any) -> Any:
    """Every engine in every numerics, on a tiny qwen3: hidden 96, 6 heads of 32, 2 kv heads."""
    return engine_of(request.param, tiny(TinyDecoder(architecture="qwen3")))


SLOTS = [slot for slot in EVERY_SLOT if slot not in OPTIONAL_SLOTS]
WIDTHS = {
    **dict.fromkeys(SLOTS, 96),
    **dict.fromkeys(["q", "q_rope", "attn_context"], 192),
    **dict.fromkeys(["k", "k_rope", "v"], 64),
    "qkv": 320,
    **dict.fromkeys(["ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner"], 160),
}


def test_every_slot_of_every_layer_is_there_in_the_order_of_the_pass(engine: Any) -> None:
    trace = engine.trace(IDS, capture=Capture())

    assert list(trace.sites) == [
        "embed",
        *(f"layer.{layer}.{slot}" for layer in range(2) for slot in SLOTS),
        *("final_norm", "logits"),
    ]
    assert trace.num_layers == 2
    assert trace.arrays == {}


def test_every_slot_has_its_shape_scopes_counts_and_capture_point(engine: Any) -> None:
    trace = engine.trace(IDS, capture=Capture())

    widths = {"embed": 96, "final_norm": 96, "logits": 320}
    for layer in range(2):
        widths |= {f"layer.{layer}.{slot}": width for slot, width in WIDTHS.items()}
    for site, record in trace.sites.items():
        assert record.shape == (5, widths[site])
        assert record.stats[Scope.ALL].count == 5 * widths[site]
        assert record.stats[Scope.LAST].count == widths[site]
        assert record.capture_point == CAPTURE_POINTS[record.site.slot]


def test_statistics_are_those_of_the_arrays(engine: Any) -> None:
    trace = engine.trace(IDS, capture=EVERYTHING)

    assert list(trace.arrays) == list(trace.sites)
    for site, record in trace.sites.items():
        array = trace.arrays[site]
        assert (array.shape, str(array.dtype)) == (record.shape, record.dtype)
        assert same(record.stats[Scope.ALL], measure_stats(array))
        assert same(record.stats[Scope.LAST], measure_stats(array[-1]))


@pytest.mark.parametrize("block_type", [BlockType.Q8_0, BlockType.Q4_1])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_of_many_tokens_what_is_measured_on_the_way_are_the_statistics_of_the_arrays(
    tiny: Any, architecture: Any, block_type: BlockType
) -> None:
    model = tiny(TinyDecoder(architecture=architecture, block_type=block_type))
    engine = engine_of("native+q8", model)
    ids = [(7919 * at + 101) % 320 for at in range(45)]
    arrays = engine.trace(ids, capture=EVERYTHING)

    measured = engine.trace(ids, capture=Capture())

    assert list(measured.sites) == list(arrays.sites)
    for site, record in measured.sites.items():
        assert record.shape == arrays.sites[site].shape
        for scope, stats in record.stats.items():
            assert same(stats, arrays.sites[site].stats[scope]), site


def same(found: ActivationStats, expected: ActivationStats) -> bool:
    """But for a kernel's error of either: an engine may merge qkv of q, k and v."""
    rms = expected.rms
    return (
        found.row()[:6] == expected.row()[:6]
        and abs(found.mean - expected.mean) <= 2 * MEAN_ERROR * rms
        and abs(found.std - expected.std) <= 2 * STD_ERROR * rms
    )


def test_the_last_scope_has_the_same_bits_as_the_last_row_of_all(engine: Any) -> None:
    both = engine.trace(IDS, capture=EVERYTHING)
    last = engine.trace(IDS, capture=replace(EVERYTHING, scopes=(Scope.LAST,)))

    for site, array in last.arrays.items():
        assert array.tobytes() == both.arrays[site][-1:].tobytes()
        assert last.sites[site].stats == {Scope.LAST: both.sites[site].stats[Scope.LAST]}


def test_the_slots_hang_together(engine: Any) -> None:
    """What a slot's name says of its neighbours holds in the arrays themselves."""
    at = {
        name: array.astype(np.float64)
        for name, array in engine.trace(IDS, capture=EVERYTHING).arrays.items()
    }
    # Each is one operation in the engine's own arithmetic; float32's is the coarsest.
    near = {"rtol": 2.0**-20, "atol": 2.0**-20}

    np.testing.assert_allclose(
        at["layer.0.attn_residual"], at["embed"] + at["layer.0.attn_out"], **near
    )
    for layer in range(2):
        get = {slot: at[f"layer.{layer}.{slot}"] for slot in SLOTS}
        parts = [get["q"], get["k"], get["v"]]
        np.testing.assert_array_equal(get["qkv"], np.concatenate(parts, axis=1))
        gate = get["ffn_gate"]
        np.testing.assert_allclose(get["ffn_silu_gate"], gate / (1 + np.exp(-gate)), **near)
        product = get["ffn_silu_gate"] * get["ffn_up"]
        np.testing.assert_allclose(get["ffn_swiglu_inner"], product, **near)
        np.testing.assert_allclose(get["output"], get["attn_residual"] + get["ffn_out"], **near)
    np.testing.assert_allclose(
        at["layer.1.attn_residual"], at["layer.0.output"] + at["layer.1.attn_out"], **near
    )


OWN_NAMES = ["native+f32", "native+q8", "oracle+f64"]
GEMMA3 = TinyDecoder(
    architecture="gemma3", num_layers=3, sliding_window=2, sliding_window_pattern=2
)


@pytest.mark.parametrize("name", OWN_NAMES)
def test_a_gemma3_has_the_norms_behind_as_slots(tiny: Any, name: str) -> None:
    trace = engine_of(name, tiny(GEMMA3)).trace(IDS, capture=EVERYTHING)

    assert list(trace.sites) == [
        "embed",
        *(f"layer.{layer}.{slot}" for layer in range(3) for slot in EVERY_SLOT),
        *("final_norm", "logits"),
    ]
    assert all(r.capture_point == CAPTURE_POINTS[r.site.slot] for r in trace.sites.values())


@pytest.mark.parametrize("name", OWN_NAMES)
def test_the_slots_of_a_gemma3_hang_together(tiny: Any, name: str) -> None:
    model = tiny(GEMMA3)
    traced = engine_of(name, model).trace(IDS, capture=EVERYTHING).arrays
    at = {site: array.astype(np.float64) for site, array in traced.items()}
    near = {"rtol": 2.0**-20, "atol": 2.0**-18}  # the residual is 10 times the others' size

    rows = np.concatenate([model.weights[EMBEDDING].decode_rows(i, i + 1) for i in IDS])
    np.testing.assert_allclose(at["embed"], rows.astype(np.float64) * np.sqrt(96), **near)
    stream = at["embed"]
    for layer in range(3):
        get = {slot: at[f"layer.{layer}.{slot}"] for slot in EVERY_SLOT}
        np.testing.assert_allclose(get["attn_residual"], stream + get["attn_post_norm"], **near)
        stream = get["output"]
        np.testing.assert_allclose(stream, get["attn_residual"] + get["ffn_post_norm"], **near)
        for before, behind, part in (
            ("attn_out", "attn_post_norm", "post_attention_layernorm"),
            ("ffn_out", "ffn_post_norm", "post_feedforward_layernorm"),
        ):
            weight = model.weights.vector(layer_tensor(layer, f"{part}.weight"))
            size = np.sqrt(np.mean(get[before] ** 2, axis=1, keepdims=True) + 2.0**-10)
            np.testing.assert_allclose(get[behind], get[before] / size * weight, **near)
        gate = get["ffn_gate"]
        inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
        activated = 0.5 * gate * (1 + np.tanh(inner))
        np.testing.assert_allclose(get["ffn_silu_gate"], activated, **near)


def test_the_first_position_is_not_turned_and_lengths_are_kept(tiny: Any) -> None:
    """Without norms on q and k, RoPE is all that lies between `q` and `q_rope`."""
    for name in NAMES:
        at = engine_of(name, tiny()).trace([7, 7, 7], capture=EVERYTHING).arrays
        for slot in ("q", "k"):
            before = at[f"layer.0.{slot}"].astype(np.float64)
            after = at[f"layer.0.{slot}_rope"].astype(np.float64)
            np.testing.assert_allclose(after[0], before[0], rtol=2.0**-22)
            lengths = [np.linalg.norm(a.reshape(3, -1, 2, 8), axis=2) for a in (before, after)]
            np.testing.assert_allclose(lengths[1], lengths[0], rtol=2.0**-20)
            assert np.abs(after[1] - before[1]).max() > 0.1


def test_a_trace_says_who_ran_what(engine: Any) -> None:
    trace = engine.trace(list(np.array(IDS)), capture=Capture(), prompt="five tokens")

    assert (trace.engine, trace.prompt) == (engine.info, "five tokens")
    assert (trace.token_ids, trace.positions) == ((5, 77, 300, 12, 9), (0, 1, 2, 3, 4))
    assert {type(token) for token in trace.token_ids} == {int}
    assert (trace.model.format, trace.model.architecture) == ("gguf", "qwen3")
    assert trace.model.fingerprint == engine.model.fingerprint
    assert trace.model.name == engine.model.file.path.name
    assert trace.config == engine.model.config.comparable()
    assert trace.host["numpy"] == np.__version__


def test_one_token_can_be_traced(engine: Any) -> None:
    trace = engine.trace([0], capture=EVERYTHING)

    assert trace.arrays["logits"].shape == (1, 320)
    assert trace.sites["logits"].stats[Scope.ALL] == trace.sites["logits"].stats[Scope.LAST]


def test_no_token_is_refused(engine: Any) -> None:
    with pytest.raises(EmptyPromptError) as caught:
        engine.trace([], capture=Capture())

    assert str(caught.value) == (
        "error[APR-U002]: there is no token to run\n"
        "  where     prompt\n"
        "  expected  at least 1 token\n"
        "  found     0 tokens\n"
        "  try       give a text with --prompt, or ids with --tokens"
    )


@pytest.mark.parametrize("token", [-1, 320, 1 << 40])
def test_a_token_outside_the_vocabulary_is_refused(engine: Any, token: int) -> None:
    with pytest.raises(TokenIdError) as caught:
        engine.trace([3, token], capture=Capture())

    assert str(caught.value) == (
        f"error[APR-U003]: token id {token} is not in the vocabulary\n"
        "  where     token 1 of 2\n"
        "  expected  0..319\n"
        f"  found     {token}\n"
        "  try       were the ids made by another model's tokenizer?"
    )


def test_a_context_may_be_full_and_no_more(engine: Any) -> None:
    assert engine.trace([1] * 64, capture=Capture()).sites["logits"].shape == (64, 320)
    with pytest.raises(ContextLengthError) as caught:
        engine.trace([1] * 65, capture=Capture())

    assert str(caught.value) == (
        "error[APR-U004]: the text is longer than the model's context\n"
        "  where     prompt\n"
        "  expected  at most 64 tokens\n"
        "  found     65 tokens\n"
        "  try       shorten the prompt, or ask for fewer tokens"
    )


def test_a_session_counts_what_it_holds_against_the_context(tiny: Any) -> None:
    session = engine_of("native", tiny()).start()
    session.append([1] * 60)

    with pytest.raises(ContextLengthError, match="found     65 tokens"):
        session.append([1] * 5)

    assert session.num_tokens == 60
    session.append([1] * 4)
    with pytest.raises(EmptyPromptError):
        session.append([])


# --- numbers that are none --------------------------------------------------------------


def with_value(model: LanguageModel, name: str, index: int, value: float) -> LanguageModel:
    """One value of a weight replaced."""
    matrix = model.weights[name]
    values = matrix.raw.view(np.float32).copy()
    values[index] = value
    changed = replace(matrix, raw=values.view(np.uint8))
    return model.altered(weights=model.weights.replaced({name: changed}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_weight_is_counted_and_raises_nothing(
    tiny: Any, name: str, value: float
) -> None:
    """In the last token's embedding: its own sites show it from there on."""
    model = with_value(tiny(), EMBEDDING, 9 * 96 + 17, value)

    trace = engine_of(name, model).trace(IDS, capture=EVERYTHING)

    embed = trace.sites["embed"].stats
    assert embed[Scope.ALL].nan_count + embed[Scope.ALL].inf_count == 1
    assert embed[Scope.LAST].finite_count == 95
    last = trace.sites["logits"].stats[Scope.LAST]
    assert (last.nan_count, last.finite_count) == (320, 0)
    assert np.isfinite(trace.arrays["layer.0.q"][:4]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_row_breaks_its_own_output_only(tiny: Any, name: str) -> None:
    weight = layer_tensor(1, "mlp.gate_proj.weight")
    model = with_value(tiny(), weight, 33 * 96 + 5, np.nan)

    trace = engine_of(name, model).trace(IDS, capture=EVERYTHING)

    assert trace.sites["layer.1.ffn_norm"].stats[Scope.ALL].nan_count == 0
    gate = trace.arrays["layer.1.ffn_gate"]
    assert np.isnan(gate[:, 33]).all()
    assert np.isfinite(np.delete(gate, 33, axis=1)).all()
    assert trace.sites["layer.1.ffn_out"].stats[Scope.ALL].finite_count == 0


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_zero_give_zeros_and_no_nan(tiny: Any, name: str) -> None:
    model = tiny(TinyDecoder(block_type=BlockType.Q8_0))
    nothing = {
        n: replace(m, raw=np.zeros_like(m.raw))
        for n, m in model.weights.items()
        if n == EMBEDDING
    }

    trace = engine_of(name, model.altered(weights=model.weights.replaced(nothing))).trace(
        IDS, capture=Capture()
    )

    logits = trace.sites["logits"].stats[Scope.ALL]
    assert (logits.zero_count, logits.std) == (5 * 320, 0.0)
