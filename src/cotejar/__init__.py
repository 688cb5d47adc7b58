"""Check a language model's copy against its original, side by side."""

from __future__ import annotations

import importlib
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.trace.forward_trace import Capture, ForwardTrace

__version__ = "0.1.0"


def trace(
    model: Any,
    token_ids: Sequence[int],
    *,
    capture: Capture | str = "all",
    prompt: str | None = None,
) -> ForwardTrace:
    """Trace a Hugging Face transformers model that is already in memory.

    The model runs once over the tokens, from position 0, without gradients or dropout, in
    its own type and on its own device. Afterwards it is as it was before, hooks, training
    flags and all, also where the run raised.

        reference = cotejar.trace(model, tokenizer(text).input_ids, prompt=text)

    Args:
        model: a Llama, Mistral, Qwen2, Qwen3 or Gemma3 model for causal language modelling.
        token_ids: ids of one text: a list, or a tensor of (tokens,) or (1, tokens).
        capture: the arrays to keep beside the statistics: `all`, slots with commas between
            them, or a `Capture`.
        prompt: the text that the ids came from, for the trace to say.

    Returns:
        The trace: every site, with its statistics and the arrays that were asked for.

    Raises:
        ArchitectureError: a model whose structure is not known.
        EmptyPromptError, TokenIdError, ContextLengthError: ids that cannot be run.
        UsageError: what is no list of ids, or no slot.
        MissingExtraError: torch or transformers is not installed.
        EngineDataError: a module gave something else than an activation of these tokens.
    """
    # By name, so that nothing here needs torch, and the rooms stay in their order.
    registry = importlib.import_module("cotejar.engines.registry")
    registry.require_packages(registry.ENGINES["transformers"])
    held = importlib.import_module("cotejar.engines.transformers.held_model")
    result: ForwardTrace = held.trace_held_model(
        model, token_ids, capture=capture, prompt=prompt
    )
    return result


class _TraceRoom(types.ModuleType):
    """`cotejar.trace` is a function and a room: Python lets a package have both only so."""

    __call__ = staticmethod(trace)


importlib.import_module("cotejar.trace").__class__ = _TraceRoom
