"""One prompt to one trace: what `apr trace --payload` does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cotejar.engines.registry import (
    create_engine,
    find_engine,
    parse_engine_name,
    stepping_engines,
)
from cotejar.engines.steps import choose_steps
from cotejar.errors import EmptyPromptError, UsageError
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.trace.recorded_trace import read_recorded_trace

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from cotejar.engines.protocol import SteppingEngine
    from cotejar.engines.registry import EngineName
    from cotejar.trace.forward_trace import Capture, ForwardTrace

DEFAULT_PROMPT = "What is 2+2?"
LOGITS = "logits"


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceRequest:
    """What is asked of `apr trace`."""

    source: str
    """`[ENGINE[+numerics]:]PATH`, or `recorded:PATH`."""
    prompt: str | None = None
    token_ids: tuple[int, ...] = ()
    """Neither given: `DEFAULT_PROMPT`."""
    capture: Capture
    decode: int | None = None
    """How many tokens to feed one at a time; see `choose_steps`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceResult:
    """The trace, with the arrays that were asked for and no others."""

    trace: ForwardTrace
    model: LanguageModel | None
    """What it came from; None for a recorded one."""
    last_logits: Float[np.ndarray, "V"] | None
    """Of the last position, whatever was captured; None for a recorded trace without them."""


def require_text(prompt: str) -> None:
    """Refuse an empty prompt, of which a tokenizer may still make a first token of its own.

    Raises:
        EmptyPromptError: the prompt is empty.
    """
    if not prompt:
        raise EmptyPromptError(
            "the prompt is empty",
            where="prompt",
            expected="at least 1 character",
            found="0 characters",
            hint="leave --prompt out for the default, or give ids with --tokens",
        )


def run_trace(request: TraceRequest) -> TraceResult:
    """Trace one prompt, or read a recorded trace.

    Raises:
        UsageError: a prompt and ids together, or either with a recorded trace.
        CotejarError: as opening, tokenizing and running find.
    """
    if request.prompt is not None and request.token_ids:
        raise UsageError(
            "a prompt is given twice",
            where="--prompt and --tokens",
            expected="one of them",
            found="both",
            hint="--tokens runs ids as they are",
        )
    name = parse_engine_name(request.source)
    if name.is_recorded:
        return _read_recorded(request, Path(name.path))
    prompt = request.prompt
    if prompt is None and not request.token_ids:
        prompt = DEFAULT_PROMPT
    if prompt is not None:
        require_text(prompt)
    model = open_language_model(name.path)
    ids = list(request.token_ids) if prompt is None else model.tokenizer.encode(prompt)
    # A reader wants the best predictions, a file only what was asked for.
    asked = request.capture
    capture = replace(asked, array_slots=asked.array_slots | {LOGITS})
    trace = _run(request, name, model, ids, capture, prompt)
    last_logits = trace.arrays[LOGITS][-1].copy()
    if LOGITS not in asked.array_slots:
        kept = {site: array for site, array in trace.arrays.items() if site != LOGITS}
        trace = replace(trace, arrays=kept)
    return TraceResult(trace=trace, model=model, last_logits=last_logits)


def _run(
    request: TraceRequest,
    name: EngineName,
    model: LanguageModel,
    ids: list[int],
    capture: Capture,
    prompt: str | None,
) -> ForwardTrace:
    steps = choose_steps(request.decode, len(ids))
    spec = find_engine(name.engine)
    if steps and not (spec and spec.steps):
        raise UsageError(
            f"the engine {name.engine} feeds all tokens at once",
            where="--decode",
            expected=f"an engine of {', '.join(stepping_engines())}",
            found=name.engine,
            hint="leave --decode out: the rows of one pass are the same",
        )
    engine = create_engine(name, model)
    if steps:
        stepping = cast("SteppingEngine", engine)
        return stepping.trace_steps(ids, num_steps=steps, capture=capture, prompt=prompt)
    return engine.trace(ids, capture=capture, prompt=prompt)


def _read_recorded(request: TraceRequest, path: Path) -> TraceResult:
    if request.prompt is not None or request.token_ids:
        raise UsageError(
            "a recorded trace has its prompt already",
            where=request.source,
            expected="no --prompt and no --tokens",
            found="one of them",
            hint="name the model to trace something else",
        )
    trace = read_recorded_trace(path)
    logits_TV = trace.arrays.get(LOGITS)
    return TraceResult(
        trace=trace, model=None, last_logits=None if logits_TV is None else logits_TV[-1]
    )
