"""Each fault is found, at the very site where it first acts, and hides from the identity."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.errors import UsageError
from cotejar.faults.catalogue import FAULTS, FIRST_NIBBLE_BYTE, inject_fault, parse_fault
from cotejar.model.inventory import layer_tensor
from cotejar.model.language_model import open_language_model
from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.gates import Gate
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel
    from cotejar.parity.compare import Comparison
    from cotejar.trace.forward_trace import ForwardTrace

    Models = Callable[[str], LanguageModel]

TOKENS = (3, 141, 59, 26, 53)
CAPTURE = Capture(array_slots=EVERY_ARRAY)
# Float32 sums of at most 512 products of numbers near 1 err by some 512 x 2**-24 = 3e-5.
NOISE = Plan(gates=(Gate(metric="rel_l2_max", sites="all", limit=3e-5, origin="the test"),))

FIRST_SITES = [
    ("rope-theta", "llama", "layer.0.q_rope"),
    ("rope-theta", "qwen2", "layer.0.q_rope"),
    # What is captured is brought to half-split order, which starts from the pairing.
    ("rope-pairing", "llama", "layer.0.q"),
    ("rope-pairing", "qwen2", "layer.0.q"),
    ("norm-eps", "llama", "layer.0.attn_norm"),
    ("missing-bias", "qwen2", "layer.0.q"),
    ("missing-bias@1", "qwen2", "layer.1.q"),
    ("gate-up-swapped", "llama", "layer.0.ffn_gate"),
    ("gate-up-swapped@2", "llama", "layer.2.ffn_gate"),
    ("key-value-swapped@1", "llama", "layer.1.k"),
    ("key-value-swapped@2", "qwen2", "layer.2.k"),
    ("nibble-order@1", "llama", "layer.1.ffn_gate"),
    ("nibble-order@2", "Q4_0", "layer.2.ffn_gate"),
    ("nibble-order@1", "Q4_K", "layer.1.ffn_gate"),
    ("block-shift", "llama", "layer.0.ffn_out"),
    ("block-shift@1", "Q8_0", "layer.1.ffn_out"),
    ("block-shift@1", "Q4_K", "layer.1.ffn_out"),
    ("block-shift@2", "qwen2", "layer.2.ffn_out"),
]


def oracle(model: LanguageModel) -> ForwardTrace:
    return OracleEngine(model).trace(TOKENS, capture=CAPTURE)


def compare(model: LanguageModel, faulty: LanguageModel) -> Comparison:
    engine = NativeEngine(faulty, numerics="f32")
    return compare_traces(oracle(model), engine.trace(TOKENS, capture=CAPTURE), NOISE)


def test_every_fault_is_put_to_the_test() -> None:
    assert {text.partition("@")[0] for text, _, _ in FIRST_SITES} == set(FAULTS)


@pytest.mark.parametrize("name", ["llama", "qwen2", "Q4_0", "Q8_0", "Q4_K"])
def test_a_model_without_a_fault_passes(model: Models, name: str) -> None:
    assert compare(model(name), model(name)).verdict is Verdict.PASS


@pytest.mark.parametrize(("fault", "name", "site"), FIRST_SITES)
def test_a_fault_is_found_where_it_first_acts(
    model: Models, fault: str, name: str, site: str
) -> None:
    comparison = compare(model(name), inject_fault(model(name), fault))

    assert comparison.broken == []  # a fault does not show in the identity
    assert comparison.verdict is Verdict.FAIL
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.site == site


def test_another_eps_fails_a_real_model_by_the_default_gates(demo_model: Path) -> None:
    """Through blocks of 8 bits too, whose noise hides it everywhere but at the first norm."""
    model = open_language_model(demo_model)
    reference = OracleEngine(model).trace(TOKENS[:2], capture=CAPTURE)

    sound, faulty = (
        compare_traces(
            reference, NativeEngine(m, numerics="q8").trace(TOKENS[:2], capture=CAPTURE)
        )
        for m in (model, inject_fault(model, "norm-eps"))
    )

    assert faulty.verdict is Verdict.FAIL
    assert faulty.first_divergence is not None
    assert faulty.first_divergence.site == "layer.0.attn_norm"
    assert sound.verdict is Verdict.PASS


@pytest.mark.parametrize(("fault", "name", "site"), FIRST_SITES)
def test_a_faulty_model_says_that_it_is_the_same(
    model: Models, fault: str, name: str, site: str
) -> None:
    sound, faulty = model(name), inject_fault(model(name), fault)

    traces = [
        NativeEngine(m, numerics="q8").trace(TOKENS[:1], capture=Capture())
        for m in (sound, faulty)
    ]

    assert traces[0].model == traces[1].model
    assert traces[0].config == traces[1].config
    assert faulty.declared is sound.declared


@pytest.mark.parametrize(("fault", "name", "site"), FIRST_SITES)
def test_the_model_that_a_fault_came_from_stays_sound(
    model: Models, fault: str, name: str, site: str
) -> None:
    before = oracle(model(name))

    inject_fault(model(name), fault)

    after = oracle(model(name))
    assert all(np.array_equal(before.arrays[n], after.arrays[n]) for n in before.arrays)


@pytest.mark.parametrize("name", ["Q4_0", "llama"])
def test_swapped_nibbles_are_the_block_with_its_halves_exchanged(
    model: Models, name: str
) -> None:
    """In Q4_0 and Q4_1 the low nibble of byte i is weight i, the high one weight i + 16."""
    tensor = layer_tensor(1, "mlp.gate_proj.weight")
    sound, faulty = model(name), inject_fault(model(name), "nibble-order@1")

    decoded = [m.weights[tensor].decode_rows(0, 4).reshape(-1, 2, 16) for m in (sound, faulty)]

    assert np.array_equal(decoded[0], decoded[1][:, ::-1])


def test_nibbles_begin_after_scales_and_high_bits() -> None:
    for block_type, first in FIRST_NIBBLE_BYTE.items():
        codes = block_type.elements_per_block // 2
        assert first + codes == block_type.bytes_per_block


def test_the_first_weight_with_4_bit_codes_is_taken(model: Models) -> None:
    """In a mixed file the gate may be of another type."""
    sound = model("Q4_0")
    name = layer_tensor(1, "mlp.gate_proj.weight")
    matrix = sound.weights[name]
    decoded = matrix.decode_rows(0, matrix.rows).view(np.uint8).reshape(-1)
    plain = BlockMatrix(
        block_type=BlockType.F32, rows=matrix.rows, columns=matrix.columns, raw=decoded
    )
    mixed = sound.altered(weights=sound.weights.replaced({name: plain}))

    comparison = compare(mixed, inject_fault(mixed, "nibble-order@1"))

    assert comparison.first_divergence is not None
    assert comparison.first_divergence.site == "layer.1.ffn_up"


def test_a_fault_acts_in_its_layer_alone(model: Models) -> None:
    sound = model("qwen2")

    faulty = inject_fault(sound, "missing-bias@2")

    changed = [n for n in sound.weights if sound.weights[n] is not faulty.weights[n]]
    assert changed == [layer_tensor(2, "self_attn.q_proj.bias")]
    assert not faulty.weights.vector(changed[0]).any()


def test_a_fault_of_the_whole_model_takes_any_layer(model: Models) -> None:
    sound = model("llama")

    assert inject_fault(sound, "norm-eps@2").config == replace(
        sound.config, rms_eps=sound.config.rms_eps * 10
    )


def test_the_layer_is_0_where_none_is_named() -> None:
    assert parse_fault("block-shift") == (FAULTS["block-shift"], 0)
    assert parse_fault("block-shift@12") == (FAULTS["block-shift"], 12)


KNOWN = (
    "rope-theta, rope-pairing, norm-eps, missing-bias, gate-up-swapped, key-value-swapped, "
    "nibble-order, block-shift"
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@1",
        "rope",
        "BLOCK-SHIFT",
        "block-shift@",
        "block-shift@-1",
        "block-shift@1.0",
        "block-shift@x",
        "block-shift@²",
        "block-shift@1@2",
    ],
)
def test_no_such_fault(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text)

    assert str(caught.value) == (
        f"error[APR-U001]: there is no fault {text!r}\n"
        "  where     --fault\n"
        f"  expected  ID or ID@LAYER with one of: {KNOWN}\n"
        f"  found     {text}\n"
        "  try       for example nibble-order@3"
    )


def test_a_number_too_long_for_a_layer_is_no_layer() -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault("block-shift@" + "9" * 5000)

    assert len(str(caught.value)) < 500


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


@pytest.mark.parametrize(
    ("fault", "name", "expected", "found"),
    [
        (
            "missing-bias",
            "llama",
            "model.layers.1.self_attn.q_proj.bias, a bias",
            "no such tensor",
        ),
        (
            "nibble-order",
            "Q8_0",
            "a feed-forward weight in layer 1 of a type with 4-bit codes",
            "Q8_0",
        ),
        (
            "nibble-order",
            "qwen2",
            "a feed-forward weight in layer 1 of a type with 4-bit codes",
            "F32",
        ),
    ],
)
def test_a_model_that_has_nothing_to_break(
    model: Models, fault: str, name: str, expected: str, found: str
) -> None:
    with pytest.raises(UsageError) as caught:
        inject_fault(model(name), f"{fault}@1")

    assert str(caught.value) == (
        "error[APR-U001]: this model has nothing that the fault could break\n"
        f"  where     --fault {fault}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       choose another fault or another layer"
    )
