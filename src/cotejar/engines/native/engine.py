"""The native engine: numerics `f32` (weights decoded to float32) and `q8` (as ggml has it).

`q8` rounds activations to blocks of 8 bits and takes integer dots, as ggml does on a CPU;
`f32` decodes the same blocks and multiplies in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import cotejar
from cotejar.engines.native.cache import KVCache
from cotejar.engines.native.forward import Pass
from cotejar.engines.protocol import check_token_ids
from cotejar.engines.tracing import finish_trace
from cotejar.kernels.products import multiply_f32, multiply_q8
from cotejar.trace.forward_trace import EngineInfo, TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float32

    from cotejar.engines.native.forward import Multiply
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import Capture, ForwardTrace

    MakePass = Callable[[LanguageModel, Multiply, KVCache, TraceRecorder | None], Pass]

MULTIPLY = {"f32": multiply_f32, "q8": multiply_q8}


class NativeEngine:
    """One model in one numerics."""

    def __init__(
        self, model: LanguageModel, *, numerics: str, forward: MakePass = Pass
    ) -> None:
        """Take a model.

        Args:
            model: what is run.
            numerics: one of `MULTIPLY`.
            forward: the forward pass; another than `Pass` is a fault put in on purpose.
        """
        self.model = model
        self._multiply = MULTIPLY[numerics]
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

    def start(self) -> NativeSession:
        """Begin an empty context."""
        return NativeSession(self._new_pass(None))

    def _new_pass(self, recorder: TraceRecorder | None) -> Pass:
        return self._forward(self.model, self._multiply, KVCache(self.model.config), recorder)


class NativeSession:
    """A context that grows token by token over a KV cache."""

    def __init__(self, step: Pass) -> None:
        self._pass = step

    @property
    def num_tokens(self) -> int:
        """Tokens in the context so far."""
        return self._pass.cache.num_tokens

    def append(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "V"]:
        """Add tokens; return the logits after the last of them."""
        logits_1V = _run(self._pass, token_ids, last_only=True)
        return logits_1V.reshape(-1)


def _run(
    step: Pass, token_ids: Sequence[int], *, last_only: bool
) -> Float32[np.ndarray, "T V"]:
    declared = step.model.declared.config
    check_token_ids(
        token_ids,
        vocab_size=declared.vocab_size,
        context_length=declared.context_length,
        num_before=step.cache.num_tokens,
    )
    # Infinite weights make NaN; a trace reports them, numpy need not.
    with np.errstate(all="ignore"):
        return step.run(token_ids, last_only=last_only)
