"""RMSNorm computed wrongly, or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.faults.fault import Extent, Fault, FaultyPass, Strength, in_the_pass
from cotejar.faults.needs import POST_NORMS, QK_NORM
from cotejar.kernels import operations
from cotejar.model.inventory import FINAL_NORM
from cotejar.quant.floats import round_to_bfloat16, round_to_float16

if TYPE_CHECKING:
    from jaxtyping import Float32

    from cotejar.faults.needs import ModelNeed

    Values = Float32[np.ndarray, "... W"]
    Weight = Float32[np.ndarray, "W"]


class _OtherNorm(FaultyPass):
    """Every norm of the layers that the dose covers is another function."""

    parts: frozenset[str] | None = None
    """Which norms; None for all, the last one with them."""

    def weight(self, layer: int | None, part: str) -> Weight:
        """The norm's own weight."""
        if layer is None:
            return self.model.weights.vector(FINAL_NORM)
        return self._layers[layer].norms[part]

    def norm(self, layer: int | None, part: str, values: Values) -> Values:
        """The wrong norm where the dose says so, else the right one."""
        if not self.dose.covers(layer) or (self.parts is not None and part not in self.parts):
            return super().norm(layer, part, values)
        return self.wrong(values, self.weight(layer, part))

    def wrong(self, values: Values, weight_W: Weight) -> Values:
        """What is computed instead."""
        raise NotImplementedError

    @property
    def eps(self) -> float:
        """The model's own."""
        return self.model.config.rms_eps


class _OtherEps(_OtherNorm):
    def wrong(self, values: Values, weight_W: Weight) -> Values:
        return operations.rms_norm(values, weight_W, self.eps * self.dose.strength)


class _EpsOutside(_OtherNorm):
    def wrong(self, values: Values, weight_W: Weight) -> Values:
        root = np.sqrt(np.mean(values.astype(np.float64) ** 2, axis=-1, keepdims=True))
        normed: Values = (values / (root + self.eps) * weight_W).astype(np.float32)
        return normed


class _OnePlus(_OtherNorm):
    def wrong(self, values: Values, weight_W: Weight) -> Values:
        return operations.rms_norm(values, weight_W + np.float32(1), self.eps)


class _NoWeight(_OtherNorm):
    def wrong(self, values: Values, weight_W: Weight) -> Values:
        return operations.rms_norm(values, np.ones_like(weight_W), self.eps)


class _LayerNorm(_OtherNorm):
    def wrong(self, values: Values, weight_W: Weight) -> Values:
        centred = values - values.mean(axis=-1, keepdims=True, dtype=np.float32)
        return operations.rms_norm(centred, weight_W, self.eps)


class _Bfloat16(_OtherNorm):
    """As a port does that never goes up to float32: input, normed value and result rounded."""

    def wrong(self, values: Values, weight_W: Weight) -> Values:
        normed = operations.rms_norm(
            round_to_bfloat16(values), np.ones_like(weight_W), self.eps
        )
        return round_to_bfloat16(round_to_bfloat16(normed) * round_to_bfloat16(weight_W))


class _Float16(_OtherNorm):
    def wrong(self, values: Values, weight_W: Weight) -> Values:
        ones_W = np.ones_like(weight_W)
        normed = operations.rms_norm(round_to_float16(values), ones_W, self.eps)
        return round_to_float16(round_to_float16(normed) * round_to_float16(weight_W))


class _Missing(_OtherNorm):
    def wrong(self, values: Values, weight_W: Weight) -> Values:
        del weight_W
        return values


class _AttentionNormMissing(_Missing):
    parts = frozenset({"attn_norm"})


class _FfnNormMissing(_Missing):
    parts = frozenset({"ffn_norm"})


class _FinalNormMissing(_Missing):
    parts = frozenset({"final_norm"})


class _AttentionPostNormMissing(_Missing):
    parts = frozenset({"attn_post_norm"})


class _FfnPostNormMissing(_Missing):
    parts = frozenset({"ffn_post_norm"})


class _QkNormMissing(_Missing):
    parts = frozenset({"q_norm", "k_norm"})


class _QkNormAfterRope(_QkNormMissing):
    """The norm does not commute with the turn, because its weight differs within a pair."""

    def rotate(self, layer: int, values_THE: Values, *, which: Literal["q", "k"]) -> Values:
        turned = super().rotate(layer, values_THE, which=which)
        if not self.dose.covers(layer):
            return turned
        return operations.rms_norm(turned, self.weight(layer, f"{which}_norm"), self.eps)


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    *,
    slot: str = "attn_norm",
    guilty: tuple[str, ...] = ("ffn_norm",),
    extent: Extent = Extent.EVERY_LAYER,
    needs: tuple[ModelNeed, ...] = (),
    strength: Strength | None = None,
    in_doubt: bool = False,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="norm",
        slot=slot,
        guilty=guilty,
        extent=extent,
        needs=needs,
        strength=strength,
        in_doubt=in_doubt,
        inject=in_the_pass(kind),
    )


EPS = Strength(text="factor on eps", default=10, least=0, most=1e6)

NORM_FAULTS = (
    _fault("norm-eps", "eps of the norms is ten times", _OtherEps, strength=EPS, in_doubt=True),
    _fault("norm-eps-outside", "eps is added after the root", _EpsOutside, in_doubt=True),
    _fault("norm-one-plus", "norms multiply by 1 + weight", _OnePlus),
    _fault("norm-weight-missing", "norms leave their weight out", _NoWeight),
    _fault("norm-mean", "norms subtract the mean: LayerNorm", _LayerNorm),
    _fault("norm-bf16", "norms are computed in bfloat16", _Bfloat16, in_doubt=True),
    _fault("norm-f16", "norms are computed in float16", _Float16, in_doubt=True),
    _fault("attn-norm-missing", "no norm before attention", _AttentionNormMissing, guilty=()),
    _fault(
        "ffn-norm-missing",
        "no norm before the feed-forward",
        _FfnNormMissing,
        slot="ffn_norm",
        guilty=(),
    ),
    _fault(
        "final-norm-missing",
        "no norm before the head",
        _FinalNormMissing,
        slot="final_norm",
        guilty=(),
        extent=Extent.OUTSIDE,
    ),
    _fault(
        "attn-post-norm-missing",
        "no norm behind attention",
        _AttentionPostNormMissing,
        slot="attn_post_norm",
        guilty=(),
        needs=(POST_NORMS,),
    ),
    _fault(
        "ffn-post-norm-missing",
        "no norm behind the feed-forward",
        _FfnPostNormMissing,
        slot="ffn_post_norm",
        guilty=(),
        needs=(POST_NORMS,),
    ),
    _fault(
        "qk-norm-missing",
        "q and k are not normed",
        _QkNormMissing,
        slot="q_rope",
        guilty=("k_rope",),
        needs=(QK_NORM,),
    ),
    _fault(
        "qk-norm-after-rope",
        "q and k are normed after RoPE",
        _QkNormAfterRope,
        slot="q_rope",
        guilty=("k_rope",),
        needs=(QK_NORM,),
    ),
)
