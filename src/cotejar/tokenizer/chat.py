"""Chat templates: messages to the text that the model was trained on, and that to ids.

The template is Jinja, as Hugging Face define chat templates
(https://huggingface.co/docs/transformers/chat_templating), and comes with the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError

from cotejar.errors import ChatTemplateError
from cotejar.tokenizer.chat_sandbox import ChatSandbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cotejar.tokenizer.spec import TokenizerSpec
    from cotejar.tokenizer.tokenizer import Tokenizer

MAX_TEMPLATE_CHARS = 1 << 18
"""Ten times the longest templates in use."""
MAX_OUTPUT_CHARS = 1 << 20

_RAW = "give the prompt as it is: `--raw`"


def render_chat(
    spec: TokenizerSpec,
    messages: Sequence[Mapping[str, object]],
    *,
    add_generation_prompt: bool = True,
    now: datetime | None = None,
) -> str:
    """Render messages with the model's chat template.

    Args:
        spec: of the model.
        messages: each with `role` and `content`, and whatever else the template reads;
            plain JSON values.
        add_generation_prompt: end with the words that make the model answer.
        now: what a template that writes today's date takes for it; default, the clock.
            Such a template gives other ids every day.

    Raises:
        ChatTemplateError: there is no template, or it fails, refuses the messages, or
            goes beyond what `chat_sandbox` allows.
    """
    source = _require_template(spec)
    # A copy in plain JSON types: a template sees no object of ours.
    plain = json.loads(json.dumps(list(messages)))
    sandbox = ChatSandbox(now or datetime.now().astimezone())
    try:
        template = sandbox.compile_counted(source)
        chunks = template.generate(
            messages=plain,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            bos_token=spec.token_of(spec.bos_id),
            eos_token=spec.token_of(spec.eos_id),
            unk_token=spec.token_of(spec.unk_id),
            pad_token=spec.token_of(spec.pad_id),
        )
        return _join_bounded(chunks)
    except Exception as error:
        raise _failure(error) from error


def apply_chat(tokenizer: Tokenizer, prompt: str, *, now: datetime | None = None) -> list[int]:
    """Turn one user message into the ids that make the model answer it: see `encode_chat`."""
    return encode_chat(tokenizer, [{"role": "user", "content": prompt}], now=now)


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, object]],
    *,
    now: datetime | None = None,
) -> list[int]:
    """Turn messages into the ids that make the model answer the last of them.

    Special tokens are parsed, those in the messages as well. BOS comes first once, whether
    the template writes it or the tokenizer adds it.

    Raises:
        ChatTemplateError: as `render_chat`, or a message is none.
        TokenizerError: as `Tokenizer.encode`.
    """
    spec = tokenizer.spec
    for index, message in enumerate(messages or [{}]):
        _require_message(message, index)
    text = render_chat(spec, messages, now=now)
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    if spec.add_bos and spec.bos_id is not None and ids[:1] != [spec.bos_id]:
        ids.insert(0, spec.bos_id)
    return ids


ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak in a chat; which of them a model knows is its template's to say."""


def _require_message(message: object, index: int) -> None:
    if not isinstance(message, Mapping):
        found = type(message).__name__
    elif message.get("role") not in ROLES:
        found = f"role {str(message.get('role'))[:80]!r}"
    elif not isinstance(message.get("content"), str):
        found = f"content: {type(message.get('content')).__name__}"
    else:
        return
    raise ChatTemplateError(
        "a message cannot be understood",
        where=f"message {index}",
        expected=f"a role of {', '.join(ROLES)}, and content that is text",
        found=found,
        hint='{"role": "user", "content": "..."}',
    )


def _join_bounded(chunks: Iterable[str]) -> str:
    parts: list[str] = []
    num_chars = 0
    for chunk in chunks:
        num_chars += len(chunk)
        if num_chars > MAX_OUTPUT_CHARS:
            raise SecurityError(f"it writes more than {MAX_OUTPUT_CHARS} characters")
        parts.append(chunk)
    return "".join(parts)


def _require_template(spec: TokenizerSpec) -> str:
    source = spec.chat_template
    if not source:
        raise ChatTemplateError(
            "the model has no chat template",
            where="the tokenizer's metadata",
            expected="a chat template, as instruct models have it",
            found="none",
            hint=_RAW,
        )
    if len(source) > MAX_TEMPLATE_CHARS:
        raise ChatTemplateError(
            "the chat template is too long",
            where="the tokenizer's metadata",
            expected=f"at most {MAX_TEMPLATE_CHARS} characters",
            found=f"{len(source)} characters",
            hint=_RAW,
        )
    return source


def _failure(error: Exception) -> ChatTemplateError:
    message = str(error) or type(error).__name__
    if isinstance(error, TemplateSyntaxError):
        problem, expected = "the chat template is no valid Jinja", "a Jinja template"
    elif isinstance(error, SecurityError):
        problem = "the chat template does what a chat template may not"
        expected = "a template within the limits of the sandbox"
    elif type(error) is TemplateError:  # what `raise_exception` raises
        problem = "the chat template refuses the messages"
        expected = "messages as the template wants them"
    else:
        problem, expected = "the chat template fails", "a text"
        message = f"{type(error).__name__}: {message}"
    return ChatTemplateError(
        problem,
        where=f"the chat template{_line_of(error)}",
        expected=expected,
        found=message.splitlines()[0][:_SHOWN_CHARS],
        hint=_RAW,
    )


_SHOWN_CHARS = 200


def _line_of(error: Exception) -> str:
    """`, line 3`: the line of the template, which Jinja puts into the traceback."""
    if isinstance(error, TemplateSyntaxError):
        return f", line {error.lineno}"
    line = ""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = f", line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line
