"""One side as the diagnosis sees it: what was recorded, and the model it ought to compute.

An input that was not recorded is derived: computed from the nearest recorded inputs of the
same layer by the operations between. It never reaches back into another layer, where an
error would be taken for a local one.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, product_input
from cotejar.diagnosis.operations import (
    Activate,
    Attend,
    Embed,
    Operation,
    Project,
    Rotate,
    compute,
    model_operations,
    vector,
)
from cotejar.diagnosis.products import multiply
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float, Float64

    from cotejar.diagnosis.arithmetic import Arithmetic, ProductInput
    from cotejar.diagnosis.operations import Step
    from cotejar.model.config import DecoderConfig
    from cotejar.model.weights import Weights
    from cotejar.trace.forward_trace import ForwardTrace

SideName = Literal["reference", "candidate"]


@dataclass(frozen=True, eq=False)
class Truth:
    """A model as its file declares it: what replay holds an engine to."""

    config: DecoderConfig
    weights: Weights
    operations: Mapping[str, Operation]
    """By site, in forward order."""


def declared_truth(config: DecoderConfig, weights: Weights) -> Truth:
    """The operations of a configuration."""
    return Truth(config, weights, model_operations(config, weights))


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """What an operation was given."""

    arrays: tuple[Float64[np.ndarray, "T W"], ...]
    derived: tuple[str, ...]
    """Sites among them that were not recorded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """One side."""

    side: SideName
    trace: ForwardTrace
    truth: Truth
    arithmetic: Arithmetic
    _derived: dict[str, tuple[np.ndarray, tuple[str, ...]]] = field(default_factory=dict)

    def runs_like(self, other: Observed) -> bool:
        """The same weights, shapes, arithmetic and tokens, whatever was recorded?"""
        return (
            self.truth.weights is other.truth.weights
            and self.arithmetic == other.arithmetic
            and self.trace.token_ids == other.trace.token_ids
            and self.truth.config == other.truth.config
        )

    def recorded(self, site: Site) -> Float64[np.ndarray, "T W"] | None:
        """What was recorded there; q, k and v may come out of `qkv`."""
        array = self.as_recorded(site)
        return None if array is None else np.asarray(array, np.float64)

    def as_recorded(self, site: Site) -> Float[np.ndarray, "T W"] | None:
        """The same, in the type that it was recorded in."""
        array = self.trace.arrays.get(str(site))
        if array is None and site.slot in {"q", "k", "v"}:
            array = self._part_of_qkv(site)
        return array

    def _part_of_qkv(self, site: Site) -> np.ndarray | None:
        whole = self.trace.arrays.get(str(Site("qkv", site.layer)))
        if whole is None:
            return None
        config = self.truth.config
        q_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        starts = {"q": (0, q_size), "k": (q_size, kv_size), "v": (q_size + kv_size, kv_size)}
        start, size = starts[site.slot]
        return whole[:, start : start + size]

    def inputs(
        self, operation: Operation, recorded: Float[np.ndarray, "T W"] | None = None
    ) -> Inputs | None:
        """What it was given, recorded or derived; None where neither is possible.

        `recorded` is what was recorded of its output, where the caller has it already.
        """
        arrays, derived = [], []
        for site in operation.inputs:
            array = self.recorded(site)
            if array is None:
                found = self._derive(site, operation.site)
                if found is None:
                    return None
                array, from_sites = found
                derived += [str(site), *from_sites]
            arrays.append(array)
        if recorded is None:
            recorded = self.recorded(operation.site)
        if isinstance(operation.step, Rotate | Attend):
            # Made of a token's place and of all before it: a row alone tells neither.
            found_rows = {len(a) for a in (*arrays, *([] if recorded is None else [recorded]))}
            if found_rows != {len(self.trace.token_ids)}:
                return None
        if recorded is not None and len(recorded) == 1:  # of the last token alone
            arrays = [array[-1:] for array in arrays]
        elif recorded is not None and any(len(a) != len(recorded) for a in arrays):
            return None
        if len({len(array) for array in arrays}) > 1:
            return None  # one of them is of the last token alone
        return Inputs(arrays=tuple(arrays), derived=tuple(dict.fromkeys(derived)))

    def _derive(
        self, site: Site, target: Site
    ) -> tuple[Float64[np.ndarray, "T W"], tuple[str, ...]] | None:
        name = str(site)
        operation = self.truth.operations.get(name)
        if operation is None or site.layer != target.layer or site.layer is None:
            return None
        if name not in self._derived:
            inputs = self.inputs(operation)
            if inputs is None:
                return None
            array = replay(operation, inputs.arrays, self)
            for other in [n for n in self._derived if n.split(".")[1] != str(site.layer)]:
                self._derived.pop(other, None)  # one layer is held at a time
            self._derived[name] = (array, inputs.derived)
        return self._derived[name]


def replay(
    operation: Operation, inputs: Sequence[Float64[np.ndarray, "T W"]], observed: Observed
) -> Float64[np.ndarray, "T W"]:
    """The operation on these inputs, with the roundings that the side's numerics declares."""
    step, truth, arithmetic = operation.step, observed.truth, observed.arithmetic
    if isinstance(step, Embed):
        return embed(step, truth, observed.trace.token_ids)
    if isinstance(step, Project):
        matrix = truth.weights[step.weight]
        own = arithmetic.of_product(operation.site.slot)
        given = product_input(
            inputs[0], own.activations, matrix.block_type, weights=own.weights
        )
        return project(step, given, truth)
    if isinstance(step, Activate) and arithmetic.gelu_table and step.function != "silu":
        return _gelu_from_table(step, inputs[0], truth)
    return compute(
        step,
        rounded_inputs(step, inputs, arithmetic),
        truth.weights,
        round_weights=ROUNDINGS[arithmetic.probabilities],
    )


_GELU_TABLE_ENDS = 10.0
"""Beyond it ggml's GELU is 0 or the number itself."""


def _gelu_from_table(
    step: Activate, gate_TF: Float64[np.ndarray, "T F"], truth: Truth
) -> Float64[np.ndarray, "T F"]:
    rounded = ROUNDINGS["f16"]
    inner_TF = rounded(compute(step, [rounded(gate_TF)], truth.weights))
    outer_TF = np.where(gate_TF > 0, gate_TF, 0.0)
    return np.where(np.abs(gate_TF) < _GELU_TABLE_ENDS, inner_TF, outer_TF)


def embed(step: Embed, truth: Truth, token_ids: Sequence[int]) -> Float64[np.ndarray, "T W"]:
    """Rows of the table, exactly."""
    table = truth.weights[step.weight]
    rows = [table.decode_rows(i, i + 1) for i in token_ids]
    return step.scale * np.concatenate(rows).astype(np.float64)


def project(step: Project, given: ProductInput, truth: Truth) -> Float64[np.ndarray, "T W"]:
    """A product with its bias, in canonical order."""
    output_TR = multiply(truth.weights[step.weight], [given])[0]
    if step.bias is not None:
        output_TR = output_TR + vector(truth.weights, step.bias)
    output_TR = cap(output_TR, step.softcap)
    return output_TR if step.row_order is None else output_TR[:, step.row_order]


def cap(
    output_TR: Float64[np.ndarray, "T R"], softcap: float | None
) -> Float64[np.ndarray, "T R"]:
    """Bound by a softcap, where there is one."""
    return output_TR if softcap is None else softcap * np.tanh(output_TR / softcap)


def rounded_inputs(
    step: Step, inputs: Sequence[Float64[np.ndarray, "T W"]], arithmetic: Arithmetic
) -> tuple[Float64[np.ndarray, "T W"], ...]:
    """Inputs of an operation that is no product, rounded as the numerics declares."""
    if not isinstance(step, Attend) or arithmetic.cache == arithmetic.queries == "exact":
        return tuple(inputs)
    q_TW, k_TW, v_TW = inputs
    return (
        round_queries(step, q_TW, arithmetic),
        round_keys(step, k_TW, arithmetic.cache),
        ROUNDINGS[arithmetic.cache](v_TW),
    )


def round_queries(
    step: Attend, q_TW: Float64[np.ndarray, "T W"], arithmetic: Arithmetic
) -> Float64[np.ndarray, "T W"]:
    """Round queries, before or after they are scaled."""
    factor = step.scale if arithmetic.scales_queries else 1.0
    rounded_TW: np.ndarray = ROUNDINGS[arithmetic.queries](q_TW * factor) / factor
    return rounded_TW


def round_keys(
    step: Attend, k_TW: Float64[np.ndarray, "T W"], how: str
) -> Float64[np.ndarray, "T W"]:
    """Round keys in the order in which a cache stores them, which decides the blocks."""
    if step.key_order is None or how == "exact":
        return ROUNDINGS[how](k_TW)
    stored = np.empty_like(k_TW)
    stored[:, step.key_order] = k_TW
    return ROUNDINGS[how](stored)[:, step.key_order]
