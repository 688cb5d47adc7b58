"""A text as chunks of tokens, cut as llama.cpp's perplexity tool cuts it.

The whole text is tokenized once and cut into chunks of one length; what is left over at the
end is not used. Of each chunk the first half is read and only the second half is judged, so
that every judged token has at least half a chunk before it. Where the model wants a BOS, it
takes the place of each chunk's first token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import MissingFileError, NothingMeasuredError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jaxtyping import Float

    from cotejar.engines.protocol import GeneratingEngine
    from cotejar.model.language_model import LanguageModel

DEFAULT_CHUNK_TOKENS = 512
MIN_CHUNK_TOKENS = 8
MAX_TEXT_BYTES = 1 << 30
ROWS_AT_ONCE = 32
"""Logits held at once, in positions: a vocabulary has up to 256,000 of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunks:
    """A text, cut."""

    chunk_tokens: int
    token_ids: tuple[tuple[int, ...], ...]
    text_sha256: str

    @property
    def first_judged(self) -> int:
        """Index into a chunk of the first position whose prediction counts."""
        return self.chunk_tokens // 2


def read_chunks(
    path: Path, model: LanguageModel, *, chunk_tokens: int = DEFAULT_CHUNK_TOKENS
) -> Chunks:
    """Read a text and cut it up.

    Raises:
        UsageError: chunks shorter than `MIN_CHUNK_TOKENS` or longer than the model's context.
        MissingFileError, NothingMeasuredError: no such text; less of it than one chunk.
        TokenizerError: the model has no tokenizer, or the text is no Unicode.
    """
    context = model.declared.config.context_length
    if not MIN_CHUNK_TOKENS <= chunk_tokens <= context:
        raise UsageError(
            "the text cannot be cut so",
            where="--chunk",
            expected=f"{MIN_CHUNK_TOKENS}..{context} tokens, the model's context",
            found=str(chunk_tokens),
            hint=f"{DEFAULT_CHUNK_TOKENS} is what others measure with",
        )
    raw = _read(path)
    ids = model.tokenizer.encode(_decoded(raw, path))
    whole = len(ids) // chunk_tokens
    if whole == 0:
        raise NothingMeasuredError(
            "the text is shorter than one chunk",
            where=str(path),
            expected=f"at least {chunk_tokens} tokens",
            found=f"{len(ids)} tokens",
            hint="take a longer text, or shorter chunks with --chunk",
        )
    spec, cut = model.tokenizer.spec, []
    for index in range(whole):
        chunk = ids[index * chunk_tokens : (index + 1) * chunk_tokens]
        if spec.add_bos and spec.bos_id is not None:
            chunk[0] = spec.bos_id
        cut.append(tuple(chunk))
    return Chunks(
        chunk_tokens=chunk_tokens,
        token_ids=tuple(cut),
        text_sha256=hashlib.sha256(raw).hexdigest(),
    )


def judged_logits(
    engine: GeneratingEngine, chunks: Chunks, index: int
) -> Iterator[tuple[Float[np.ndarray, "N V"], tuple[int, ...]]]:
    """Logits of a chunk's judged positions, some at a time, with the next tokens that came."""
    chunk, session = chunks.token_ids[index], engine.start()
    at = chunks.first_judged
    session.append(chunk[:at])
    while at < chunks.chunk_tokens - 1:
        stop = min(at + ROWS_AT_ONCE, chunks.chunk_tokens - 1)
        yield session.append_all(chunk[at:stop]), chunk[at + 1 : stop + 1]
        at = stop


def log_softmax(logits_NV: Float[np.ndarray, "N V"]) -> Float[np.ndarray, "N V"]:
    """In float64; the largest logit first taken off."""
    shifted = logits_NV.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise MissingFileError(
            "the text cannot be read",
            where=str(path),
            expected="a readable file of text",
            found=error.strerror or type(error).__name__,
            hint="give the path of a text with --text",
        ) from None
    if len(raw) > MAX_TEXT_BYTES:
        raise UsageError(
            "the text is too long",
            where=str(path),
            expected=f"at most {MAX_TEXT_BYTES} bytes",
            found="more",
            hint="a part of it says as much",
        )
    return raw


def _decoded(raw: bytes, path: Path) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            "the text is no UTF-8",
            where=f"{path}, byte {error.start}",
            expected="UTF-8",
            found=f"0x{raw[error.start]:02x}",
            hint="convert it: iconv -t utf-8",
        ) from None
