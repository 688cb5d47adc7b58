"""A conversation: history, the model's template, a cache that keeps what was said.

Every turn renders the whole history anew, since a template may write a turn otherwise once
another follows it; what the cache has of that text already is not run again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import ContextLengthError
from cotejar.generation.finite import require_finite
from cotejar.generation.sampler import Sampler
from cotejar.generation.text_stream import TextStream
from cotejar.tokenizer.chat import encode_chat

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.engines.native.engine import NativeEngine
    from cotejar.generation.sampling_options import SamplingOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What one turn gave."""

    text: str
    num_prompt: int
    """Tokens of the whole conversation before the reply."""
    num_reused: int
    """Of those, kept from the turn before."""
    num_tokens: int
    first_token_s: float
    """From the question to the first token."""
    seconds: float
    """From the first token to the last."""
    interrupted: bool = False

    @property
    def tokens_per_s(self) -> float:
        """Of the reply, after its first token."""
        later = self.num_tokens - 1
        return later / self.seconds if later > 0 and self.seconds > 0 else 0.0


class ChatSession:
    """One conversation with one model."""

    def __init__(
        self,
        engine: NativeEngine,
        sampling: SamplingOptions,
        *,
        max_tokens: int,
        system: str | None = None,
    ) -> None:
        self._engine = engine
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._system = system
        self._session = engine.start()
        self.messages: list[dict[str, object]] = []
        self.clear()

    def clear(self) -> None:
        """Forget the conversation; the system message stays."""
        self._sampler = Sampler(self._sampling)
        self.messages = []
        if self._system is not None:
            self.messages.append({"role": "system", "content": self._system})

    def ask(self, text: str, on_text: Callable[[str], None]) -> Reply:
        """Say something and stream the reply.

        Ctrl-C ends the reply, not the conversation: what came so far is kept.

        Raises:
            ContextLengthError: the conversation has become too long; it is left as it was.
            ChatTemplateError, TokenizerError, ModelError: as these find; likewise.
        """
        tokenizer = self._engine.model.tokenizer
        asked: list[dict[str, object]] = [*self.messages, {"role": "user", "content": text}]
        prompt_ids = encode_chat(tokenizer, asked)
        self._require_room(len(prompt_ids))
        reused = self._session.keep_common_prefix(prompt_ids)
        stream, pieces, interrupted = TextStream(tokenizer), list[str](), False
        start, first, made = time.perf_counter(), 0.0, list[int]()
        try:
            logits_V = self._session.append(prompt_ids[reused:])
            while True:
                require_finite(logits_V)
                token = self._sampler.choose(logits_V, self._session.token_ids)
                first = first or time.perf_counter() - start
                if token in tokenizer.eos_ids:
                    break
                made.append(token)
                piece = stream.push(token)
                pieces.append(piece)
                on_text(piece)
                if len(made) == self._max_tokens or self._is_full():
                    break
                logits_V = self._session.append([token])
        except KeyboardInterrupt:
            interrupted = True
            # An interrupt in the middle of a pass leaves a cache that nobody can trust.
            self._session = self._engine.start()
        rest = stream.finish()
        pieces.append(rest)
        on_text(rest)
        seconds = time.perf_counter() - start - first
        self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
        return Reply(
            text="".join(pieces),
            num_prompt=len(prompt_ids),
            num_reused=reused,
            num_tokens=len(made),
            first_token_s=first,
            seconds=seconds,
            interrupted=interrupted,
        )

    def _is_full(self) -> bool:
        context = self._engine.model.declared.config.context_length
        return self._session.num_tokens >= context

    def _require_room(self, num_prompt: int) -> None:
        context = self._engine.model.declared.config.context_length
        if num_prompt >= context:
            raise ContextLengthError(
                "the conversation has become too long",
                where="chat",
                expected=f"fewer than {context} tokens, the model's context",
                found=f"{num_prompt} tokens",
                hint="/clear begins a new one",
            )
