"""The falsification tests of `contracts/apr-vs-gguf-forward-parity-v1.yaml`, one each.

They run the demo model, and an `.apr` made of it here, under the contract's own block.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cotejar.cli.apr.main import apr
from cotejar.contracts.parity_block import read_parity_block
from cotejar.formats.convert import import_model
from cotejar.parity.run import Request, run_parity
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.parity.report import ParityReport

CONTRACT = Path(__file__).parents[2] / "contracts/apr-vs-gguf-forward-parity-v1.yaml"
GATE = 1e-5
NUM_SLOTS = 10


@pytest.fixture(scope="module")
def pair(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The GGUF, and the `.apr` made of it."""
    target = tmp_path_factory.mktemp("forward-parity") / "demo.apr"
    import_model(demo_model, target)
    return str(demo_model), str(target)


def compare(reference: str, candidate: str, **changes: object) -> ParityReport:
    block = read_parity_block(CONTRACT)
    request = Request(
        reference=reference, candidate=candidate, prompts=block.prompts, plan=block.plan
    )
    return run_parity(replace(request, **changes))


@pytest.fixture(scope="module")
def report(pair: tuple[str, str]) -> ParityReport:
    """The contract's comparison."""
    return compare(*pair)


def num_layers(report: ParityReport) -> int:
    (comparison,) = report.comparisons
    return comparison.reference.num_layers


def test_falsify_001_every_swiglu_ratio_lies_in_its_band(report: ParityReport) -> None:
    ratios = [s.std_ratio for s in report.sites if s.site.endswith("ffn_swiglu_inner")]

    assert len(ratios) == 2 * num_layers(report)  # scope all and scope last
    assert all(max(ratio, 1 / ratio) <= 2 for ratio in ratios)
    assert report.verdict is Verdict.PASS


def test_falsify_002_every_site_has_the_same_bits(report: ParityReport) -> None:
    cells = [s for s in report.sites if s.site.startswith("layer.")]

    assert len({s.site for s in cells}) >= NUM_SLOTS * num_layers(report)
    assert [s.site for s in cells if not s.bit_identical] == []


def test_falsify_003_both_files_choose_the_same_next_token(report: ParityReport) -> None:
    assert report.logits is not None
    # A gap of 0 between the two largest logits would make the choice a coin toss.
    assert report.logits.min_margin > 0
    assert report.logits.top1_agreement == 1.0


def test_falsify_004_a_fault_in_one_layer_fails_and_is_named(pair: tuple[str, str]) -> None:
    report = compare(*pair, fault="gate-up-swapped@3")

    assert report.verdict is Verdict.FAIL
    assert report.first_divergence is not None
    assert report.first_divergence.site == "layer.3.ffn_gate"


def test_falsify_005_the_f32_engine_stays_within_rounding_of_the_oracle(
    pair: tuple[str, str],
) -> None:
    gguf, _ = pair

    report = compare(f"oracle:{gguf}", f"native+f32:{gguf}")

    worst = max(s.rel_l2_max for s in report.sites if s.rel_l2_max is not None)
    # Not 0 either: two engines that share their arithmetic would prove nothing.
    assert 0 < worst <= GATE
    assert report.verdict is Verdict.PASS


def test_falsify_006_a_trace_prints_ten_slots_a_layer_for_both_formats(
    pair: tuple[str, str], report: ParityReport
) -> None:
    layers = num_layers(report)
    slots = read_parity_block(CONTRACT).plan.required_slots

    for file in pair:
        done = CliRunner().invoke(apr, ["trace", file, "--payload"])

        lines = re.findall(r"^    (\w+): +all n=", done.stdout, re.MULTILINE)
        assert (done.exit_code, lines) == (0, list(slots) * layers)


def test_falsify_007_unequal_samples_are_incomparable(pair: tuple[str, str]) -> None:
    sides = ["--reference-scope", "all", "--candidate-scope", "last"]

    done = CliRunner().invoke(
        apr, ["parity", "--contract", str(CONTRACT), *pair, *sides, "--json"]
    )

    facts = json.loads(done.stdout)
    assert (done.exit_code, facts["verdict"], facts["num_compared"]) == (3, "INCOMPARABLE", 0)
    (broken,) = [p for p in facts["preconditions"] if not p["holds"]]
    layers = 30
    assert (broken["id"], broken["num_checked"]) == ("sample-count", NUM_SLOTS * layers)
    # 7 tokens x 576 against 1 x 576 at the first site; the ratio is told, and not judged.
    assert "4,032 values (all) against 576 (last)" in broken["message"]
    assert facts["naive_ratio"]["std_ratio"] > 0
