"""The forward pass with less in between: `forward.Pass` bit for bit, and faster.

In `q8` and `w8a8`, products of many tokens come with what follows them and with their
statistics (see `kernels.layer_products`); where only the last logits are asked for, the last
layer asks for one row alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from cotejar.engines.native.forward import Pass
from cotejar.kernels import operations
from cotejar.kernels.layer_products import (
    Product,
    can_feed_forward,
    can_multiply,
    feed_forward,
    multiply_and_add,
    multiply_gated,
    multiply_together,
)
from cotejar.kernels.products import multiply_q8, multiply_w8a8

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    from cotejar.engines.native.cache import KVCache
    from cotejar.engines.native.forward import Multiply
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import TraceRecorder

_PROJECTED_SLOTS = ("attn_norm", "q", "k", "v")
_PROJECTED_PARTS = ("q", "k", "v")
_ALL_PROJECTED_SLOTS = (*_PROJECTED_SLOTS, "qkv")
_TURNED_SLOTS = ("q_rope", "k_rope")
_GATED_SLOTS = ("ffn_norm", "ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner")
_FEED_FORWARD_PARTS = ("ffn_gate", "ffn_up", "ffn_out")
_HEAD_SLOTS = ("final_norm", "logits")
_JOINED_SLOTS = {
    "attn": ("attn_context", "attn_out", "attn_residual"),
    "ffn": ("ffn_out", "output"),
}
_FEED_FORWARD_SLOTS = (*_GATED_SLOTS, *_JOINED_SLOTS["ffn"])


_FUSED = {multiply_q8, multiply_w8a8}

_PRODUCTS: WeakKeyDictionary[
    LanguageModel, dict[tuple[bool, int, tuple[str, ...]], list[Product]]
]
_PRODUCTS = WeakKeyDictionary()
"""By arithmetic, layer and parts: every new context asks again, and a model does not change."""


class FusedPass(Pass):
    """What the engine runs unless another pass is asked for."""

    def __init__(
        self,
        model: LanguageModel,
        multiply: Multiply,
        cache: KVCache,
        recorder: TraceRecorder | None = None,
    ) -> None:
        super().__init__(model, multiply, cache, recorder)
        self._products = _PRODUCTS.setdefault(model, {})
        self._grouped = multiply is multiply_w8a8

    def _project(
        self, layer: int, x_TD: Float32[np.ndarray, "T D"]
    ) -> tuple[Float32[np.ndarray, "T W"], ...]:
        products = self._fused(layer, _PROJECTED_PARTS, _ALL_PROJECTED_SLOTS, x_TD)
        if products is None or self._asking_rows(layer, x_TD) is not x_TD:
            return super()._project(layer, x_TD)
        places = self._places(layer, len(x_TD))
        projected, moments = multiply_together(
            products,
            x_TD,
            measured=self.recorder is not None,
            into=places and {2: places[1].reshape(len(x_TD), -1)},
        )
        if self.recorder and moments:
            self.recorder.record_moments(_PROJECTED_SLOTS, moments, layer)
            self.recorder.record_joined("qkv", _PROJECTED_PARTS, layer)
        return tuple(projected)

    def _turn_both(
        self,
        layer: int,
        q_THE: Float32[np.ndarray, "T H E"],
        k_TKE: Float32[np.ndarray, "T K E"],
    ) -> tuple[Float32[np.ndarray, "T H E"], Float32[np.ndarray, "T K E"]]:
        """As `Pass` has it, together; keys where the cache will keep them."""
        recorder = self.recorder
        if (
            len(q_THE) != len(k_TKE)
            or not operations.has_kernels()
            or (recorder and not recorder.takes_moments(_TURNED_SLOTS))
        ):
            return super()._turn_both(layer, q_THE, k_TKE)
        places = self._places(layer, len(k_TKE))
        (q_THE, k_TKE), moments = operations.rotate_together(
            [q_THE, k_TKE],
            *self.angles_of(layer, len(q_THE)),
            adjacent=self._adjacent,
            measured=recorder is not None,
            into=places and {1: places[0]},
        )
        if recorder and moments:
            recorder.record_moments(_TURNED_SLOTS, moments, layer)
        return q_THE, k_TKE

    def _places(
        self, layer: int, num_tokens: int
    ) -> tuple[Float32[np.ndarray, "T K E"], Float32[np.ndarray, "T K E"]] | None:
        """Where keys and values will be kept, if they can be made there."""
        return self.cache.places_for(layer, num_tokens)

    def _feed_forward(
        self, layer: int, hidden_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T D"]:
        config = self.model.config
        is_plain = config.activation == "silu" and not config.post_norms
        x_TD = self.norm(layer, "ffn_norm", hidden_TD)
        slots = _FEED_FORWARD_SLOTS
        products = self._fused(layer, _FEED_FORWARD_PARTS, slots, x_TD) if is_plain else None
        if not (products and can_feed_forward(products[-1])):
            return self._project_back(layer, "ffn", hidden_TD, self._gated(layer, x_TD))
        gate, up, down = products
        output_TD, moments = feed_forward(
            gate, up, down, x_TD, hidden_TD, measured=self.recorder is not None
        )
        if self.recorder and moments:
            self.recorder.record_moments(slots, moments, layer)
        return output_TD

    def _gated(
        self, layer: int, x_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T F"]:
        if self.model.config.activation != "silu":
            return super()._gated(layer, x_TD)
        products = self._fused(layer, ("ffn_gate", "ffn_up"), _GATED_SLOTS, x_TD)
        if products is None:
            return super()._gated(layer, x_TD) if self.recorder else self._swiglu(layer, x_TD)
        gate, up = products
        inner_TF, moments = multiply_gated(gate, up, x_TD, measured=self.recorder is not None)
        if self.recorder and moments:
            self.recorder.record_moments(_GATED_SLOTS, moments, layer)
        return inner_TF

    def _swiglu(
        self, layer: int, x_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T F"]:
        gate_TF = self.linear(layer, "ffn_gate", x_TD)
        return operations.swiglu(gate_TF, self.linear(layer, "ffn_up", x_TD))

    def _project_back(
        self,
        layer: int,
        which: Literal["attn", "ffn"],
        hidden_TD: Float32[np.ndarray, "T D"],
        inputs_TC: Float32[np.ndarray, "T C"],
    ) -> Float32[np.ndarray, "T D"]:
        hidden_TD = hidden_TD[-len(inputs_TC) :]
        slots = _JOINED_SLOTS[which]
        products = self._fused(layer, (f"{which}_out",), slots, inputs_TC)
        if products is None or self.model.config.post_norms:
            return super()._project_back(layer, which, hidden_TD, inputs_TC)
        sum_TD, moments = multiply_and_add(
            products[0],
            inputs_TC,
            hidden_TD,
            measured=self.recorder is not None,
            of_input=which == "attn",
        )
        if self.recorder and moments:
            self.recorder.record_moments(slots, moments, layer)
        return sum_TD

    def _logits(self, hidden_TD: Float32[np.ndarray, "T D"]) -> Float32[np.ndarray, "N V"]:
        config, recorder = self.model.config, self.recorder
        if (
            not recorder
            or not recorder.takes_moments(_HEAD_SLOTS)
            or recorder.takes_parts(len(hidden_TD) * config.vocab_size * 4)
            or self.multiply_head is not multiply_q8
            or config.final_softcap is not None
            or not can_multiply([self._head_product()], len(hidden_TD))
        ):
            return super()._logits(hidden_TD)
        (logits_TV,), moments = multiply_together(
            [self._head_product()], hidden_TD, measured=True
        )
        if moments:
            recorder.record_moments(_HEAD_SLOTS, moments, None)
        return logits_TV

    def add_residual(
        self,
        layer: int,  # noqa: ARG002 - for a subclass
        which: Literal["attn", "ffn"],  # noqa: ARG002 - for a subclass
        hidden_TD: Float32[np.ndarray, "T D"],
        branch_TD: Float32[np.ndarray, "T D"],
    ) -> Float32[np.ndarray, "T D"]:
        """As `Pass` has it, over all threads."""
        return operations.add(hidden_TD, branch_TD)

    def _asking_rows(
        self, layer: int, x_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T D"]:
        is_last = layer == self.model.config.num_layers - 1
        return x_TD[-1:] if is_last and self._last_only and not self.recorder else x_TD

    def _fused(
        self,
        layer: int,
        parts: tuple[str, ...],
        slots: tuple[str, ...],
        inputs_TC: Float32[np.ndarray, "T C"],
    ) -> list[Product] | None:
        """The products, if they can be had with all that is wanted of these slots."""
        if self.multiply not in _FUSED:
            return None
        if self.recorder and not self.recorder.takes_moments(slots):
            return None
        products = self._together(layer, parts)
        return products if can_multiply(products, len(inputs_TC)) else None

    def _together(self, layer: int, parts: tuple[str, ...]) -> list[Product]:
        key = (self._grouped, layer, parts)
        products = self._products.get(key)
        if products is None:
            if len(parts) == 1:
                linear = self._layers[layer].linears[parts[0]]
                products = [Product(*linear, grouped=self._grouped)]
            else:
                products = [self._together(layer, (part,))[0] for part in parts]
            self._products[key] = products
        return products

    def _head_product(self) -> Product:
        key = (False, self.model.config.num_layers, ("lm_head",))
        if key not in self._products:
            self._products[key] = [Product(self.model.weights.lm_head, None)]
        return self._products[key][0]
