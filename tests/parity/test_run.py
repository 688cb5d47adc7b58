"""Two sides and their prompts: models that run, and traces made before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cotejar.engines.run_trace import TraceRequest, run_trace
from cotejar.errors import (
    ContextLengthError,
    EmptyPromptError,
    MissingFileError,
    NoTokenizerError,
    TokenIdError,
    UsageError,
)
from cotejar.parity.compare import Plan
from cotejar.parity.gates import Gate
from cotejar.parity.run import Request, run_parity
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope
from cotejar.trace.trace_file import write_trace
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.parity.report import ParityReport
    from cotejar.testing.tiny_decoder import TinyArchitecture

# Float32 sums of at most 160 products of numbers near 1 err by some 160 x 2**-24 = 1e-5.
NOISE = Plan(gates=(Gate(metric="rel_l2_max", sites="all", limit=1e-5, origin="the test"),))


def parity(reference: object, candidate: object, **settings: object) -> ParityReport:
    request = Request(reference=str(reference), candidate=str(candidate))
    return run_parity(replace(request, **settings))


@pytest.fixture(scope="session")
def recorded(tiny_gguf: Path) -> str:
    """A trace of three ids on the tiny model."""
    capture = Capture(array_slots=EVERY_ARRAY)
    request = TraceRequest(source=str(tiny_gguf), token_ids=(5, 6, 7), capture=capture)
    path = tiny_gguf.with_name("three.trace")
    write_trace(path, run_trace(request).trace)
    return f"recorded:{path}"


def test_a_model_and_its_import_have_the_same_bits(tiny_gguf: Path, tiny_apr: Path) -> None:
    report = parity(tiny_gguf, tiny_apr)

    assert (report.verdict, report.bit_identical) == (Verdict.PASS, True)
    assert [c.reference.prompt for c in report.comparisons] == ["What is 2+2?"]
    assert report.comparisons[0].candidate.model.format == "apr"


@pytest.mark.parametrize(
    ("architecture", "bias"),
    [("llama", False), ("llama", True), ("mistral", False), ("qwen2", False), ("qwen3", False)],
)
def test_a_folder_and_the_gguf_made_from_it_have_the_same_bits(
    tmp_path: Path, architecture: TinyArchitecture, *, bias: bool
) -> None:
    """Though a llama's GGUF has its q and k rows, and their biases, in another order."""
    decoder = TinyDecoder(architecture=architecture, attention_bias=bias)
    folder = write_tiny_hugging_face(tmp_path / "tiny", decoder)
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", decoder)

    report = parity(f"native+f32:{folder}", f"native+f32:{gguf}")

    assert [p.id for p in report.broken] == []
    assert (report.verdict, report.bit_identical) == (Verdict.PASS, True)


def test_the_engine_stays_within_rounding_of_the_oracle(tiny_gguf: Path) -> None:
    report = parity(f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}", plan=NOISE)

    assert (report.verdict, report.bit_identical) == (Verdict.PASS, False)


@pytest.mark.parametrize("numerics", ["bf16", "w8a8"])
@pytest.mark.parametrize("fault", ["", "gate-up-swapped@1", "rope-theta", "head-row-shift"])
def test_a_numerics_of_ours_is_judged_by_the_default_gates(
    tiny_gguf: Path, numerics: str, fault: str
) -> None:
    report = parity(
        f"oracle:{tiny_gguf}", f"native+{numerics}:{tiny_gguf}", fault=fault or None
    )

    assert report.verdict is (Verdict.FAIL if fault else Verdict.PASS)


@pytest.mark.parametrize(
    "fault", ["", "gate-up-swapped@3", "nibble-order@3", "rope-pairing@3", "head-row-shift"]
)
def test_a_cache_in_float16_is_judged_by_the_default_gates(
    demo_model: Path, fault: str
) -> None:
    """Against llama.cpp, whose default it is; over blocks, for which alone it is measured."""
    pytest.importorskip("llama_cpp")
    report = parity(
        f"llamacpp+q8-kvf16:{demo_model}",
        f"native+q8-kvf16:{demo_model}",
        fault=fault or None,
    )

    assert report.verdict is (Verdict.FAIL if fault else Verdict.PASS)


@pytest.mark.parametrize("numerics", ["bf16", "w8a8"])
def test_a_numerics_against_itself_has_the_same_bits(
    tiny_gguf: Path, tiny_apr: Path, numerics: str
) -> None:
    report = parity(f"native+{numerics}:{tiny_gguf}", f"native+{numerics}:{tiny_apr}")

    assert (report.verdict, report.bit_identical) == (Verdict.PASS, True)


def test_a_fault_of_the_candidate_fails_and_is_named(tiny_gguf: Path) -> None:
    report = parity(
        f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}", plan=NOISE, fault="gate-up-swapped@1"
    )

    assert report.verdict is Verdict.FAIL
    assert report.first_divergence is not None
    assert report.first_divergence.site == "layer.1.ffn_gate"
    assert report.fault == "gate-up-swapped@1"


def test_every_prompt_is_compared(tiny_gguf: Path, tiny_apr: Path) -> None:
    steps: list[str] = []
    request = Request(
        reference=str(tiny_gguf), candidate=str(tiny_apr), prompts=("hello", "the end")
    )

    report = run_parity(request, steps.append)

    assert [c.reference.prompt for c in report.comparisons] == ["hello", "the end"]
    assert all(c.reference.token_ids == c.candidate.token_ids for c in report.comparisons)
    assert steps[:3] == [
        f"opening {tiny_gguf}",
        f"opening {tiny_apr}",
        f"running native over {len(report.comparisons[0].reference.token_ids)} tokens",
    ]


def test_the_default_prompts_can_be_others(tiny_gguf: Path) -> None:
    report = parity(tiny_gguf, tiny_gguf, default_prompts=("one", "two"))
    given = parity(tiny_gguf, tiny_gguf, default_prompts=("one", "two"), prompts=("three",))

    assert [c.reference.prompt for c in report.comparisons] == ["one", "two"]
    assert [c.reference.prompt for c in given.comparisons] == ["three"]


def test_ids_are_run_as_they_are(tiny_gguf: Path) -> None:
    (comparison,) = parity(tiny_gguf, tiny_gguf, token_ids=(1, 319)).comparisons

    assert (comparison.reference.token_ids, comparison.reference.prompt) == ((1, 319), None)


def test_another_model_is_incomparable(tiny_gguf: Path, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", TinyDecoder(num_layers=3, seed=1))

    report = parity(tiny_gguf, other)

    assert report.verdict is Verdict.INCOMPARABLE
    assert [p.id for p in report.broken] == ["weights-fingerprint"]


@pytest.mark.parametrize("recorded_side", ["reference", "candidate"])
def test_a_recorded_side_brings_its_tokens(
    tiny_apr: Path, recorded: str, recorded_side: str
) -> None:
    sides = (recorded, tiny_apr) if recorded_side == "reference" else (tiny_apr, recorded)

    report = parity(*sides, default_prompts=("unused",))

    assert (report.verdict, report.bit_identical) == (Verdict.PASS, True)
    assert report.comparisons[0].reference.token_ids == (5, 6, 7)


def test_two_recorded_sides_are_compared(recorded: str) -> None:
    assert parity(recorded, recorded).verdict is Verdict.PASS


def test_one_side_of_all_tokens_and_one_of_the_last_are_incomparable(tiny_gguf: Path) -> None:
    report = parity(
        tiny_gguf, tiny_gguf, reference_scopes=(Scope.ALL,), candidate_scopes=(Scope.LAST,)
    )

    assert report.verdict is Verdict.INCOMPARABLE
    assert [p.id for p in report.broken] == ["sample-count"]
    assert report.naive_ratio is not None


@pytest.mark.parametrize(
    ("settings", "where", "found"),
    [({"prompts": ("x", "y")}, "--prompt", "2"), ({"token_ids": (1, 2, 3)}, "--tokens", "3")],
)
def test_a_recorded_side_takes_no_other_prompt(
    tiny_gguf: Path, recorded: str, settings: dict[str, object], where: str, found: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parity(tiny_gguf, recorded, **settings)

    assert str(caught.value) == (
        "error[APR-U001]: a recorded trace has its prompt already\n"
        f"  where     {where}\n"
        "  expected  no prompt and no ids\n"
        f"  found     {found}\n"
        "  try       leave them out: the other side runs the trace's own tokens"
    )


def test_a_prompt_and_ids_together_are_refused(tiny_gguf: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parity(tiny_gguf, tiny_gguf, prompts=("x",), token_ids=(1,))

    assert str(caught.value) == (
        "error[APR-U001]: a prompt is given twice\n"
        "  where     --prompt and --tokens\n"
        "  expected  one of them\n"
        "  found     both\n"
        "  try       --tokens runs ids as they are; --prompt is tokenized by each side"
    )


def test_a_fault_cannot_be_put_into_what_was_recorded(tiny_gguf: Path, recorded: str) -> None:
    with pytest.raises(UsageError) as caught:
        parity(tiny_gguf, recorded, fault="norm-eps")

    assert str(caught.value) == (
        "error[APR-U001]: a fault cannot be injected into what was recorded before\n"
        "  where     --fault norm-eps\n"
        "  expected  a side that runs a model\n"
        f"  found     {recorded}\n"
        "  try       name the model instead of the trace"
    )


def test_what_cannot_be_run_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EmptyPromptError):
        parity(tiny_gguf, tiny_gguf, prompts=("hello", ""))
    with pytest.raises(TokenIdError):
        parity(tiny_gguf, tiny_gguf, token_ids=(320,))
    with pytest.raises(ContextLengthError):
        parity(tiny_gguf, tiny_gguf, token_ids=(1,) * 65)
    with pytest.raises(MissingFileError):
        parity(tiny_gguf, tmp_path / "none.apr")
    ids_only = write_tiny_gguf(tmp_path / "ids.gguf", TinyDecoder(tokenizer=False))
    with pytest.raises(NoTokenizerError):
        parity(ids_only, ids_only)
    assert parity(ids_only, ids_only, token_ids=(1, 2)).verdict is Verdict.PASS
