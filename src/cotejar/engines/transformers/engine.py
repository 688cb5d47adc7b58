"""The transformers engine: numerics `f32`, `f64` and `bf16`, on the CPU.

In transformers' own code RMSNorm, the softmax of attention and the rotary tables are float32
whatever the model's type is. In `bf16` they stay so; in `f64` they are float64 too, see
`widening`. The build says either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import transformers
from transformers import DynamicCache

import cotejar
from cotejar.engines.protocol import check_token_ids
from cotejar.engines.tracing import finish_trace, join_recorders, passes_of
from cotejar.engines.transformers.load import (
    ATTENTION,
    DTYPES,
    arithmetic_of,
    is_read_by_transformers,
    load_model,
)
from cotejar.engines.transformers.observation import observe
from cotejar.engines.transformers.session import TransformersSession
from cotejar.trace.forward_trace import EngineInfo, TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import Capture, ForwardTrace


class TransformersEngine:
    """One model in one numerics."""

    def __init__(self, model: LanguageModel, *, numerics: str) -> None:
        """Load the weights.

        Raises:
            CotejarError: as `load_model`.
        """
        self.model = model
        self._module = load_model(model, numerics)
        weights = f"decoded by cotejar {cotejar.__version__}"
        if is_read_by_transformers(model):
            weights = "read by safetensors"
        exception = {
            "f64": "; what its code has in float32 is float64",
            "bf16": f"; {float32_parts(ATTENTION)} in float32",
        }.get(numerics, "")
        self.info = EngineInfo(
            name="transformers",
            build=f"{describe_build(ATTENTION)}; weights {weights}{exception}",
            numerics=numerics,
        )

    def trace(
        self, token_ids: Sequence[int], *, capture: Capture, prompt: str | None = None
    ) -> ForwardTrace:
        """Run the tokens from position 0 in one pass.

        Arrays are in the type of the numerics; those of bfloat16 are held in float32.
        """
        self._check(token_ids)
        recorder = TraceRecorder(capture)
        with arithmetic_of(DTYPES[self.info.numerics]):
            not_observed = observe(self._module, token_ids, recorder)
        return finish_trace(
            recorder,
            engine=self.info,
            model=self.model,
            token_ids=token_ids,
            prompt=prompt,
            not_observed=not_observed,
        )

    def trace_steps(
        self,
        token_ids: Sequence[int],
        *,
        num_steps: int,
        capture: Capture,
        prompt: str | None = None,
    ) -> ForwardTrace:
        """Run the last `num_steps` tokens one at a time over transformers' own cache."""
        self._check(token_ids)
        passes = passes_of(len(token_ids), num_steps)
        cache = DynamicCache(config=self._module.config)
        parts, start = [], 0
        not_observed: frozenset[str] = frozenset()
        for size in passes:
            parts.append(TraceRecorder(capture))
            some = token_ids[start : start + size]
            with arithmetic_of(DTYPES[self.info.numerics]):
                not_observed |= observe(self._module, some, parts[-1], cache=cache)
            start += size
        return finish_trace(
            join_recorders(parts, capture),
            engine=self.info,
            model=self.model,
            token_ids=token_ids,
            prompt=prompt,
            not_observed=not_observed,
            passes=passes,
        )

    def _check(self, token_ids: Sequence[int]) -> None:
        declared = self.model.declared.config
        check_token_ids(
            token_ids,
            vocab_size=declared.vocab_size,
            context_length=declared.context_length,
        )

    def start(self) -> TransformersSession:
        """Begin an empty context, over transformers' own cache."""
        return TransformersSession(self.model, self._module)


def describe_build(attention: str) -> str:
    """Versions, the attention that ran, and threads."""
    return (
        f"transformers {transformers.__version__}, torch {torch.__version__}, "
        f"{attention} attention, {torch.get_num_threads()} threads"
    )


def float32_parts(attention: str) -> str:
    """What transformers computes in float32 whatever the model's type."""
    return f"norms{', softmax' if attention == 'eager' else ''} and rotary tables"
