"""Special tokens: which a vocabulary has, where they stand in a text, which end generation.

GGUF marks a special token by its type, but names the id of only a few, and some files mark
a few wrong. So llama.cpp also goes by spelling (`llama_vocab::impl::load`), and so do we: a
token spelled like one of those below is a control token, and most of them end generation.

We differ in one point. A token that the file does not mark special counts only if it is
spelled with bars, as nothing else is. Qwen's vocabulary has `</s>` because code
has; llama.cpp ends generation there, and encodes it as no tokenizer of Qwen's does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.tokenizer.spec import TokenType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cotejar.tokenizer.spec import TokenizerSpec

# The end of a text, of a turn, of a message.
_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<\uff5cend▁of▁sentence\uff5c>",
)
# What a code model writes after the code it was to fill in: padding, or the next file.
_ENDS_OF_FILE = (
    ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("<|file_sep|>",),
)
# Control tokens that do not end anything.
_FILL_IN_THE_MIDDLE = (
    *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "▁<PRE>"),
    *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "▁<SUF>"),
    *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "▁<MID>"),
    *("<\uff5cfim▁begin\uff5c>", "<\uff5cfim▁hole\uff5c>", "<\uff5cfim▁end\uff5c>"),
)
_WITH_BARS = ("<|", "<\uff5c")
_SPELLED = frozenset(_ENDS).union(_FILL_IN_THE_MIDDLE, *_ENDS_OF_FILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """The special tokens of one vocabulary."""

    control_ids: frozenset[int]
    """Control and unknown tokens: parsed only when asked, and left out of plain text."""
    user_defined_ids: frozenset[int]
    """Always parsed, and part of plain text."""
    eos_ids: frozenset[int]
    """The tokens that end generation."""
    spellings: tuple[tuple[str, int], ...]
    """Every special token with its id, the longest first, as they are searched for."""

    def split(self, text: str, *, parse_special: bool) -> Iterator[str | int]:
        """Cut a text at its special tokens: yield text, which is never empty, and ids.

        A longer token is found before a shorter one, wherever they stand.
        """
        pieces: list[str | int] = [text]
        for spelling, token_id in self.spellings:
            if spelling in text and (parse_special or token_id in self.user_defined_ids):
                pieces = [*_split_pieces(pieces, spelling, token_id)]
        return (piece for piece in pieces if piece != "")


def _split_pieces(
    pieces: Iterable[str | int], spelling: str, token_id: int
) -> Iterator[str | int]:
    for piece in pieces:
        if isinstance(piece, int):
            yield piece
            continue
        first, *others = piece.split(spelling)
        yield first
        for other in others:
            yield token_id
            yield other


def find_special_tokens(spec: TokenizerSpec) -> SpecialTokens:
    """Find a vocabulary's special tokens, by type and by spelling."""
    ids = {
        token: token_id
        for token_id, token in enumerate(spec.tokens)
        if token in _SPELLED and _may_be_control(spec, token_id)
    }
    control_ids = {
        *ids.values(),
        *_ids_of_type(spec, TokenType.CONTROL),
        *_ids_of_type(spec, TokenType.UNKNOWN),
    }
    user_defined_ids = {*_ids_of_type(spec, TokenType.USER_DEFINED)} - control_ids
    ends_of_file = (
        next((ids[spelling] for spelling in group if spelling in ids), None)
        for group in _ENDS_OF_FILE
    )
    ends = (*(ids.get(spelling) for spelling in _ENDS), *ends_of_file, spec.eos_id, spec.eot_id)
    spellings = [(spec.tokens[i], i) for i in control_ids | user_defined_ids]
    return SpecialTokens(
        control_ids=frozenset(control_ids),
        user_defined_ids=frozenset(user_defined_ids),
        eos_ids=frozenset(i for i in ends if i is not None),
        spellings=tuple(sorted(spellings, key=lambda pair: (-len(pair[0].encode()), pair[1]))),
    )


def _may_be_control(spec: TokenizerSpec, token_id: int) -> bool:
    if spec.tokens[token_id].startswith(_WITH_BARS):
        return True
    marked = (TokenType.CONTROL, TokenType.USER_DEFINED)
    return bool(spec.token_types) and spec.token_types[token_id] in marked


def _ids_of_type(spec: TokenizerSpec, token_type: TokenType) -> list[int]:
    # Compared as plain integers: there may be hundreds of thousands.
    wanted = int(token_type)
    return [token_id for token_id, kind in enumerate(spec.token_types) if kind == wanted]
