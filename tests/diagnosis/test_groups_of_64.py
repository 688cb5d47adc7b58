"""`w8a8`: the groups of both factors are repeated, and what is wrong beside them is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.arithmetic import W8A8, declared_arithmetic
from cotejar.diagnosis.diagnose import diagnose, diagnose_traces
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.request import Request
from cotejar.engines.native.forward import Pass
from cotejar.engines.registry import parse_engine_name
from cotejar.faults.engine import faulty_engine
from cotejar.kernels.products import multiply_w8a8
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.trace.trace_file import write_trace

from .conftest import TOKENS, observe, run

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models

PRODUCTS = ("q", "k", "v", "attn_out", "ffn_gate", "ffn_up", "ffn_out", "logits")


def says(trace: ForwardTrace, numerics: str) -> ForwardTrace:
    return replace(trace, engine=replace(trace.engine, numerics=numerics))


def first_cause(
    model: LanguageModel, reference: ForwardTrace, candidate: ForwardTrace
) -> tuple[str | None, str, str, str]:
    result = diagnose_traces(reference, candidate, model)
    return (result.site, result.wrong_side, result.causes[0].id, result.causes[0].title)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "Q4_K"])
def test_both_factors_are_repeated_to_the_rounding_of_sums(models: Models, name: str) -> None:
    """Blocks with and without a minimum, of floats, and of sub-blocks."""
    model = models(name)

    errors = replay_sides([observe(run(model, "w8a8"), model)])

    products = [e for e in errors if e.site.rsplit(".", 1)[-1] in PRODUCTS]
    assert len(products) == 15  # of two layers, and the head
    assert max(e.ratio for e in errors) < 1
    # A sum of a few groups; a weight in other groups would be off by some 1e-3.
    assert max(float(e.left.max()) for e in products) < 1e-6


@pytest.mark.parametrize(
    ("fault", "site", "cause"),
    [
        ("norm-eps@1", "layer.1.attn_norm", "norm-eps"),
        ("rope-theta@1", "layer.1.q_rope", "rope-theta"),
        ("gate-up-swapped@1", "layer.1.ffn_gate", "gate-up-swapped"),
        ("down-transposed@1", "layer.1.ffn_out", "weight-transposed"),
        ("tiles-as-rows@1", "layer.1.ffn_gate", "mis-tiled"),
        ("nibble-order@1", "layer.1.ffn_gate", "nibble-order"),
        ("block-scale@1", "layer.1.ffn_gate", "block-scale"),
        ("block-minimum-missing@1", "layer.1.ffn_gate", "block-offset"),
        ("codes-wrap@1", "layer.1.ffn_gate", "code-offset"),
        ("head-transposed", "logits", "weight-transposed"),
    ],
)
def test_a_fault_is_named_beside_the_rounding(
    models: Models, fault: str, site: str, cause: str
) -> None:
    """Weights that were decoded first, and blocks that were misread, fall into other groups."""
    model = models("llama")
    name = parse_engine_name(f"native+w8a8:{models.path('llama')}")
    faulty = faulty_engine(name, model, fault).trace(
        TOKENS, capture=Capture(array_slots=EVERY_ARRAY)
    )

    found = first_cause(model, run(model, "q8"), faulty)

    assert found[:3] == (site, "candidate", cause)


def test_a_row_that_steps_do_not_read_is_named(models: Models) -> None:
    model = models("llama")
    name = parse_engine_name(f"native+w8a8:{models.path('llama')}")
    capture = Capture(array_slots=EVERY_ARRAY)
    faulty = faulty_engine(name, model, "decode-written-early@1").trace_steps(
        TOKENS, num_steps=5, capture=capture
    )

    site, side, cause, _ = first_cause(model, run(model, "q8"), faulty)

    assert (site, side, cause) == ("layer.1.attn_context", "candidate", "cache-rows-lost")


@pytest.mark.parametrize(("done", "said"), [("q8", "w8a8"), ("w8a8", "q8"), ("w8a8", "f32")])
def test_a_run_that_does_what_another_numerics_says_is_not_believed(
    models: Models, done: str, said: str
) -> None:
    """Both round activations to 8 bits: the smallest difference between two of them."""
    model = models("llama")

    found = first_cause(model, run(model, "f64"), says(run(model, done), said))

    assert found == (
        "layer.0.q",
        "candidate",
        "product-numerics",
        f"the product is that of {done}, not of {said}",
    )


class HeadInGroups(Pass):
    """Also the head is multiplied in groups of 64."""

    def head(self, hidden_TD: np.ndarray) -> np.ndarray:
        return multiply_w8a8(self.model.weights.lm_head, hidden_TD)


def test_a_head_in_groups_is_named(models: Models) -> None:
    model = models("llama")

    found = first_cause(model, run(model, "f64"), run(model, "w8a8", HeadInGroups))

    assert found == (
        "logits",
        "candidate",
        "product-numerics",
        "the product is that of w8a8, not of the LM head of w8a8",
    )


def test_the_word_says_so_of_our_engine_alone(models: Models) -> None:
    """What other programs call W8A8 has one scale a row, say."""
    engine = run(models("llama"), "w8a8").engine

    assert declared_arithmetic(engine) == W8A8
    assert declared_arithmetic(replace(engine, name="stranger")) is None


def test_a_reproduction_holds_the_factors_in_their_groups(
    models: Models, tmp_path: Path
) -> None:
    model = models("llama")
    name = parse_engine_name(f"native+w8a8:{models.path('llama')}")
    capture = Capture(array_slots=EVERY_ARRAY)
    faulty = faulty_engine(name, model, "nibble-order@1").trace(TOKENS, capture=capture)
    write_trace(tmp_path / "faulty.trace", faulty)
    sides = f"oracle:{models.path('llama')}", f"recorded:{tmp_path / 'faulty.trace'}"

    diagnose(Request(reference=sides[0], candidate=sides[1], output=tmp_path / "repro"))

    data = np.load(tmp_path / "repro/data.npz")
    facts = json.loads((tmp_path / "repro/reproduction.json").read_text())
    right = run(model, "w8a8", tokens=tuple(facts["token_ids"])).arrays["layer.1.ffn_gate"]
    found = data["weight_rows"] @ data["as_multiplied"]
    assert found == pytest.approx(right[facts["token"], facts["outputs"]], rel=1e-5, abs=1e-6)
