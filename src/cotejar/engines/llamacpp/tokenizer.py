"""llama.cpp's own tokenizer of a GGUF, loaded without the weights."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotejar.engines.llamacpp.binding import load_library
from cotejar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SPELLING_BYTES = 4096
"""Room for one token; llama.cpp answers with the room it needs, negative, if that is short."""


_SPECIAL = 1 << 0 | 1 << 3 | 1 << 4
"""`LLAMA_TOKEN_ATTR_`: UNKNOWN, CONTROL, USER_DEFINED."""


_OTHER_FILE = "it reads GGUF alone: `apr export MODEL.apr -o MODEL.gguf`"
_OTHER_TOKENIZER = "a newer llama-cpp-python may know it"


class LlamaCppTokenizer:
    """The vocabulary of one model. It takes bytes: what is no UTF-8, too."""

    takes_bytes = True
    renders = False

    def __init__(self, path: str) -> None:
        """Load it.

        Raises:
            MissingExtraError: llama-cpp-python is not installed.
            EngineError: llama.cpp refuses the file.
        """
        self._library = load_library()
        self._api = api = self._library.api
        parameters = api.llama_model_default_params()
        parameters.vocab_only = True
        self._model = api.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            said = " | ".join(self._library.complaints)
            raise EngineError(
                "llama.cpp cannot read the tokenizer",
                where=path,
                expected="a GGUF whose tokenizer it knows",
                found=said[:1000] or "it said nothing",
                hint=_OTHER_FILE if not _is_gguf(path) else _OTHER_TOKENIZER,
            )
        self._vocab: Any = api.llama_model_get_vocab(self._model)

    def facts(self) -> dict[str, object]:
        """What a comparison needs to know of it, as JSON."""
        ids = (self._api.llama_vocab_bos(self._vocab), self._api.llama_vocab_eos(self._vocab))
        bos_id, eos_id = (i if i >= 0 else None for i in ids)
        return {"build": self._library.description, "bos_id": bos_id, "eos_id": eos_id}

    def encode(self, data: bytes, *, add_special: bool, parse_special: bool) -> list[int]:
        """Turn bytes into ids."""
        room = len(data) + 16  # a token spells a byte at least; BOS, EOS and a space beside
        ids = (self._api.llama_token * room)()
        count = self._api.llama_tokenize(
            self._vocab, data, len(data), ids, room, add_special, parse_special
        )
        if count < 0:
            raise EngineError(
                "llama.cpp gives more ids than there are bytes",
                where=f"engine llamacpp, a text of {len(data)} bytes",
                expected=f"at most {room} ids",
                found=str(-count),
                hint="report it to llama.cpp with the text",
            )
        return list(ids[:count])

    def spell(self, token_id: int) -> bytes:
        """What a token spells; of a special one its name."""
        buffer = ctypes.create_string_buffer(_SPELLING_BYTES)
        size, strip, special = _SPELLING_BYTES, 0, True
        count = self._api.llama_token_to_piece(
            self._vocab, token_id, buffer, size, strip, special
        )
        return buffer.raw[: max(count, 0)]

    def is_special(self, token_id: int) -> bool:
        """Does it find the token by its name, before it cuts the text into words?"""
        attributes: int = self._api.llama_vocab_get_attr(self._vocab, token_id)
        return bool(attributes & _SPECIAL)

    def render(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Nothing: its C interface knows some templates by their looks, and runs none."""
        del messages


def _is_gguf(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False
