"""Text to token ids and back, as the model was trained to see it."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from cotejar.errors import TokenIdError, TokenizerError
from cotejar.tokenizer.byte_level import ByteLevelBpe, spelled_bytes
from cotejar.tokenizer.greedy_spm import SPACE, GreedySpm, byte_of
from cotejar.tokenizer.spec import TokenType
from cotejar.tokenizer.special_tokens import find_special_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cotejar.tokenizer.spec import TokenizerSpec


class Tokenizer:
    """One model's tokenizer. It keeps no state between calls.

    Raises:
        TokenizerDataError: a table of the spec is malformed.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec
        self._special = find_special_tokens(spec)
        if spec.huggingface_json is not None:
            from cotejar.tokenizer.huggingface import HuggingFaceEncoder

            self._huggingface: HuggingFaceEncoder | None = HuggingFaceEncoder(spec)
        else:
            self._huggingface = None
            encoder = ByteLevelBpe if spec.kind == "bpe" else GreedySpm
            self._encoder: ByteLevelBpe | GreedySpm = encoder(spec)

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary; a model's logits may be padded beyond it."""
        return len(self.spec.tokens)

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self.spec.bos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token after which generation ends: of the text, of a turn, of a file."""
        return self._special.eos_ids

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Turn text into ids.

        Args:
            text: may be empty.
            add_special: put BOS before and EOS after, if the model wants them.
            parse_special: take control tokens that the text spells for such; without it
                they are text like any other. User-defined tokens are always parsed.

        Raises:
            TokenizerError: the text is no Unicode, or has what the vocabulary lacks.
        """
        _require_unicode(text)
        ids = self._encode_text(text, parse_special=parse_special)
        if add_special and self.spec.add_bos and self.spec.bos_id is not None:
            ids.insert(0, self.spec.bos_id)
        if add_special and self.spec.add_eos and self.spec.eos_id is not None:
            ids.append(self.spec.eos_id)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Turn ids into text: what `encode` was given, if that gave the ids.

        Args:
            ids: may be empty.
            skip_special: leave control and unknown tokens out.

        Raises:
            TokenIdError: an id is not in the vocabulary.
        """
        ids = list(ids)
        for token_id in ids:
            self._require_id(token_id)
        if self._huggingface is not None:
            return self._huggingface.decode(ids, skip_special=skip_special)
        pieces: list[bytes] = []
        space_was_put = self.spec.add_space_prefix
        for token_id in ids:
            piece = self.token_bytes(token_id)
            is_control = token_id in self._special.control_ids
            if is_control or token_id in self._special.user_defined_ids:
                space_was_put = self.spec.add_space_prefix
                piece = b"" if is_control and skip_special else piece
            elif space_was_put:
                piece = piece.removeprefix(b" ")
                space_was_put = False
            pieces.append(piece)
        return b"".join(pieces).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for inside a text; a special token's are its name.

        A character may be spread over several tokens. A token that is never used, such as
        the padding of a vocabulary, has none.

        Raises:
            TokenIdError: the id is not in the vocabulary.
            TokenizerDataError: a byte token is malformed.
        """
        self._require_id(token_id)
        token = self.spec.tokens[token_id]
        if token_id in self._special.control_ids or token_id in self._special.user_defined_ids:
            return token.encode()
        types = self.spec.token_types
        token_type = types[token_id] if types else TokenType.NORMAL
        if token_type == TokenType.BYTE:
            return bytes([byte_of(token)])
        if token_type != TokenType.NORMAL:
            return b""
        if self.spec.kind == "bpe":
            return spelled_bytes(token)
        return token.replace(SPACE, " ").encode()

    def token_text(self, token_id: int) -> str:
        """A token for a reader: its text, U+FFFD for half a character; or its name.

        Raises:
            TokenIdError: the id is not in the vocabulary.
        """
        data = self.token_bytes(token_id)
        return data.decode("utf-8", "replace") if data else self.spec.tokens[token_id]

    def is_control(self, token_id: int) -> bool:
        """Whether the token is no part of a text: BOS, the end of a turn, ..."""
        return token_id in self._special.control_ids

    def is_special(self, token_id: int) -> bool:
        """Whether the token is found by its name, before a text is cut into words."""
        return self.is_control(token_id) or token_id in self._special.user_defined_ids

    def _encode_text(self, text: str, *, parse_special: bool) -> list[int]:
        if self._huggingface is not None:
            return self._huggingface.encode(text, parse_special=parse_special)
        ids: list[int] = []
        prefix = " " if self.spec.add_space_prefix else ""
        for piece in self._special.split(text, parse_special=parse_special):
            # A text stands at the start or after a special token: it always has the prefix.
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids.extend(self._encoder.encode_fragment(prefix + piece))
        return ids

    def _require_id(self, token_id: int) -> None:
        if not 0 <= token_id < len(self.spec.tokens):
            raise TokenIdError(
                "a token id is not in the vocabulary",
                where="the token ids",
                expected=f"0..{len(self.spec.tokens) - 1}",
                found=str(token_id),
                hint="see whether the ids belong to another model",
            )


class StreamDecoder:
    """Turns ids into text one by one, and holds back what is not yet a whole character.

    The text continues another one, so a leading space of an SPM's first token stays.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Add a token; return the characters that it completes, which may be none.

        Raises:
            TokenIdError: the id is not in the vocabulary.
        """
        data = self._tokenizer.token_bytes(token_id)
        if self._skip_special and self._tokenizer.is_control(token_id):
            data = b""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Return what is left: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            "the text is no Unicode",
            where=f"character {error.start} of {len(text)}",
            expected="characters that have a UTF-8 encoding",
            found=f"U+{ord(text[error.start]):04X}, half of a surrogate pair",
            hint="give the text as UTF-8",
        ) from None
