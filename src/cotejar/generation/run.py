"""One prompt to one answer: what `apr run` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from cotejar.engines.generating import require_generating
from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.errors import ContextLengthError, EmptyPromptError
from cotejar.generation.generate import Generation, generate
from cotejar.generation.grammar import GrammarConstraint
from cotejar.generation.sampler import Sampler
from cotejar.generation.sampling_options import SamplingOptions
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.model.weight_check import require_plausible_weights
from cotejar.tokenizer.chat import apply_chat
from cotejar.tokenizer.tokenizer import StreamDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.engines.protocol import GeneratingEngine
    from cotejar.engines.registry import EngineName


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """What is asked of `apr run`."""

    source: str
    """`[ENGINE[+numerics]:]PATH`."""
    prompt: str
    max_tokens: int = 32
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    grammar: tuple[str, str] | None = None
    """Kind and text of what the answer must keep to."""
    raw: bool = False
    """Give the prompt as it is, without the model's chat template."""
    skip_contract: bool = False
    """Do not look at the weights before running."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What came of it."""

    model: LanguageModel
    engine: EngineName
    text: str
    generation: Generation
    used_template: bool


def run_prompt(
    request: RunRequest, on_text: Callable[[str], None] = lambda _: None
) -> RunResult:
    """Generate an answer; `on_text` gets each piece as soon as it is whole.

    Raises:
        EmptyPromptError: the prompt is empty.
        UnknownEngineError: an engine that cannot generate.
        CotejarError: as opening, tokenizing and running find.
    """
    _require_prompt(request.prompt)
    name = parse_engine_name(request.source)
    require_generating(name)
    model = open_language_model(name.path)
    if not request.skip_contract:
        require_plausible_weights(model)
    prompt_ids, used_template = _encode_prompt(model, request)
    _require_room(model, len(prompt_ids), request.max_tokens)
    constraint = None
    if request.grammar is not None:
        constraint = GrammarConstraint(
            model.tokenizer, *request.grammar, model.config.vocab_size
        )
    decoder = StreamDecoder(model.tokenizer)
    pieces: list[str] = []

    def emit(text: str) -> None:
        if text:
            pieces.append(text)
            on_text(text)

    generation = generate(
        cast("GeneratingEngine", create_engine(name, model)),
        prompt_ids,
        sampler=Sampler(request.sampling, constraint=constraint),
        max_tokens=request.max_tokens,
        end_ids=model.tokenizer.eos_ids,
        on_token=lambda token: emit(decoder.push(token)),
    )
    emit(decoder.finish())
    return RunResult(
        model=model,
        engine=name,
        text="".join(pieces),
        generation=generation,
        used_template=used_template,
    )


def _require_prompt(prompt: str) -> None:
    if not prompt:
        raise EmptyPromptError(
            "the prompt is empty",
            where="prompt",
            expected="at least 1 character",
            found="0 characters",
            hint='apr run MODEL "What is 2+2?"',
        )


def _encode_prompt(model: LanguageModel, request: RunRequest) -> tuple[list[int], bool]:
    """The ids to run, and whether the model's chat template made them."""
    tokenizer = model.tokenizer
    if not request.raw and tokenizer.spec.chat_template:
        return apply_chat(tokenizer, request.prompt), True
    return tokenizer.encode(request.prompt), False


def _require_room(model: LanguageModel, num_prompt: int, max_tokens: int) -> None:
    """Before the first token streams, not in the middle of the answer."""
    context_length = model.declared.config.context_length
    # The last token is chosen and not run, so it needs no place.
    room = context_length - num_prompt + 1
    if max_tokens > room:
        raise ContextLengthError(
            "the prompt and the answer do not fit into the model's context",
            where="--max-tokens",
            expected=f"at most {context_length} tokens together",
            found=f"{num_prompt} of the prompt and up to {max_tokens} of the answer",
            hint=f"ask for at most {room}" if room > 0 else "shorten the prompt",
        )
