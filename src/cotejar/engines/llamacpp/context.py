"""One llama.cpp context: tokens in, logits out, and the cache of what went before.

Set so that a run can be repeated and looked into: everything on the CPU; no weight repacked,
since the AMX path of some builds crashes (ggml-org/llama.cpp issue 20824) and repacking
would hide nothing but speed.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Float32

    from cotejar.engines.llamacpp.binding import Library


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What llama.cpp lets one choose, and what changes its arithmetic."""

    flash_attention: bool
    kv_type: str
    """`f16` or `f32`: what keys and values are stored in."""
    ubatch_tokens: int
    """Tokens that one pass takes at once."""
    threads: int

    @property
    def description(self) -> str:
        """For the trace."""
        return (
            f"{self.threads} threads, ubatch {self.ubatch_tokens}, flash attention "
            f"{'on' if self.flash_attention else 'off'}, K and V {self.kv_type}, "
            "weights as stored"
        )


class Model:
    """A GGUF, loaded by llama.cpp."""

    def __init__(self, library: Library, path: Path, *, name: str) -> None:
        """Load it.

        Raises:
            EngineError: llama.cpp refuses the file.
        """
        params = library.api.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = False
        library.complaints.clear()
        self.handle = library.api.llama_model_load_from_file(bytes(path), params)
        if not self.handle:
            raise EngineError(
                "llama.cpp cannot load the model",
                where=name,
                expected="a GGUF that llama.cpp runs, with a tokenizer in it",
                found="; ".join(library.complaints) or "no reason was given",
                hint="another engine may run it; a newer llama-cpp-python may know it",
            )
        weakref.finalize(self, library.api.llama_model_free, self.handle)


class Context:
    """A cache for up to `capacity` tokens, and the passes that fill it."""

    def __init__(
        self,
        library: Library,
        model: Model,
        options: Options,
        *,
        capacity: int,
        on_node: Any = None,
    ) -> None:
        self._library, self._model, self._options = library, model, options
        self.num_tokens = 0
        self.capacity = capacity
        api = library.api
        params = api.llama_context_default_params()
        params.n_ctx = capacity
        params.n_batch = params.n_ubatch = min(options.ubatch_tokens, capacity)
        params.n_threads = params.n_threads_batch = options.threads
        params.flash_attn_type = (
            api.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if options.flash_attention
            else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        kv_type = {"f16": api.GGML_TYPE_F16, "f32": api.GGML_TYPE_F32}[options.kv_type]
        params.type_k = params.type_v = kv_type
        params.offload_kqv = params.op_offload = False
        self._callback = None
        if on_node is not None:
            # Held: llama.cpp calls it for as long as the context lives.
            self._callback = api.ggml_backend_sched_eval_callback(on_node)
            params.cb_eval = self._callback
        library.complaints.clear()
        self.handle = api.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise self._failed(
                "make a context", f"room for {capacity} tokens", "llama_init_from_model: null"
            )
        self._vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model.handle))
        self.close = weakref.finalize(self, api.llama_free, self.handle)

    def decode(self, token_ids: Sequence[int], *, all_logits: bool) -> None:
        """One pass over at most `ubatch_tokens` tokens, after those that came before.

        Args:
            token_ids: the tokens.
            all_logits: compute logits at every position, not only at the last. Without it
                llama.cpp drops the other rows of the last layer, too.
        """
        api, count = self._library.api, len(token_ids)
        batch = api.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for index, token in enumerate(token_ids):
                batch.token[index] = token
                batch.pos[index] = self.num_tokens + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = all_logits or index == count - 1
            self._library.complaints.clear()
            status = api.llama_decode(self.handle, batch)
        finally:
            api.llama_batch_free(batch)
        if status != 0:
            raise self._failed(f"run {count} tokens", "llama_decode: 0", str(status))
        self.num_tokens += count

    def last_logits(self) -> Float32[np.ndarray, "V"]:
        """Of the last token of the last pass."""
        return self.logits_at(-1)

    def logits_at(self, index: int) -> Float32[np.ndarray, "V"]:
        """Of one token of the last pass, from 0, if its logits were asked for; -1: the last."""
        pointer = self._library.api.llama_get_logits_ith(self.handle, index)
        if not pointer:
            raise self._failed("give logits", f"{self._vocab_size} of them", "none")
        floats = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(floats, (self._vocab_size,)).copy()

    def grown(self, capacity: int) -> Context:
        """The same cache in a context with more room; this one is closed."""
        api = self._library.api
        bigger = Context(self._library, self._model, self._options, capacity=capacity)
        if self.num_tokens:
            size = api.llama_state_seq_get_size(self.handle, 0)
            state = (ctypes.c_uint8 * size)()
            written = api.llama_state_seq_get_data(self.handle, state, size, 0)
            if not (size and written == size):
                raise self._failed("save its cache", f"{size} bytes", str(written))
            if not api.llama_state_seq_set_data(bigger.handle, state, size, 0):
                raise self._failed("restore its cache", f"{size} bytes", "0")
            bigger.num_tokens = self.num_tokens
        self.close()
        return bigger

    def _failed(self, what: str, expected: str, found: str) -> EngineError:
        reasons = "; ".join(self._library.complaints)
        return EngineError(
            f"llama.cpp could not {what}",
            where="engine llamacpp",
            expected=expected,
            found=f"{found}{': ' if reasons else ''}{reasons}",
            hint="fewer tokens may fit; another engine may run it",
        )
