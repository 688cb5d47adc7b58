"""What a client gets: OpenAI's JSON objects, whole or in chunks."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.evaluation.text_chunks import log_softmax

if TYPE_CHECKING:
    from jaxtyping import Float32

    from cotejar.errors import CotejarError
    from cotejar.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """One token, and what else it might have been."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]
    """The likeliest first."""


def measure_logprob(
    token: int, logits_V: Float32[np.ndarray, "V"], num_alternatives: int
) -> TokenLogprob:
    """Of the model's own distribution, before any filter, penalty or temperature."""
    row_V = log_softmax(logits_V[None])[0]
    best = np.argsort(-row_V, kind="stable")[:num_alternatives]
    return TokenLogprob(
        token=token,
        logprob=float(row_V[token]),
        alternatives=tuple((int(i), float(row_V[i])) for i in best),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What all objects about one request share."""

    kind: str
    """`completion` or `chat`."""
    model: str
    tokenizer: Tokenizer
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(
        self,
        text: str,
        finish: str,
        usage: dict[str, int],
        logprobs: list[TokenLogprob] | None,
    ) -> dict[str, Any]:
        """The answer in one object."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if self.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(logprobs)
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._head(name), "choices": [choice], "usage": usage}

    def chunk(
        self, text: str, finish: str | None, logprobs: list[TokenLogprob] | None
    ) -> dict[str, Any]:
        """One part of a stream; the last says why it ends."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if self.kind == "chat":
            choice["delta"] = {"content": text} if text or finish is None else {}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(logprobs)
        return {**self._head(self._chunk_name), "choices": [choice]}

    def first_chunk(self) -> dict[str, Any]:
        """Of a chat: who speaks."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}
        return {**self._head(self._chunk_name), "choices": [choice]}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """Of a stream whose client asked for it: the counts, at the end."""
        return {**self._head(self._chunk_name), "choices": [], "usage": usage}

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat" else "text_completion"

    def _head(self, name: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.kind == "chat" else "cmpl"
        head = {"id": f"{prefix}-{self.id}", "object": name}
        return {**head, "created": self.created, "model": self.model}

    def _logprobs(self, found: list[TokenLogprob] | None) -> dict[str, Any] | None:
        if found is None:
            return None
        if self.kind == "chat":
            return {"content": [self._chat_logprob(one) for one in found], "refusal": None}
        text, texts = self.tokenizer.token_text, [one.token for one in found]
        return {
            "tokens": [text(token) for token in texts],
            "token_logprobs": [one.logprob for one in found],
            "top_logprobs": [
                {text(token): logprob for token, logprob in one.alternatives} for one in found
            ],
        }

    def _chat_logprob(self, one: TokenLogprob) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            data = list(self.tokenizer.token_bytes(token))
            return {
                "token": self.tokenizer.token_text(token),
                "logprob": logprob,
                "bytes": data,
            }

        return {
            **entry(one.token, one.logprob),
            "top_logprobs": [entry(token, logprob) for token, logprob in one.alternatives],
        }


def usage_of(num_prompt: int, num_answer: int, num_reused: int) -> dict[str, Any]:
    """The counts of a request."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_answer,
        "total_tokens": num_prompt + num_answer,
        "prompt_tokens_details": {"cached_tokens": num_reused},
    }


def error_object(error: CotejarError, *, server: bool = False) -> dict[str, Any]:
    """An error as OpenAI's clients read it, with our own parts beside."""
    return {
        "error": {
            "message": str(error),
            "type": "server_error" if server else "invalid_request_error",
            "param": error.parts["where"],
            "code": error.code,
        }
    }
