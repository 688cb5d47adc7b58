"""Faults that can be injected into one side of a comparison.

A fault alters what an engine computes with and leaves the model's declared identity as it
is: a real bug does not announce itself in the file's metadata either. Each is the smallest
form of a mistake that real ports have made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import UsageError
from cotejar.model.inventory import layer_tensor
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.model.language_model import LanguageModel


MAX_LAYER_DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One way to be wrong."""

    id: str
    title: str
    inject: Callable[[LanguageModel, int], LanguageModel]
    """(model, layer) to the model that computes wrongly. A fault of the whole model takes
    no notice of the layer."""


def parse_fault(text: str) -> tuple[Fault, int]:
    """Read `ID` or `ID@LAYER`; the layer is 0 where none is named.

    Raises:
        UsageError: no such fault, or no number after the `@`.
    """
    name, at, layer = text.partition("@")
    is_number = layer.isascii() and layer.isdigit() and len(layer) <= MAX_LAYER_DIGITS
    if name not in FAULTS or (at and not is_number):
        raise UsageError(
            f"there is no fault {text[:80]!r}",
            where="--fault",
            expected=f"ID or ID@LAYER with one of: {', '.join(FAULTS)}",
            found=text[:80],
            hint="for example nibble-order@3",
        )
    return FAULTS[name], int(layer or 0)


def inject_fault(model: LanguageModel, text: str) -> LanguageModel:
    """The model with the fault `ID[@LAYER]` in what it computes with.

    Raises:
        UsageError: no such fault or layer, or the model has nothing it could break.
    """
    fault, layer = parse_fault(text)
    if layer >= model.config.num_layers:
        raise UsageError(
            f"there is no layer {layer}",
            where=f"--fault {text}",
            expected=f"0..{model.config.num_layers - 1}",
            found=str(layer),
            hint="layers count from 0",
        )
    return fault.inject(model, layer)


def _rope_theta(model: LanguageModel, _: int) -> LanguageModel:
    rope = replace(model.config.rope, theta=model.config.rope.theta / 10)
    return model.altered(config=replace(model.config, rope=rope))


def _rope_pairing(model: LanguageModel, _: int) -> LanguageModel:
    rope = model.config.rope
    other = replace(rope, pairing="halves" if rope.pairing == "adjacent" else "adjacent")
    return model.altered(config=replace(model.config, rope=other))


def _norm_eps(model: LanguageModel, _: int) -> LanguageModel:
    return model.altered(config=replace(model.config, rms_eps=model.config.rms_eps * 10))


def _missing_bias(model: LanguageModel, layer: int) -> LanguageModel:
    name = layer_tensor(layer, "self_attn.q_proj.bias")
    if name not in model.weights:
        raise _nothing_to_break("missing-bias", f"{name}, a bias", "no such tensor")
    bias = model.weights[name]
    zeros = np.zeros(4 * bias.columns, np.uint8)
    empty = BlockMatrix(block_type=BlockType.F32, rows=1, columns=bias.columns, raw=zeros)
    return model.altered(weights=model.weights.replaced({name: empty}))


def _swap(model: LanguageModel, layer: int, first: str, second: str) -> LanguageModel:
    names = layer_tensor(layer, first), layer_tensor(layer, second)
    a, b = (model.weights[name] for name in names)
    return model.altered(weights=model.weights.replaced({names[0]: b, names[1]: a}))


def _gate_up_swapped(model: LanguageModel, layer: int) -> LanguageModel:
    return _swap(model, layer, "mlp.gate_proj.weight", "mlp.up_proj.weight")


def _key_value_swapped(model: LanguageModel, layer: int) -> LanguageModel:
    return _swap(model, layer, "self_attn.k_proj.weight", "self_attn.v_proj.weight")


FIRST_NIBBLE_BYTE = {
    BlockType.Q4_0: 2,
    BlockType.Q4_1: 4,
    BlockType.Q5_0: 6,
    BlockType.Q5_1: 8,
    BlockType.Q4_K: 16,
}
"""Where a block's bytes of two 4-bit codes begin; they go on to its end."""


def _nibble_order(model: LanguageModel, layer: int) -> LanguageModel:
    for part in ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"):
        name = layer_tensor(layer, part)
        matrix = model.weights[name]
        first = FIRST_NIBBLE_BYTE.get(matrix.block_type)
        if first is not None:
            blocks = matrix.raw.reshape(-1, matrix.block_type.bytes_per_block).copy()
            blocks[:, first:] = blocks[:, first:] << 4 | blocks[:, first:] >> 4
            swapped = replace(matrix, raw=blocks.reshape(-1))
            return model.altered(weights=model.weights.replaced({name: swapped}))
    raise _nothing_to_break(
        "nibble-order",
        f"a feed-forward weight in layer {layer} of a type with 4-bit codes",
        model.weights[layer_tensor(layer, "mlp.gate_proj.weight")].block_type.label,
    )


def _block_shift(model: LanguageModel, layer: int) -> LanguageModel:
    name = layer_tensor(layer, "mlp.down_proj.weight")
    matrix = model.weights[name]
    shifted = np.roll(matrix.raw, matrix.block_type.bytes_per_block)
    changed = replace(matrix, raw=shifted)
    return model.altered(weights=model.weights.replaced({name: changed}))


def _nothing_to_break(fault: str, expected: str, found: str) -> UsageError:
    return UsageError(
        "this model has nothing that the fault could break",
        where=f"--fault {fault}",
        expected=expected,
        found=found,
        hint="choose another fault or another layer",
    )


FAULTS = {
    fault.id: fault
    for fault in (
        Fault(id="rope-theta", title="RoPE theta is a tenth", inject=_rope_theta),
        Fault(id="rope-pairing", title="RoPE turns the wrong pairs", inject=_rope_pairing),
        Fault(id="norm-eps", title="eps of the norms is ten times", inject=_norm_eps),
        Fault(id="missing-bias", title="a query bias is left out", inject=_missing_bias),
        Fault(id="gate-up-swapped", title="gate and up change places", inject=_gate_up_swapped),
        Fault(id="key-value-swapped", title="k and v change places", inject=_key_value_swapped),
        Fault(id="nibble-order", title="4-bit codes, wrong half first", inject=_nibble_order),
        Fault(id="block-shift", title="a weight starts one block late", inject=_block_shift),
    )
}
"""Every fault by its id."""
