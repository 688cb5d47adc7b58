"""Decoding is judged step by step: a tie that falls is harmless, a clear lead lost is not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines.native.engine import NativeEngine, NativeSession
from cotejar.errors import ContextLengthError, UsageError
from cotejar.parity.compare import Plan
from cotejar.parity.gates import Gate
from cotejar.parity.generation import (
    GenerationReport,
    GenerationRequest,
    Outcome,
    PromptGeneration,
    Step,
    run_generation,
)
from cotejar.parity.preconditions import Precondition
from cotejar.report.generation import generation_json, generation_lines
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

IDS = (3, 1, 4, 1, 5)
LOOSE = Plan(
    gates=(
        Gate(metric="kl_max", sites="logits", limit=0.5, origin="a test"),
        Gate(metric="top1_flip_margin", sites="logits", limit=0.2, origin="a test"),
    )
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("m") / "tiny.gguf")


def run(reference: object, candidate: object, **more: Any) -> GenerationReport:
    settings = {"max_tokens": 12, "token_ids": IDS, "plan": Plan()} | more
    request = GenerationRequest(reference=str(reference), candidate=str(candidate), **settings)
    return run_generation(request)


def step(index: int, **more: Any) -> Step:
    facts = {"reference_token": 1, "candidate_token": 1, "kl": 0.0, "margin": 9.0, "rank": 0}
    return Step(index=index, **(facts | more))


def judged(*steps: Step, **more: Any) -> PromptGeneration:
    facts = {
        "prompt": "x",
        "prompt_ids": IDS,
        "preconditions": (),
        "gates": LOOSE.gates,
        "steps": steps,
        "free_ids": tuple(s.candidate_token for s in steps),
        "reference_text": "",
        "candidate_text": "",
    }
    return PromptGeneration(**(facts | more))


FLIP = {"candidate_token": 2, "rank": 1}


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([step(0), step(1)], Outcome.MATCH),
        ([step(0), step(1, kl=0.5)], Outcome.MATCH),
        ([step(0), step(1, kl=0.51)], Outcome.DRIFT),
        ([step(0), step(1, kl=math.nan)], Outcome.DRIFT),
        ([step(0), step(1, margin=0.2, **FLIP)], Outcome.TIE_FLIP),
        ([step(0), step(1, margin=0.2, kl=0.6, **FLIP)], Outcome.DRIFT),
        ([step(0), step(1, margin=0.21, **FLIP)], Outcome.WRONG),
        ([step(0), step(1, margin=math.nan, **FLIP)], Outcome.WRONG),
        ([], None),
    ],
)
def test_each_outcome_has_its_edge(steps: list[Step], outcome: Outcome | None) -> None:
    assert judged(*steps).outcome is outcome


def test_a_flip_after_the_first_does_not_count() -> None:
    later = step(1, margin=5.0, **FLIP)

    assert judged(step(0, margin=0.1, **FLIP), later).outcome is Outcome.TIE_FLIP


def test_a_free_run_that_says_something_else_than_when_forced_is_wrong() -> None:
    found = judged(step(0), step(1), free_ids=(1, 7))

    assert found.parted_early == 1
    assert found.outcome is Outcome.WRONG


def test_after_the_first_difference_a_free_run_may_say_what_it_likes() -> None:
    found = judged(step(0, margin=0.1, **FLIP), step(1), free_ids=(2, 9))

    assert found.parted_early is None
    assert found.outcome is Outcome.TIE_FLIP


@pytest.mark.parametrize("gates", [(), LOOSE.gates[:1], LOOSE.gates[1:]])
def test_without_both_gates_nothing_passes(gates: tuple[Gate, ...]) -> None:
    found = judged(step(0), gates=gates)

    assert found.outcome is None
    assert found.verdict is Verdict.INCOMPARABLE


def test_a_broken_precondition_is_no_pass() -> None:
    broken = Precondition(id="token-ids", num_checked=1, num_broken=1, message="other tokens")

    assert judged(step(0), preconditions=(broken,)).verdict is Verdict.INCOMPARABLE


def test_a_model_matches_itself_exactly(model: Path) -> None:
    report = run(model, model)

    prompt = report.prompts[0]
    assert report.verdict is Verdict.PASS
    assert prompt.outcome is Outcome.MATCH
    assert len(prompt.steps) == 12
    assert {gate.limit for gate in prompt.gates} == {0.0}, "the same engine: the same bits"
    assert prompt.free_ids == tuple(s.reference_token for s in prompt.steps)


def test_the_steps_are_those_of_each_engines_own_decoding(model: Path) -> None:
    from cotejar.model.language_model import open_language_model

    report = run(model, f"native+f32:{model}")

    opened = open_language_model(model)
    ids, rows = list(IDS), []
    for found in report.prompts[0].steps:
        pair = [
            NativeEngine(opened, numerics=numerics).start().append(ids)
            for numerics in ("q8", "f32")
        ]
        rows.append(pair)
        assert found.reference_token == pair[0].argmax()
        assert found.candidate_token == pair[1].argmax()
        assert found.rank == (pair[1] > pair[1][found.reference_token]).sum()
        ids.append(found.reference_token)
    assert rows


def test_a_cache_that_slips_is_wrong_in_decoding_though_one_pass_agrees(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The founding reason for this comparison: a forward pass that agrees proves no text."""
    sessions: list[NativeSession] = []
    start, append = NativeEngine.start, NativeSession.append

    def remember(self: NativeEngine) -> NativeSession:
        sessions.append(start(self))
        return sessions[-1]

    def slipping(self: NativeSession, token_ids: list[int]) -> np.ndarray:
        logits_V = append(self, token_ids)
        if self is not sessions[0] and self.num_tokens == len(IDS) + 2:
            self.cache.truncate(
                self.num_tokens - 1
            )  # the next token takes the last one's place
        return logits_V

    monkeypatch.setattr(NativeEngine, "start", remember)
    monkeypatch.setattr(NativeSession, "append", slipping)

    report = run(model, model, explain=True)

    prompt = report.prompts[0]
    assert report.verdict is Verdict.FAIL
    assert prompt.outcome in {Outcome.DRIFT, Outcome.WRONG}
    assert all(s.kl == 0 for s in prompt.steps[:3])
    assert any(s.kl > 0 for s in prompt.steps[3:])
    assert report.explained is not None
    assert report.explained.verdict is Verdict.PASS
    lines = "\n".join(generation_lines(report))
    assert "in one pass the two agree: `apr diagnose --decode` looks behind the caches" in lines


def test_the_sites_of_a_bad_step_name_the_fault(model: Path) -> None:
    report = run(model, model, fault="rope-theta@0", explain=True)

    assert report.verdict is Verdict.FAIL
    assert report.explained is not None
    first = report.explained.first_divergence
    assert first is not None
    assert first.site.startswith("layer.0.q_rope")


def test_other_tokens_are_not_compared(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotejar.parity.side import Side

    other = tmp_path / "other.gguf"
    other.write_bytes(model.read_bytes())
    monkeypatch.setattr(
        Side, "tokenize", lambda self, _: [1, 2] if "other" in self.name.path else [1, 3]
    )

    report = run(model, other, token_ids=(), prompts=("a",))

    assert report.verdict is Verdict.INCOMPARABLE
    assert [p.id for p in report.prompts[0].broken] == ["token-ids"]
    assert report.prompts[0].steps == ()


def test_chat_puts_the_prompt_through_the_template(demo_model: Path) -> None:
    report = run(demo_model, demo_model, token_ids=(), prompts=("Hi",), chat=True, max_tokens=2)

    from cotejar.model.language_model import open_language_model
    from cotejar.tokenizer.chat import apply_chat

    ids = apply_chat(open_language_model(demo_model).tokenizer, "Hi")
    assert report.prompts[0].prompt_ids == tuple(ids)


def test_at_the_end_of_the_context_the_comparison_ends_and_judges_what_it_has(
    model: Path,
) -> None:
    (prompt,) = run(model, model, token_ids=IDS * 12, max_tokens=20).prompts  # 60 of 64

    # The last token is chosen and not run, so it needs no place.
    assert [s.index for s in prompt.steps] == [0, 1, 2, 3, 4]
    assert len(prompt.free_ids) == 5
    assert prompt.outcome is Outcome.MATCH


def test_a_prompt_that_does_not_fit_is_refused(model: Path) -> None:
    with pytest.raises(ContextLengthError):
        run(model, f"native+f32:{model}", token_ids=IDS * 13)


def test_a_side_that_only_traces_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="oracle cannot continue a text"):
        run(model, f"oracle:{model}")


def test_no_token_is_nothing_to_generate(model: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing to generate"):
        run(model, model, max_tokens=0)


def test_the_json_has_every_step(model: Path) -> None:
    facts = generation_json(run(model, f"native+f32:{model}"))

    assert facts["verdict"] in {"PASS", "FAIL", "INCOMPARABLE"}
    steps = facts["prompts"][0]["steps"]
    assert [s["step"] for s in steps] == list(range(12))
    assert set(steps[0]) == {
        "step",
        "reference_token",
        "candidate_token",
        "kl",
        "margin",
        "rank",
    }


def test_a_harmless_flip_is_shown_with_its_margin(demo_model: Path) -> None:
    report = run(
        demo_model,
        f"native+f32:{demo_model}",
        token_ids=(),
        prompts=("The capital of France is",),
        max_tokens=8,
    )

    text = "\n".join(generation_lines(report))
    assert report.prompts[0].outcome in {Outcome.MATCH, Outcome.TIE_FLIP}
    assert "the noise of q8" in text
