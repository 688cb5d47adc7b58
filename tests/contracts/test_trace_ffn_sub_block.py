"""Falsification tests of contracts/trace-ffn-sub-block-v1.yaml, on the demo model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.native.engine import NativeEngine
from cotejar.model.language_model import open_language_model
from cotejar.trace.forward_trace import Capture, ForwardTrace, Scope
from cotejar.trace.site import CONTRACT_SLOTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROMPT = "What is 2+2?"
SUB_FFN = ("ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner")
NUM_LAYERS, NUM_TOKENS, FFN_SIZE = 30, 7, 1536

Block = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trace(demo_model: Path) -> ForwardTrace:
    model = open_language_model(demo_model)
    capture = Capture(array_slots=frozenset(SUB_FFN))
    ids = model.tokenizer.encode(PROMPT)
    return NativeEngine(model, numerics="q8").trace(ids, capture=capture, prompt=PROMPT)


def block(trace: ForwardTrace, layer: int) -> Block:
    return {slot: trace.arrays[f"layer.{layer}.{slot}"] for slot in SUB_FFN}


def rel_l2(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of the worst token; float64."""
    error = np.linalg.norm(found.astype(np.float64) - wanted, axis=1)
    return float((error / np.linalg.norm(wanted, axis=1)).max())


def fulfils_swiglu(arrays: Mapping[str, np.ndarray]) -> bool:
    """The contract's equation, in float64 from the recorded float32 values.

    The engine rounds -x, exp, the sum, the quotient and the product once each, and its exp
    errs by up to 2 units more: below 8 * 2**-24 = 4.8e-7 of each value.
    """
    gate, up, silu_gate, inner = (arrays[slot].astype(np.float64) for slot in SUB_FFN)
    silu = gate / (1 + np.exp(-gate))
    return rel_l2(silu_gate, silu) < 1e-6 and rel_l2(inner, silu * up) < 1e-6


def test_falsify_002_every_layer_of_a_real_model_has_ten_slots_in_order(
    trace: ForwardTrace,
) -> None:
    found = [name for name in trace.sites if name.rpartition(".")[2] in CONTRACT_SLOTS]

    assert found == [f"layer.{n}.{slot}" for n in range(NUM_LAYERS) for slot in CONTRACT_SLOTS]


def test_falsify_003_the_feed_forward_slots_have_its_own_width(trace: ForwardTrace) -> None:
    for layer in range(NUM_LAYERS):
        for slot in SUB_FFN:
            stats = trace.sites[f"layer.{layer}.{slot}"].stats
            counts = {scope: found.count for scope, found in stats.items()}
            assert counts == {Scope.ALL: NUM_TOKENS * FFN_SIZE, Scope.LAST: FFN_SIZE}


def test_falsify_004_the_recorded_arrays_fulfil_swiglu(trace: ForwardTrace) -> None:
    assert all(fulfils_swiglu(block(trace, layer)) for layer in range(NUM_LAYERS))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ffn_gate", "ffn_up"),
        ("ffn_gate", "ffn_silu_gate"),
        ("ffn_silu_gate", "ffn_swiglu_inner"),
    ],
)
def test_swapped_slots_do_not_fulfil_swiglu(trace: ForwardTrace, one: str, other: str) -> None:
    arrays = block(trace, 17)

    assert not fulfils_swiglu(arrays | {one: arrays[other], other: arrays[one]})


def test_one_value_that_is_not_silu_of_its_gate_is_seen(trace: ForwardTrace) -> None:
    arrays = block(trace, 17)
    changed = arrays["ffn_silu_gate"].copy()
    row = np.abs(changed[3])
    changed[3, row.argmax()] *= 1.0001

    assert not fulfils_swiglu(arrays | {"ffn_silu_gate": changed})
