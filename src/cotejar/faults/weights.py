"""Weights read wrongly: exchanged, transposed, or their blocks taken apart wrongly.

All of these alter bytes, so `faulty_file` can write them into a GGUF, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.faults.fault import Extent, Fault, Injection
from cotejar.faults.needs import NEXT_LAYER, ModelNeed, first_of_type, weight_of
from cotejar.model.inventory import LINEAR_PARTS, layer_tensor, norm_parts
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from jaxtyping import Float32, UInt8

    from cotejar.faults.dose import Dose
    from cotejar.model.language_model import LanguageModel

    Bytes = UInt8[np.ndarray, "N Y"]
    Changes = dict[str, BlockMatrix]
    Alter = Callable[[LanguageModel, int], Changes]


# --- tensors exchanged --------------------------------------------------------------


def _exchanged(first: str, second: str) -> Alter:
    """Two tensors of a layer change places."""

    def alter(model: LanguageModel, layer: int) -> Changes:
        a, b = layer_tensor(layer, first), layer_tensor(layer, second)
        return {a: model.weights[b], b: model.weights[a]}

    return alter


def _norms_exchanged(model: LanguageModel, layer: int) -> Changes:
    parts = norm_parts(model.config)
    names = (f"{parts[slot]}.weight" for slot in ("attn_norm", "ffn_norm"))
    return _exchanged(*names)(model, layer)


def _layer_of(model: LanguageModel, layer: int) -> list[str]:
    prefix = layer_tensor(layer, "")
    return [name.removeprefix(prefix) for name in model.weights if name.startswith(prefix)]


def _layer_repeated(model: LanguageModel, layer: int) -> Changes:
    return {
        layer_tensor(layer, part): model.weights[layer_tensor(layer + 1, part)]
        for part in _layer_of(model, layer)
    }


def _layers_swapped(model: LanguageModel, layer: int) -> Changes:
    back = {
        layer_tensor(layer + 1, part): model.weights[layer_tensor(layer, part)]
        for part in _layer_of(model, layer)
    }
    return back | _layer_repeated(model, layer)


# --- rows and columns ---------------------------------------------------------------


def float_matrix(values_RC: Float32[np.ndarray, "R C"]) -> BlockMatrix:
    """A matrix of F32."""
    rows, columns = values_RC.shape
    raw = np.ascontiguousarray(values_RC, "<f4").view(np.uint8).reshape(-1)
    return BlockMatrix(block_type=BlockType.F32, rows=rows, columns=columns, raw=raw)


def _decoded(matrix: BlockMatrix) -> Float32[np.ndarray, "R C"]:
    return matrix.decode_rows(0, matrix.rows)


def _rows_in_other_order(model: LanguageModel, layer: int) -> Changes:
    """Keep the pairs of q and k the other way: what a converter forgot to undo."""
    rope, size = model.config.rope_of(layer), model.config.head_dim
    half = rope.dim // 2
    order = np.arange(size)
    order[: rope.dim] = np.arange(rope.dim).reshape(half, 2).T.reshape(-1)
    if rope.pairing == "halves":
        order = np.argsort(order)
    changes = {}
    for letter in "qk":
        name = layer_tensor(layer, f"self_attn.{letter}_proj.weight")
        values_HEC = _decoded(model.weights[name]).reshape(-1, size, model.config.hidden_size)
        changes[name] = float_matrix(values_HEC[:, order].reshape(-1, model.config.hidden_size))
    return changes


def _transposed(slot: str) -> Alter:
    """The memory of (rows, columns) read as (columns, rows), and turned."""

    def alter(model: LanguageModel, layer: int) -> Changes:
        name = layer_tensor(layer, f"{LINEAR_PARTS[slot]}.weight")
        values_RC = _decoded(model.weights[name])
        return {name: float_matrix(values_RC.reshape(values_RC.shape[::-1]).T)}

    return alter


def _row_late(model: LanguageModel, layer: int) -> Changes:
    name = layer_tensor(layer, "mlp.gate_proj.weight")
    return {name: float_matrix(np.roll(_decoded(model.weights[name]), 1, axis=0))}


TILE = 32
"""Columns of a tile: a block of the types that have small ones."""


def _mistiled(model: LanguageModel, layer: int) -> Changes:
    """Neighbouring tiles of columns change places; an odd one at the end stays."""
    name = layer_tensor(layer, "mlp.gate_proj.weight")
    values_RC = _decoded(model.weights[name]).copy()
    even = values_RC.shape[1] // (2 * TILE) * 2 * TILE
    tiles = values_RC[:, :even].reshape(len(values_RC), -1, 2, TILE)
    values_RC[:, :even] = tiles[:, :, ::-1].reshape(len(values_RC), even)
    return {name: float_matrix(values_RC)}


def _tiles_as_rows(model: LanguageModel, layer: int) -> Changes:
    """Stored a tile after the other, and taken for a row after the other."""
    name = layer_tensor(layer, "mlp.gate_proj.weight")
    values_RC = _decoded(model.weights[name])
    rows, columns = values_RC.shape
    tiles = values_RC.reshape(rows // TILE, TILE, columns // TILE, TILE).swapaxes(1, 2)
    return {name: float_matrix(tiles.reshape(rows, columns))}


def _second_half_lost(model: LanguageModel, layer: int) -> Changes:
    name = layer_tensor(layer, "mlp.up_proj.weight")
    values_RC = _decoded(model.weights[name]).copy()
    values_RC[len(values_RC) // 2 :] = 0
    return {name: float_matrix(values_RC)}


def _four_bits(model: LanguageModel, layer: int) -> Changes:
    """Rounded to 4 bits, one scale a row."""
    name = layer_tensor(layer, "mlp.gate_proj.weight")
    values_RC = _decoded(model.weights[name])
    scale_R1 = np.abs(values_RC).max(axis=1, keepdims=True) / np.float32(7)
    scale_R1[scale_R1 == 0] = 1
    return {name: float_matrix(np.rint(values_RC / scale_R1) * scale_R1)}


# --- blocks -------------------------------------------------------------------------

FIRST_NIBBLE_BYTE = {
    BlockType.Q4_0: 2,
    BlockType.Q4_1: 4,
    BlockType.Q5_0: 6,
    BlockType.Q5_1: 8,
    BlockType.Q4_K: 16,
    BlockType.APR_Q4: 2,
}
"""Where a block's bytes of two 4-bit codes begin; they go on to its end."""

SCALE_BYTE = {
    **dict.fromkeys(
        (
            BlockType.Q4_0,
            BlockType.Q4_1,
            BlockType.Q5_0,
            BlockType.Q5_1,
            BlockType.Q8_0,
            BlockType.Q4_K,
            BlockType.Q5_K,
            BlockType.APR_Q4,
        ),
        0,
    ),
    BlockType.Q2_K: 80,
    BlockType.Q3_K: 108,
    BlockType.Q6_K: 208,
}
"""Where a block's float16 scale is."""

MINIMUM_BYTE = {
    BlockType.Q4_1: 2,
    BlockType.Q5_1: 2,
    BlockType.Q4_K: 2,
    BlockType.Q5_K: 2,
    BlockType.Q2_K: 82,
}
"""Where a block's float16 minimum is."""

PACKED_SUB_SCALES = {BlockType.Q4_K, BlockType.Q5_K}
"""Types with eight scales and minimums of 6 bits in bytes 4..16."""

BLOCK_TYPES = frozenset(SCALE_BYTE)


def _in_blocks(
    types: Collection[BlockType], change: Callable[[Bytes, BlockType], None]
) -> Alter:
    """Change a copy of the blocks of the layer's first weight that has one of the types."""

    def alter(model: LanguageModel, layer: int) -> Changes:
        found = first_of_type(model, layer, types)
        assert found is not None, "the fault's need was checked"
        matrix = model.weights[found[1]]
        blocks = matrix.raw.reshape(-1, matrix.block_type.bytes_per_block).copy()
        change(blocks, matrix.block_type)
        return {found[1]: replace(matrix, raw=blocks.reshape(-1))}

    return alter


def _exchange_nibbles(blocks: Bytes, block_type: BlockType) -> None:
    first = FIRST_NIBBLE_BYTE[block_type]
    blocks[:, first:] = blocks[:, first:] << 4 | blocks[:, first:] >> 4


def _flip_nibble_signs(blocks: Bytes, block_type: BlockType) -> None:
    """Codes 0..15 read as -8..7: what a signed type makes of them."""
    blocks[:, FIRST_NIBBLE_BYTE[block_type] :] ^= 0x88


def _wrap_codes(blocks: Bytes, block_type: BlockType) -> None:
    """15 is taken for 16, of which four bits keep 0."""
    codes = blocks[:, FIRST_NIBBLE_BYTE[block_type] :]
    low, high = codes & 15, codes >> 4
    low[low == 15], high[high == 15] = 0, 0  # noqa: PLR2004 - the greatest of four bits
    codes[...] = low | high << 4


def _roll_scales(blocks: Bytes, block_type: BlockType) -> None:
    first = SCALE_BYTE[block_type]
    blocks[:, first : first + 2] = np.roll(blocks[:, first : first + 2], 1, axis=0)


def _drop_minimums(blocks: Bytes, block_type: BlockType) -> None:
    first = MINIMUM_BYTE[block_type]
    blocks[:, first : first + 2] = 0


def _drop_high_bits(blocks: Bytes, _: BlockType) -> None:
    """The two bits that scales and minimums 4..8 keep on top of the first eight bytes."""
    blocks[:, 4:12] &= 0x3F


def _block_late(model: LanguageModel, layer: int) -> Changes:
    name = layer_tensor(layer, "mlp.down_proj.weight")
    matrix = model.weights[name]
    raw = matrix.raw.copy()
    body = raw[4:] if matrix.block_type is BlockType.APR_Q8 else raw  # behind its one scale
    body[...] = np.roll(body, matrix.block_type.bytes_per_block)
    return {name: replace(matrix, raw=raw)}


# --- the faults ---------------------------------------------------------------------


def _with(alter: Alter) -> Callable[[LanguageModel, Dose], Injection]:
    def inject(model: LanguageModel, dose: Dose) -> Injection:
        changes = alter(model, dose.layer or 0)
        return Injection(model=model.altered(weights=model.weights.replaced(changes)))

    return inject


def _fault(
    id_: str,
    title: str,
    slot: str,
    alter: Alter,
    *,
    guilty: tuple[str, ...] = (),
    needs: tuple[ModelNeed, ...] = (),
    in_doubt: bool = False,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="weights",
        slot=slot,
        guilty=guilty,
        extent=Extent.ONE_LAYER,
        needs=needs,
        in_doubt=in_doubt,
        is_of_bytes=True,
        inject=_with(alter),
    )


def _block_fault(
    id_: str,
    title: str,
    text: str,
    types: Collection[BlockType],
    change: Callable[[Bytes, BlockType], None],
) -> Fault:
    """A fault in the blocks of the first weight that has one of the types."""

    def find_slot(model: LanguageModel, dose: Dose) -> str:
        found = first_of_type(model, dose.layer or 0, types)
        return found[0] if found else "ffn_gate"

    fault = _fault(
        id_,
        title,
        "ffn_gate",
        _in_blocks(types, change),
        needs=(weight_of(id_, text, types),),
    )
    return replace(fault, find_slot=find_slot)


def _has_two_tiles(model: LanguageModel, _: Dose) -> str | None:
    width = model.config.hidden_size
    return None if width >= 2 * TILE else f"{width}"


def _has_whole_tiles(model: LanguageModel, _: Dose) -> str | None:
    sizes = model.config.ffn_size, model.config.hidden_size
    is_whole = all(size % TILE == 0 and size > TILE for size in sizes)
    return None if is_whole else f"{sizes[0]} x {sizes[1]}"


WHOLE_TILES = ModelNeed(
    id="whole-tiles",
    text=f"a feed-forward and a width of whole tiles of {TILE}",
    lacks=_has_whole_tiles,
)

TWO_TILES = ModelNeed(id="two-tiles", text=f"at least {2 * TILE} columns", lacks=_has_two_tiles)

WEIGHT_FAULTS = (
    _fault(
        "gate-up-swapped",
        "gate and up change places",
        "ffn_gate",
        _exchanged("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        guilty=("ffn_up",),
    ),
    _fault(
        "key-value-swapped",
        "k and v change places",
        "k",
        _exchanged("self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        guilty=("v", "qkv"),
    ),
    _fault(
        "norms-swapped",
        "the two norms' weights change places",
        "attn_norm",
        _norms_exchanged,
        guilty=("ffn_norm",),
    ),
    _fault(
        "layers-swapped",
        "a layer and the next change places",
        "attn_norm",
        _layers_swapped,
        guilty=("q", "k", "v", "qkv", "attn_out", "ffn_norm", "ffn_gate", "ffn_up", "ffn_out"),
        needs=(NEXT_LAYER,),
    ),
    _fault(
        "layer-repeated",
        "a layer has the next one's weights",
        "attn_norm",
        _layer_repeated,
        guilty=("q", "k", "v", "qkv", "attn_out", "ffn_norm", "ffn_gate", "ffn_up", "ffn_out"),
        needs=(NEXT_LAYER,),
    ),
    _fault(
        "rope-rows",
        "q and k have their rows in the other pairing's order",
        "q",
        _rows_in_other_order,
        guilty=("k", "qkv"),
    ),
    _fault(
        "output-transposed",
        "attention's output weight is read transposed",
        "attn_out",
        _transposed("attn_out"),
    ),
    _fault("down-transposed", "down is read transposed", "ffn_out", _transposed("ffn_out")),
    _fault(
        "tiles-swapped",
        f"tiles of {TILE} columns change places",
        "ffn_gate",
        _mistiled,
        needs=(TWO_TILES,),
    ),
    _fault(
        "tiles-as-rows",
        f"a weight stored in tiles of {TILE} x {TILE} is read as rows",
        "ffn_gate",
        _tiles_as_rows,
        needs=(WHOLE_TILES,),
    ),
    _fault("weight-cut", "the second half of a weight is zeros", "ffn_up", _second_half_lost),
    _fault("row-shift", "a weight starts one row late", "ffn_gate", _row_late),
    _fault("block-shift", "a weight starts one block late", "ffn_out", _block_late),
    _fault(
        "weight-int4", "a weight is rounded to 4 bits", "ffn_gate", _four_bits, in_doubt=True
    ),
    _block_fault(
        "nibble-order",
        "4-bit codes, wrong half first",
        "of a type with 4-bit codes",
        FIRST_NIBBLE_BYTE,
        _exchange_nibbles,
    ),
    _block_fault(
        "nibble-sign",
        "4-bit codes are read as signed",
        "of a type with 4-bit codes",
        FIRST_NIBBLE_BYTE,
        _flip_nibble_signs,
    ),
    _block_fault(
        "codes-wrap",
        "4-bit codes of 15 wrap around to 0",
        "of type Q4_0, Q4_1 or Q4_K",
        {BlockType.Q4_0, BlockType.Q4_1, BlockType.Q4_K},
        _wrap_codes,
    ),
    _block_fault(
        "block-scale",
        "each block has its neighbour's scale",
        "of a type with blocks",
        BLOCK_TYPES,
        _roll_scales,
    ),
    _block_fault(
        "block-minimum-missing",
        "the blocks' minimums are not read",
        "of a type with minimums",
        MINIMUM_BYTE,
        _drop_minimums,
    ),
    _block_fault(
        "sub-scale-bits",
        "sub-scales lose their two high bits",
        "of type Q4_K or Q5_K",
        PACKED_SUB_SCALES,
        _drop_high_bits,
    ),
)
