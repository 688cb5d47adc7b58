"""Biases missing, extra or doubled, and products fed with something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.faults.fault import Extent, Fault, FaultyPass, Injection, Strength, in_the_pass
from cotejar.faults.needs import bias_on
from cotejar.model.inventory import layer_tensor
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float32

    from cotejar.faults.dose import Dose
    from cotejar.model.language_model import LanguageModel


def _bias_times(part: str, factor: float) -> Callable[[LanguageModel, Dose], Injection]:
    """The bias of one layer's product, multiplied."""

    def inject(model: LanguageModel, dose: Dose) -> Injection:
        name = layer_tensor(dose.layer or 0, f"{part}.bias")
        values = model.weights.vector(name) * np.float32(factor)
        bias = BlockMatrix(
            block_type=BlockType.F32,
            rows=1,
            columns=values.size,
            raw=values.astype("<f4").view(np.uint8),
        )
        return Injection(model=model.altered(weights=model.weights.replaced({name: bias})))

    return inject


class _ExtraBias(FaultyPass):
    def linear(
        self, layer: int, part: str, inputs_TC: Float32[np.ndarray, "T C"]
    ) -> Float32[np.ndarray, "T R"]:
        outputs_TR = super().linear(layer, part, inputs_TC)
        if part == "q" and self.dose.covers(layer):
            return outputs_TR + np.float32(self.dose.strength)
        return outputs_TR


def _bias_fault(id_: str, title: str, slot: str, part: str, factor: float) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="projection",
        slot=slot,
        guilty=("qkv",) if slot in {"q", "k", "v"} else (),
        extent=Extent.ONE_LAYER,
        needs=(bias_on(part),),
        is_of_bytes=True,
        inject=_bias_times(part, factor),
    )


PROJECTION_FAULTS = (
    _bias_fault("missing-bias", "a query bias is left out", "q", "self_attn.q_proj", 0),
    _bias_fault("missing-key-bias", "a key bias is left out", "k", "self_attn.k_proj", 0),
    _bias_fault("missing-value-bias", "a value bias is left out", "v", "self_attn.v_proj", 0),
    _bias_fault(
        "missing-output-bias",
        "the bias of attention's output is left out",
        "attn_out",
        "self_attn.o_proj",
        0,
    ),
    _bias_fault(
        "missing-ffn-bias", "the bias of the gate is left out", "ffn_gate", "mlp.gate_proj", 0
    ),
    _bias_fault("doubled-bias", "a query bias is added twice", "q", "self_attn.q_proj", 2),
    Fault(
        id="extra-bias",
        title="queries get a bias that is not there",
        family="projection",
        slot="q",
        guilty=("qkv",),
        extent=Extent.EVERY_LAYER,
        strength=Strength(text="the bias", default=0.5, least=-1e6, most=1e6),
        in_doubt=True,
        inject=in_the_pass(_ExtraBias),
    ),
)
