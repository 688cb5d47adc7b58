"""What is asked of a diagnosis, and the two sides it is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.engines.run_trace import DEFAULT_PROMPT, require_text
from cotejar.engines.steps import choose_steps
from cotejar.errors import UsageError
from cotejar.formats.mapped_file import release_pages
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.parity.side import open_side, require_stepping
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cotejar.parity.side import Side
    from cotejar.trace.forward_trace import ForwardTrace


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of `apr diagnose`."""

    reference: str
    candidate: str
    """`[ENGINE[+numerics][@device]:]PATH`."""
    prompt: str | None = None
    token_ids: tuple[int, ...] = ()
    """Neither given: what a recorded side has, or `DEFAULT_PROMPT`."""
    fault: str | None = None
    """Injected into the candidate on purpose."""
    layers: str | None = None
    """`N`, `A..B` or several with commas: the layers to replay; None for all."""
    jobs: int = 1
    """Threads."""
    model: str | None = None
    """The model that recorded sides ran."""
    output: Path | None = None
    """Folder for the minimal reproduction."""
    decode: int | None = None
    """Tokens, the last ones, that are fed one at a time through the KV cache, by the sides
    that can; 0 for all but the first few, None for one pass over all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Traced:
    """One side with its trace, and the model it ought to compute."""

    side: Side | None
    """What can be run again; None for a trace without the engine that made it."""
    trace: ForwardTrace
    model: LanguageModel | None
    """None for a recorded side of which nobody names the model."""
    asked: tuple[int, ...] | None
    """Ids that it was given to run; None for a recorded side."""


def trace_sides(request: Request, on_progress: Callable[[str], None]) -> tuple[Traced, Traced]:
    """Open both sides and run what has to be run.

    Raises:
        UsageError: tokens given twice, or with a recorded trace.
        CotejarError: as opening and running find.
    """
    on_progress(f"opening {request.reference}")
    reference = open_side(request.reference)
    on_progress(f"opening {request.candidate}")
    sides = [
        reference,
        open_side(request.candidate, fault=request.fault, beside=reference),
    ]
    recorded = [side.recorded for side in sides if side.recorded is not None]
    _check_prompt(request, recorded)
    if request.decode is not None:
        require_stepping(sides)
    named = None if request.model is None else open_language_model(request.model)
    traced = []
    for side in sides:
        if side.recorded is not None:
            traced.append(Traced(side=None, trace=side.recorded, model=named, asked=None))
            continue
        ids, prompt = _tokens(request, side, recorded)
        on_progress(f"running {side.name.engine} over {len(ids)} tokens")
        trace = side.trace(
            ids,
            capture=Capture(array_slots=EVERY_ARRAY),
            prompt=prompt,
            num_steps=choose_steps(request.decode, len(ids)),
        )
        if side.model is not None:
            release_pages(side.model.weights.lm_head.raw)
        asked = tuple(int(i) for i in ids)
        traced.append(Traced(side=side, trace=trace, model=side.model, asked=asked))
    return traced[0], traced[1]


def _check_prompt(request: Request, recorded: Sequence[ForwardTrace]) -> None:
    given = [n for n, v in (("--prompt", request.prompt), ("--tokens", request.token_ids)) if v]
    if request.prompt is not None:
        require_text(request.prompt)
    if len(given) > 1 or (given and recorded):
        raise UsageError(
            "the tokens are given twice",
            where=" and ".join(given + (["a recorded trace"] if recorded else [])),
            expected="one of them",
            found="both",
            hint="a recorded trace has its tokens, and the other side runs them",
        )


def _tokens(
    request: Request, side: Side, recorded: Sequence[ForwardTrace]
) -> tuple[Sequence[int], str | None]:
    if recorded and recorded[0].token_ids:
        return recorded[0].token_ids, None
    if request.token_ids:
        return request.token_ids, None
    said = recorded[0].prompt if recorded else None
    prompt = request.prompt or said or DEFAULT_PROMPT
    return side.tokenize(prompt), prompt
