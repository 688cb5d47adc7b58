"""Tokens as they are chosen -> text as it may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.tokenizer.tokenizer import StreamDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.tokenizer.tokenizer import Tokenizer


class TextStream:
    """Holds back half a character, and what may become a stop text; ends before one."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        """Has a stop text come?"""

    def push(self, token: int) -> str:
        """Add a token; the text that is certain now."""
        return self._take(self._decoder.push(token))

    def finish(self) -> str:
        """No token comes any more; what was held back."""
        shown = self._take(self._decoder.finish())
        rest, self._held = self._held, ""
        return shown + rest

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        starts = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if starts:
            self.stopped = True
            shown, self._held = self._held[: min(starts)], ""
            return shown
        kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - kept
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """How many last characters of the text are the first ones of the stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
