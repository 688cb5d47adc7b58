"""llama.cpp as an engine: traces with every site that its graph shows, and text.

Its products are `q8`: activations rounded to blocks of 8 bits, integer dots. The rest of the
numerics' name says what keys and values are stored in:

    q8-kvf16        keys, values, and what meets them, in float16: llama.cpp's default
    q8-kvf16-flash  the same, attention fused: sums in another order
    q8              all of attention in float32, as `native+q8` has it
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.llamacpp.binding import load_library
from cotejar.engines.llamacpp.context import Context, Model, Options
from cotejar.engines.llamacpp.graph import NOT_OBSERVED
from cotejar.engines.llamacpp.watch import Watch
from cotejar.engines.protocol import check_token_ids
from cotejar.engines.tracing import finish_trace, join_recorders
from cotejar.errors import ArchitectureError
from cotejar.formats.convert import export_model, import_model
from cotejar.kernels.instruction_set import num_threads
from cotejar.model.language_model import open_language_model
from cotejar.trace.forward_trace import EngineInfo, TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

    from cotejar.engines.llamacpp.binding import Library
    from cotejar.model.config import DecoderConfig
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import Capture, ForwardTrace

VARIANTS = {
    "q8-kvf16": (False, "f16"),
    "q8-kvf16-flash": (True, "f16"),
    "q8": (False, "f32"),
}
"""Numerics: is attention fused, and what keys and values are stored in."""
DEFAULT_UBATCH_TOKENS = 512
"""llama.cpp's own default."""
FIRST_CAPACITY_TOKENS = 512
MAX_THREADS = 512
"""`GGML_MAX_N_THREADS`: given more, ggml writes past its arrays."""


class LlamaCppEngine:
    """One model in llama.cpp, on the CPU."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        numerics: str,
        ubatch_tokens: int = DEFAULT_UBATCH_TOKENS,
        threads: int | None = None,
    ) -> None:
        """Load the model; one that is no GGUF is exported to one first.

        Raises:
            MissingExtraError: llama-cpp-python is not installed.
            EngineBuildError: a build whose tensors cannot be read here.
            EngineError: llama.cpp refuses the model.
            CotejarError: the model cannot be exported.
        """
        self.model = model
        flash_attention, kv_type = VARIANTS[numerics]
        self._library = load_library()
        self._options = Options(
            flash_attention=flash_attention,
            kv_type=kv_type,
            ubatch_tokens=ubatch_tokens,
            threads=min(threads or num_threads(), MAX_THREADS),
        )
        self._loaded, self._config = _load(self._library, model)
        self.info = EngineInfo(
            name="llamacpp",
            build=f"{self._library.description}; {self._options.description}",
            numerics=numerics,
        )

    def trace(
        self, token_ids: Sequence[int], *, capture: Capture, prompt: str | None = None
    ) -> ForwardTrace:
        """Run the tokens from position 0, `ubatch_tokens` a pass; arrays are float32.

        Raises:
            ArchitectureError: a window would cut the text, and llama.cpp runs it without.
            EngineError: llama.cpp fails, or its graph lacks a site.
        """
        return self.trace_steps(token_ids, num_steps=0, capture=capture, prompt=prompt)

    def trace_steps(
        self,
        token_ids: Sequence[int],
        *,
        num_steps: int,
        capture: Capture,
        prompt: str | None = None,
    ) -> ForwardTrace:
        """The same, the last `num_steps` tokens one at a time over the KV cache."""
        declared = self.model.declared.config
        check_token_ids(
            token_ids,
            vocab_size=declared.vocab_size,
            context_length=declared.context_length,
        )
        _require_uncut(declared, len(token_ids))
        watch = Watch(self._library.ggml, self._config, capture)
        context = Context(
            self._library,
            self._loaded,
            self._options,
            capacity=len(token_ids),
            on_node=watch,
        )
        recorders, passes, start = [], self._passes(len(token_ids), num_steps), 0
        try:
            for size in passes:
                recorders.append(TraceRecorder(capture))
                watch.begin(recorders[-1], size)
                context.decode(token_ids[start : start + size], all_logits=True)
                watch.finish()
                start += size
        finally:
            context.close()
        return finish_trace(
            join_recorders(recorders, capture),
            engine=self.info,
            model=self.model,
            token_ids=token_ids,
            prompt=prompt,
            not_observed=NOT_OBSERVED,
            passes=passes,
        )

    def _passes(self, num_tokens: int, num_steps: int) -> list[int]:
        """`ubatch_tokens` at once, then one at a time."""
        most, first = self._options.ubatch_tokens, num_tokens - num_steps
        together = [min(most, first - start) for start in range(0, first, most)]
        return [*together, *([1] * num_steps)]

    def start(self) -> LlamaCppSession:
        """Begin an empty context."""
        limit = self.model.declared.config.context_length
        context = Context(
            self._library,
            self._loaded,
            self._options,
            capacity=min(FIRST_CAPACITY_TOKENS, limit),
        )
        return LlamaCppSession(self, context, self._options.ubatch_tokens)


class LlamaCppSession:
    """A context that grows token by token."""

    def __init__(self, engine: LlamaCppEngine, context: Context, ubatch_tokens: int) -> None:
        self._engine, self._context, self._ubatch_tokens = engine, context, ubatch_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens in the context so far."""
        return self._context.num_tokens

    def append(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "V"]:
        """Add tokens; return the logits after the last of them."""
        for some in self._passes(token_ids):
            self._context.decode(some, all_logits=False)
        return self._context.last_logits()

    def append_all(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "T V"]:
        """Add tokens; return the logits after each of them."""
        rows = []
        for some in self._passes(token_ids):
            self._context.decode(some, all_logits=True)
            rows += [self._context.logits_at(index) for index in range(len(some))]
        return np.stack(rows)

    def _passes(self, token_ids: Sequence[int]) -> list[Sequence[int]]:
        """The tokens as passes take them, once there is room for them all."""
        declared = self._engine.model.declared.config
        check_token_ids(
            token_ids,
            vocab_size=declared.vocab_size,
            context_length=declared.context_length,
            num_before=self.num_tokens,
        )
        needed = self.num_tokens + len(token_ids)
        _require_uncut(declared, needed)
        if needed > self._context.capacity:
            roomy = min(max(needed, 2 * self._context.capacity), declared.context_length)
            self._context = self._context.grown(roomy)
        size = self._ubatch_tokens
        return [token_ids[at : at + size] for at in range(0, len(token_ids), size)]


def _require_uncut(config: DecoderConfig, num_tokens: int) -> None:
    """Refuse a text longer than a window that llama.cpp does not run.

    Of the architectures here it runs gemma3's alone (ggml-org/llama.cpp issue 3377); in the
    others it takes a file with the window's key, and attends to everything.
    """
    window = config.sliding_window
    if window is None or num_tokens <= window or config.architecture == "gemma3":
        return
    raise ArchitectureError(
        f"llama.cpp runs no sliding window in the architecture {config.architecture}",
        where="engine llamacpp",
        expected=f"at most {window} tokens, of which the window cuts none",
        found=f"{num_tokens} tokens",
        hint="shorten the text, or use another engine: oracle, native and transformers "
        "run the window",
    )


def _load(library: Library, model: LanguageModel) -> tuple[Model, DecoderConfig]:
    """The model in llama.cpp, and the configuration of the GGUF that it reads.

    The two configurations differ in nothing but the order of q's and k's rows.
    """
    path = model.file.path
    if model.file.format == "gguf":
        return Model(library, path, name=str(path)), model.declared.config
    with tempfile.TemporaryDirectory(prefix="cotejar-gguf-") as folder:
        gguf, apr = Path(folder, "model.gguf"), Path(folder, "model.apr")
        if model.file.format != "apr":
            import_model(path, apr)
            path = apr
        export_model(path, gguf)
        exported = open_language_model(gguf)
        exported.file.close()
        # llama.cpp has mapped the file by then: it lives on without its name.
        return Model(library, gguf, name=str(model.file.path)), exported.config
