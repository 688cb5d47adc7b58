"""Products with what follows them done on the way: bits of one operation after the other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.errors import TensorShapeError
from cotejar.kernels import _compiled, layer_products, operations
from cotejar.kernels.instruction_set import AMX_EMULATED, NUMPY, runnable_isas
from cotejar.kernels.layer_products import Product
from cotejar.kernels.moments import measure_raw
from cotejar.kernels.products import multiply_q8, multiply_w8a8
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import ENCODABLE, encode
from cotejar.quant.floats import FLOAT_TYPES

F32 = np.float32
COMPILED = [isa for isa in (*runnable_isas(), AMX_EMULATED) if isa != NUMPY]
INTEGER_TYPES = sorted(ENCODABLE - FLOAT_TYPES - {BlockType.APR_Q8})
MULTIPLY = {False: multiply_q8, True: multiply_w8a8}
of_both_arithmetics = pytest.mark.parametrize("grouped", MULTIPLY, ids=["q8", "w8a8"])


def weight_of(block_type: BlockType, rows: int, columns: int, seed: int) -> BlockMatrix:
    values = np.random.default_rng(seed).standard_normal(rows * columns).astype(F32)
    raw = encode(block_type, values)
    return BlockMatrix(block_type=block_type, rows=rows, columns=columns, raw=raw)


def product_of(
    weight: BlockMatrix,
    inputs: np.ndarray,
    bias: np.ndarray | None,
    isa: str,
    *,
    grouped: bool = False,
):
    output = MULTIPLY[grouped](weight, inputs, isa=isa)
    return output if bias is None else output + bias


def moments_of(isa: str, *arrays: np.ndarray) -> bytes:
    return b"".join(measure_raw(values, isa=isa) or b"" for values in arrays)


@of_both_arithmetics
@pytest.mark.parametrize("isa", COMPILED)
@settings(max_examples=25, deadline=None)
@given(
    types=st.lists(st.sampled_from(INTEGER_TYPES), min_size=1, max_size=3),
    num_tokens=st.integers(2, 150),
    rows=st.lists(st.integers(1, 50), min_size=3, max_size=3),
    has_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_products_together_are_those_of_each_alone(
    types: list[BlockType],
    num_tokens: int,
    rows: list[int],
    has_bias: bool,
    seed: int,
    isa: str,
    grouped: bool,
) -> None:
    rng = np.random.default_rng(seed)
    weights = [weight_of(one, n, 256, seed) for one, n in zip(types, rows, strict=False)]
    biases = [rng.standard_normal(w.rows).astype(F32) if has_bias else None for w in weights]
    inputs = rng.standard_normal((num_tokens, 256)).astype(F32)
    pairs = list(zip(weights, biases, strict=True))
    products = [Product(*pair, grouped=grouped) for pair in pairs]

    found, moments = layer_products.multiply_together(products, inputs, measured=True, isa=isa)

    expected = [product_of(w, inputs, b, isa, grouped=grouped) for w, b in pairs]
    assert [x.tobytes() for x in found] == [x.tobytes() for x in expected]
    assert moments == moments_of(isa, inputs, *expected)
    again, unmeasured = layer_products.multiply_together(products, inputs, isa=isa)
    assert [x.tobytes() for x in again] == [x.tobytes() for x in expected]
    assert unmeasured is None


@of_both_arithmetics
@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize(("num_tokens", "rows"), [(2, 16), (64, 48), (65, 37), (200, 80)])
@pytest.mark.parametrize("of_input", [False, True])
def test_a_sum_is_that_of_product_and_residual(
    num_tokens: int, rows: int, of_input: bool, isa: str, grouped: bool
) -> None:
    rng = np.random.default_rng(rows)
    weight, bias = (
        weight_of(BlockType.Q6_K, rows, 256, 1),
        rng.standard_normal(rows).astype(F32),
    )
    inputs = rng.standard_normal((num_tokens, 256)).astype(F32)
    residual = rng.standard_normal((num_tokens, rows)).astype(F32)

    found, moments = layer_products.multiply_and_add(
        Product(weight, bias, grouped=grouped),
        inputs,
        residual,
        measured=True,
        of_input=of_input,
        isa=isa,
    )

    product = product_of(weight, inputs, bias, isa, grouped=grouped)
    expected = operations.add(residual, product, isa=isa)
    assert found.tobytes() == expected.tobytes()
    assert moments == moments_of(isa, *[inputs] * of_input, product, expected)


@of_both_arithmetics
@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize(("num_tokens", "rows"), [(2, 16), (64, 48), (65, 37), (200, 80)])
def test_a_gated_product_is_that_of_the_activated_and_up(
    num_tokens: int, rows: int, isa: str, grouped: bool
) -> None:
    rng = np.random.default_rng(rows)
    gate, up = weight_of(BlockType.Q4_1, rows, 96, 1), weight_of(BlockType.Q8_0, rows, 96, 2)
    inputs = rng.standard_normal((num_tokens, 96)).astype(F32)
    inputs[1, 3] = np.nan  # of a broken model: its blocks are measured like others

    products = [Product(one, None, grouped=grouped) for one in (gate, up)]
    found, moments = layer_products.multiply_gated(*products, inputs, measured=True, isa=isa)

    gated, raised = (MULTIPLY[grouped](w, inputs, isa=isa) for w in (gate, up))
    activated = operations.silu(gated, isa=isa)
    expected = operations.multiply_elements(activated, raised, isa=isa)
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found[1]).all()
    assert moments == moments_of(isa, inputs, gated, raised, activated, expected)


@pytest.mark.parametrize("isa", COMPILED)
def test_gate_and_up_of_one_type_are_multiplied_side_by_side(isa: str) -> None:
    gate, up = (weight_of(BlockType.Q4_1, 37, 96, seed) for seed in (1, 2))
    inputs = np.random.default_rng(3).standard_normal((70, 96)).astype(F32)

    found, _ = layer_products.multiply_gated(
        Product(gate, None), Product(up, None), inputs, isa=isa
    )

    activated = operations.silu(product_of(gate, inputs, None, isa), isa=isa)
    expected = operations.multiply_elements(
        activated, product_of(up, inputs, None, isa), isa=isa
    )
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("grouped", "width"), [(False, 160), (True, 192)])
@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("down_type", [BlockType.Q4_1, BlockType.Q8_0])
@pytest.mark.parametrize(("num_tokens", "rows"), [(2, 16), (64, 48), (69, 37), (200, 80)])
def test_a_feed_forward_part_is_its_operations_one_after_the_other(
    num_tokens: int, rows: int, down_type: BlockType, isa: str, grouped: bool, width: int
) -> None:
    rng = np.random.default_rng(rows)
    gate = weight_of(BlockType.Q4_1, width, 96, 1)
    up = weight_of(BlockType.Q8_0, width, 96, 2)
    down, bias = weight_of(down_type, rows, width, 3), rng.standard_normal(rows).astype(F32)
    weights = [(gate, None), (up, None), (down, bias)]
    parts = [Product(*pair, grouped=grouped) for pair in weights]
    inputs = rng.standard_normal((num_tokens, 96)).astype(F32)
    residual = rng.standard_normal((num_tokens, rows)).astype(F32)

    found, moments = layer_products.feed_forward(
        *parts, inputs, residual, measured=True, isa=isa
    )

    gated, raised = (MULTIPLY[grouped](w, inputs, isa=isa) for w in (gate, up))
    activated = operations.silu(gated, isa=isa)
    inner = operations.multiply_elements(activated, raised, isa=isa)
    product = product_of(down, inner, bias, isa, grouped=grouped)
    expected = operations.add(residual, product, isa=isa)
    assert found.tobytes() == expected.tobytes()
    between = (gated, raised, activated, inner, product)
    assert moments == moments_of(isa, inputs, *between, expected)
    again, unmeasured = layer_products.feed_forward(*parts, inputs, residual, isa=isa)
    assert again.tobytes() == expected.tobytes()
    assert unmeasured is None


def with_rows(weight: BlockMatrix, rows: dict[int, float]) -> BlockMatrix:
    """Rows of one value each, in Q8_0: an infinite scale makes what no code could be."""
    raw = weight.raw.copy()
    for row, value in rows.items():
        blocks = raw.reshape(weight.rows, -1, 34)[row]
        blocks[:, :2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
        blocks[:, 2:] = 1
    return dataclasses.replace(weight, raw=raw)


@of_both_arithmetics
@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("of_up", [0.0, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("of_gate", [0.0, -np.inf, np.nan])
def test_zeros_of_gate_and_up_are_counted_whatever_the_product_shows(
    of_gate: float, of_up: float, isa: str, grouped: bool
) -> None:
    """Of a strip each: a zero of the gate alone, of up alone, one that infinity hides, none."""
    gate = with_rows(weight_of(BlockType.Q8_0, 128, 64, 1), {3: 0, 40: of_gate, 69: 0})
    up = with_rows(weight_of(BlockType.Q8_0, 128, 64, 2), {40: 0, 69: of_up, 22: 0})
    down = weight_of(BlockType.Q8_0, 16, 128, 3)
    products = [Product(one, None, grouped=grouped) for one in (gate, up, down)]
    rng = np.random.default_rng(4)
    inputs = rng.standard_normal((70, 64)).astype(F32)
    residual = rng.standard_normal((70, 16)).astype(F32)

    with np.errstate(all="ignore"):
        gated, raised = (MULTIPLY[grouped](w, inputs, isa=isa) for w in (gate, up))
        activated = operations.silu(gated, isa=isa)
        inner = operations.multiply_elements(activated, raised, isa=isa)
    assert (gated == 0).sum() >= 140
    expected = moments_of(isa, inputs, gated, raised, activated, inner)
    _, moments = layer_products.multiply_gated(*products[:2], inputs, measured=True, isa=isa)
    assert moments == expected
    _, moments = layer_products.feed_forward(
        *products, inputs, residual, measured=True, isa=isa
    )
    assert moments is not None
    assert moments[: len(expected)] == expected


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("rows", [64, 88])
def test_activations_that_no_cache_holds_give_the_same_bits(rows: int, isa: str) -> None:
    weight = weight_of(BlockType.Q4_K, rows, 4608, 1)
    rng = np.random.default_rng(rows)
    inputs = rng.standard_normal((257, 4608)).astype(F32)  # above a MiB, rounded
    residual = rng.standard_normal((257, rows)).astype(F32)

    found, _ = layer_products.multiply_and_add(Product(weight, None), inputs, residual, isa=isa)

    expected = operations.add(residual, product_of(weight, inputs, None, isa), isa=isa)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa", COMPILED)
def test_grouped_floats_have_the_bits_of_one_product_alone(isa: str) -> None:
    weight = weight_of(BlockType.BF16, 45, 72, 1)
    inputs = np.random.default_rng(2).standard_normal((41, 72)).astype(F32)

    (found,), _ = layer_products.multiply_together(
        [Product(weight, None, grouped=True)], inputs, isa=isa
    )

    assert found.tobytes() == product_of(weight, inputs, None, isa, grouped=True).tobytes()


def test_groups_that_are_not_whole_have_no_feed_forward() -> None:
    whole, broken = (
        Product(weight_of(BlockType.Q8_0, 4, columns, 1), None, grouped=True)
        for columns in (128, 96)
    )

    assert layer_products.can_feed_forward(whole)
    assert not layer_products.can_feed_forward(broken)


@pytest.mark.parametrize("isa", COMPILED)
def test_a_product_comes_into_the_memory_that_is_given(isa: str) -> None:
    products = [Product(weight_of(BlockType.Q8_0, 24, 64, seed), None) for seed in (1, 2)]
    inputs = np.random.default_rng(3).standard_normal((40, 64)).astype(F32)
    expected, _ = layer_products.multiply_together(products, inputs, isa=isa)
    place = np.empty((40, 24), F32)

    found, _ = layer_products.multiply_together(products, inputs, isa=isa, into={1: place})

    assert found[1] is place
    assert [x.tobytes() for x in found] == [x.tobytes() for x in expected]


def test_memory_that_does_not_fit_is_refused() -> None:
    product = Product(weight_of(BlockType.Q8_0, 24, 64, 1), None)

    with pytest.raises(TensorShapeError) as caught:
        layer_products.multiply_together(
            [product], np.zeros((40, 64), F32), into={0: np.empty((40, 23), F32)}
        )

    assert (caught.value.parts["expected"], caught.value.parts["found"]) == (
        "a product of (40, 24)",
        "(40, 23)",
    )


@pytest.mark.parametrize("isa", COMPILED)
def test_bits_do_not_depend_on_the_number_of_threads(isa: str) -> None:
    rng = np.random.default_rng(9)
    gate, up = (Product(weight_of(BlockType.Q5_0, 100, 64, seed), None) for seed in (1, 2))
    inputs = rng.standard_normal((90, 64)).astype(F32)
    before, found = _compiled.num_threads(), []
    for num_threads in (1, 2, 5):
        _compiled.set_num_threads(num_threads)
        inner, moments = layer_products.multiply_gated(gate, up, inputs, measured=True, isa=isa)
        found.append((inner.tobytes(), moments))
    _compiled.set_num_threads(before)

    assert found[0] == found[1] == found[2]


def test_a_weight_in_floats_is_not_one_of_them() -> None:
    floats = Product(weight_of(BlockType.F16, 4, 32, 1), None)
    integers = Product(weight_of(BlockType.Q8_0, 4, 32, 1), None)

    assert not layer_products.can_multiply([integers, floats], 1000)
    grouped = Product(weight_of(BlockType.F16, 4, 32, 1), None, grouped=True)
    assert layer_products.can_multiply([integers, grouped], 1000)
    assert not layer_products.can_multiply([integers], layer_products.FEW_TOKENS - 1)


def test_a_width_that_does_not_fit_is_refused_with_both() -> None:
    product = Product(weight_of(BlockType.Q8_0, 4, 32, 1), None)

    with pytest.raises(TensorShapeError) as caught:
        layer_products.multiply_together([product], np.ones((40, 64), F32))

    assert str(caught.value) == (
        "error[APR-F018]: the arrays do not fit each other\n"
        "  where     products of a layer\n"
        "  expected  activations of (T, 32)\n"
        "  found     (40, 64)\n"
        "  try       a shape in the model's configuration or tensor table is wrong"
    )


def linear(rows: int = 4, columns: int = 32, block_type: BlockType = BlockType.Q8_0):
    return Product(weight_of(block_type, rows, columns, 1), None).compiled


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, F32)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (
            lambda c: c.multiply_together(
                "mmx", [linear()], zeros(2, 32), False, [zeros(2, 4)]
            ),
            "an instruction set that this build or this CPU lacks",
        ),
        (
            lambda c: c.multiply_together("portable", [], zeros(2, 32), False, []),
            "not one output for each of a few products",
        ),
        (
            lambda c: c.multiply_together(
                "portable", [linear()] * 4, zeros(2, 32), False, [zeros(2, 4)] * 4
            ),
            "not one output for each of a few products",
        ),
        (
            lambda c: c.multiply_together(
                "portable", [linear()] * 2, zeros(2, 32), False, [zeros(2, 4)]
            ),
            "not one output for each of a few products",
        ),
        (
            lambda c: c.multiply_together(
                "portable", [linear()], zeros(1, 32), False, [zeros(1, 4)]
            ),
            "not several tokens",
        ),
        (
            lambda c: c.multiply_together(
                "portable", [linear()], zeros(2, 64), False, [zeros(2, 4)]
            ),
            "the activations have another width than the weight",
        ),
        (
            lambda c: c.multiply_together(
                "portable", [linear()], zeros(2, 32), False, [zeros(2, 5)]
            ),
            "the output has another shape than the product",
        ),
        (
            lambda c: c.multiply_together(
                "portable",
                [linear(block_type=BlockType.F16)],
                zeros(2, 32),
                False,
                [zeros(2, 4)],
            ),
            "a weight in floats",
        ),
        (
            lambda c: c.multiply_and_add(
                "portable", linear(), zeros(2, 32), zeros(1, 4), False, False, zeros(2, 4)
            ),
            "the output has another shape than what is added",
        ),
        (
            lambda c: c.multiply_gated(
                "portable", linear(), linear(5), zeros(2, 32), False, zeros(2, 4)
            ),
            "the output has another shape than the product",
        ),
        (
            lambda c: c.multiply_gated(
                "portable", linear(), linear(4, 64), zeros(2, 32), False, zeros(2, 4)
            ),
            "the activations have another width than the weight",
        ),
        (
            lambda c: c.feed_forward(
                "portable",
                linear(32),
                linear(),
                linear(),
                zeros(2, 32),
                zeros(2, 4),
                False,
                zeros(2, 4),
            ),
            "gate and up do not fit the activations or the weight after them",
        ),
        (
            lambda c: c.feed_forward(
                "portable",
                *[linear(32)] * 2,
                linear(),
                zeros(2, 32),
                zeros(1, 4),
                False,
                zeros(2, 4),
            ),
            "the output has another shape than the product or what is added",
        ),
        (
            lambda c: c.feed_forward(
                "portable",
                *[linear(256)] * 2,
                linear(4, 256, BlockType.Q6_K),
                zeros(2, 32),
                zeros(2, 4),
                False,
                zeros(2, 4),
            ),
            "a weight whose blocks are too wide",
        ),
    ],
)
def test_the_extension_refuses_what_it_would_read_past(call, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        call(_compiled)
