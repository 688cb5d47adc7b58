"""A side that recorded little, beside one that was seen whole: where it parts is a finding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.diagnose import diagnose_traces
from cotejar.diagnosis.unseen_part import part_at
from cotejar.engines.native.forward import Pass
from cotejar.parity.gates import noise_gates
from cotejar.verdict import Verdict

from .conftest import observe, run
from .test_diagnose import HeadTransposed, NoRope, judge, only, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.diagnosis.result import Diagnosis
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models

LAST = ("final_norm", "logits")


class OnePlusWeight(Pass):
    """The last norm multiplies by 1 + w."""

    def norm(self, layer: int | None, part: str, values: np.ndarray) -> np.ndarray:
        normed = super().norm(layer, part, values)
        if layer is not None:
            return normed
        weight = self.model.weights.vector("model.norm.weight")
        return normed * ((1 + weight) / weight)


def part(trace: ForwardTrace, *sites: str) -> ForwardTrace:
    return only(trace, *sites)


def sides(
    models: Models, fault: Callable[..., Pass], numerics: str, *sites: str
) -> tuple[ForwardTrace, ForwardTrace]:
    """The oracle's whole run, and what is left of a faulty one."""
    model = models("llama")
    return run(model, "f64"), part(run(model, numerics, fault), *sites)


@pytest.mark.parametrize("numerics", ["f32", "q8", "bf16"])
def test_the_norm_before_which_nothing_was_recorded_is_named(
    models: Models, numerics: str
) -> None:
    right, wrong = sides(models, OnePlusWeight, numerics, *LAST)

    for result, side, other in (
        (diagnose_traces(right, wrong, models("llama")), "candidate", "reference"),
        (diagnose_traces(wrong, right, models("llama")), "reference", "candidate"),
    ):
        assert (result.verdict, result.wrong_side) == (Verdict.FAIL, side)
        assert result.site == "final_norm"
        assert result.summary == (
            f"the {side} is wrong at final_norm or before it, where nothing was recorded: the "
            f"weight is taken as 1 + w, with the {other}'s input"
        )
        assert [c.id for c in result.causes][:1] == ["norm-one-plus-weight"]
        assert result.next_step.startswith(f"capture every array of the {side}: `apr trace ")


def test_a_head_of_which_the_logits_alone_were_recorded_is_named(models: Models) -> None:
    right, wrong = sides(models, HeadTransposed, "f32", "logits")

    result = diagnose_traces(right, wrong, models("llama"))

    assert (result.verdict, result.site) == (Verdict.FAIL, "logits")
    assert [c.id for c in result.causes] == ["weight-transposed"]


def test_a_fault_far_before_what_was_recorded_has_a_side_and_no_cause(
    models: Models,
) -> None:
    right, wrong = sides(models, NoRope, "f32", "embed", "layer.0.output", *LAST)

    result = diagnose_traces(right, wrong, models("llama"))

    assert (result.verdict, result.wrong_side) == (Verdict.FAIL, "candidate")
    assert (result.site, result.causes) == ("final_norm", ())
    assert result.summary.startswith(
        "the candidate is wrong behind layer.0.output, at final_norm or between, where nothing "
        "was recorded: the reference is right from the tokens to there, and the two lie "
    )


def test_the_smallest_reproduction_is_written(models: Models, tmp_path: Path) -> None:
    _, wrong = sides(models, OnePlusWeight, "f32", *LAST)
    recorded = saved(tmp_path / "wrong.trace", wrong)

    result = judge(f"oracle:{models.path('llama')}", recorded, output=tmp_path / "repro")

    assert result.verdict is Verdict.FAIL
    assert (tmp_path / "repro" / "show.py").exists()


def scaled(trace: ForwardTrace, factor: float) -> ForwardTrace:
    hidden = np.asarray(trace.arrays["final_norm"], np.float64) * factor
    return replace(part(trace, "final_norm"), arrays={"final_norm": hidden.astype(np.float32)})


def diagnose_scaled(model: LanguageModel, numerics: str, distance: float) -> Diagnosis:
    exact = run(model, "f64")
    engine = run(model, numerics).engine
    wrong = replace(scaled(exact, 1 + distance), engine=engine)
    return diagnose_traces(exact, wrong, model)


@pytest.mark.parametrize("numerics", ["f32", "q8"])
def test_what_the_numerics_explains_is_no_finding_and_a_little_more_is(
    models: Models, numerics: str
) -> None:
    """Every token is off by exactly `distance`: 5 % within the bound, and 5 % beyond it."""
    model = models("llama")
    exact, honest = run(model, "f64"), run(model, numerics)
    wrong = replace(scaled(exact, 2.0), engine=honest.engine)
    found = part_at("final_norm", observe(wrong, model), observe(exact, model), 0.0)
    assert found is not None
    # `parity` has a gate of its own, and the larger of the two decides.
    gates = [g for g in noise_gates(exact, wrong) if g.applies_to("final_norm")]
    bound = max(found[1], *(g.limit for g in gates if g.metric == "rel_l2_max"))

    within = diagnose_scaled(model, numerics, 0.95 * bound)
    beyond = diagnose_scaled(model, numerics, 1.05 * bound)

    assert (within.verdict, within.site) == (Verdict.INCOMPARABLE, None)
    assert (beyond.verdict, beyond.site) == (Verdict.FAIL, "final_norm")


@pytest.mark.parametrize(
    ("name", "numerics"),
    [
        *(("llama", numerics) for numerics in ("f32", "q8", "bf16", "q8-kvf16")),
        *((name, numerics) for name in ("gemma3", "Q4_K") for numerics in ("q8", "bf16")),
    ],
)
def test_honest_roundings_explain_an_honest_run(
    models: Models, name: str, numerics: str
) -> None:
    """Even if `parity` had no gate: a run of this model says how far they lead."""
    model = models(name)
    exact, honest = run(model, "f64"), run(model, numerics)

    for site in ("layer.1.output", "final_norm", "logits"):
        wrong, right = observe(part(honest, site), model), observe(exact, model)

        assert part_at(site, wrong, right, 0.0) is None


@pytest.mark.parametrize("numerics", ["f32", "q8", "bf16"])
def test_an_honest_run_of_which_little_was_recorded_is_no_finding(
    models: Models, numerics: str
) -> None:
    right, honest = sides(models, Pass, numerics, *LAST)

    result = diagnose_traces(right, honest, models("llama"))

    assert (result.verdict, result.wrong_side) == (Verdict.INCOMPARABLE, "neither")


def test_of_a_side_that_was_not_seen_whole_nothing_is_said(models: Models) -> None:
    """Layer 0 of the oracle was not recorded either: nobody was right from the tokens on."""
    model = models("llama")
    right, wrong = sides(models, OnePlusWeight, "f32", *LAST)
    seen = [name for name in right.arrays if not name.startswith("layer.0.")]

    result = diagnose_traces(part(right, *seen), wrong, model)

    assert result.verdict is Verdict.INCOMPARABLE
