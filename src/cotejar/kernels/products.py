"""The matrix products: `q8`, ggml's integer arithmetic, `f32`, decoded weights, `bf16`, `w8a8`.

All compute `activations @ weight.T`: activations float32 (T, C), weight (R, C), product
float32 (T, R).

All have the same bits on every machine and instruction set, for every T and every split of
rows or tokens over threads. The compiled kernels do the work; `integer_products`,
`lane_products`, `bf16_products` and `group_products` are the same arithmetic in numpy, which
`COTEJAR_ISA=numpy` chooses and the tests compare with.

**f32** decodes the weight to float32 and multiplies as `q8` does weights in F32, in lanes:
see below.

**bf16** decodes the weight, rounds it and the activations to bfloat16, and sums in float32:
see `bf16_products`.

**w8a8** makes 8-bit integers of weights too, with one scale for 64 columns of a row, so that
integer dots are longer and scales fewer than those of `q8`: for the fastest prefill without
AMX; see `group_products`.

**q8**: activations are rounded to 8-bit blocks (`quant.activations`), paired as in ggml:

    Q4_0 Q5_0 Q8_0 APR_Q4 APR_Q8      x Q8_0
    Q4_1 Q5_1                         x Q8_1
    Q2_K Q3_K Q4_K Q5_K Q6_K          x Q8_K

For one row and one token, each pair of blocks gives one float32 term. Its integer sums are
exact, each converted to float32 once; below, every product and sum of floats is rounded to
float32 on its own (no fused multiply-add):

    x Q8_0   (d_w * d_x) * sum(code_w * code_x)
    x Q8_1   (d_w * d_x) * sum(code_w * code_x) + m_w * s_x
    x Q8_K   (d_w * d_x) * sum(sub_scale * code_w * code_x)
                 - (m_w * d_x) * sum(sub_minimum * sum of code_x)

where d, m, s and codes are those of the blocks, and Q3_K and Q6_K lack the second part. The
terms are added to a float32 that starts at 0, block after block, in the order of the row.
ggml's own kernels form the same integers and scales; they differ in the order of float
sums, from one instruction set to the next, and for Q4_0 its portable one rounds
`sum * d_w` before it multiplies by `d_x`.

Weights in floats: activations are rounded to the weight's type (F16, BF16; F32 stays) and
multiplied in float32. Column c adds to lane c mod 16; each of 16 float32 lanes is summed in
column order from 0, then lanes are folded by halves: l and l + 8, l and l + 4, + 2, + 1.

A NaN or Inf in a block of activations makes every product with that block NaN.

Shape letters: T tokens, C columns (inputs), R rows (outputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import TensorShapeError
from cotejar.kernels import _compiled
from cotejar.kernels.arrays import empty_array
from cotejar.kernels.bf16_products import multiply_in_bfloat16
from cotejar.kernels.group_products import multiply_groups
from cotejar.kernels.instruction_set import NUMPY, chosen_isa
from cotejar.kernels.integer_products import ACTIVATION_TYPES, multiply_integer_blocks
from cotejar.kernels.lane_products import multiply_decoded_in_lanes, multiply_in_lanes
from cotejar.quant.activations import require_whole_blocks
from cotejar.quant.floats import FLOAT_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float32

    from cotejar.quant.block_matrix import BlockMatrix

    Multiply = Callable[[BlockMatrix, Float32[np.ndarray, "T C"]], Float32[np.ndarray, "T R"]]


_SMALLEST_BLOCK = 32
"""Of all quantised types."""


def multiply_q8(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"], *, isa: str | None = None
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T` in ggml's integer arithmetic; bits fixed by the above.

    Args:
        weight: in its blocks.
        activations: what it multiplies.
        isa: one of `instruction_set.runnable_isas()`; the chosen one if left out.

    Raises:
        TensorShapeError: the activations are not float32 (T, C), or C is no whole number
            of the blocks that activations are rounded to.
        UsageError: `COTEJAR_ISA` names what there is not.
    """
    _check(weight, activations)
    isa = isa or chosen_isa()
    if weight.block_type in FLOAT_TYPES:
        multiply_in_numpy = multiply_in_lanes
    else:
        require_whole_blocks(ACTIVATION_TYPES[weight.block_type], activations.shape)
        multiply_in_numpy = multiply_integer_blocks
    if isa == NUMPY:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return multiply_in_numpy(weight, activations)
    return _multiply(_compiled.multiply_q8, isa, weight, activations)


def multiply_f32(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"], *, isa: str | None = None
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T` in float32 over the decoded weights; bits as for `q8`.

    Raises:
        TensorShapeError: the activations are not float32 (T, C).
        UsageError: `COTEJAR_ISA` names what there is not.
    """
    return _multiply_any(
        multiply_decoded_in_lanes, _compiled.multiply_f32, isa, weight, activations
    )


def multiply_bf16(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"], *, isa: str | None = None
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T`, both in bfloat16, with float32 sums; bits as for `q8`.

    Raises:
        TensorShapeError: the activations are not float32 (T, C).
        UsageError: `COTEJAR_ISA` names what there is not.
    """
    return _multiply_any(
        multiply_in_bfloat16, _compiled.multiply_bf16, isa, weight, activations
    )


def multiply_w8a8(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"], *, isa: str | None = None
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T`, both in 8-bit integers by groups of 64; bits as for `q8`.

    Raises:
        TensorShapeError: the activations are not float32 (T, C).
        UsageError: `COTEJAR_ISA` names what there is not.
    """
    return _multiply_any(multiply_groups, _compiled.multiply_w8a8, isa, weight, activations)


def product_of_head(multiply: Multiply) -> Multiply:
    """What multiplies the LM head, beside this product in the layers: `q8` beside `w8a8`.

    A prefill asks for one row of logits: the head is read once, and to make groups of it would
    take longer than its product. Other programs' W8A8 leaves the head alone, too.
    """
    return multiply_q8 if multiply is multiply_w8a8 else multiply


def _multiply_any(
    in_numpy: Callable[[BlockMatrix, np.ndarray], np.ndarray],
    compiled: Callable[..., None],
    isa: str | None,
    weight: BlockMatrix,
    activations: Float32[np.ndarray, "T C"],
) -> Float32[np.ndarray, "T R"]:
    _check(weight, activations)
    isa = isa or chosen_isa()
    # Rows that share a block, which only APR_Q4 has, are decoded in numpy.
    if isa == NUMPY or (
        weight.block_type in ACTIVATION_TYPES and weight.columns % _SMALLEST_BLOCK
    ):
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return in_numpy(weight, activations)
    return _multiply(compiled, isa, weight, activations)


def _multiply(
    product: Callable[..., None],
    isa: str,
    weight: BlockMatrix,
    activations: Float32[np.ndarray, "T C"],
) -> Float32[np.ndarray, "T R"]:
    out = empty_array((len(activations), weight.rows))
    product(
        isa,
        int(weight.block_type),
        np.ascontiguousarray(weight.raw),
        weight.rows,
        weight.columns,
        np.ascontiguousarray(activations),
        out,
    )
    return out


def _check(weight: BlockMatrix, activations: Float32[np.ndarray, "T C"]) -> None:
    if (
        activations.dtype != np.float32
        or activations.ndim == 0
        or activations.shape[1:] != (weight.columns,)
    ):
        raise TensorShapeError(
            "the activations do not fit the weight",
            where=f"product with a weight of {weight.rows} x {weight.columns}",
            expected=f"float32 (tokens, {weight.columns})",
            found=f"{activations.dtype} {activations.shape}",
            hint="a shape in the model's configuration or tensor table is wrong",
        )
