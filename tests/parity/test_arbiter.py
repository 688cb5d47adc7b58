"""The oracle as arbiter: it names the side that a fault is in, and otherwise none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.registry import parse_engine_name
from cotejar.errors import UsageError
from cotejar.faults.engine import faulty_engine
from cotejar.model.language_model import open_language_model
from cotejar.parity.arbiter import Arbitration, Further, arbitrate, join_rulings
from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.gates import noise_gates
from cotejar.parity.noise import NOISE_METRICS
from cotejar.parity.run import Request, run_parity
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, EngineInfo, Scope
from cotejar.trace.trace_file import write_trace
from cotejar.verdict import Verdict

from .test_noise import make_profile

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.parity.arbiter import Ruling
    from cotejar.parity.report import ParityReport
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import TraceMaker

IDS = (5, 6, 7, 8)
FAULTS = ("gate-up-swapped@1", "rope-theta", "block-shift@2")


def ask(reference: object, candidate: object, **settings: object) -> ParityReport:
    request = Request(reference=str(reference), candidate=str(candidate), arbiter=True)
    return run_parity(replace(request, **settings))


def ruling(report: ParityReport) -> Arbitration:
    assert report.arbitration is not None
    return report.arbitration


def record_faulty(model: Path, fault: str, folder: Path) -> str:
    name = parse_engine_name(f"native+f32:{model}")
    engine = faulty_engine(name, open_language_model(model), fault)
    write_trace(
        folder / "faulty.trace", engine.trace(IDS, capture=Capture(array_slots=EVERY_ARRAY))
    )
    return f"recorded:{folder / 'faulty.trace'}"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_side_that_a_fault_is_in_is_named(
    tiny_gguf: Path, tmp_path: Path, fault: str
) -> None:
    """Whichever side it is on; the fault is the same, and so is the first site."""
    sound, broken = f"native+f32:{tiny_gguf}", record_faulty(tiny_gguf, fault, tmp_path)

    reports: dict[Further, ParityReport] = {
        "candidate": ask(sound, sound, token_ids=IDS, fault=fault),
        "reference": ask(broken, sound),
    }

    for side, report in reports.items():
        found = ruling(report)
        assert (report.verdict, found.further) == (Verdict.FAIL, side)
        first = report.first_divergence
        assert first is not None
        at_first = found.at(first.site, first.scope)
        assert at_first is not None
        assert at_first.further == side
        honest, faulty = at_first.reference, at_first.candidate
        if side == "reference":
            honest, faulty = faulty, honest
        assert honest.rel_l2 is not None
        assert honest.limit is not None
        assert faulty.rel_l2 is not None
        assert honest.rel_l2 <= honest.limit < faulty.rel_l2
        assert found.num_beyond[0 if side == "candidate" else 1] == 0


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [("native+f32", "native+q8"), ("native+q8", "native+f32"), ("oracle", "native+q8")],
)
def test_of_two_honest_engines_neither_is_named(
    tiny_gguf: Path, reference: str, candidate: str
) -> None:
    report = ask(f"{reference}:{tiny_gguf}", f"{candidate}:{tiny_gguf}", token_ids=IDS)

    found = ruling(report)
    assert report.verdict is Verdict.PASS
    assert (found.further, found.num_beyond) == ("undecided", (0, 0))
    assert {site.further for site in found.sites} == {"undecided"}
    assert all(site.reference.verdict is Verdict.PASS for site in found.sites)


def as_engine(trace: ForwardTrace, name: str, numerics: str) -> ForwardTrace:
    return replace(trace, engine=EngineInfo(name=name, build="1", numerics=numerics))


def moved(make_trace: TraceMaker, share: float, numerics: str) -> ForwardTrace:
    """Every value off by this share, from `ffn_norm` of layer 1 on."""
    values = make_trace.values()
    names = list(values)
    late = names[names.index("layer.1.ffn_norm") :]
    return as_engine(
        make_trace(values | {n: values[n] * (1 + share) for n in late}), "native", numerics
    )


PLAN = Plan()


def ruled(
    exact: ForwardTrace, reference: ForwardTrace, candidate: ForwardTrace, plan: Plan = PLAN
) -> Ruling:
    pair = compare_traces(reference, candidate, plan)
    return arbitrate(exact, reference, candidate, plan, pair)


def rule(
    make_trace: TraceMaker, reference: ForwardTrace, candidate: ForwardTrace
) -> Arbitration:
    exact = as_engine(make_trace(), "oracle", "f64")
    found = join_rulings([ruled(exact, reference, candidate)])
    assert found is not None
    return found


def test_coarse_arithmetic_is_not_taken_for_a_fault(make_trace: TraceMaker) -> None:
    """q8 is further from exact, and may be; f32 may not be as far as it is."""
    coarse, faulty = moved(make_trace, 0.05, "q8"), moved(make_trace, -0.04, "f32")

    assert rule(make_trace, coarse, faulty).further == "candidate"
    assert rule(make_trace, faulty, coarse).further == "reference"
    site = rule(make_trace, coarse, faulty).at("layer.1.ffn_norm", Scope.ALL)
    assert site is not None
    assert (site.reference.rel_l2, site.candidate.rel_l2) == (
        pytest.approx(0.05),
        pytest.approx(0.04),
    )


def test_within_noise_of_each_other_neither_is_named(make_trace: TraceMaker) -> None:
    """What is wrong with f32 here is nothing that a comparison with q8 could have shown."""
    coarse, faulty = moved(make_trace, 0.05, "q8"), moved(make_trace, 1e-3, "f32")

    found = rule(make_trace, coarse, faulty)

    assert (found.further, found.parted) == ("undecided", ())
    assert found.num_beyond[0] == 0 < found.num_beyond[1]


@pytest.mark.parametrize(("times", "further"), [(1.9, "undecided"), (2.1, "candidate")])
def test_of_two_sides_beyond_their_noise_a_clear_lead_decides(
    make_trace: TraceMaker, times: float, further: Further
) -> None:
    reference = moved(make_trace, 1e-3, "f32")
    candidate = moved(make_trace, times * 1e-3, "f32")

    # Of the metrics the relative distances grow by `times`, and KL by its square.
    site = rule(make_trace, reference, candidate).at("layer.1.ffn_norm", Scope.ALL)

    assert site is not None
    assert (site.reference.is_beyond, site.candidate.is_beyond) == (True, True)
    assert site.further == further


def test_just_within_its_noise_a_side_is_not_named(make_trace: TraceMaker) -> None:
    exact, plain = (as_engine(make_trace(), *e) for e in (("oracle", "f64"), ("native", "f32")))
    limit = min(
        gate.limit
        for gate in noise_gates(exact, plain)
        if gate.applies_to("layer.1.ffn_norm") and gate.metric.startswith("rel_l2")
    )

    furthers = [
        rule(make_trace, plain, moved(make_trace, share, "f32")).at(
            "layer.1.ffn_norm", Scope.ALL
        )
        for share in (limit * (1 - 1e-6), limit * (1 + 1e-6))
    ]

    assert [site and site.further for site in furthers] == ["undecided", "candidate"]


def test_numerics_that_nobody_measured_leave_it_undecided(make_trace: TraceMaker) -> None:
    """Until a noise profile says what is normal for them."""
    plain, odd = moved(make_trace, 0.0, "f32"), moved(make_trace, 1e-2, "f16")
    exact = as_engine(make_trace(), "oracle", "f64")
    noises = dict.fromkeys(NOISE_METRICS, 1e-4) | {"std_ratio": 1.0001}
    profile = make_profile(exact, {"f32": noises, "f16": noises})

    found = rule(make_trace, plain, odd)
    measured = join_rulings([ruled(exact, plain, odd, Plan(noise=profile))])

    assert found.further == "undecided"
    assert {site.candidate.verdict for site in found.sites} == {None}
    assert measured is not None
    assert measured.further == "candidate"


def test_the_worst_prompt_counts(make_trace: TraceMaker) -> None:
    exact = as_engine(make_trace(), "oracle", "f64")
    sound, faulty = moved(make_trace, 0.0, "f32"), moved(make_trace, 1e-3, "f32")
    rulings = [ruled(exact, sound, side) for side in (sound, faulty, sound)]

    found = join_rulings(rulings)

    assert found is not None
    assert found.further == "candidate"
    assert join_rulings([]) is None


def test_what_is_not_finite_is_not_arbitrated(make_trace: TraceMaker) -> None:
    exact = as_engine(make_trace(), "oracle", "f64")
    broken = make_trace.with_element("layer.1.k", 1, 1, np.nan)

    # The precondition `finite` is broken: there is no site to hold against exact.
    assert join_rulings([ruled(exact, moved(make_trace, 0.0, "f32"), broken)]) is None


def test_two_traces_without_a_model_have_no_arbiter(tiny_gguf: Path, tmp_path: Path) -> None:
    trace = record_faulty(tiny_gguf, FAULTS[0], tmp_path)

    with pytest.raises(UsageError) as caught:
        ask(trace, trace)

    assert str(caught.value) == (
        "error[APR-U001]: the arbiter has no model to run\n"
        "  where     --arbiter\n"
        "  expected  the reference's weights: a model on either side\n"
        f"  found     {trace} alone\n"
        "  try       name the model that the trace is of as the other side"
    )


def test_what_may_not_be_compared_is_not_arbitrated(tiny_gguf: Path) -> None:
    report = ask(
        tiny_gguf,
        tiny_gguf,
        token_ids=IDS,
        reference_scopes=(Scope.ALL,),
        candidate_scopes=(Scope.LAST,),
    )

    assert (report.verdict, report.arbitration) == (Verdict.INCOMPARABLE, None)
