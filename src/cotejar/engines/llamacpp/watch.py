"""What llama.cpp's evaluation callback does: look at each node, and record those we know.

llama.cpp asks of every node whether it is wanted, and shows those that are once they are
computed. Memory is used again within the pass, so values are copied at once. An exception
in the callback would be swallowed and leave garbage in the logits: it is kept, and raised
when the pass is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.engines.llamacpp.graph import expected_sites, node_sites
from cotejar.engines.llamacpp.tensor import FITTING_BUILD, Tensor, copy_tensor
from cotejar.errors import EngineBuildError, EngineDataError

if TYPE_CHECKING:
    import ctypes

    from jaxtyping import Float32

    from cotejar.model.config import DecoderConfig
    from cotejar.trace.forward_trace import Capture, TraceRecorder
    from cotejar.trace.site import Site

    Array = Float32[np.ndarray, "T W"]


class Watch:
    """Records one pass over `num_tokens` tokens; call it with each node."""

    def __init__(self, ggml: ctypes.CDLL, config: DecoderConfig, capture: Capture) -> None:
        self._ggml, self._config, self._capture = ggml, config, capture
        self._nodes = node_sites(config)
        self._recorder: TraceRecorder | None = None
        self._num_tokens = 0
        self._qkv: dict[str, Array] = {}
        self._error: BaseException | None = None

    def begin(self, recorder: TraceRecorder, num_tokens: int) -> None:
        """Record the next pass."""
        self._recorder, self._num_tokens, self._qkv = recorder, num_tokens, {}

    def finish(self) -> None:
        """Look back on the pass.

        Raises:
            EngineDataError: a site that llama.cpp should have computed did not come by.
            EngineBuildError: as reading a node found.
        """
        if self._error is not None:
            raise self._error
        assert self._recorder is not None, "a pass was begun"
        missing = expected_sites(self._config, self._capture) - self._recorder.sites.keys()
        if missing:
            raise EngineDataError(
                f"{len(missing)} sites are not in llama.cpp's graph",
                where=f"engine llamacpp, architecture {self._config.architecture}",
                expected=", ".join(sorted(missing)[:3]),
                found="no node that computes it",
                hint=FITTING_BUILD,
            )

    def __call__(self, address: int, ask: bool, _: object) -> bool:  # noqa: FBT001 - ggml's
        """Wanted? (`ask`); else record it. True lets llama.cpp go on."""
        try:
            if self._error is None:
                site = self._site_of(address)
                if ask:
                    return site is not None
                if site is not None:
                    self._record(site, copy_tensor(self._ggml, address, self._num_tokens))
        except BaseException as error:  # noqa: BLE001 - it must not pass through C
            self._error = error
        return not ask

    def _site_of(self, address: int) -> Site | None:
        tensor = Tensor.from_address(address)
        operation = self._ggml.ggml_op_desc(address).decode()
        names = [tensor.name, *(src.contents.name for src in tensor.src[:2] if src)]
        for name in names:
            site = self._nodes.get((operation, name.decode("utf-8", "replace")))
            if site is not None:
                return site if self._capture.wants_site(site) else None
        return None

    def _record(self, site: Site, values_TW: Array) -> None:
        assert self._recorder is not None, "a pass was begun"
        if str(site) in self._recorder.sites:
            raise EngineBuildError(
                f"two nodes of llama.cpp's graph are {site}",
                where=f"engine llamacpp, architecture {self._config.architecture}",
                expected="one",
                found="a second",
                hint=FITTING_BUILD,
            )
        turned = site.slot in {"q", "k", "q_rope", "k_rope"}
        self._recorder.record(
            site.slot, values_TW, site.layer, arrange=self._canonical if turned else None
        )
        if site.slot in {"q", "k", "v"}:
            self._qkv[site.slot] = values_TW
            if len(self._qkv) == 3:  # noqa: PLR2004 - q, k and v
                whole = np.concatenate([self._qkv[letter] for letter in "qkv"], axis=1)
                self._recorder.record("qkv", whole, site.layer, arrange=self._canonical_qkv)
                self._qkv = {}

    def _canonical_qkv(self, qkv_TW: Array) -> Array:
        v_size = self._config.num_kv_heads * self._config.head_dim
        qk_TW, v_TW = qkv_TW[:, :-v_size], qkv_TW[:, -v_size:]
        return np.concatenate([self._canonical(qk_TW), v_TW], axis=1)

    def _canonical(self, values_TW: Array) -> Array:
        """Half-split head order; a GGUF of architecture llama has pairs side by side."""
        rope = self._config.rope
        if rope.pairing == "halves":
            return values_TW
        heads = values_TW.reshape(len(values_TW), -1, self._config.head_dim)
        turning, rest = heads[..., : rope.dim], heads[..., rope.dim :]
        ordered: Any = np.concatenate([turning[..., 0::2], turning[..., 1::2], rest], axis=-1)
        return ordered.reshape(len(values_TW), -1)  # type: ignore[no-any-return]  # numpy's
