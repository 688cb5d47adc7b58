"""The native engine: numerics `f32` (weights decoded), `bf16`, `q8` (as ggml has it), `w8a8`.

`q8` rounds activations to blocks of 8 bits and takes integer dots, as ggml does on a CPU;
`f32` decodes the same blocks and multiplies in float32; `bf16` rounds what is decoded, and
the activations, to bfloat16 and sums in float32; `w8a8` makes 8-bit integers of weights and
activations, 64 under one scale, attends in float32, and is the fastest over many tokens. Of the
others the numerics is the products' alone: all else is the same float32. A suffix names what
the KV cache stores where that is not float32: `q8-kvf16`, `f32-kvq8`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

import cotejar
from cotejar.engines.native.cache import KVCache
from cotejar.engines.native.decoder import Decoder, has_decoder
from cotejar.engines.native.fused import FusedPass
from cotejar.engines.native.packed import PackedPass
from cotejar.engines.protocol import check_token_ids
from cotejar.engines.tracing import finish_trace, join_recorders, passes_of
from cotejar.errors import UsageError
from cotejar.kernels.products import (
    multiply_bf16,
    multiply_f32,
    multiply_q8,
    multiply_w8a8,
)
from cotejar.trace.forward_trace import EngineInfo, TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float32

    from cotejar.engines.native.forward import Multiply, Pass
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import Capture, ForwardTrace

    MakePass = Callable[[LanguageModel, Multiply, KVCache, TraceRecorder | None], Pass]

MULTIPLY = {
    "f32": multiply_f32,
    "q8": multiply_q8,
    "bf16": multiply_bf16,
    "w8a8": multiply_w8a8,
}
KV_SUFFIXES = {"": "f32", "-kvf16": "f16", "-kvq8": "q8_0"}
NUMERICS = {
    f"{arithmetic}{suffix}": (multiply, kv_type)
    for suffix, kv_type in KV_SUFFIXES.items()
    for arithmetic, multiply in MULTIPLY.items()
}
"""By name: the matrix product, and what the KV cache stores."""


class NativeEngine:
    """One model in one numerics."""

    def __init__(
        self, model: LanguageModel, *, numerics: str, forward: MakePass = FusedPass
    ) -> None:
        """Take a model.

        Args:
            model: what is run.
            numerics: one of `NUMERICS`.
            forward: the forward pass; another is a fault put in on purpose, or `Pass` itself.
        """
        self.model = model
        self._multiply, self._kv_type = NUMERICS[numerics]
        self._forward = forward
        self.info = EngineInfo(
            name="native",
            build=f"cotejar {cotejar.__version__}, numpy {np.__version__}",
            numerics=numerics,
        )

    def trace(
        self, token_ids: Sequence[int], *, capture: Capture, prompt: str | None = None
    ) -> ForwardTrace:
        """Run the tokens from position 0 in one pass; arrays are float32."""
        recorder = TraceRecorder(capture)
        _run(self._new_pass(recorder), token_ids, last_only=False)
        return finish_trace(
            recorder, engine=self.info, model=self.model, token_ids=token_ids, prompt=prompt
        )

    def trace_steps(
        self,
        token_ids: Sequence[int],
        *,
        num_steps: int,
        capture: Capture,
        prompt: str | None = None,
    ) -> ForwardTrace:
        """Run the last `num_steps` tokens one at a time over the KV cache of those before."""
        self.check(token_ids)
        passes = passes_of(len(token_ids), num_steps)
        session, parts, start = self.start(), [], 0
        for size in passes:
            parts.append(TraceRecorder(capture))
            session.append_traced(token_ids[start : start + size], parts[-1])
            start += size
        return finish_trace(
            join_recorders(parts, capture),
            engine=self.info,
            model=self.model,
            token_ids=token_ids,
            prompt=prompt,
            passes=passes,
        )

    def with_model(self, model: LanguageModel) -> NativeEngine:
        """The same engine, whatever was put into it, on another model."""
        return NativeEngine(model, numerics=self.info.numerics, forward=self._forward)

    def start(self) -> NativeSession:
        """Begin an empty context."""
        return NativeSession(self._new_pass(None), self._decoder)

    @cached_property
    def _decoder(self) -> Decoder | None:
        is_ours = self._multiply is multiply_q8 and self._forward is FusedPass
        if is_ours and has_decoder(self.model):
            return Decoder(self.model)
        return None

    def append_packed(
        self, parts: Sequence[tuple[NativeSession, Sequence[int]]]
    ) -> Float32[np.ndarray, "N V"]:
        """Extend several sessions in one pass; the logits after each one's last token.

        Raises:
            UsageError: there is no session, or one twice.
            EmptyPromptError, TokenIdError, ContextLengthError: as of one session.
        """
        if not parts or len({id(session) for session, _ in parts}) < len(parts):
            raise UsageError(
                "sessions cannot be run side by side so",
                where="append_packed",
                expected="one session or more, each once",
                found=f"{len(parts)} parts",
                hint="join a session's tokens to one part",
            )
        for session, token_ids in parts:
            _check(self.model, token_ids, session.num_tokens)
        if self._decoder and all(len(token_ids) == 1 for _, token_ids in parts):
            logits_NV = self._decoder.step([(s.cache, ids[0]) for s, ids in parts])
        else:
            with np.errstate(all="ignore"):
                logits_NV = self._packed.run_packed([(s.cache, ids) for s, ids in parts])
        for session, token_ids in parts:
            session.token_ids += token_ids
        return logits_NV

    def check(self, token_ids: Sequence[int], num_before: int = 0) -> None:
        """Refuse ids that could not follow `num_before` others.

        Raises:
            EmptyPromptError, TokenIdError, ContextLengthError: what is wrong with them.
        """
        _check(self.model, token_ids, num_before)

    @cached_property
    def _packed(self) -> PackedPass:
        return PackedPass(self.model, self._multiply)

    def _new_pass(self, recorder: TraceRecorder | None) -> Pass:
        cache = KVCache(self.model.config, self._kv_type)
        return self._forward(self.model, self._multiply, cache, recorder)


class NativeSession:
    """A context that grows token by token over a KV cache."""

    def __init__(self, step: Pass, decoder: Decoder | None = None) -> None:
        self._pass = step
        self._decoder = decoder
        self.token_ids: list[int] = []
        """Everything in the context."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the context so far."""
        return self._pass.cache.num_tokens

    @property
    def cache(self) -> KVCache:
        """Its keys and values."""
        return self._pass.cache

    def append(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "V"]:
        """Add tokens; return the logits after the last of them."""
        if len(token_ids) == 1 and self._decoder:
            _check(self._pass.model, token_ids, self.num_tokens)
            logits_1V = self._decoder.step([(self.cache, token_ids[0])])
        else:
            logits_1V = _run(self._pass, token_ids, last_only=True)
        self.token_ids += token_ids
        return logits_1V.reshape(-1)

    def append_all(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "T V"]:
        """Add tokens; return the logits after each of them."""
        logits_TV = _run(self._pass, token_ids, last_only=False)
        self.token_ids += token_ids
        return logits_TV

    def append_traced(
        self, token_ids: Sequence[int], recorder: TraceRecorder
    ) -> Float32[np.ndarray, "T V"]:
        """Add tokens and record every site; return the logits after each of them."""
        if len(token_ids) == 1 and self._decoder and recorder.takes_step:
            _check(self._pass.model, token_ids, self.num_tokens)
            logits_TV = self._decoder.step_traced(self.cache, token_ids[0], recorder)
        else:
            self._pass.recorder = recorder
            try:
                logits_TV = _run(self._pass, token_ids, last_only=False)
            finally:
                self._pass.recorder = None
        self.token_ids += token_ids
        return logits_TV

    def truncate(self, num_tokens: int) -> None:
        """Forget every token from `num_tokens` on.

        Raises:
            UsageError: there are fewer, or a window has left behind what they need.
        """
        self._pass.cache.truncate(num_tokens)
        del self.token_ids[num_tokens:]

    def keep_common_prefix(self, token_ids: Sequence[int]) -> int:
        """Go back to where the context and these ids part; return how many are kept.

        One token less than the ids at most, so that there is one left to run.
        """
        kept = 0
        for ours, theirs in zip(self.token_ids, token_ids[:-1], strict=False):
            if ours != theirs:
                break
            kept += 1
        self.truncate(kept if self._pass.cache.can_truncate(kept) else 0)
        return self.num_tokens


def _run(
    step: Pass, token_ids: Sequence[int], *, last_only: bool
) -> Float32[np.ndarray, "T V"]:
    _check(step.model, token_ids, step.cache.num_tokens)
    # Infinite weights make NaN; a trace reports them, numpy need not.
    with np.errstate(all="ignore"):
        return step.run(token_ids, last_only=last_only)


def _check(model: LanguageModel, token_ids: Sequence[int], num_before: int) -> None:
    declared = model.declared.config
    check_token_ids(
        token_ids,
        vocab_size=declared.vocab_size,
        context_length=declared.context_length,
        num_before=num_before,
    )
