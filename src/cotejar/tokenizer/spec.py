"""All that is needed to build a tokenizer, whatever file it came from."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

from cotejar.errors import NoTokenizerError

TokenizerKind = Literal["bpe", "spm"]


class TokenType(enum.IntEnum):
    """What a token is; GGUF's numbers."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSpec:
    """All that is needed to build a tokenizer. Every id is below `len(tokens)`."""

    kind: TokenizerKind
    """`bpe`: byte-level BPE. `spm`: SentencePiece's greedy merges by score."""
    pre_tokenizer: str
    """How a BPE cuts text into words: `llama-bpe`, `qwen2`, ...; `""` is the default."""
    tokens: tuple[str, ...] = field(repr=False)
    """By id, no two alike, as the file spells them: `Ġequals`, `▁equals`, `<0x0A>`."""
    merges: tuple[str, ...] = field(default=(), repr=False)
    """`"Ġ t"`: the two halves, best first. Only a BPE has them."""
    scores: tuple[float, ...] = field(default=(), repr=False)
    """By id, higher merges first. Only an SPM needs them."""
    token_types: tuple[int, ...] = field(default=(), repr=False)
    """A `TokenType` by id; empty when the file does not say, and all are NORMAL."""
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    eot_id: int | None = None
    """The end of a turn, where the file names one apart from `eos_id`."""
    add_bos: bool = False
    """Whether a text begins with BOS."""
    add_eos: bool = False
    add_space_prefix: bool = False
    """Whether an SPM puts a space before the text, and after each special token."""
    chat_template: str | None = field(default=None, repr=False)
    """Jinja source."""
    huggingface_json: str | None = field(default=None, repr=False)
    """The text of `tokenizer.json`, which then does the work of the tables above."""

    def token_of(self, token_id: int | None) -> str:
        """The spelling of a special token; `""` for None."""
        return "" if token_id is None else self.tokens[token_id]


def no_tokenizer(where: str) -> NoTokenizerError:
    """The error for a model that carries no tokenizer."""
    return NoTokenizerError(
        "the model carries no tokenizer, so text cannot become ids",
        where=where,
        expected="a list of tokens",
        found="none",
        hint="token ids need none: `apr trace` and `apr parity` take --tokens 1,2,3",
    )
