"""Sides of a comparison of tokenizers: ours, and other people's in a process of their own.

    [TOKENIZER:]PATH

    model.gguf                our tokenizer of that model; `native:model.gguf` is the same
    llamacpp:model.gguf       llama.cpp's, loaded without the weights
    transformers:DIR          Hugging Face's, of a folder with tokenizer.json
    transformers:model.gguf   Hugging Face's, as transformers reads a GGUF: half a minute

The names are those of the engines.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cotejar
from cotejar.engines.child_process import ChildProcess
from cotejar.engines.isolated import rebuilt_error
from cotejar.engines.registry import require_packages
from cotejar.engines.spec import ENGINES
from cotejar.errors import (
    EngineError,
    EngineProtocolError,
    TokenizerError,
    UnknownEngineError,
)
from cotejar.formats.open_model import open_model, resolve_model_path
from cotejar.tokenizer.chat import render_chat
from cotejar.tokenizer.declared import read_declared_tokenizer, try_declared_tokenizer
from cotejar.tokenizer.difference import TokenizedText
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cotejar.tokenizer.declared import DeclaredTokenizer

    Messages = Sequence[Mapping[str, str]]

NATIVE = "native"
_TARGETS = {
    "llamacpp": "cotejar.engines.llamacpp.tokenizer:LlamaCppTokenizer",
    "transformers": "cotejar.engines.transformers.tokenizer:TransformersTokenizer",
}
TOKENIZERS = (NATIVE, *_TARGETS)
_PREFIX = re.compile(r"([A-Za-z]\w*(?:[+@][^:/]*)?):(.+)", re.DOTALL)
"""Numerics and devices mean nothing here: with them it is a tokenizer that nobody offers."""
_OPEN_S, _TEXT_S = 300.0, 60.0
"""How long before a child counts as hanging: to load a vocabulary, to read one text."""


class TokenizerSide(Protocol):
    """One tokenizer of a comparison."""

    @property
    def name(self) -> str:
        """As the side was named."""

    @property
    def build(self) -> str:
        """Whose program, in which version."""

    @property
    def takes_bytes(self) -> bool:
        """Does it take bytes that are no UTF-8?"""

    @property
    def renders(self) -> bool:
        """Does it run chat templates, of a model that has one?"""

    def tokenize(
        self, text: str | bytes, *, add_special: bool, parse_special: bool
    ) -> TokenizedText:
        """Turn a text, or bytes if it takes them, into ids.

        Raises:
            CotejarError: it cannot.
        """

    def render(self, messages: Messages) -> str | None:
        """Render messages with the model's chat template; None without one."""


@dataclass(frozen=True, kw_only=True)
class NativeTokenizer:
    """Ours, in this process. Of a text, not of bytes."""

    name: str
    tokenizer: Tokenizer
    declared: DeclaredTokenizer
    build: str = f"cotejar {cotejar.__version__}"
    takes_bytes: bool = False
    renders: bool = True

    def tokenize(
        self, text: str | bytes, *, add_special: bool, parse_special: bool
    ) -> TokenizedText:
        """See `TokenizerSide`."""
        assert isinstance(text, str), "it takes no bytes"
        ids = self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)
        return spell_out(self.tokenizer, ids, self.declared)

    def render(self, messages: Messages) -> str | None:
        """See `TokenizerSide`."""
        spec = self.declared.spec
        return render_chat(spec, messages) if spec.chat_template else None


class ChildTokenizer:
    """Another program's, in a child process that lives as long as this."""

    def __init__(self, name: str, kind: str, path: str) -> None:
        """Start the child and load the vocabulary there.

        Raises:
            EngineError: it crashes, hangs or refuses the file.
            CotejarError: as the tokenizer itself raises it: an extra that is missing.
        """
        self.name, self._kind = name, kind
        require_packages(ENGINES[kind])
        self.declared = try_declared_tokenizer(path)
        self._child = ChildProcess(f"{kind}'s tokenizer")
        file = resolve_model_path(path)
        if not os.path.isdir(file):  # noqa: PTH112 - unlike Path.is_dir, it never raises
            open_model(file).close()  # what is no model: the usual clear errors
        request = {"do": "open_tokenizer", "target": _TARGETS[kind], "path": str(file)}
        facts = self._ask(request, _OPEN_S, "reading the vocabulary")
        self.build = f"{facts.get('build')!s:.300}"
        self.takes_bytes = facts.get("takes_bytes") is True
        self.renders = facts.get("renders") is True
        self._bos_id, self._eos_id = (
            i if type(i) is int else None for i in (facts.get("bos_id"), facts.get("eos_id"))
        )

    def tokenize(
        self, text: str | bytes, *, add_special: bool, parse_special: bool
    ) -> TokenizedText:
        """See `TokenizerSide`."""
        data = text if isinstance(text, bytes) else text.encode()
        answer = self._ask(
            {
                "do": "tokenize",
                "data": data.hex(),
                "add_special": add_special,
                "parse_special": parse_special,
            },
            _TEXT_S,
            f"tokenizing {len(data)} bytes",
        )
        ids, spellings = answer.get("ids"), answer.get("spellings")
        special_ids = answer.get("special_ids")
        if not (
            isinstance(ids, list)
            and isinstance(spellings, list)
            and isinstance(special_ids, list)
            and len(ids) == len(spellings)
            and all(type(i) is int for i in (*ids, *special_ids))
        ):
            raise self._no_answer("ids, and a spelling for each", answer)
        try:
            spelled = tuple(map(bytes.fromhex, spellings))
        except (TypeError, ValueError):
            raise self._no_answer("spellings in hexadecimal", answer) from None
        return TokenizedText(
            ids=tuple(ids),
            spellings=spelled,
            special_ids=frozenset(special_ids),
            declared=self.declared,
            bos_id=self._bos_id,
            eos_id=self._eos_id,
        )

    def render(self, messages: Messages) -> str | None:
        """See `TokenizerSide`."""
        request = {"do": "render", "messages": [dict(message) for message in messages]}
        text = self._ask(request, _TEXT_S, "rendering a chat").get("text")
        return text if isinstance(text, str) else None

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _ask(self, request: dict[str, Any], timeout_s: float, what: str) -> dict[str, Any]:
        answer = self._child.ask(request | {"forget": []}, timeout_s=timeout_s, what=what)
        if "error" in answer:
            raise rebuilt_error(answer["error"], self._kind)
        if "failure" in answer:
            raise EngineError(
                f"the tokenizer failed: {self._kind}, {what}",
                where=self.name,
                expected="an answer",
                found=str(answer["failure"])[:1000],
                hint="nothing was compared; the fault is that program's",
            )
        return answer

    def _no_answer(self, expected: str, answer: dict[str, Any]) -> EngineProtocolError:
        return EngineProtocolError(
            "the tokenizer's process answered something else",
            where=self.name,
            expected=expected,
            found=repr(answer)[:200],
            hint="nothing was compared; the fault is that program's",
        )


def spell_out(
    tokenizer: Tokenizer, ids: Sequence[int], declared: DeclaredTokenizer
) -> TokenizedText:
    """What ids of ours spell.

    Raises:
        TokenIdError: an id is not in the vocabulary.
    """
    return TokenizedText(
        ids=tuple(ids),
        spellings=tuple(map(tokenizer.token_bytes, ids)),
        special_ids=frozenset(i for i in ids if tokenizer.is_special(i)),
        declared=declared,
        bos_id=tokenizer.spec.bos_id,
        eos_id=tokenizer.spec.eos_id,
    )


def open_tokenizer(text: str) -> TokenizerSide:
    """Open what `[TOKENIZER:]PATH` names.

    Raises:
        UnknownEngineError: a tokenizer that nobody offers.
        CotejarError: the file cannot be read, or its tokenizer cannot be built.
    """
    match = _PREFIX.fullmatch(text)
    kind, path = (NATIVE, text) if match is None or match[1] == "demo" else match.groups()
    if kind in _TARGETS:
        return ChildTokenizer(text, kind, path)
    if kind != NATIVE:
        if os.path.exists(text):  # noqa: PTH110 - unlike Path.exists, it never raises
            path = text
        else:
            raise UnknownEngineError(
                f"there is no tokenizer {kind!r}",
                where=text,
                expected=", ".join(TOKENIZERS),
                found=kind,
                hint="[TOKENIZER:]PATH, for example llamacpp:model.gguf",
            )
    try:
        declared = read_declared_tokenizer(path)
        tokenizer = Tokenizer(declared.spec)
    except TokenizerError as error:
        # It names the key in the metadata; which of the two files, it cannot know.
        parts = error.parts
        raise type(error)(
            error.problem,
            where=f"{path}, {parts['where']}",
            expected=parts["expected"],
            found=parts["found"],
            hint="compare two other programs' tokenizers of it, or convert the model again",
        ) from None
    return NativeTokenizer(name=text, tokenizer=tokenizer, declared=declared)
