"""The `q8` and `w8a8` products of a layer for many tokens, each with what follows it.

Products of the same activations share their rounding; a bias, a residual, SiLU and the
statistics come to a block of the product while it is in the first cache, before it goes to
memory, and what nobody asks for never goes there. The bits are those of `multiply_q8` or
`multiply_w8a8` and `operations` one after the other, and the statistics those of
`measure_moments`.

Shape letters: T tokens, C columns (inputs), R rows (outputs), F feed-forward width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import TensorShapeError
from cotejar.kernels import _compiled
from cotejar.kernels.arrays import empty_array
from cotejar.kernels.instruction_set import NUMPY, chosen_isa
from cotejar.quant.floats import FLOAT_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float32

    from cotejar.quant.block_matrix import BlockMatrix

FEW_TOKENS = 32
"""Below so many, products are bound by the memory, and kernels for few tokens are faster."""


class Product:
    """A weight and its bias, ready to multiply."""

    def __init__(
        self,
        weight: BlockMatrix,
        bias_R: Float32[np.ndarray, "R"] | None,
        *,
        grouped: bool = False,
    ) -> None:
        """Take a weight, for `w8a8` if it is to be `grouped`, and else for `q8`."""
        self.rows, self.columns = weight.rows, weight.columns
        self.is_integer = grouped or weight.block_type not in FLOAT_TYPES
        """Are its products of integers at all?"""
        raw = np.ascontiguousarray(weight.raw)
        self.compiled = _compiled.Linear(
            int(weight.block_type), raw, weight.rows, weight.columns, bias_R, grouped
        )


def can_multiply(products: Sequence[Product], num_tokens: int) -> bool:
    """Are these functions for such products, here?"""
    many = num_tokens >= FEW_TOKENS and chosen_isa() != NUMPY
    return many and all(product.is_integer for product in products)


def multiply_together(
    products: Sequence[Product],
    inputs_TC: Float32[np.ndarray, "T C"],
    *,
    measured: bool = False,
    isa: str | None = None,
    into: Mapping[int, Float32[np.ndarray, "T R"]] | None = None,
) -> tuple[list[Float32[np.ndarray, "T R"]], bytes | None]:
    """Up to three products of the same activations, by index `into` memory that is there.

    Returns:
        The products and, if `measured`, the moments of the activations and of each.

    Raises:
        TensorShapeError: the activations have another width than a weight, or what is in
            `into` another shape than the product.
    """
    _check(products, inputs_TC)
    shapes = [(len(inputs_TC), product.rows) for product in products]
    into = into or {}
    for index, place in into.items():
        if place.shape != shapes[index]:
            raise _misfit(f"a product of {shapes[index]}", str(place.shape))
    outputs = [
        into[index] if index in into else empty_array(shape)
        for index, shape in enumerate(shapes)
    ]
    moments = _compiled.multiply_together(
        isa or chosen_isa(),
        [product.compiled for product in products],
        np.ascontiguousarray(inputs_TC),
        measured,
        outputs,
    )
    return outputs, moments


def multiply_and_add(
    product: Product,
    inputs_TC: Float32[np.ndarray, "T C"],
    residual_TR: Float32[np.ndarray, "T R"],
    *,
    measured: bool = False,
    of_input: bool = False,
    isa: str | None = None,
) -> tuple[Float32[np.ndarray, "T R"], bytes | None]:
    """`residual + product`.

    Returns:
        The sum and, if `measured`, the moments of the activations (where `of_input` asks
        for them), of the product and of the sum.

    Raises:
        TensorShapeError: the arrays do not fit the weight.
    """
    _check([product], inputs_TC)
    output_TR = empty_array((len(inputs_TC), product.rows))
    if residual_TR.shape != output_TR.shape:
        raise _misfit(f"a residual of {output_TR.shape}", str(residual_TR.shape))
    moments = _compiled.multiply_and_add(
        isa or chosen_isa(),
        product.compiled,
        np.ascontiguousarray(inputs_TC),
        np.ascontiguousarray(residual_TR),
        measured,
        of_input,
        output_TR,
    )
    return output_TR, moments


def multiply_gated(
    gate: Product,
    up: Product,
    inputs_TC: Float32[np.ndarray, "T C"],
    *,
    measured: bool = False,
    isa: str | None = None,
) -> tuple[Float32[np.ndarray, "T F"], bytes | None]:
    """`silu(gate) * up`.

    Returns:
        It and, if `measured`, the moments of the activations, of gate, up, silu(gate) and of
        what is returned.

    Raises:
        TensorShapeError: the arrays do not fit the weights, or the weights each other.
    """
    _check([gate, up], inputs_TC)
    if gate.rows != up.rows:
        raise _misfit(f"{gate.rows} rows of both weights", f"{up.rows} of the second")
    output_TF = empty_array((len(inputs_TC), gate.rows))
    moments = _compiled.multiply_gated(
        isa or chosen_isa(),
        gate.compiled,
        up.compiled,
        np.ascontiguousarray(inputs_TC),
        measured,
        output_TF,
    )
    return output_TF, moments


def can_feed_forward(down: Product) -> bool:
    """Is `feed_forward` for such a last product?"""
    return _compiled.can_feed_forward(down.compiled)


def feed_forward(
    gate: Product,
    up: Product,
    down: Product,
    inputs_TD: Float32[np.ndarray, "T D"],
    residual_TD: Float32[np.ndarray, "T D"],
    *,
    measured: bool = False,
    isa: str | None = None,
) -> tuple[Float32[np.ndarray, "T D"], bytes | None]:
    """`residual + down(silu(gate) * up)`, of which nothing in between comes to memory.

    Returns:
        It and, if `measured`, the moments of the activations, of gate, up, silu(gate), its
        product with up, of what `down` gives and of what is returned.

    Raises:
        TensorShapeError: the arrays do not fit the weights, or the weights each other.
    """
    _check([gate, up], inputs_TD)
    if not gate.rows == up.rows == down.columns:
        rows = f"{gate.rows} and {up.rows} rows before {down.columns} columns"
        raise _misfit("as many rows of gate and up as columns of the next", rows)
    output_TD = empty_array((len(inputs_TD), down.rows))
    if residual_TD.shape != output_TD.shape:
        raise _misfit(f"a residual of {output_TD.shape}", str(residual_TD.shape))
    moments = _compiled.feed_forward(
        isa or chosen_isa(),
        gate.compiled,
        up.compiled,
        down.compiled,
        np.ascontiguousarray(inputs_TD),
        np.ascontiguousarray(residual_TD),
        measured,
        output_TD,
    )
    return output_TD, moments


def _check(products: Sequence[Product], inputs_TC: Float32[np.ndarray, "T C"]) -> None:
    for product in products:
        if inputs_TC.ndim != 2 or inputs_TC.shape[1] != product.columns:  # noqa: PLR2004 - axes
            raise _misfit(f"activations of (T, {product.columns})", str(inputs_TC.shape))


def _misfit(expected: str, found: str) -> TensorShapeError:
    return TensorShapeError(
        "the arrays do not fit each other",
        where="products of a layer",
        expected=expected,
        found=found,
        hint="a shape in the model's configuration or tensor table is wrong",
    )
