"""What a client may ask, read and checked: OpenAI's completions and chat completions.

Fields as in OpenAI's API reference (https://platform.openai.com/docs/api-reference), and
beside them `top_k`, `min_p`, `typical_p` and `repetition_penalty`, as other servers take
them. What cannot be honoured is refused and never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.errors import UsageError
from cotejar.generation.sampling_options import DEFAULT_SEED, SamplingOptions
from cotejar.tokenizer.chat import encode_chat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.tokenizer.tokenizer import Tokenizer

MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
DEFAULT_TEMPERATURE = 1.0
"""OpenAI's."""
COMPLETION_TOKENS = 16
"""OpenAI's default length of a completion; a chat answer may fill the context."""

_IGNORED = frozenset(
    {
        "model",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "stream_options",
    }
)
_NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty")
_PENALTIES = ("presence_penalty", "frequency_penalty")
_INTEGERS = ("seed", "top_k")
_SHARED = {
    *_NUMBERS,
    *_PENALTIES,
    *_INTEGERS,
    "max_tokens",
    "stream",
    "stop",
    "n",
    "logit_bias",
    "logprobs",
}
_FIELDS = {
    "completion": _SHARED | {"prompt", "echo"},
    "chat": _SHARED | {"messages", "max_completion_tokens", "top_logprobs", "response_format"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRequest:
    """One text that a client asks for."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingOptions
    max_tokens: int | None
    """None: as long as the context lasts."""
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    top_logprobs: int | None
    """How many alternatives go with each token; None for no probabilities at all."""
    schema: str | None
    """A JSON schema that the answer keeps to."""


def read_completion(body: object, tokenizer: Tokenizer) -> TextRequest:
    """Read the body of `/v1/completions`.

    Raises:
        UsageError: what cannot be honoured.
        TokenizerError: the prompt is no Unicode.
    """
    fields = _fields(body, "completion")
    prompt = fields.get("prompt")
    if isinstance(prompt, str) and prompt:
        ids = tokenizer.encode(prompt)
    elif isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        ids = prompt
    else:
        raise _refused("prompt", "one text, or one list of token ids", _kind(prompt))
    if fields.get("echo"):
        raise _refused("echo", "false", "true")
    top = fields.get("logprobs")
    if top is not None:
        top = _whole("logprobs", top, 0, MAX_TOP_LOGPROBS)
    return _request(fields, ids, top, default_tokens=COMPLETION_TOKENS)


def read_chat(body: object, tokenizer: Tokenizer) -> TextRequest:
    """Read the body of `/v1/chat/completions`.

    Raises:
        UsageError: what cannot be honoured.
        ChatTemplateError: the model's template has no use for the messages.
        TokenizerError: a message is no Unicode.
    """
    fields = _fields(body, "chat")
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _refused("messages", "a list of one message or more", _kind(messages))
    wanted, top = fields.get("logprobs", False), fields.get("top_logprobs")
    if not isinstance(wanted, bool):
        raise _refused("logprobs", "true or false", _kind(wanted))
    if top is not None and not wanted:
        raise _refused("top_logprobs", "logprobs: true beside it", "no logprobs")
    top = _whole("top_logprobs", top or 0, 0, MAX_TOP_LOGPROBS) if wanted else None
    plain = [_with_plain_content(message) for message in messages]
    return _request(fields, encode_chat(tokenizer, plain), top, default_tokens=None)


def _fields(body: object, kind: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _refused("body", "a JSON object", _kind(body))
    known = _FIELDS[kind]
    given = {name: value for name, value in body.items() if value is not None}
    for name in given:
        if name not in known and name not in _IGNORED:
            raise _refused(
                str(name)[:80], f"one of {', '.join(sorted(known))}", "no such field"
            )
    if _whole("n", given.get("n", 1), 1, 1 << 30) != 1:
        raise _refused("n", "1", str(given["n"]))
    return given


def _request(
    fields: Mapping[str, Any],
    prompt_ids: Sequence[int],
    top_logprobs: int | None,
    *,
    default_tokens: int | None,
) -> TextRequest:
    max_tokens = fields.get("max_completion_tokens", fields.get("max_tokens", default_tokens))
    if max_tokens is not None:
        max_tokens = _whole("max_tokens", max_tokens, 1, 1 << 30)
    stream = fields.get("stream", False)
    if not isinstance(stream, bool):
        raise _refused("stream", "true or false", _kind(stream))
    options = fields.get("stream_options")
    return TextRequest(
        prompt_ids=tuple(prompt_ids),
        sampling=_sampling(fields),
        max_tokens=max_tokens,
        stops=_stops(fields.get("stop")),
        stream=stream,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        top_logprobs=top_logprobs,
        schema=_schema(fields.get("response_format")),
    )


def _sampling(fields: Mapping[str, Any]) -> SamplingOptions:
    values: dict[str, Any] = {"temperature": DEFAULT_TEMPERATURE, "seed": DEFAULT_SEED}
    # OpenAI's penalties look back over the whole text.
    values["penalty_window"] = -1
    for name in (*_NUMBERS, *_PENALTIES):
        if name in fields:
            values[name] = _number(name, fields[name])
    for name in _INTEGERS:
        if name in fields:
            values[name] = _whole(name, fields[name], 0, 1 << 62)
    bias = fields.get("logit_bias", {})
    if not isinstance(bias, dict):
        raise _refused("logit_bias", "an object: token id to number", _kind(bias))
    pairs = []
    for token, value in bias.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):  # noqa: PLR2004 - a token id
            raise _refused("logit_bias", "token ids for keys", repr(token[:40]))
        pairs.append((int(token), _number("logit_bias", value)))
    return SamplingOptions(logit_bias=tuple(pairs), **values)


def _stops(stop: object) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise _refused("stop", "a text, or a list of texts", _kind(stop))
    if len(stops) > MAX_STOPS:
        raise _refused("stop", f"at most {MAX_STOPS} texts", str(len(stops)))
    return tuple(stops)


def _schema(wanted: object) -> str | None:
    if wanted is None or wanted == {"type": "text"}:
        return None
    if wanted == {"type": "json_object"}:
        return json.dumps({"type": "object"})
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        inner = wanted.get("json_schema")
        if isinstance(inner, dict) and isinstance(inner.get("schema"), dict):
            return json.dumps(inner["schema"])
    raise _refused(
        "response_format", "type text, json_object, or json_schema with a schema", _kind(wanted)
    )


def _with_plain_content(message: object) -> Any:
    """Content in parts, all of them text, becomes one text; anything else stays as it is."""
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        return message
    parts = message["content"]
    if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise _refused("messages", "content that is text", "parts of another kind")
    return {**message, "content": "".join(part["text"] for part in parts)}


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _refused(name, "a number", _kind(value))
    return float(value)


def _whole(name: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        found = str(value)[:40] if type(value) is int else _kind(value)
        raise _refused(name, f"a whole number, {least} to {most}", found)
    return value


def _kind(value: object) -> str:
    if isinstance(value, str | list) and not value:
        return "an empty one"
    return "nothing" if value is None else type(value).__name__


def _refused(field: str, expected: str, found: str) -> UsageError:
    return UsageError(
        f"the request cannot be honoured: {field}",
        where=field,
        expected=expected,
        found=found,
        hint="see OpenAI's API reference for completions and chat completions",
    )
