"""A tokenizer of nobody's, one id a byte, that fails as its file's name says."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from cotejar.errors import TokenizerError


class FakeTokenizer:
    """Runs in the child in tests."""

    takes_bytes = True
    renders = True

    def __init__(self, path: str) -> None:
        self._fails = Path(path).stem
        if self._fails == "open":
            os.kill(os.getpid(), signal.SIGSEGV)

    def facts(self) -> dict[str, object]:
        return {"build": "fake 1", "bos_id": 0, "eos_id": "none"}

    def encode(self, data: bytes, *, add_special: bool, parse_special: bool) -> Any:
        match self._fails:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(60)
            case "raise":
                raise ValueError("no such thing")
            case "refuse":
                raise TokenizerError(
                    "it refuses", where="there", expected="a", found="b", hint="none"
                )
            case "text":
                return ["1"]
        return [0, *data] if add_special else [*data]

    def spell(self, token_id: int) -> bytes:
        return b"1" if self._fails == "text" else bytes([token_id])

    def is_special(self, token_id: int) -> bool:
        return token_id == 0

    def render(self, messages: Any) -> str:
        return "".join(m["content"] for m in messages)
