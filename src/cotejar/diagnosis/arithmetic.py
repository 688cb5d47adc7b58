"""What a numerics declares about rounding, and those roundings, exactly.

A replay starts from the bits that an engine recorded, so that what the engine rounds before
a product can be rounded here to the same bits: blocks of 8-bit integers, float16, bfloat16.
What then remains is the order and precision of sums, for which `limits` has a bound.

Shape letters: T tokens, C columns (inputs), B blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.kernels.group_products import GROUP, group_parts, group_rows, group_values
from cotejar.kernels.integer_products import ACTIVATION_TYPES
from cotejar.quant.activations import (
    ActivationType,
    QuantizedActivations,
    quantize_activations,
)
from cotejar.quant.block_type import BlockType
from cotejar.quant.floats import round_to_bfloat16, round_to_float16

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Float, Float32, Float64

    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.quant.block_parts import BlockParts
    from cotejar.trace.forward_trace import EngineInfo

UNIT = {"f64": 2.0**-53, "f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff, to nearest: 2 ** -p of p significant bits (float32 has 24)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """How a run rounds, as its numerics declares."""

    name: str
    values: str
    """Of what passes from one operation to the next: a key of `UNIT`."""
    sums: str
    """Of the sums within one."""
    activations: str = "exact"
    """Before a product: `exact`, `blocks` (as the weight's type asks for), `simd blocks` (the
    same as ggml's vector code rounds them), or a rounding."""
    weights: str = "exact"
    """Of the decoded weights: a key of `ROUNDINGS`; or `groups`, of their blocks."""
    cache: str = "exact"
    """Of keys and values: a key of `ROUNDINGS`."""
    queries: str = "exact"
    """Of queries, before the scores."""
    probabilities: str = "exact"
    """Of the weights of attention, before the sum of values."""
    context_sums: str = ""
    """Of the weighted sum of values, where it is not `sums`: a key of `UNIT`."""
    scales_queries: bool = False
    """Are queries scaled before they are rounded, and not the scores after?"""
    gelu_table: bool = False
    """Is GELU read off a table of float16 by float16?"""
    recorded: str = ""
    """Of recorded arrays, where that is coarser than `values`: a key of `UNIT`."""

    def of_product(self, slot: str) -> Arithmetic:
        """That of one product: W8A8 leaves the LM head to `q8`."""
        if slot != "logits" or self.weights != GROUPS:
            return self
        name = f"the LM head of {self.name}"
        return replace(self, name=name, activations=Q8.activations, weights=Q8.weights)

    @property
    def value_unit(self) -> float:
        """Unit roundoff of values."""
        return UNIT[self.values]

    @property
    def recorded_unit(self) -> float:
        """Unit roundoff that recording added; 0 where it kept every bit."""
        return UNIT[self.recorded] if self.recorded else 0.0

    @property
    def context_unit(self) -> float:
        """Unit roundoff of attention's sum of values."""
        return UNIT[self.context_sums or self.sums]

    @property
    def sum_unit(self) -> float:
        """Unit roundoff of sums."""
        return UNIT[self.sums]


GROUPS = "groups"
"""Integers of 8 bits, 64 under one scale, as `kernels.group_products` makes them."""
DECODED_GROUPS = "groups of decoded values"
"""The same of a weight that was decoded before, whose blocks no longer tell."""

F64 = Arithmetic(name="f64", values="f64", sums="f64")
F32 = Arithmetic(name="f32", values="f32", sums="f32")
Q8 = replace(F32, name="q8", activations="blocks")
BF16 = Arithmetic(name="bf16", values="bf16", sums="f32", weights="bf16")
F16 = Arithmetic(name="f16", values="f16", sums="f32", weights="f16")
BF16_FACTORS = replace(F32, name="bf16", activations="bf16", weights="bf16")
"""`native` in `bf16`: the factors of products are rounded, and nothing else is."""

W8A8 = replace(F32, name="w8a8", activations=GROUPS, weights=GROUPS)
"""`native` alone has it: what other programs call so has other groups."""

_BY_NUMERICS = {a.name: a for a in (F64, F32, Q8, BF16, F16)}


_CACHES = {"": "exact", "kvf16": "f16", "kvq8": "Q8_0"}
"""What a suffix of the numerics says of the KV cache."""


def declared_arithmetic(engine: EngineInfo, architecture: str = "") -> Arithmetic | None:
    """What an engine's numerics says, `q8-kvf16` say; None where nobody here knows the word.

    `architecture` is the model's: llama.cpp's graphs of gemma scale queries, not scores.
    """
    name, *suffixes = engine.numerics.split("-")
    plain = _BY_NUMERICS.get(name)
    if engine.name == "native":
        plain = {"bf16": BF16_FACTORS, "w8a8": W8A8}.get(name, plain)
    if plain is None:
        return None
    found = replace(plain, name=engine.numerics)
    is_ggml = engine.name == "llamacpp"
    if is_ggml and found.activations == "blocks":
        found = replace(found, activations="simd blocks")
    for suffix in suffixes:
        if suffix in _CACHES:
            found = replace(found, cache=_CACHES[suffix])
        elif not (is_ggml and suffix == "flash"):
            return None
    if is_ggml:
        # `ggml_vec_gelu_f32` reads a table; source: ggml's vec.h, GGML_GELU_FP16.
        is_gemma = architecture.startswith("gemma")
        found = replace(found, gelu_table=True, scales_queries=is_gemma)
    if is_ggml and found.cache == "f16":
        # A product whose one side is float16 rounds the other to it (`vec_dot_type`); the
        # fused attention keeps its sum of float16 values in float16.
        found = replace(found, queries="f16", probabilities="f16")
        if "flash" in suffixes:
            found = replace(found, probabilities="exact", context_sums="f16")
    return found


def _as_float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(x, np.float32)


def _to_f32(x: np.ndarray) -> np.ndarray:
    return _as_float32(x).astype(np.float64)


def _to_f16(x: np.ndarray) -> np.ndarray:
    return round_to_float16(_as_float32(x)).astype(np.float64)


def _to_bf16(x: np.ndarray) -> np.ndarray:
    return round_to_bfloat16(_as_float32(x)).astype(np.float64)


def _cut_to_bf16(x: np.ndarray) -> np.ndarray:
    bits = _as_float32(x).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def _to_steps(x: np.ndarray, levels: int, width: int | None) -> np.ndarray:
    """Symmetric integers of one scale a group of `width` values, or a row; in float32.

    What is rounded to steps and then to blocks falls on ties, which only the same float32
    operations decide alike.
    """
    rows = _as_float32(x).reshape(-1, width or x.shape[-1])
    step = np.abs(rows).max(axis=1, keepdims=True) / np.float32(levels)
    step = np.where(step > 0, step, np.float32(1))
    rounded: np.ndarray = (np.rint(rows / step) * step).reshape(x.shape).astype(np.float64)
    return rounded


def _blocks_of(kind: ActivationType) -> Callable[[np.ndarray], np.ndarray]:
    def rounded(x: np.ndarray) -> np.ndarray:
        blocks = quantize_activations(kind, _as_float32(x))
        values = blocks.codes.astype(np.float64) * blocks.scale[:, :, None].astype(np.float64)
        return values.reshape(x.shape)

    return rounded


def _in_groups(x: np.ndarray) -> np.ndarray:
    return _from_groups(*group_values(_as_float32(x)), x.shape[-1])


def _from_groups(codes_NGW: np.ndarray, scale_NG: np.ndarray, columns: int) -> np.ndarray:
    values_NGW = codes_NGW.astype(np.float64) * scale_NG[:, :, None].astype(np.float64)
    return values_NGW.reshape(len(codes_NGW), -1)[:, :columns]


def blocks_in_groups(
    parts: BlockParts, block_type: BlockType, num_rows: int
) -> Float64[np.ndarray, "R C"]:
    """Rows in blocks, of which `w8a8` makes groups without decoding them."""
    codes_RGW, scale_RG = group_parts(parts, block_type, num_rows)
    return _from_groups(codes_RGW, scale_RG, parts.codes.size // num_rows)


def weight_rows(
    matrix: BlockMatrix, start: int, stop: int, how: str
) -> Float64[np.ndarray, "R C"]:
    """Rows start..stop as they are multiplied: see `Arithmetic.weights`."""
    if how == GROUPS:
        return _from_groups(*group_rows(matrix, start, stop), matrix.columns)
    return ROUNDINGS[how](matrix.decode_rows(start, stop).astype(np.float64))


ROUNDINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda x: x,
    "f32": _to_f32,
    "f16": _to_f16,
    "bf16": _to_bf16,
    "bf16 cut": _cut_to_bf16,
    "Q8_0": _blocks_of(ActivationType.Q8_0),
    "Q8_K": _blocks_of(ActivationType.Q8_K),
    GROUPS: _in_groups,
    DECODED_GROUPS: _in_groups,
    "int8 a row": lambda x: _to_steps(x, 127, None),
    "int8 by 32": lambda x: _to_steps(x, 127, 32),
    "int4 a row": lambda x: _to_steps(x, 7, None),
    "int4 by 32": lambda x: _to_steps(x, 7, 32),
}
"""Ways to round an array, by name; rows are tokens."""

ROUNDING_BLOCK = {"Q8_0": 32, "Q8_K": 256, "int8 by 32": 32, "int4 by 32": 32}
"""Values that share a scale; a row must be a multiple."""


def can_round(how: str, width: int) -> bool:
    """Is a row of that width whole blocks?"""
    return width % ROUNDING_BLOCK.get(how, 1) == 0


def activation_block(arithmetic: Arithmetic, block_type: BlockType) -> int | None:
    """Activations that share a step before a product with such a weight; None for no steps."""
    if arithmetic.activations == GROUPS:
        return GROUP
    kind = ACTIVATION_TYPES.get(block_type)
    if arithmetic.activations not in {"blocks", "simd blocks"} or kind is None:
        return None
    return 256 if kind is ActivationType.Q8_K else 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProductInput:
    """What a product multiplies, after the rounding of activations, and with what."""

    values: Float64[np.ndarray, "T C"]
    excess: Float64[np.ndarray, "T B"] | None = None
    """Q8_1 keeps the sum of a block apart, in float16. What that is more than the sum of
    `values` over the block; it multiplies the weight's offset."""
    weights: str = "exact"
    """How the weight is rounded that it meets: see `Arithmetic.weights`."""


def product_input(
    x_TC: Float[np.ndarray, "T C"], how: str, block_type: BlockType, *, weights: str = "exact"
) -> ProductInput:
    """Round activations as `how` says; `blocks` are those of the weight's type."""
    x_TC = np.asarray(x_TC, np.float64)
    if how not in {"blocks", "simd blocks"}:
        return ProductInput(values=ROUNDINGS[how](x_TC), weights=weights)
    kind = ACTIVATION_TYPES.get(block_type)
    if kind is None:
        by_type = {BlockType.F16: "f16", BlockType.BF16: "bf16"}
        values = ROUNDINGS[by_type.get(block_type, "f32")](x_TC)
        return ProductInput(values=values, weights=weights)
    is_vector = how == "simd blocks" and kind is not ActivationType.Q8_K
    quantize = _quantize_as_vectors if is_vector else quantize_activations
    blocks = quantize(kind, _as_float32(x_TC))
    scale_TB = blocks.scale.astype(np.float64)
    codes_TBW = blocks.codes.astype(np.float64)
    values = (codes_TBW * scale_TB[:, :, None]).reshape(x_TC.shape)
    if blocks.scaled_sum is None:
        return ProductInput(values=values, weights=weights)
    excess_TB = blocks.scaled_sum.astype(np.float64) - scale_TB * codes_TBW.sum(axis=2)
    return ProductInput(values=values, excess=excess_TB, weights=weights)


def _quantize_as_vectors(
    activation_type: ActivationType, activations: Float32[np.ndarray, "T C"]
) -> QuantizedActivations:
    """Q8_0 and Q8_1 as ggml's vector code has them: 127 / amax, and halves to even.

    Source: `quantize_row_q8_0` and `quantize_row_q8_1` of ggml's arch/x86/quants.c. The
    portable code has 1 / (amax / 127), and halves away from zero.
    """
    plain = quantize_activations(activation_type, activations)
    values_TBW = activations.reshape(plain.codes.shape)
    amax_TB = np.abs(values_TBW).max(axis=2)
    with np.errstate(all="ignore"):
        inverse_TB = np.where(amax_TB > 0, np.float32(127) / amax_TB, np.float32(0))
        codes_TBW = np.nan_to_num(np.rint(values_TBW * inverse_TB[:, :, None])).astype(np.int8)
    if plain.scaled_sum is None:
        return replace(plain, codes=codes_TBW)
    sum_TB = codes_TBW.sum(axis=2, dtype=np.int32).astype(np.float32)
    scaled_sum_TB = round_to_float16(sum_TB * (amax_TB / np.float32(127)))
    return replace(plain, codes=codes_TBW, scaled_sum=scaled_sum_TB)
