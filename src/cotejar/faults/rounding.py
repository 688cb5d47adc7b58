"""Numbers rounded where they should not be: activations, the residual stream, K and V.

Rounding to 8 and 4 bits is symmetric, one scale a row (a token, or a token's head):
`scale = max |x| / (2 ** (bits - 1) - 1)`, `x = scale * round(x / scale)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.faults.fault import Extent, Fault, FaultyPass, in_the_pass
from cotejar.quant.floats import round_to_bfloat16, round_to_float16

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float32

    Array = Float32[np.ndarray, "..."]
    Round = Callable[[Array], Array]


def to_integers(bits: int) -> Round:
    """Round to signed integers of so many bits with one scale a row, and back."""
    most = np.float32(2 ** (bits - 1) - 1)

    def rounded(values: Array) -> Array:
        scale = np.abs(values).max(axis=-1, keepdims=True) / most
        safe = np.where(scale > 0, scale, np.float32(1))
        result: Array = (np.rint(values / safe) * safe).astype(np.float32)
        return result

    return rounded


FORMATS: dict[str, tuple[str, Round]] = {
    "f16": ("float16", round_to_float16),
    "bf16": ("bfloat16", round_to_bfloat16),
    "int8": ("8 bits a row", to_integers(8)),
    "int4": ("4 bits a row", to_integers(4)),
}


def _rounded_inputs(rounded: Round) -> type[FaultyPass]:
    class RoundedInputs(FaultyPass):
        """What goes into a matrix product is rounded first."""

        def linear(
            self, layer: int, part: str, inputs_TC: Float32[np.ndarray, "T C"]
        ) -> Float32[np.ndarray, "T R"]:
            inputs = rounded(inputs_TC) if self.dose.covers(layer) else inputs_TC
            return super().linear(layer, part, inputs)

    return RoundedInputs


def _rounded_cache(rounded: Round) -> type[FaultyPass]:
    class RoundedCache(FaultyPass):
        """Keys and values are rounded when they are kept."""

        def extend_cache(
            self,
            layer: int,
            k_TKE: Float32[np.ndarray, "T K E"],
            v_TKE: Float32[np.ndarray, "T K E"],
        ) -> tuple[Float32[np.ndarray, "S K E"], Float32[np.ndarray, "S K E"]]:
            if self.dose.covers(layer):
                k_TKE, v_TKE = rounded(k_TKE), rounded(v_TKE)
            return super().extend_cache(layer, k_TKE, v_TKE)

    return RoundedCache


def _rounded_stream(rounded: Round) -> type[FaultyPass]:
    class RoundedStream(FaultyPass):
        """The residual stream is rounded after each addition."""

        def add_residual(
            self,
            layer: int,
            which: Literal["attn", "ffn"],
            hidden_TD: Float32[np.ndarray, "T D"],
            branch_TD: Float32[np.ndarray, "T D"],
        ) -> Float32[np.ndarray, "T D"]:
            total = super().add_residual(layer, which, hidden_TD, branch_TD)
            return rounded(total) if self.dose.covers(layer) else total

    return RoundedStream


def _rounded_logits(rounded: Round) -> type[FaultyPass]:
    class RoundedLogits(FaultyPass):
        """The logits are rounded."""

        def head(self, hidden_TD: Float32[np.ndarray, "T D"]) -> Float32[np.ndarray, "T V"]:
            return rounded(super().head(hidden_TD))

    return RoundedLogits


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    slot: str,
    *,
    guilty: tuple[str, ...] = (),
    extent: Extent = Extent.EVERY_LAYER,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="rounding",
        slot=slot,
        guilty=guilty,
        extent=extent,
        in_doubt=True,
        inject=in_the_pass(kind),
    )


PRODUCTS = ("k", "v", "qkv", "attn_out", "ffn_gate", "ffn_up", "ffn_out")
"""Every slot but the first that is a product of activations."""

ROUNDING_FAULTS = (
    *(
        _fault(
            f"activations-{name}",
            f"what goes into products is rounded to {text}",
            _rounded_inputs(rounded),
            "q",
            guilty=PRODUCTS,
        )
        for name, (text, rounded) in FORMATS.items()
    ),
    *(
        _fault(
            f"kv-{name}",
            f"keys and values are kept in {text}",
            _rounded_cache(rounded),
            "attn_context",
        )
        for name, (text, rounded) in FORMATS.items()
    ),
    *(
        _fault(
            f"residual-{name}",
            f"the residual stream is rounded to {FORMATS[name][0]}",
            _rounded_stream(FORMATS[name][1]),
            "attn_residual",
            guilty=("output",),
        )
        for name in ("f16", "bf16")
    ),
    _fault(
        "logits-bf16",
        "the logits are rounded to bfloat16",
        _rounded_logits(round_to_bfloat16),
        "logits",
        extent=Extent.OUTSIDE,
    ),
)
