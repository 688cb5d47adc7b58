"""Text from an engine in a process of its own: contexts live there, logits come here."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.engines.isolated import IsolatedEngine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jaxtyping import Float

    from cotejar.engines.spec import EngineSpec
    from cotejar.model.language_model import LanguageModel

DTYPES = {"float32": 4, "float64": 8}
"""What logits may come in, and the bytes of one."""
MAX_LOGITS_BYTES = 1 << 27
"""Of one answer: 64 positions of a vocabulary of 256,000 in float64."""


def open_isolated(
    spec: EngineSpec,
    model: LanguageModel,
    *,
    numerics: str,
    options: Mapping[str, Any] | None = None,
) -> IsolatedEngine:
    """The engine, with sessions if its spec says that it generates; errors as its class."""
    kind = IsolatedGenerator if spec.generates else IsolatedEngine
    return kind(spec, model, numerics=numerics, options=options)


class IsolatedGenerator(IsolatedEngine):
    """An isolated engine that can also continue a text."""

    def start(self) -> IsolatedSession:
        """Begin an empty context in the child."""
        answer = self.ask({"do": "start"}, self.limit_s(1), "starting a text")
        return IsolatedSession(self, self.whole_number(answer, "session"))

    def append(
        self, session: int, token_ids: Sequence[int], num_before: int
    ) -> Float[np.ndarray, "V"]:
        """Logits after tokens that follow `num_before` others: for `IsolatedSession`."""
        self.check_ids(token_ids, num_before=num_before)
        rows_1V = self._run("append", session, token_ids, num_before=num_before, num_rows=1)
        return rows_1V.reshape(-1)

    def append_all(
        self, session: int, token_ids: Sequence[int], num_before: int
    ) -> Float[np.ndarray, "T V"]:
        """The same, logits after each of at most `rows_at_once` tokens."""
        return self._run(
            "append_all", session, token_ids, num_before=num_before, num_rows=len(token_ids)
        )

    @property
    def rows_at_once(self) -> int:
        """Positions whose logits travel in one file."""
        row_bytes = max(DTYPES.values()) * self.model.declared.config.vocab_size
        return max(1, MAX_LOGITS_BYTES // row_bytes)

    def _run(
        self,
        verb: str,
        session: int,
        token_ids: Sequence[int],
        *,
        num_before: int,
        num_rows: int,
    ) -> Float[np.ndarray, "N V"]:
        path = self.new_path("logits")
        ids = list(map(int, token_ids))
        request = {"do": verb, "session": session, "token_ids": ids, "out": str(path)}
        try:
            answer = self.ask(
                request, self.limit_s(num_before + len(ids)), f"running {len(ids)} tokens"
            )
            expected, held = num_before + len(ids), self.whole_number(answer, "num_tokens")
            self.require(held == expected, f"{expected} tokens in its context", str(held))
            return self._read_logits(path, str(answer.get("dtype")), num_rows)
        finally:
            path.unlink(missing_ok=True)

    def _read_logits(self, path: Path, dtype: str, num_rows: int) -> Float[np.ndarray, "N V"]:
        self.require(dtype in DTYPES, " or ".join(DTYPES), dtype[:80])
        item_bytes, vocab_size = DTYPES[dtype], self.model.declared.config.vocab_size
        size = item_bytes * vocab_size * num_rows
        found = path.stat().st_size if path.is_file() else 0
        rows = f" at each of {num_rows} positions" if num_rows > 1 else ""
        self.require(
            found == size,
            f"{size} bytes of logits, {item_bytes} a token id{rows}",
            f"{found} bytes",
        )
        wire = np.dtype(dtype).newbyteorder("<")
        logits_NV = np.fromfile(path, wire, num_rows * vocab_size).astype(dtype, copy=False)
        num_bad = int((~np.isfinite(logits_NV)).sum())
        self.require(
            num_bad == 0,
            f"{logits_NV.size} finite logits",
            f"{num_bad} that are NaN or infinite",
        )
        return logits_NV.reshape(num_rows, vocab_size)


class IsolatedSession:
    """A context that grows in the child."""

    def __init__(self, engine: IsolatedGenerator, session: int) -> None:
        self._engine, self._session = engine, session
        self.num_tokens = 0
        self._end = weakref.finalize(self, lambda: engine.ended_sessions.append(session))

    def append(self, token_ids: Sequence[int]) -> Float[np.ndarray, "V"]:
        """Add tokens; return the logits after the last of them.

        Raises:
            EngineError: it failed, or the logits are short or not finite.
        """
        logits_V = self._engine.append(self._session, token_ids, self.num_tokens)
        self.num_tokens += len(token_ids)
        return logits_V

    def append_all(self, token_ids: Sequence[int]) -> Float[np.ndarray, "T V"]:
        """Add tokens; return the logits after each of them.

        Many tokens are run in pieces, so that the child and the file hold logits of
        `MAX_LOGITS_BYTES` at most; after an error the pieces before it are in the context.

        Raises:
            EngineError: as `append`, or not one row a token.
        """
        self._engine.check_ids(token_ids, num_before=self.num_tokens)
        size = self._engine.rows_at_once
        rows_TV: Float[np.ndarray, "T V"] | None = None
        for at in range(0, len(token_ids), size):
            some = token_ids[at : at + size]
            part_NV = self._engine.append_all(self._session, some, self.num_tokens)
            self.num_tokens += len(some)
            if len(some) == len(token_ids):
                return part_NV
            if rows_TV is None:
                rows_TV = np.empty((len(token_ids), part_NV.shape[1]), part_NV.dtype)
            self._engine.require(
                part_NV.dtype == rows_TV.dtype, str(rows_TV.dtype), str(part_NV.dtype)
            )
            rows_TV[at : at + len(some)] = part_NV
        assert rows_TV is not None, "there are tokens"
        return rows_TV
