"""Another activation function, or the right one in the wrong place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cotejar.faults.fault import Extent, Fault, FaultyPass, in_the_pass
from cotejar.faults.needs import GELU, SILU

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float32

    from cotejar.faults.needs import ModelNeed

    Values = Float32[np.ndarray, "T F"]
    Function = Callable[[np.ndarray], np.ndarray]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_erf(x: np.ndarray) -> np.ndarray:
    """Hendrycks and Gimpel, 2016 (arXiv:1606.08415): x * Phi(x), exactly."""
    result: np.ndarray = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return result


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """Its approximation by tanh."""
    result: np.ndarray = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return result


def gelu_quick(x: np.ndarray) -> np.ndarray:
    """Its approximation by a sigmoid: x * sigmoid(1.702 x)."""
    result: np.ndarray = x / (1 + np.exp(-1.702 * x))
    return result


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    result: np.ndarray = np.maximum(x, 0)
    return result


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The gate's sigmoid without the gate."""
    result: np.ndarray = 1 / (1 + np.exp(-x))
    return result


def identity(x: np.ndarray) -> np.ndarray:
    """No activation at all."""
    return x


def _activates_with(function: Function) -> type[FaultyPass]:
    class OtherActivation(FaultyPass):
        """Another function, in float64."""

        def activate(self, layer: int, gate_TF: Values) -> Values:
            if not self.dose.covers(layer):
                return super().activate(layer, gate_TF)
            return function(gate_TF.astype(np.float64)).astype(np.float32)

    return OtherActivation


class _OnUp(FaultyPass):
    """gate * silu(up), where silu(gate) * up is meant."""

    def activate(self, layer: int, gate_TF: Values) -> Values:
        return gate_TF if self.dose.covers(layer) else super().activate(layer, gate_TF)

    def gate_product(self, layer: int, activated_TF: Values, up_TF: Values) -> Values:
        if self.dose.covers(layer):
            up_TF = super().activate(layer, up_TF)
        return super().gate_product(layer, activated_TF, up_TF)


class _ReadOffATable(FaultyPass):
    """The gate falls to the nearest step between -8 and 8."""

    STEPS_A_UNIT = 16

    def activate(self, layer: int, gate_TF: Values) -> Values:
        if not self.dose.covers(layer):
            return super().activate(layer, gate_TF)
        steps = np.rint(gate_TF * np.float32(self.STEPS_A_UNIT))
        entry_TF = np.clip(steps / np.float32(self.STEPS_A_UNIT), -8, 8)
        return super().activate(layer, entry_TF.astype(np.float32))


class _Added(FaultyPass):
    def gate_product(self, layer: int, activated_TF: Values, up_TF: Values) -> Values:
        if not self.dose.covers(layer):
            return super().gate_product(layer, activated_TF, up_TF)
        total: Values = activated_TF + up_TF
        return total


class _UpMissing(FaultyPass):
    """An ungated feed-forward."""

    def gate_product(self, layer: int, activated_TF: Values, up_TF: Values) -> Values:
        if not self.dose.covers(layer):
            return super().gate_product(layer, activated_TF, up_TF)
        return activated_TF


def silu(x: np.ndarray) -> np.ndarray:
    """Compute x * sigmoid(x)."""
    result: np.ndarray = x / (1 + np.exp(-x))
    return result


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    slot: str = "ffn_silu_gate",
    *,
    needs: tuple[ModelNeed, ...] = (),
    in_doubt: bool = False,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="activation",
        slot=slot,
        extent=Extent.EVERY_LAYER,
        needs=needs,
        in_doubt=in_doubt,
        inject=in_the_pass(kind),
    )


ACTIVATION_FAULTS = (
    _fault("silu", "SiLU for GELU", _activates_with(silu), needs=(GELU,)),
    _fault("gelu-tanh", "GELU (tanh) for SiLU", _activates_with(gelu_tanh), needs=(SILU,)),
    # Where the model has the approximation by tanh, the two differ by less than 0.0005.
    _fault(
        "gelu-erf", "GELU (erf) for another function", _activates_with(gelu_erf), in_doubt=True
    ),
    _fault("gelu-quick", "GELU (sigmoid) for another function", _activates_with(gelu_quick)),
    _fault("relu", "ReLU for another function", _activates_with(relu)),
    _fault("sigmoid", "the sigmoid alone for another function", _activates_with(sigmoid)),
    _fault("activation-missing", "no activation", _activates_with(identity)),
    _fault(
        "activation-table", "the activation is read off a table", _ReadOffATable, in_doubt=True
    ),
    _fault("activation-on-up", "up is activated instead of the gate", _OnUp),
    _fault("gate-added", "gate and up are added", _Added, "ffn_swiglu_inner"),
    _fault("up-missing", "the gate is not multiplied by up", _UpMissing, "ffn_swiglu_inner"),
)
