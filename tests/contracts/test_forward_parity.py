"""The seven falsification tests of contracts/apr-vs-gguf-forward-parity-v1.yaml.

Each runs on the demo model and on the .apr imported from it. Beside each stands a test that
breaks what it looks at and expects it to notice: a test that cannot fail says nothing.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from cotejar.cli.apr.group import apr
from cotejar.contracts.parity_block import read_parity_block
from cotejar.contracts.read import read_contract
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.engines.run_trace import TraceResult
from cotejar.faults.catalogue import inject_fault
from cotejar.formats.convert import import_model
from cotejar.model.inventory import EMBEDDING, LM_HEAD, layer_tensor
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.parity.compare import Plan, compare_traces
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.report.trace import trace_lines
from cotejar.trace.forward_trace import BOTH_SCOPES, EVERY_ARRAY, Capture, ForwardTrace
from cotejar.trace.site import CONTRACT_SLOTS
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.parity.compare import Comparison

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "contracts/apr-vs-gguf-forward-parity-v1.yaml"
PROMPT = "What is 2+2?"
CAPTURE = Capture(array_slots=EVERY_ARRAY)
PLAN: Plan = read_parity_block(CONTRACT).plan
BAND = Plan(gates=tuple(g for g in PLAN.gates if g.metric == "std_ratio"))
ROUNDING = Plan(gates=tuple(g for g in PLAN.gates if g.metric == "rel_l2_max"))
LAYER = 3


def run(model: LanguageModel, numerics: str = "q8") -> ForwardTrace:
    ids = model.tokenizer.encode(PROMPT)
    if numerics == "f64":
        return OracleEngine(model).trace(ids, capture=CAPTURE, prompt=PROMPT)
    return NativeEngine(model, numerics=numerics).trace(ids, capture=CAPTURE, prompt=PROMPT)


@dataclass(frozen=True)
class Pair:
    """The demo model in both formats, and what the engine that answers computes of them."""

    gguf: LanguageModel
    apr: LanguageModel
    gguf_trace: ForwardTrace
    apr_trace: ForwardTrace


@pytest.fixture(scope="session")
def pair(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    path = tmp_path_factory.mktemp("forward-parity") / "smollm2.apr"
    import_model(demo_model, path)
    gguf, apr_model = open_language_model(demo_model), open_language_model(path)
    return Pair(gguf, apr_model, run(gguf), run(apr_model))


@pytest.fixture(scope="session")
def f32_trace(pair: Pair) -> ForwardTrace:
    return run(pair.gguf, "f32")


@pytest.fixture(scope="session")
def scaled_trace(pair: Pair) -> ForwardTrace:
    """Of a model whose layer 3 has ffn_up times 3: what the contract's gate must see."""
    name = layer_tensor(LAYER, "mlp.up_proj.weight")
    matrix = pair.apr.weights[name]
    tripled = np.float32(3) * matrix.decode_rows(0, matrix.rows)
    changed = BlockMatrix(
        block_type=BlockType.F32,
        rows=matrix.rows,
        columns=matrix.columns,
        raw=tripled.reshape(-1).view(np.uint8),
    )
    return run(pair.apr.altered(weights=pair.apr.weights.replaced({name: changed})), "f32")


def named(comparison: Comparison) -> str | None:
    first = comparison.first_divergence
    return None if first is None else first.site


# --- 001: every ratio in its band --------------------------------------------------------


def test_falsify_001_every_swiglu_ratio_lies_in_its_band(pair: Pair) -> None:
    comparison = compare_traces(pair.gguf_trace, pair.apr_trace, BAND)

    ratios = {
        (s.site, s.scope): s.std_ratio
        for s in comparison.sites
        if s.site.endswith(".ffn_swiglu_inner")
    }
    layers = pair.gguf.config.num_layers
    assert len(ratios) == 2 * layers == 60
    assert all(0.5 <= ratio <= 2 for ratio in ratios.values())
    assert comparison.verdict is Verdict.PASS


def test_001_sees_one_layers_ffn_up_times_3(
    f32_trace: ForwardTrace, scaled_trace: ForwardTrace
) -> None:
    forth = compare_traces(f32_trace, scaled_trace, BAND)
    back = compare_traces(scaled_trace, f32_trace, BAND)

    assert forth.verdict is back.verdict is Verdict.FAIL
    assert named(forth) == named(back) == f"layer.{LAYER}.ffn_swiglu_inner"
    first = forth.first_divergence
    assert first is not None
    assert first.std_ratio == pytest.approx(3, rel=1e-5)


# --- 002: the same bits ------------------------------------------------------------------


def test_falsify_002_every_site_has_the_same_bits(pair: Pair) -> None:
    comparison = compare_traces(pair.gguf_trace, pair.apr_trace, PLAN)

    assert comparison.verdict is Verdict.PASS
    assert comparison.bit_identical
    layers = pair.gguf.config.num_layers
    cells = {s.site for s in comparison.sites if s.site.rpartition(".")[2] in CONTRACT_SLOTS}
    assert len(cells) == layers * len(CONTRACT_SLOTS) == 300
    assert pair.gguf_trace.model.format == "gguf"
    assert pair.apr_trace.model.format == "apr"


def test_002_sees_one_bit(pair: Pair) -> None:
    site = "layer.29.ffn_out"
    array = pair.apr_trace.arrays[site].copy()
    array.view(np.uint32)[6, 575] ^= 1
    flipped = replace(pair.apr_trace, arrays=dict(pair.apr_trace.arrays) | {site: array})

    comparison = compare_traces(pair.gguf_trace, flipped, PLAN)

    assert not comparison.bit_identical
    assert [s.site for s in comparison.sites if not s.distance.bit_identical] == [site] * 2


# --- 003: the same next token ------------------------------------------------------------


def next_token(trace: ForwardTrace) -> int:
    return int(trace.arrays["logits"][-1].argmax())


def test_falsify_003_both_files_choose_the_same_next_token(pair: Pair) -> None:
    assert pair.gguf_trace.prompt == pair.apr_trace.prompt == PROMPT
    assert next_token(pair.gguf_trace) == next_token(pair.apr_trace)


def test_003_sees_a_head_that_is_read_wrongly(pair: Pair) -> None:
    """Every layer agrees, and the head starts one row late: another token."""
    head = pair.apr.weights[EMBEDDING]
    rolled = replace(head, raw=np.roll(head.raw, len(head.raw) // head.rows))

    wrong = run(pair.apr.altered(weights=pair.apr.weights.replaced({LM_HEAD: rolled})))

    assert next_token(wrong) != next_token(pair.gguf_trace)
    assert named(compare_traces(pair.gguf_trace, wrong, PLAN)) == "logits"


# --- 004: a fault fails, and is named ----------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["gate-up-swapped@3", "key-value-swapped@17", "nibble-order@29", "block-shift@0"]
)
def test_falsify_004_a_fault_in_one_layer_fails_and_is_named(pair: Pair, fault: str) -> None:
    faulty = run(inject_fault(pair.apr, fault).model)

    comparison = compare_traces(pair.gguf_trace, faulty, PLAN)

    assert comparison.broken == []
    assert comparison.verdict is Verdict.FAIL
    layer = fault.partition("@")[2]
    assert (named(comparison) or "").startswith(f"layer.{layer}.")


# --- 005: within rounding of the exact oracle --------------------------------------------


def test_falsify_005_the_f32_engine_stays_within_rounding_of_the_oracle(
    pair: Pair, f32_trace: ForwardTrace
) -> None:
    comparison = compare_traces(run(pair.gguf, "f64"), f32_trace, ROUNDING)

    assert comparison.verdict is Verdict.PASS
    assert not comparison.bit_identical  # else it would be the oracle against itself
    assert all(s.distance.rel_l2_max < 1e-5 for s in comparison.sites)
    assert len(comparison.sites) == 2 * len(f32_trace.sites)


def test_005_sees_what_the_band_does_not(pair: Pair, f32_trace: ForwardTrace) -> None:
    """Activations in 8 bits are no float32: far outside of rounding, well inside the band."""
    rounding = compare_traces(f32_trace, pair.gguf_trace, ROUNDING)
    band = compare_traces(f32_trace, pair.gguf_trace, BAND)

    assert rounding.verdict is Verdict.FAIL
    assert band.verdict is Verdict.PASS


# --- 006: ten slots a layer --------------------------------------------------------------


def slots_printed(lines: list[str]) -> dict[str, list[str]]:
    """The labels below each layer's heading whose line has statistics."""
    printed: dict[str, list[str]] = {}
    heading = ""
    for line in lines:
        if line.startswith("Layer "):
            heading = line.split("/")[0].removeprefix("Layer").strip()
            printed[heading] = []
        elif heading and line.startswith("    ") and " n=" in line:
            printed[heading].append(line.split(":")[0].strip())
    return printed


def test_falsify_006_a_trace_prints_ten_slots_a_layer_for_both_formats(pair: Pair) -> None:
    for model in (pair.gguf, pair.apr):
        result = CliRunner().invoke(
            apr, ["trace", str(model.file.path), "--payload", "--prompt", PROMPT]
        )

        assert result.exit_code == 0
        assert slots_printed(result.stdout.splitlines()) == {
            str(layer): list(CONTRACT_SLOTS) for layer in range(model.config.num_layers)
        }


def test_006_sees_a_slot_that_was_not_captured(pair: Pair) -> None:
    sites = {n: r for n, r in pair.apr_trace.sites.items() if n != "layer.7.ffn_up"}

    trace = replace(pair.apr_trace, sites=sites)
    lines = list(trace_lines(TraceResult(trace=trace, model=pair.apr, last_logits=None)))

    printed = slots_printed(lines)
    assert printed["7"] == [slot for slot in CONTRACT_SLOTS if slot != "ffn_up"]
    assert printed["8"] == list(CONTRACT_SLOTS)


# --- 007: unequal samples ----------------------------------------------------------------


def test_falsify_007_unequal_samples_are_incomparable(pair: Pair) -> None:
    result = CliRunner().invoke(
        apr,
        [
            *["parity", str(pair.gguf.file.path), str(pair.apr.file.path)],
            *["--prompt", PROMPT, "--contract", str(CONTRACT)],
            *["--reference-scope", "all", "--candidate-scope", "last"],
        ],
    )

    assert result.exit_code == 3
    text = result.stdout
    assert "sample-count: the samples differ at 513 of 513 sites" in text  # 30 x 17 + 3
    assert "4,032 values (all) against 576 (last)" in text  # 7 x 576 and 1 x 576
    assert "10,752 values (all) and 1,536 (last) would have given a ratio of" in text
    assert "INCOMPARABLE" in text


def test_007_lets_equal_samples_through(pair: Pair) -> None:
    """The same two traces, like with like: the counts alone made them incomparable."""
    for scope in BOTH_SCOPES:
        comparison = compare_traces(
            pair.gguf_trace, pair.apr_trace, replace(PLAN, scopes=(scope,))
        )

        assert comparison.verdict is Verdict.PASS


# --- the contract's own commands ---------------------------------------------------------


def test_every_command_of_the_contract_names_a_test_that_is_there() -> None:
    contract = read_contract(CONTRACT)
    commands = [shlex.split(test.test or "") for test in contract.tests]
    assert [test.id for test in contract.tests] == [
        f"FALSIFY-APR-GGUF-PARITY-{number:03}" for number in range(1, 8)
    ]
    assert {tuple(command[:2]) for command in commands} == {("pytest", "-q")}
    wanted = [name for command in commands for name in command[2:]]

    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *wanted],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    collected = {line.partition("[")[0] for line in found.stdout.splitlines() if "::" in line}
    assert collected == set(wanted)
    assert len(wanted) == 7
