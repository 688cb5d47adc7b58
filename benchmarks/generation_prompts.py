"""What `generation.py` lets models continue: 20 prompts, own ones, every second templated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.tokenizer.chat import apply_chat

if TYPE_CHECKING:
    from cotejar.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class BenchPrompt:
    """One text to continue."""

    kind: str
    text: str
    chat: bool

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        """As ids, through the model's chat template where that is asked for."""
        return apply_chat(tokenizer, self.text) if self.chat else tokenizer.encode(self.text)


_TEXTS = (
    ("prose", "The lighthouse keeper had not spoken to anyone since the first snow, and when"),
    ("question", "Why does bread go stale faster in the refrigerator than on the table?"),
    ("code", "def merge_intervals(intervals):\n    # intervals: list of (start, end)\n"),
    ("instruction", "Write a C function that counts the set bits of a 64-bit integer."),
    ("list", "Seven things to check before a long walk in the mountains:\n1."),
    ("arithmetic", "A train leaves at 14:05 and arrives at 17:50. How long does it travel?"),
    ("Spanish", "El pueblo está a dos horas de la costa, y en invierno nadie sube porque"),
    ("German", "Erkläre in drei Sätzen, warum der Himmel am Abend rot wird."),
    ("dialogue", "- Did you lock the door?\n- I thought you had.\n-"),
    ("Japanese", "日本の春について短い文章を書いてください。"),
    ("SQL", "-- every customer with more than three orders in one month\nSELECT"),
    ("translation", "Translate into French: The museum is closed on Mondays, except in July."),
    ("table", "| city | river | bridges |\n| --- | --- | --- |\n| Lyon |"),
    ("story", "Tell a story of a robot that is afraid of elevators."),
    ("science", "Photosynthesis converts light into chemical energy. In the first stage,"),
    ("Chinese", "用简单的话解释什么是递归，并举一个例子。"),
    ("JSON", '{"name": "Ada", "born": 1815, "fields": ["mathematics",'),
    ("debugging", "My Python script prints nothing although the loop runs. What could it be?"),
    ("Russian", "Утром в порту было тихо, и только старый рыбак"),
    ("mail", "Write a polite mail that moves a meeting from Tuesday to Thursday."),
)
PROMPTS = tuple(
    BenchPrompt(kind=kind, text=text, chat=bool(index % 2))
    for index, (kind, text) in enumerate(_TEXTS)
)
