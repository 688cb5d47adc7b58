"""The residual stream joined wrongly: missing, doubled, scaled, taken from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.faults.fault import Extent, Fault, FaultyPass, Strength, in_the_pass

if TYPE_CHECKING:
    from jaxtyping import Float32

    Stream = Float32[np.ndarray, "T D"]
    Which = Literal["attn", "ffn"]


class _OtherSum(FaultyPass):
    """One of the layer's two additions is another sum."""

    which: Which = "attn"

    def add_residual(
        self, layer: int, which: Which, hidden_TD: Stream, branch_TD: Stream
    ) -> Stream:
        """The wrong sum where the dose says so, else the right one."""
        if which != self.which or not self.dose.covers(layer):
            return super().add_residual(layer, which, hidden_TD, branch_TD)
        return self.wrong(hidden_TD, branch_TD)

    def wrong(self, hidden_TD: Stream, branch_TD: Stream) -> Stream:
        """What is computed instead."""
        raise NotImplementedError


class _AttentionMissing(_OtherSum):
    def wrong(self, hidden_TD: Stream, branch_TD: Stream) -> Stream:
        del hidden_TD
        return branch_TD


class _FfnMissing(_AttentionMissing):
    which = "ffn"


class _AttentionDoubled(_OtherSum):
    def wrong(self, hidden_TD: Stream, branch_TD: Stream) -> Stream:
        total: Stream = hidden_TD + hidden_TD + branch_TD
        return total


class _FfnDoubled(_AttentionDoubled):
    which = "ffn"


class _BranchScaled(_OtherSum):
    def wrong(self, hidden_TD: Stream, branch_TD: Stream) -> Stream:
        return hidden_TD + branch_TD * np.float32(self.dose.strength)


class _BranchDropped(_OtherSum):
    """The stream goes on without what attention computed."""

    def wrong(self, hidden_TD: Stream, branch_TD: Stream) -> Stream:
        del branch_TD
        return hidden_TD


class _FfnDropped(_BranchDropped):
    which = "ffn"


class _RemembersInput(FaultyPass):
    """Keeps what came into the layer."""

    _layer_input: Stream

    def norm(
        self, layer: int | None, part: str, values: Float32[np.ndarray, "... W"]
    ) -> Float32[np.ndarray, "... W"]:
        if part == "attn_norm":
            self._layer_input = values
        return super().norm(layer, part, values)


class _LayerSkipped(_RemembersInput):
    """What comes out of the layer is what came in."""

    def add_residual(
        self, layer: int, which: Which, hidden_TD: Stream, branch_TD: Stream
    ) -> Stream:
        total = super().add_residual(layer, which, hidden_TD, branch_TD)
        skips = which == "ffn" and self.dose.covers(layer)
        return self._layer_input.copy() if skips else total


class _Parallel(_RemembersInput):
    """The feed-forward reads what attention read, not what attention left."""

    def norm(
        self, layer: int | None, part: str, values: Float32[np.ndarray, "... W"]
    ) -> Float32[np.ndarray, "... W"]:
        if part == "ffn_norm" and self.dose.covers(layer):
            values = self._layer_input
        return super().norm(layer, part, values)


class _FromNorm(FaultyPass):
    """The branch is added to the normed stream, as a post-norm port does."""

    _normed: Stream

    def norm(
        self, layer: int | None, part: str, values: Float32[np.ndarray, "... W"]
    ) -> Float32[np.ndarray, "... W"]:
        result = super().norm(layer, part, values)
        if part == "attn_norm":
            self._normed = result
        return result

    def add_residual(
        self, layer: int, which: Which, hidden_TD: Stream, branch_TD: Stream
    ) -> Stream:
        if which == "attn" and self.dose.covers(layer):
            hidden_TD = self._normed
        return super().add_residual(layer, which, hidden_TD, branch_TD)


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    slot: str,
    *,
    extent: Extent = Extent.EVERY_LAYER,
    strength: Strength | None = None,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="residual",
        slot=slot,
        extent=extent,
        strength=strength,
        inject=in_the_pass(kind),
    )


BRANCH = Strength(text="factor on what attention adds", default=0.9, least=-1e3, most=1e3)

RESIDUAL_FAULTS = (
    _fault(
        "residual-attn-missing",
        "attention's output replaces the stream",
        _AttentionMissing,
        "attn_residual",
    ),
    _fault(
        "residual-ffn-missing",
        "the feed-forward's output replaces the stream",
        _FfnMissing,
        "output",
    ),
    _fault(
        "residual-attn-doubled",
        "the stream is added twice at attention",
        _AttentionDoubled,
        "attn_residual",
    ),
    _fault(
        "residual-ffn-doubled",
        "the stream is added twice at the feed-forward",
        _FfnDoubled,
        "output",
    ),
    _fault(
        "residual-scaled",
        "what attention adds is scaled",
        _BranchScaled,
        "attn_residual",
        strength=BRANCH,
    ),
    _fault(
        "attn-dropped", "what attention computed is dropped", _BranchDropped, "attn_residual"
    ),
    _fault("ffn-dropped", "what the feed-forward computed is dropped", _FfnDropped, "output"),
    _fault(
        "layer-skipped",
        "a layer hands on its input",
        _LayerSkipped,
        "output",
        extent=Extent.ONE_LAYER,
    ),
    _fault(
        "residual-parallel", "the feed-forward reads what attention read", _Parallel, "ffn_norm"
    ),
    _fault(
        "residual-from-norm",
        "attention is added to the normed stream",
        _FromNorm,
        "attn_residual",
    ),
)
