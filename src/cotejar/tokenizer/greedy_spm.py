"""SentencePiece's BPE: merge the two neighbours whose token scores highest, until none is left.

The text is cut into characters, each space written as U+2581. Of all neighbours that
together spell a token, the pair whose token has the highest score is merged, the leftmost
of equals; then again. A character that is no token becomes its UTF-8 bytes, as the tokens
`<0x00>`..`<0xFF>`, or the unknown token where the vocabulary has no byte tokens.

This is the algorithm of SentencePiece's `bpe_model.cc` and of llama.cpp. The `tokenizers`
library ranks pairs rather than the tokens they make, so it breaks ties between two ways to
make tokens of one score otherwise; that is why the merging is done here.

Text never merges into a control, unknown or byte token: those have to be asked for.
"""

from __future__ import annotations

import functools
import heapq
import re
from typing import TYPE_CHECKING

from cotejar.errors import TokenizerDataError, TokenizerError
from cotejar.tokenizer.metadata_keys import HINT
from cotejar.tokenizer.spec import TokenType

if TYPE_CHECKING:
    from cotejar.tokenizer.spec import TokenizerSpec

SPACE = "\u2581"
"""How tokens spell a space."""

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How a byte token is spelled."""

_WORD = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")
# Words that come back are merged once; longer ones hardly come back.
_CACHED_WORDS = 1 << 16
_CACHED_CHARS = 64


def byte_of(token: str) -> int:
    """The byte that a byte token such as `<0x0A>` stands for.

    Raises:
        TokenizerDataError: it is spelled otherwise.
    """
    match = BYTE_TOKEN.fullmatch(token)
    if match is None:
        raise TokenizerDataError(
            "a byte token is not spelled like one",
            where="the tokens of type BYTE",
            expected="<0x00> to <0xFF>",
            found=repr(token),
            hint=HINT,
        )
    return int(match[1], 16)


class GreedySpm:
    """Turns text that holds no special token into ids.

    Raises:
        TokenizerDataError: a byte token is malformed.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        types = spec.token_types or (int(TokenType.NORMAL),) * len(spec.tokens)
        mergeable = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
        self._pieces = {
            token: (token_id, -spec.scores[token_id])
            for token_id, token in enumerate(spec.tokens)
            if types[token_id] in mergeable
        }
        self._byte_ids = {
            byte_of(token): token_id
            for token_id, token in enumerate(spec.tokens)
            if types[token_id] == TokenType.BYTE
        }
        self._unk_id = spec.unk_id
        # Where no token has a space after another character, no merge crosses the place
        # before a space, and words can be merged one by one, and remembered.
        inner_space = re.compile(f"[^{SPACE}]{SPACE}")
        self._has_words = not any(map(inner_space.search, self._pieces))
        self._encode_cached = functools.lru_cache(_CACHED_WORDS)(self._encode_word)

    def encode_fragment(self, text: str) -> list[int]:
        """Turn text into ids; spaces in it are spaces.

        Raises:
            TokenizerError: a character has no token, and there is no byte token for it
                and no unknown token.
        """
        text = text.replace(" ", SPACE)
        words = _WORD.findall(text) if self._has_words else [text]
        ids: list[int] = []
        for word in words:
            encode = self._encode_cached if len(word) <= _CACHED_CHARS else self._encode_word
            for token_id in encode(word):
                # A run of unknown characters is one unknown token, as in SentencePiece.
                if token_id != self._unk_id or ids[-1:] != [token_id]:
                    ids.append(token_id)
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in self._merge(word):
            if piece in self._pieces:
                ids.append(self._pieces[piece][0])
            else:
                ids.extend(self._fallback(piece))
        return tuple(ids)

    def _merge(self, word: str) -> list[str]:
        """Merge characters into pieces, the best-scored neighbours first."""
        pieces = list(word)
        following = [*range(1, len(pieces)), -1]
        preceding = list(range(-1, len(pieces) - 1))
        # (negated score, left piece, right piece, length of the merged piece)
        queue: list[tuple[float, int, int, int]] = []

        def offer(left: int, right: int) -> None:
            merged = pieces[left] + pieces[right]
            if merged in self._pieces:
                heapq.heappush(queue, (self._pieces[merged][1], left, right, len(merged)))

        for left in range(len(pieces) - 1):
            offer(left, left + 1)
        while queue:
            _, left, right, num_chars = heapq.heappop(queue)
            # A piece that has been merged away is empty; one that has grown is longer.
            if not pieces[left] or len(pieces[left]) + len(pieces[right]) != num_chars:
                continue
            if not pieces[right]:
                continue
            pieces[left] += pieces[right]
            pieces[right] = ""
            following[left] = following[right]
            if following[right] >= 0:
                preceding[following[right]] = left
                offer(left, following[right])
            if preceding[left] >= 0:
                offer(preceding[left], left)
        return [piece for piece in pieces if piece]

    def _fallback(self, character: str) -> list[int]:
        data = character.encode()
        if all(byte in self._byte_ids for byte in data):
            return [self._byte_ids[byte] for byte in data]
        if self._unk_id is not None:
            return [self._unk_id]
        raise TokenizerError(
            "the vocabulary cannot spell the text",
            where=f"the character {character!r} (U+{ord(character):04X})",
            expected="a token for it, byte tokens, or an unknown token",
            found="none of them",
            hint="leave the character out",
        )
