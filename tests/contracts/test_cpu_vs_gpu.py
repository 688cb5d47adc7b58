"""Falsification tests of contracts/apr-cpu-vs-gpu-output-parity-v1.yaml.

The GPU's side is a trace that COTEJAR_GPU_TRACE names. Without one the tests of it are
skipped, which `pv falsify` calls NOT-RUN and the scoreboard BLOCKED.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.contracts.parity_block import read_parity_block
from cotejar.engines.native.engine import NativeEngine
from cotejar.model.inventory import LM_HEAD
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.parity.compare import Comparison, Plan, compare_traces
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import Capture, ForwardTrace
from cotejar.trace.site import CONTRACT_SLOTS
from cotejar.trace.trace_file import read_trace
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTRACT = Path(__file__).parents[2] / "contracts/apr-cpu-vs-gpu-output-parity-v1.yaml"
PLAN: Plan = read_parity_block(CONTRACT).plan
LOGITS = Capture(array_slots=frozenset({"logits"}))
VARIABLE = "COTEJAR_GPU_TRACE"
LEAST_TOKENS = 4


def why_no_evidence(trace: ForwardTrace) -> str | None:
    """Why a trace says nothing of a GPU; None if it does."""
    if trace.engine.device == "cpu":
        return "its device is cpu"
    if len(trace.token_ids) < LEAST_TOKENS:
        return f"it has {len(trace.token_ids)} tokens: many faults do not show on so few"
    return None


@pytest.fixture(scope="module")
def gpu_trace() -> ForwardTrace:
    path = os.environ.get(VARIABLE)
    if not path:
        pytest.skip(f"{VARIABLE} names no trace of a GPU")
    trace = read_trace(Path(path))
    reason = why_no_evidence(trace)
    assert reason is None, reason
    return trace


@pytest.fixture(scope="module")
def comparison(gpu_trace: ForwardTrace, demo_model: Path) -> Comparison:
    cpu = cpu_trace(open_language_model(demo_model), gpu_trace.token_ids)
    return compare_traces(cpu, gpu_trace, PLAN)


def cpu_trace(model: LanguageModel, ids: Sequence[int]) -> ForwardTrace:
    return NativeEngine(model, numerics="f32").trace(ids, capture=LOGITS)


def passes(comparison: Comparison, metric: str) -> bool:
    """Was the metric judged, and did it pass wherever it was?"""
    judged = [j for s in comparison.sites for j in s.judged if j.gate.metric == metric]
    return bool(judged) and all(j.passed for j in judged)


def test_falsify_001_the_gpu_chooses_the_cpus_tokens(comparison: Comparison) -> None:
    assert comparison.broken == []
    assert passes(comparison, "top1_disagreement")


def test_falsify_002_the_gpus_logits_have_the_cpus_direction(comparison: Comparison) -> None:
    assert comparison.broken == []
    assert passes(comparison, "cosine_distance")


def test_falsify_003_the_gpus_trace_fills_ten_slots_a_layer(gpu_trace: ForwardTrace) -> None:
    wanted = [f"layer.{n}.{s}" for n in range(gpu_trace.num_layers) for s in CONTRACT_SLOTS]

    assert [site for site in wanted if site not in gpu_trace.sites] == []


# --- what needs no GPU: would the tests above see the fault? -------------------------------

IDS = (5, 77, 300, 12, 9, 250)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_language_model(write_tiny_gguf(tmp_path_factory.mktemp("gpu") / "tiny.gguf"))


def on_a_gpu(trace: ForwardTrace) -> ForwardTrace:
    """The same trace, as a program on a GPU would sign it. Made up: evidence of nothing."""
    return replace(trace, engine=replace(trace.engine, name="other", device="cuda"))


def with_transposed_head(model: LanguageModel) -> LanguageModel:
    """The head's numbers read as columns x rows: what a GPU once did."""
    head = model.weights[LM_HEAD]
    values = head.decode_rows(0, head.rows)
    wrong = np.ascontiguousarray(values.reshape(head.columns, head.rows).T)
    matrix = BlockMatrix(
        block_type=BlockType.F32,
        rows=head.rows,
        columns=head.columns,
        raw=wrong.reshape(-1).view(np.uint8),
    )
    return model.altered(weights=model.weights.replaced({LM_HEAD: matrix}))


def test_the_gates_let_the_same_numbers_through(model: LanguageModel) -> None:
    cpu = cpu_trace(model, IDS)

    comparison = compare_traces(cpu, on_a_gpu(cpu), PLAN)

    assert comparison.verdict is Verdict.PASS
    assert passes(comparison, "top1_disagreement")
    assert passes(comparison, "cosine_distance")


def test_falsify_004_a_transposed_head_fails_and_is_named(model: LanguageModel) -> None:
    wrong = on_a_gpu(cpu_trace(with_transposed_head(model), IDS))

    comparison = compare_traces(cpu_trace(model, IDS), wrong, PLAN)

    assert comparison.broken == []
    assert comparison.verdict is Verdict.FAIL
    assert not passes(comparison, "top1_disagreement")
    assert not passes(comparison, "cosine_distance")
    first = comparison.first_divergence
    assert first is not None
    assert first.site == "logits"


def test_falsify_005_what_is_no_evidence_of_a_gpu_is_refused(model: LanguageModel) -> None:
    cpu = cpu_trace(model, IDS)
    short = on_a_gpu(cpu_trace(model, IDS[:3]))

    assert why_no_evidence(cpu) == "its device is cpu"
    assert why_no_evidence(short) == "it has 3 tokens: many faults do not show on so few"
    assert why_no_evidence(on_a_gpu(cpu)) is None
