"""The text and the JSON of `apr parity --generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.parity.generation import Outcome
from cotejar.parity.report import ParityReport
from cotejar.report.parity import parity_lines
from cotejar.report.tables import Column, output_width, render_table, shortened, visible
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.parity.generation import GenerationReport, PromptGeneration, Step

_COLUMNS = (
    Column("prompt"),
    Column("steps", is_number=True),
    Column("top-1 equal", is_number=True),
    Column("KL max", is_number=True),
    Column("first difference"),
    Column("margin", is_number=True),
    Column("rank", is_number=True),
    Column("outcome"),
)
PROMPT_WIDTH = 28


def generation_lines(report: GenerationReport) -> Iterator[str]:
    """A row a prompt; the texts where they part; the verdict."""
    yield visible(f"reference  {report.reference}")
    yield visible(f"candidate  {report.candidate}")
    yield f"generated  up to {report.max_tokens} tokens, greedily, teacher-forced and freely"
    yield ""
    yield from render_table(_COLUMNS, [_row(p) for p in report.prompts], output_width())
    yield ""
    for prompt in report.prompts:
        yield from _note_lines(prompt)
    if report.explained is not None and report.explained_at is not None:
        index, step = report.explained_at
        yield f"the sites of prompt {index + 1}, step {step}, each side in one pass:"
        one = ParityReport(comparisons=(report.explained,), fault=None)
        for line in parity_lines(one):
            yield f"  {line}" if line else ""
        harmful = report.prompts[index].outcome in {Outcome.DRIFT, Outcome.WRONG}
        if harmful and one.verdict is Verdict.PASS:
            yield "  in one pass the two agree: `apr diagnose --decode` looks behind the caches"
        yield ""
    yield from _verdict_lines(report)


def _row(prompt: PromptGeneration) -> list[str]:
    first, furthest = prompt.first_difference, prompt.worst_kl
    name = prompt.prompt if prompt.prompt is not None else "(ids)"
    outcome = prompt.outcome
    return [
        shortened(visible(name), PROMPT_WIDTH),
        str(len(prompt.steps)),
        f"{sum(step.is_equal for step in prompt.steps)}" if prompt.steps else "",
        f"{furthest.kl:.2e}" if furthest else "",
        "none" if first is None else f"step {first.index}",
        "" if first is None else f"{first.margin:.3f}",
        "" if first is None else str(first.rank),
        "INCOMPARABLE" if outcome is None else outcome.value,
    ]


def _note_lines(prompt: PromptGeneration) -> Iterator[str]:
    for broken in prompt.broken:
        yield visible(f"  {broken.id}: {broken.message}")
    if not prompt.gates:
        yield "  no gate is known for these numerics (give one with --contract)"
    early = prompt.parted_early
    if early is not None:
        yield f"  the candidate's free run says something else at step {early} than when forced"
    if prompt.first_difference is not None:
        yield visible(f"  reference: {prompt.reference_text[:300]}")
        yield visible(f"  candidate: {prompt.candidate_text[:300]}")


def _verdict_lines(report: GenerationReport) -> Iterator[str]:
    counts = dict.fromkeys(Outcome, 0)
    for prompt in report.prompts:
        if prompt.outcome is not None:
            counts[prompt.outcome] += 1
    shown = ", ".join(f"{n} {outcome.value}" for outcome, n in counts.items() if n)
    yield f"{report.verdict.name}  {shown or 'nothing was measured'}"
    gates = {gate for prompt in report.prompts for gate in prompt.gates}
    for gate in sorted(gates, key=lambda g: g.metric):
        yield visible(f"  {gate.metric} <= {gate.limit:.3g}: {gate.origin}")


def generation_json(report: GenerationReport) -> dict[str, Any]:
    """The same facts, and every step."""
    explained = None
    if report.explained is not None and report.explained_at is not None:
        prompt, step = report.explained_at
        one = ParityReport(comparisons=(report.explained,), fault=None)
        explained = {"prompt": prompt, "step": step, "parity": one.as_json()}
    return {
        "verdict": report.verdict.name,
        "reference": report.reference,
        "candidate": report.candidate,
        "max_tokens": report.max_tokens,
        "prompts": [_prompt_json(prompt) for prompt in report.prompts],
        "explained": explained,
    }


def _prompt_json(prompt: PromptGeneration) -> dict[str, Any]:
    first = prompt.first_difference
    return {
        "prompt": prompt.prompt,
        "prompt_tokens": list(prompt.prompt_ids),
        "outcome": None if prompt.outcome is None else prompt.outcome.value,
        "verdict": prompt.verdict.name,
        "broken": [{"id": p.id, "message": p.message} for p in prompt.broken],
        "gates": [
            {"metric": g.metric, "limit": g.limit, "origin": g.origin} for g in prompt.gates
        ],
        "first_difference": None if first is None else _step_json(first),
        "parted_early": prompt.parted_early,
        "steps": [_step_json(step) for step in prompt.steps],
        "free_tokens": list(prompt.free_ids),
        "reference_text": prompt.reference_text,
        "candidate_text": prompt.candidate_text,
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "step": step.index,
        "reference_token": step.reference_token,
        "candidate_token": step.candidate_token,
        "kl": step.kl,
        "margin": step.margin,
        "rank": step.rank,
    }
