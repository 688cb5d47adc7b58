"""The forward pass with less in between: `forward.Pass` bit for bit, and faster.

What follows one another is done in one pass over memory, statistics are taken on the way, and
where only the last logits are asked for, the last layer asks for one row alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cotejar.engines.native.forward import Pass
from cotejar.kernels import operations

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    from cotejar.kernels.moments import MomentsPair

_GATED_SLOTS = ("ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner")
_JOINED_SLOTS = {"attn": ("attn_out", "attn_residual"), "ffn": ("ffn_out", "output")}


class FusedPass(Pass):
    """What the engine runs unless another pass is asked for."""

    def _gated(
        self, layer: int, gate_TF: Float32[np.ndarray, "T F"], up_TF: Float32[np.ndarray, "T F"]
    ) -> Float32[np.ndarray, "T F"]:
        if self.model.config.activation != "silu" or not self._measures(_GATED_SLOTS):
            return super()._gated(layer, gate_TF, up_TF)
        inner_TF, moments = operations.swiglu(
            gate_TF, up_TF, measured=self.recorder is not None
        )
        self._record(_GATED_SLOTS, moments, inner_TF, layer)
        return inner_TF

    def _join(
        self,
        layer: int,
        which: Literal["attn", "ffn"],
        hidden_TD: Float32[np.ndarray, "T D"],
        branch_TD: Float32[np.ndarray, "T D"],
    ) -> Float32[np.ndarray, "T D"]:
        hidden_TD = hidden_TD[-len(branch_TD) :]
        slots = _JOINED_SLOTS[which]
        if self.model.config.post_norms or not self._measures(slots):
            return super()._join(layer, which, hidden_TD, branch_TD)
        sum_TD, moments = operations.add(
            hidden_TD, branch_TD, measured=self.recorder is not None
        )
        self._record(slots, moments, sum_TD, layer)
        return sum_TD

    def _asking_rows(
        self, layer: int, x_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T D"]:
        is_last = layer == self.model.config.num_layers - 1
        return x_TD[-1:] if is_last and self._last_only and not self.recorder else x_TD

    def _measures(self, slots: tuple[str, ...]) -> bool:
        """Can the compiled operation take all statistics that are wanted?"""
        return self.recorder is None or (
            operations.can_measure() and self.recorder.takes_moments(slots)
        )

    def _record(
        self,
        slots: tuple[str, ...],
        moments: list[MomentsPair] | None,
        values_TW: Float32[np.ndarray, "T W"],
        layer: int,
    ) -> None:
        if self.recorder and moments:
            for slot, pair in zip(slots, moments, strict=True):
                self.recorder.record_moments(slot, pair, values_TW.shape, layer)
