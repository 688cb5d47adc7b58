"""Byte-level BPE: GPT-2's, on the `tokenizers` library.

Every byte of the text's UTF-8 stands for one printable character (`bytes_to_unicode` in
OpenAI's GPT-2 encoder): the 188 bytes that are printable Latin-1 stand for themselves, the
others, in ascending order, for U+0100 and on; so a space is `Ġ`. Tokens are spelled in
these characters, and merging starts from them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from cotejar.errors import TokenizerDataError, TokenizerError
from cotejar.tokenizer.metadata_keys import HINT
from cotejar.tokenizer.pre_tokenizer import find_pre_tokenizer

if TYPE_CHECKING:
    from cotejar.tokenizer.spec import TokenizerSpec


def _character_of_bytes() -> tuple[str, ...]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


CHARACTERS = _character_of_bytes()
"""The character that stands for each byte, by byte."""
_BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


def spelled_bytes(token: str) -> bytes:
    """The bytes that a token spells; its UTF-8 if it is not spelled in byte characters."""
    try:
        return bytes(map(_BYTES.__getitem__, token))
    except KeyError:
        return token.encode()


class ByteLevelBpe:
    """Turns text that holds no special token into ids.

    Raises:
        TokenizerDataError: a merge is malformed or names a token that is not there.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        family = find_pre_tokenizer(spec.pre_tokenizer, where="the tokenizer")
        ids = {token: token_id for token_id, token in enumerate(spec.tokens)}
        merges = _read_merges(spec.merges, ids)
        model = models.BPE(vocab=ids, merges=merges, ignore_merges=family.ignore_merges)
        self._tokenizer = Tokenizer(model)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                *(pre_tokenizers.Split(Regex(p), "isolated") for p in family.patterns),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._spelled = bytes(byte for byte, char in enumerate(CHARACTERS) if char in ids)

    def encode_fragment(self, text: str) -> list[int]:
        """Turn text into ids.

        Raises:
            TokenizerError: the vocabulary lacks a byte of the text. llama.cpp drops such
                a byte without a word, and the ids then spell another text.
        """
        lost = text.encode().translate(None, delete=self._spelled)
        if lost:
            raise TokenizerError(
                "the vocabulary cannot spell the text",
                where=f"the text's UTF-8 at byte {text.encode().index(lost[0])}",
                expected=f"one of the {len(self._spelled)} bytes that have a token",
                found=f"0x{lost[0]:02X}",
                hint="leave the character out",
            )
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _read_merges(merges: tuple[str, ...], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Split merges into their halves; raise for the first that cannot be made."""
    pairs = []
    for index, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left in ids and right in ids and left + right in ids:
            pairs.append((left, right))
            continue
        missing = next(token for token in (left, right, left + right) if token not in ids)
        raise TokenizerDataError(
            "a merge of the tokenizer cannot be made",
            where=f"merge {index}",
            expected="two tokens with a space between, whose sum is a token too",
            found=f"{merge!r}, and no token {missing!r}",
            hint=HINT,
        )
    return pairs
