"""Each fault acts at the site that it names, is found there, and hides from the identity."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.engines.registry import parse_engine_name
from cotejar.errors import UsageError
from cotejar.faults.catalogue import FAULTS, find_place, inject_fault, parse_fault
from cotejar.faults.dose import Dose
from cotejar.faults.engine import faulty_engine
from cotejar.faults.fault import Extent, Fault
from cotejar.faults.weights import float_matrix
from cotejar.model.language_model import open_language_model
from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.gates import Gate
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.trace.site import parse_site
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

    Models = Callable[[str], LanguageModel]

TOKENS = (0, 141, 59, 26, 53, 7)  # the first is the tiny models' BOS
CAPTURE = Capture(array_slots=EVERY_ARRAY)
# Float32 sums of at most 512 products of numbers near 1 err by some 512 x 2**-24 = 3e-5.
NOISE = Plan(gates=(Gate(metric="rel_l2_max", sites="all", limit=3e-5, origin="the test"),))

DECODING = [fault.id for fault in FAULTS.values() if fault.only_decoding]
PREFILL = [fault for fault in FAULTS if fault not in DECODING]
LAYERED = [fault for fault in PREFILL if FAULTS[fault].extent is not Extent.OUTSIDE]
CASES = [*PREFILL, *(f"{fault}@1" for fault in LAYERED)]


def run(model: LanguageModel, fault: str, numerics: str = "f32") -> ForwardTrace:
    engine = faulty_engine(parse_engine_name(f"native+{numerics}:x"), model, fault)
    return engine.trace(TOKENS, capture=CAPTURE)


@functools.cache
def sound_run(model: LanguageModel, numerics: str = "f32") -> ForwardTrace:
    return NativeEngine(model, numerics=numerics).trace(TOKENS, capture=CAPTURE)


@functools.cache
def exact_run(model: LanguageModel) -> ForwardTrace:
    return OracleEngine(model).trace(TOKENS, capture=CAPTURE)


def site_of(model: LanguageModel, fault: str) -> str:
    name = parse_fault(fault)
    return name.fault.site(model, name.dose)


def first_difference(sound: ForwardTrace, faulty: ForwardTrace) -> str | None:
    """The first site with other bits; `tokens` where other tokens were run."""
    if sound.token_ids != faulty.token_ids:
        return "tokens"
    assert [*sound.arrays] == [*faulty.arrays]
    for site, array in sound.arrays.items():
        if not np.array_equal(array, faulty.arrays[site], equal_nan=True):
            return site
    return None


def test_there_are_the_faults_of_every_family() -> None:
    families = [fault.family for fault in FAULTS.values()]

    assert len(FAULTS) >= 40
    assert list(dict.fromkeys(families)) == [
        "tokens", "head", "norm", "projection", "rope", "cache", "decoding", "attention",
        "activation", "residual", "weights", "rounding",
    ]  # fmt: skip


@pytest.mark.parametrize("fault", CASES)
def test_a_fault_acts_at_its_site_and_at_none_before(host: Models, fault: str) -> None:
    """Bit for bit: the sites before it are computed by the same code from the same numbers."""
    model = host(fault)
    sound = sound_run(model)

    assert first_difference(sound, run(model, fault)) == site_of(model, fault)


# What goes into a product of `q8` is rounded to 8 bits in any case, and may not move again.
ROUNDED_AGAIN = {"activations-int8", "activations-f16", "activations-bf16"}


@pytest.mark.parametrize("fault", [f for f in PREFILL if f not in ROUNDED_AGAIN])
def test_it_does_so_in_the_integer_arithmetic_too(host: Models, fault: str) -> None:
    model = host(fault)
    sound = sound_run(model, "q8")

    assert first_difference(sound, run(model, fault, "q8")) == site_of(model, fault)


@pytest.mark.parametrize("fault", CASES)
def test_a_comparison_with_the_oracle_finds_it_there(host: Models, fault: str) -> None:
    model = host(fault)
    exact = exact_run(model)

    comparison = compare_traces(exact, run(model, fault), NOISE)

    assert comparison.verdict is FAULTS[parse_fault(fault).fault.id].verdict
    if comparison.verdict is Verdict.FAIL:
        assert comparison.broken == []  # a fault does not show in the identity
        assert comparison.first_divergence is not None
        assert comparison.first_divergence.site == site_of(model, fault)
    else:
        assert "token-ids" in [precondition.id for precondition in comparison.broken]


def test_another_eps_fails_a_real_model_by_the_default_gates(demo_model: Path) -> None:
    """Through blocks of 8 bits too, whose noise hides it everywhere but at the first norm."""
    model = open_language_model(demo_model)
    reference = OracleEngine(model).trace(TOKENS[:2], capture=CAPTURE)
    sides = (
        NativeEngine(model, numerics="q8"),
        faulty_engine(parse_engine_name("native+q8:x"), model, "norm-eps"),
    )

    sound, faulty = (
        compare_traces(reference, side.trace(TOKENS[:2], capture=CAPTURE)) for side in sides
    )

    assert faulty.verdict is Verdict.FAIL
    assert faulty.first_divergence is not None
    assert faulty.first_divergence.site == "layer.0.attn_norm"
    assert sound.verdict is Verdict.PASS


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_model_says_that_it_is_the_same(host: Models, fault: str) -> None:
    sound = host(fault)
    before = dict(sound.weights)

    faulty = inject_fault(sound, fault).model

    assert faulty.declared is sound.declared
    assert (faulty.name, faulty.config, faulty.fingerprint) == (
        sound.name,
        sound.config,
        sound.fingerprint,
    )
    assert {n: m is before[n] for n, m in sound.weights.items()} == dict.fromkeys(before, True)


ONE_LAYER = [fault.id for fault in FAULTS.values() if fault.is_of_bytes]
ONE_LAYER = [fault for fault in ONE_LAYER if FAULTS[fault].extent is Extent.ONE_LAYER]


@pytest.mark.parametrize("fault", ONE_LAYER)
def test_a_fault_of_one_layer_leaves_the_others_weights(host: Models, fault: str) -> None:
    sound = host(f"{fault}@1")

    faulty = inject_fault(sound, f"{fault}@1").model

    changed = [n for n in sound.weights if sound.weights[n] is not faulty.weights[n]]
    layers = {name.split(".")[2] for name in changed}
    assert layers == ({"1", "2"} if fault == "layers-swapped" else {"1"})


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_the_guilty_sites_are_sites_and_the_first_is_its_own(
    host: Models, fault: Fault
) -> None:
    model, dose = host(fault.id), parse_fault(fault.id).dose

    sites = fault.guilty_sites(model, dose)

    assert sites[0] == fault.site(model, dose)
    assert [str(parse_site(site)) for site in sites if site != "tokens"] == [
        site for site in sites if site != "tokens"
    ]


@pytest.mark.parametrize(
    "fault",
    [
        "rope-theta*1", "rope-scaling*1", "rope-offset*0", "rope-query-offset*0", "norm-eps*1",
        "cache-shifted*0", "cache-keys-shifted*0", "extra-bias*0", "residual-scaled*1",
        "logit-scale*1",
    ],
)  # fmt: skip
def test_a_strength_of_no_effect_gives_the_sound_bits(host: Models, fault: str) -> None:
    model = host(fault)
    sound = sound_run(model)

    assert first_difference(sound, run(model, fault)) is None


@pytest.mark.parametrize(
    "fault",
    ["attention-scale*1", "attention-softcap*1e6", "window-extra*6", "window-off-by-one*0"],
)
def test_plain_attention_is_the_engines_where_nothing_is_wrong_with_it(
    host: Models, fault: str
) -> None:
    model = host(fault)
    exact = exact_run(model)

    assert compare_traces(exact, run(model, fault), NOISE).verdict is Verdict.PASS


def test_a_greater_strength_does_more(host: Models) -> None:
    model = host("norm-eps")
    sound = sound_run(model)

    errors = [
        float(
            np.abs(run(model, f"norm-eps*{n}").arrays["logits"] - sound.arrays["logits"]).max()
        )
        for n in (2, 20, 200)
    ]

    assert errors[0] < errors[1] < errors[2]


# --- names --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "layer", "strength"),
    [
        ("rope-theta", None, 0.1),
        ("rope-theta@12", 12, 0.1),
        ("rope-theta*0.5", None, 0.5),
        ("rope-theta@0*5e-1", 0, 0.5),
        ("block-shift", 0, 1.0),
        ("block-shift@12", 12, 1.0),
        ("rope-offset*-2", None, -2.0),
        ("head-transposed", None, 1.0),
    ],
)
def test_a_fault_is_named_with_layer_and_strength(
    text: str, layer: int | None, strength: float
) -> None:
    name = parse_fault(text)

    assert name.dose == Dose(layer=layer, strength=strength)
    assert parse_fault(str(name)) == name


@pytest.mark.parametrize("fault", FAULTS)
def test_every_id_is_read_back_from_its_own_name(fault: str) -> None:
    name = parse_fault(fault)

    assert name.fault is FAULTS[fault]
    assert parse_fault(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "", "@1", "*2", "rope", "BLOCK-SHIFT", "block-shift@", "block-shift@-1",
        "block-shift@1.0", "block-shift@x", "block-shift@²", "block-shift@1@2",
        "rope-theta*", "rope-theta*1*2", "rope-theta*1@2",
    ],
)  # fmt: skip
def test_no_such_fault(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text)

    parts = caught.value.parts
    assert caught.value.problem == f"there is no fault {text!r}"
    assert (parts["where"], parts["found"]) == ("--fault", text)
    assert parts["expected"] == f"ID[@LAYER][*STRENGTH], with one of {len(FAULTS)} ids"


def test_a_near_miss_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault("nibble-ordr@3")

    assert str(caught.value) == (
        "error[APR-U001]: there is no fault 'nibble-ordr@3'\n"
        "  where     --fault\n"
        f"  expected  ID[@LAYER][*STRENGTH], with one of {len(FAULTS)} ids\n"
        "  found     nibble-ordr@3\n"
        "  try       did you mean nibble-order? `apr faults` lists them; for example "
        "nibble-order@3"
    )


@pytest.mark.parametrize("text", ["block-shift@" + "9" * 5000, "rope-theta*" + "9" * 5000])
def test_a_number_too_long_is_no_number(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text)

    assert len(str(caught.value)) < 500


def test_a_fault_outside_the_layers_takes_no_layer() -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault("head-transposed@1")

    assert str(caught.value) == (
        "error[APR-U001]: head-transposed acts in no layer\n"
        "  where     --fault head-transposed@1\n"
        "  expected  head-transposed, which acts at logits\n"
        "  found     @1\n"
        "  try       leave the layer out"
    )


def test_a_fault_without_a_strength_takes_none() -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault("block-shift@1*2")

    assert str(caught.value) == (
        "error[APR-U001]: block-shift has no strength\n"
        "  where     --fault block-shift@1*2\n"
        "  expected  block-shift, with @LAYER or without\n"
        "  found     *2\n"
        "  try       `apr faults` says which faults have one, and what it means"
    )


@pytest.mark.parametrize("strength", ["nan", "inf", "x", "0", "1e99", "-1"])
def test_a_strength_outside_its_range(strength: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(f"rope-theta*{strength}")

    assert str(caught.value) == (
        "error[APR-U001]: rope-theta cannot be so strong\n"
        f"  where     --fault rope-theta*{strength}\n"
        "  expected  a number in 1e-06..1e+06: factor on theta\n"
        f"  found     {strength}\n"
        "  try       without a strength it is 0.1"
    )


def test_half_a_position_is_none() -> None:
    with pytest.raises(UsageError, match="a whole number in"):
        parse_fault("rope-offset*0.5")


def test_no_such_layer(model: Models) -> None:
    with pytest.raises(UsageError) as caught:
        inject_fault(model("llama"), "block-shift@3")

    assert str(caught.value) == (
        "error[APR-U001]: there is no layer 3\n"
        "  where     --fault block-shift@3\n"
        "  expected  0..2\n"
        "  found     3\n"
        "  try       layers count from 0"
    )


# --- nothing to break ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "name", "expected", "found"),
    [
        ("missing-bias@1", "llama", "a tensor self_attn.q_proj.bias", "no such tensor"),
        ("missing-output-bias", "qwen2", "a tensor self_attn.o_proj.bias", "no such tensor"),
        ("nibble-order@1", "Q8_0", "a weight in the layer of a type with 4-bit codes", "Q8_0"),
        ("nibble-sign", "qwen2", "a weight in the layer of a type with 4-bit codes", "F32"),
        ("block-minimum-missing", "Q8_0", "a weight in the layer of a type with minimums",
         "Q8_0"),
        ("sub-scale-bits", "llama", "a weight in the layer of type Q4_K or Q5_K", "Q4_1"),
        ("block-scale", "qwen2", "a weight in the layer of a type with blocks", "F32"),
        ("window-missing", "llama", "a sliding window in the layer", "none"),
        ("window-extra", "mistral", "no sliding window in the layer", "a window of 4"),
        ("qk-norm-missing", "llama", "a norm on q and k", "none"),
        ("head-tied", "qwen2", "an LM head of its own", "a head that is the embedding table"),
        ("rope-scaling-missing", "llama", "RoPE frequency divisors", "none"),
        ("rope-local-missing", "mistral", "a RoPE of the layer's own", "none"),
        ("layers-swapped@2", "llama", "a layer after it", "layer 2 is the last"),
        ("gelu-tanh", "gemma3", "SiLU as activation", "gelu_tanh"),
        ("silu", "llama", "GELU (tanh) as activation", "silu"),
        ("embedding-scale-missing", "llama", "an embedding scale", "none"),
        ("logit-softcap-missing", "llama", "capped logits", "none"),
        ("attn-post-norm-missing", "llama", "norms before the residual", "none"),
        ("bos-missing", "llama", "a tokenizer that begins a text with BOS", "none"),
    ],
)  # fmt: skip
def test_a_model_that_has_nothing_to_break(
    model: Models, fault: str, name: str, expected: str, found: str
) -> None:
    with pytest.raises(UsageError) as caught:
        inject_fault(model(name), fault)

    assert str(caught.value) == (
        "error[APR-U001]: this model has nothing that the fault could break\n"
        f"  where     --fault {fault}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       choose another fault or another layer"
    )


def test_a_fault_finds_the_layer_that_it_can_be_in(model: Models) -> None:
    """A gate of floats in layer 0, of 4-bit codes behind it; and no layer after the last."""
    sound = model("Q4_0")
    plain = {
        name: float_matrix(matrix.decode_rows(0, matrix.rows))
        for name, matrix in sound.weights.items()
        if name.startswith("model.layers.0.") and matrix.rows > 1
    }
    mixed = sound.altered(weights=sound.weights.replaced(plain))

    def place(fault: str) -> str | None:
        found = find_place(mixed, parse_fault(fault))
        return None if found is None else str(found)

    assert place("nibble-order") == "nibble-order@1"
    assert place("nibble-order@2") == "nibble-order@2"
    assert place("layers-swapped@2") == "layers-swapped@0"
    assert place("rope-theta*0.5") == "rope-theta*0.5"
    assert place("head-transposed") == "head-transposed"
    assert place("missing-bias") is None


def test_a_bos_that_is_not_there_cannot_be_left_out(model: Models) -> None:
    engine = faulty_engine(parse_engine_name("native+f32:x"), model("bos"), "bos-missing")

    with pytest.raises(UsageError) as caught:
        engine.trace((7, 8), capture=CAPTURE)

    assert str(caught.value) == (
        "error[APR-U001]: this model has nothing that the fault could break\n"
        "  where     --fault bos-missing\n"
        "  expected  ids that begin with the model's BOS\n"
        "  found     token 7 first\n"
        "  try       choose another fault or another layer"
    )


# --- engines ------------------------------------------------------------------------


def test_the_oracle_computes_with_altered_weights(model: Models) -> None:
    engine = faulty_engine(parse_engine_name("oracle:x"), model("llama"), "block-shift@1")
    sound = OracleEngine(model("llama")).trace(TOKENS, capture=CAPTURE)

    assert first_difference(sound, engine.trace(TOKENS, capture=CAPTURE)) == "layer.1.ffn_out"
    assert engine.info == sound.engine


@pytest.mark.parametrize("fault", ["bos-extra", "token-wrong", "attention-scale*2", "relu@1"])
def test_a_session_is_as_wrong_as_a_trace(host: Models, fault: str) -> None:
    """The logits after the prompt, token by token of the answer over a KV cache."""
    engine = faulty_engine(parse_engine_name("native+f32:x"), host(fault), fault)
    session = engine.start()

    first, second = session.append(TOKENS), session.append([5])

    assert np.array_equal(first, engine.trace(TOKENS, capture=CAPTURE).arrays["logits"][-1])
    assert second.shape == first.shape
    assert session.num_tokens == len(TOKENS) + (2 if fault == "bos-extra" else 1)


@pytest.mark.parametrize("fault", [*DECODING, *(f"{fault}@1" for fault in DECODING)])
def test_a_fault_of_decoding_acts_behind_the_cache_and_not_before(
    host: Models, fault: str
) -> None:
    model = host(fault)
    engine = faulty_engine(parse_engine_name("native+f32:x"), model, fault)
    sessions = [engine.start(), NativeEngine(model, numerics="f32").start()]

    prompts = [session.append(TOKENS) for session in sessions]
    steps = [session.append([5]) for session in sessions]

    assert np.array_equal(*prompts)
    least = 0 if FAULTS[fault.partition("@")[0]].in_doubt else 1e-3
    assert np.abs(steps[0] - steps[1]).max() > least
    assert first_difference(sound_run(model), run(model, fault)) is None


@pytest.mark.parametrize(
    ("engine", "fault", "expected"),
    [
        ("oracle", "rope-theta", "native, whose operations can be exchanged"),
        ("llamacpp", "rope-theta", "native, whose operations can be exchanged"),
        ("llamacpp", "block-shift", "one that runs in this process: native, oracle"),
    ],
)
def test_an_engine_that_would_not_see_the_fault_is_refused(
    model: Models, engine: str, fault: str, expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        faulty_engine(parse_engine_name(f"{engine}:tiny.gguf"), model("llama"), fault)

    assert str(caught.value) == (
        f"error[APR-U001]: a fault cannot be injected into {engine}\n"
        f"  where     --fault {fault}\n"
        f"  expected  {expected}\n"
        f"  found     {engine}:tiny.gguf\n"
        "  try       name the side native:PATH, or write a faulty GGUF: `apr faults --help`"
    )
