"""Run a transformers model once and record every site, and leave no trace in the model.

Sites inside modules are read by forward hooks. Queries and keys after RoPE pass through no
module: they are seen where the attention function is called, through the table in which
transformers looks that function up (`ALL_ATTENTION_FUNCTIONS`). For the length of the run
the entry of the model's own attention is one that notes its arguments and calls the
original; no line of the model's arithmetic is replaced. Where a release does not look the
function up there, the two slots are not observed.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cotejar.engines.transformers.structure import find_layers, find_taps
from cotejar.errors import EngineDataError
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Float

    from cotejar.trace.forward_trace import TraceRecorder

ROTATED = ("q_rope", "k_rope")

_ONE_AT_A_TIME = threading.RLock()
"""The table of attention functions belongs to the process, not to a model. A hook of the
caller's may trace another model meanwhile, in the same thread."""


class Observer:
    """Takes what hooks see, brings it to (tokens, width) and records it."""

    def __init__(self, recorder: TraceRecorder, num_tokens: int) -> None:
        self._recorder = recorder
        self._num_tokens = num_tokens
        self._projections: dict[int, dict[str, np.ndarray]] = {}
        self._bfloat16: set[str] = set()
        self.seen: set[str] = set()
        """Slots that were reached at any layer."""

    def see(self, slot: str, layer: int | None, value: Any) -> None:
        """Record a tensor of (1, tokens, ...), as modules give them."""
        tensor: Any = next(iter(value), None) if isinstance(value, tuple) else value
        expected = (1, self._num_tokens)
        is_tensor = isinstance(tensor, torch.Tensor)
        if not is_tensor or tuple(tensor.shape[:2]) != expected or tensor.is_meta:
            found = tuple(tensor.shape) if is_tensor else type(tensor).__name__
            if is_tensor and tensor.is_meta:
                found = f"{found} on the device meta, which holds no values"
            raise EngineDataError(
                f"transformers gave no activation of {self._num_tokens} tokens",
                where=str(Site(slot, layer)),
                expected=f"a tensor of (1, {self._num_tokens}, ...)",
                found=f"{found}",
                hint="is something else hooked into the model?",
            )
        values_TW = self._record(slot, layer, tensor)
        if layer is not None and slot in {"q", "k", "v"}:
            self._join_projections(slot, layer, values_TW, tensor.dtype)

    def see_rotated(self, layer: int, query: Any, key: Any) -> None:
        """Record queries and keys of (1, heads, tokens, head size): the new tokens' alone."""
        for slot, value in zip(ROTATED, (query, key), strict=True):
            self.see(slot, layer, value[:, :, -self._num_tokens :].transpose(1, 2))

    def finish(self) -> None:
        """Name the type of what numpy could only hold wider."""
        sites = self._recorder.sites
        for name in self._bfloat16 & sites.keys():
            sites[name] = replace(sites[name], dtype="bfloat16")

    def _record(
        self, slot: str, layer: int | None, tensor: torch.Tensor
    ) -> Float[np.ndarray, "T W"]:
        values_TW = to_array(tensor).reshape(self._num_tokens, -1)
        self._note(slot, layer, values_TW, tensor.dtype)
        return values_TW

    def _note(
        self, slot: str, layer: int | None, values_TW: np.ndarray, dtype: torch.dtype
    ) -> None:
        self._recorder.record(slot, values_TW, layer)
        self.seen.add(slot)
        if dtype is torch.bfloat16:
            self._bfloat16.add(str(Site(slot, layer)))

    def _join_projections(
        self, slot: str, layer: int, values_TW: np.ndarray, dtype: torch.dtype
    ) -> None:
        parts = self._projections.setdefault(layer, {})
        parts[slot] = values_TW
        if len(parts) == len("qkv"):
            joined_TW = np.concatenate([parts[letter] for letter in "qkv"], axis=1)
            self._note("qkv", layer, joined_TW, dtype)
            del self._projections[layer]


def cache_arguments(model: Any, cache: Any) -> dict[str, Any]:
    """What makes a forward read and extend a cache; without one, keep none."""
    if cache is None:
        return {"use_cache": False}
    # Its name changed within transformers 5.
    takes = inspect.signature(model.forward).parameters
    return {"use_cache": True, "cache" if "cache" in takes else "past_key_values": cache}


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's values in its own type; of bfloat16, which numpy lacks, in float32."""
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    array: np.ndarray = tensor.cpu().contiguous().numpy()
    return array


def observe(
    model: Any, token_ids: Sequence[int], recorder: TraceRecorder, *, cache: Any = None
) -> frozenset[str]:
    """Run the tokens in one pass; return the slots that cannot be observed.

    They stand from position 0 on, or after those that transformers' `cache` holds.

    Hooks, attention, training flags and grad mode are as before when this returns or raises.

    Raises:
        ArchitectureError: the structure of the model is not known.
        EngineDataError: a module gave something else than an activation of these tokens.
    """
    observer = Observer(recorder, len(token_ids))
    with _ONE_AT_A_TIME, torch.no_grad(), _evaluating(model), hooked(model, observer):
        device = model.get_input_embeddings().weight.device
        ids = torch.tensor([list(token_ids)], dtype=torch.long, device=device)
        output = model(input_ids=ids, return_dict=True, **cache_arguments(model, cache))
    observer.see("logits", None, getattr(output, "logits", output))
    observer.finish()
    return frozenset(slot for slot in ROTATED if slot not in observer.seen)


@contextlib.contextmanager
def hooked(model: Any, observer: Observer) -> Iterator[None]:
    """Hooks on every site for the length of the block."""
    taps, layers = find_taps(model), find_layers(model)
    with contextlib.ExitStack() as undo:
        for tap in taps:
            if tap.reads_input:
                hook = tap.module.register_forward_pre_hook(
                    lambda _module, inputs, tap=tap: observer.see(tap.slot, tap.layer, inputs)
                )
            else:
                hook = tap.module.register_forward_hook(
                    lambda _module, _inputs, out, tap=tap: observer.see(
                        tap.slot, tap.layer, out
                    )
                )
            undo.callback(hook.remove)
        numbers = {layer.self_attn: number for number, layer in enumerate(layers)}
        undo.enter_context(_watched_attention(model, numbers, observer.see_rotated))
        yield


@contextlib.contextmanager
def _watched_attention(
    model: Any, numbers: dict[Any, int], see: Callable[[int, Any, Any], None]
) -> Iterator[None]:
    """Note the arguments of every call of attention by one of these modules."""
    modeling = _modeling_module(next(iter(numbers)))
    table = getattr(modeling, "ALL_ATTENTION_FUNCTIONS", None)
    name = getattr(model.config, "_attn_implementation", None)
    if table is None or not isinstance(name, str):
        yield
        return
    original = table.get(name)  # None for eager, which each model's module has for itself

    def watch(module: Any, query: Any, key: Any, *others: Any, **named: Any) -> Any:
        if module in numbers:
            see(numbers[module], query, key)
        attend = original or _modeling_module(module).eager_attention_forward
        return attend(module, query, key, *others, **named)

    table[name] = watch
    try:
        yield
    finally:
        del table[name]  # shows again what all models share
        if table.get(name) is not original:
            table[name] = original


def _modeling_module(module: Any) -> Any:
    """The source module of a module's class, or of the class that it is derived from."""
    for cls in type(module).__mro__:
        source = sys.modules.get(cls.__module__)
        if hasattr(source, "ALL_ATTENTION_FUNCTIONS"):
            return source
    return None


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout for the length of the block; every module's flag is then as before."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
