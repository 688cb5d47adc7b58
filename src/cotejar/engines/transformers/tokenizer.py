"""A tokenizer as Hugging Face transformers builds it: of a folder, or of a GGUF."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from cotejar.errors import EngineError, TokenizerError
from cotejar.tokenizer.byte_level import spelled_bytes
from cotejar.tokenizer.greedy_spm import BYTE_TOKEN, SPACE, byte_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_SHOWN_DECODER = 400
"""Of what the library prints of a decoder: its steps come first."""


class TransformersTokenizer:
    """One tokenizer. It takes text, and never runs code that lies beside it."""

    takes_bytes = False
    renders = True

    def __init__(self, path: str) -> None:
        """Load it from a folder, or from a GGUF, which takes transformers half a minute.

        Raises:
            EngineError: transformers refuses it, or knows it only in Python (a slow one).
        """
        file = Path(path)
        place, options = (
            (file, {}) if file.is_dir() else (file.parent, {"gguf_file": file.name})
        )
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                str(place), local_files_only=True, trust_remote_code=False, **options
            )
        except Exception as error:  # it raises whatever its parts raise
            raise EngineError(
                "transformers cannot read the tokenizer",
                where=path,
                expected="a folder with tokenizer.json, or a GGUF",
                found=f"{type(error).__name__}: {error}"[:1000],
                hint="fetch its tokenizer.json, tokenizer_config.json and config.json again"
                if file.is_dir()
                else "it reads a folder or a GGUF: `apr export MODEL.apr -o MODEL.gguf`",
            ) from error
        backend: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise EngineError(
                "transformers has no fast tokenizer for this model",
                where=path,
                expected="one on the tokenizers library",
                found=type(self._tokenizer).__name__,
                hint="save it with tokenizer.json",
            )
        self._spells_bytes = "ByteLevel" in str(backend.decoder)[:_SHOWN_DECODER]

    def facts(self) -> dict[str, object]:
        """What a comparison needs to know of it, as JSON."""
        kind = type(self._tokenizer).__name__
        return {
            "build": f"transformers {transformers.__version__}, {kind}",
            "bos_id": self._tokenizer.bos_token_id,
            "eos_id": self._tokenizer.eos_token_id,
        }

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Turn text into ids."""
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=add_special, split_special_tokens=not parse_special
        )
        return ids

    def spell(self, token_id: int) -> bytes:
        """What a token spells; of a special one its name."""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if self.is_special(token_id):
            return str(token).encode()
        if self._spells_bytes:
            return spelled_bytes(token)
        with contextlib.suppress(TokenizerError):
            if BYTE_TOKEN.fullmatch(token):
                return bytes([byte_of(token)])
        return str(token).replace(SPACE, " ").encode()

    def is_special(self, token_id: int) -> bool:
        """Is it found by its name, before the text is cut into words?"""
        return token_id in self._tokenizer.added_tokens_decoder

    def render(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """What the model's chat template makes of messages; None without a template."""
        if not self._tokenizer.chat_template:
            return None
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return text
