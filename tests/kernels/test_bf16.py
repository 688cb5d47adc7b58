"""The product `bf16`: equal bits wherever it runs, near the truth, and the tiles of AMX.

No CPU of a test needs to have AMX: `amx-emulated` runs the same code over tiles in plain C++.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.errors import UsageError
from cotejar.kernels import _compiled, instruction_set
from cotejar.kernels.bf16_products import SMALLEST, round_to_normal_bfloat16
from cotejar.kernels.instruction_set import AMX_EMULATED, NUMPY, chosen_isa, runnable_isas
from cotejar.kernels.products import multiply_bf16
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode
from cotejar.quant.floats import FLOAT_TYPES

F32 = np.float32
ISAS = (*runnable_isas(), AMX_EMULATED)
COMPILED = [isa for isa in ISAS if isa != NUMPY]


def weight_of(values: np.ndarray, block_type: BlockType = BlockType.F32) -> BlockMatrix:
    rows, columns = values.shape
    raw = encode(block_type, np.ascontiguousarray(values, F32).reshape(-1))
    return BlockMatrix(block_type=block_type, rows=rows, columns=columns, raw=raw)


SCALES_AT = {
    BlockType.Q2_K: (80, 82),
    BlockType.Q3_K: (108,),
    BlockType.Q4_1: (0, 2),
    BlockType.Q4_K: (0, 2),
    BlockType.Q5_1: (0, 2),
    BlockType.Q5_K: (0, 2),
    BlockType.Q6_K: (208,),
}


def random_weight(
    block_type: BlockType, rows: int, columns: int, rng: np.random.Generator
) -> BlockMatrix:
    """Any bytes, with scales that are finite and of ordinary size."""
    if block_type in FLOAT_TYPES:
        return weight_of(rng.standard_normal((rows, columns)) / 8, block_type)
    raw = rng.integers(0, 256, block_type.num_bytes(rows * columns), dtype=np.uint8)
    if block_type is BlockType.APR_Q8:
        raw[:4] = np.array([-0.0123], "<f4").view(np.uint8)
    else:
        blocks = raw.reshape(-1, block_type.bytes_per_block)
        for at in SCALES_AT.get(block_type, (0,)):
            scales = rng.uniform(-0.02, 0.02, len(blocks)).astype("<f2")
            blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
    return BlockMatrix(block_type=block_type, rows=rows, columns=columns, raw=raw)


def columns_of(block_type: BlockType, num_blocks: int) -> int:
    return num_blocks * (256 if block_type.elements_per_block == 256 else 32)


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal bits; a NaN is a NaN."""
    is_nan = np.isnan(expected)
    found, expected = (np.where(is_nan & np.isnan(x), F32(0), x) for x in (found, expected))
    return found.dtype == F32 and found.tobytes() == expected.tobytes()


def nearest(exact: Fraction) -> Fraction:
    """The nearest float32, ties to even, by integers alone; nothing here is subnormal."""
    if exact == 0:
        return exact
    exponent = 0
    while abs(exact) / Fraction(2) ** exponent >= 2**24:
        exponent += 1
    while abs(exact) / Fraction(2) ** exponent < 2**23:
        exponent -= 1
    step = Fraction(2) ** exponent
    return round(exact / step) * step  # Python rounds a half to even


def written_out(weights: np.ndarray, activations: np.ndarray) -> float:
    """One row times one token, in whole numbers: the formula that `bf16_products` states."""

    def halves(values: np.ndarray) -> list[Fraction]:
        step = [2.0 ** (np.frexp(v)[1] - 8) for v in values.astype(np.float64)]
        return [
            Fraction(round(Fraction(float(v)) / Fraction(s))) * Fraction(s)
            for v, s in zip(values, step, strict=True)
        ]

    w, x = halves(weights), halves(activations)
    total = Fraction(0)
    for chunk in range(0, len(w), 32):
        sums = [Fraction(0), Fraction(0)]
        for column in range(chunk, min(chunk + 32, len(w))):
            sums[column % 2] = nearest(sums[column % 2] + w[column] * x[column])
        total = nearest(total + nearest(sums[0] + sums[1]))
    return float(total)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", [1, 31, 32, 77])
def test_it_has_the_bits_of_the_written_out_formula(isa: str, columns: int) -> None:
    rng = np.random.default_rng(columns)
    weights = rng.standard_normal((3, columns)).astype(F32)
    activations = rng.standard_normal((2, columns)).astype(F32)
    # The sum of a product and what came before must be rounded once, not twice.
    activations[1] *= F32(2) ** rng.integers(-20, 20, columns)
    expected = [[written_out(row, token) for row in weights] for token in activations]

    product = multiply_bf16(weight_of(weights), activations, isa=isa)

    assert same_bits(product, np.array(expected, F32))


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
@settings(max_examples=5, deadline=None)
@given(
    num_tokens=st.integers(1, 37),
    rows=st.integers(1, 50),
    num_blocks=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_every_shape_has_the_bits_of_numpy(
    isa: str, block_type: BlockType, num_tokens: int, rows: int, num_blocks: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = random_weight(block_type, rows, columns_of(block_type, num_blocks), rng)
    activations = rng.standard_normal((num_tokens, weight.columns)).astype(F32)
    activations *= F32(10) ** rng.integers(-44, 38, (num_tokens, 1))  # down to subnormals

    expected = multiply_bf16(weight, activations, isa=NUMPY)

    assert same_bits(multiply_bf16(weight, activations, isa=isa), expected)


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
def test_any_bytes_at_all_have_the_bits_of_numpy(isa: str, block_type: BlockType) -> None:
    rng = np.random.default_rng(7)
    columns = columns_of(block_type, 3)
    raw = rng.integers(0, 256, block_type.num_bytes(40 * columns), dtype=np.uint8)
    weight = BlockMatrix(block_type=block_type, rows=40, columns=columns, raw=raw)
    activations = rng.standard_normal((3, columns)).astype(F32)
    with np.errstate(all="ignore"):
        activations[2] *= F32(1e38)  # sums overflow
        activations[1, 5] = np.nan
        expected = multiply_bf16(weight, activations, isa=NUMPY)

        assert same_bits(multiply_bf16(weight, activations, isa=isa), expected)


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("columns", [1, 15, 17, 33, 95])
@pytest.mark.parametrize("block_type", [BlockType.F32, BlockType.F16, BlockType.BF16])
def test_floats_of_any_width_have_the_bits_of_numpy(
    isa: str, columns: int, block_type: BlockType
) -> None:
    rng = np.random.default_rng(columns)
    weight = random_weight(block_type, 17, columns, rng)
    activations = rng.standard_normal((5, columns)).astype(F32)

    expected = multiply_bf16(weight, activations, isa=NUMPY)

    assert same_bits(multiply_bf16(weight, activations, isa=isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
def test_it_is_within_the_rounding_of_its_sums(block_type: BlockType, isa: str) -> None:
    rng = np.random.default_rng(block_type)
    weight = random_weight(block_type, 37, columns_of(block_type, 3), rng)
    activations = rng.standard_normal((5, weight.columns)).astype(F32)
    weights = round_to_normal_bfloat16(weight.decode_rows(0, 37)).astype(np.float64)
    tokens = round_to_normal_bfloat16(activations).astype(np.float64)
    exact, magnitude = tokens @ weights.T, np.abs(tokens) @ np.abs(weights.T)

    product = multiply_bf16(weight, activations, isa=isa)

    # A product is in 16 sums of its chunk, the sum of both halves, and one a chunk.
    num_sums = 17 + -(-weight.columns // 32)
    assert np.all(np.abs(product - exact) <= num_sums * 2.0**-24 * magnitude)


@pytest.mark.parametrize("isa", COMPILED)
def test_it_does_not_depend_on_how_the_work_is_split(isa: str) -> None:
    rng = np.random.default_rng(4)
    weight = random_weight(BlockType.Q4_K, 100, 512, rng)
    activations = rng.standard_normal((37, 512)).astype(F32)
    whole = multiply_bf16(weight, activations, isa=isa)
    before, products = _compiled.num_threads(), []

    for threads in (1, 2, 5):
        _compiled.set_num_threads(threads)
        products.append(multiply_bf16(weight, activations, isa=isa))
    _compiled.set_num_threads(before)
    tokens = [multiply_bf16(weight, activations[one : one + 1], isa=isa) for one in range(37)]

    assert all(same_bits(product, whole) for product in products)
    assert same_bits(np.concatenate(tokens), whole)


@pytest.mark.parametrize("isa", ISAS)
def test_values_are_rounded_to_nearest_with_ties_to_even(isa: str) -> None:
    tie_down, tie_up, above = 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20
    values = np.array([[tie_down, tie_up, above]], F32)

    product = multiply_bf16(weight_of(np.eye(3, dtype=F32)), values, isa=isa)
    of_weights = multiply_bf16(weight_of(values), np.eye(3, dtype=F32), isa=isa)

    assert product.tolist() == [[1, 1 + 2.0**-6, 1 + 2.0**-7]]
    assert same_bits(of_weights.T.copy(), product)


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_below_the_normal_numbers_counts_as_zero(isa: str) -> None:
    below = F32(SMALLEST * (1 - 2.0**-23))  # of which the nearest bfloat16 is SMALLEST
    rows = np.array([[1, 0, 0], [0.5, 0, 0], [1, 0, -0.75]], F32)
    tokens = np.array([[below, 0, 0], [SMALLEST, 0, 0], [SMALLEST, 0, SMALLEST]], F32)

    product = multiply_bf16(weight_of(rows), tokens, isa=isa)

    assert product.tolist() == [[0, 0, 0], [SMALLEST, 0, SMALLEST], [SMALLEST, 0, 0]]


@pytest.mark.parametrize("isa", COMPILED)
def test_the_caller_keeps_its_subnormals(isa: str) -> None:
    small = np.full(64, 1e-40, F32)

    multiply_bf16(weight_of(np.ones((3, 64), F32)), np.ones((2, 64), F32), isa=isa)

    assert np.all(small * F32(0.5) > 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_activation_is_not_hidden(isa: str, bad: float) -> None:
    rng = np.random.default_rng(6)
    weight = random_weight(BlockType.Q4_0, 5, 96, rng)
    activations = rng.standard_normal((3, 96)).astype(F32)
    clean = multiply_bf16(weight, activations, isa=isa)
    activations[1, 40] = bad

    product = multiply_bf16(weight, activations, isa=isa)

    assert not np.isfinite(product[1]).any()
    assert same_bits(product[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("where", ["weight", "activation"])
def test_one_step_of_one_value_is_seen(isa: str, where: str) -> None:
    rng = np.random.default_rng(8)
    weights = rng.uniform(0.5, 1, (4, 64)).astype(F32)
    activations = rng.uniform(0.5, 1, (2, 64)).astype(F32)
    clean = multiply_bf16(weight_of(weights), activations, isa=isa)
    (weights if where == "weight" else activations)[1, 50] += F32(2.0**-8)

    product = multiply_bf16(weight_of(weights), activations, isa=isa)

    column, token = np.s_[:, 1], np.s_[1, :]
    is_changed = np.zeros((2, 4), bool)
    is_changed[column if where == "weight" else token] = True
    assert np.array_equal(product != clean, is_changed)


def test_rows_that_share_a_block_are_multiplied_in_numpy() -> None:
    rng = np.random.default_rng(33)
    raw = rng.integers(0, 60, BlockType.APR_Q4.num_bytes(3 * 33), dtype=np.uint8)
    weight = BlockMatrix(block_type=BlockType.APR_Q4, rows=3, columns=33, raw=raw)

    product = multiply_bf16(weight, np.eye(33, dtype=F32))

    assert same_bits(product, round_to_normal_bfloat16(weight.decode_rows(0, 3)).T + F32(0))


# --- AMX -----------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", COMPILED)
def test_the_self_test_passes_what_computes_right(isa: str) -> None:
    assert _compiled.passes_self_test(isa, -1)


@pytest.mark.parametrize("value", [0, 1, 37 * 45 - 1, 37 * 45, 37 * 45 + 255])
def test_the_self_test_sees_one_bit_of_one_value(value: int) -> None:
    """Of a product in bfloat16, and after it of one of groups."""
    assert not _compiled.passes_self_test(AMX_EMULATED, value)


def test_amx_is_offered_where_it_is_ready_and_nowhere_else() -> None:
    assert ("amx" in runnable_isas()) == (_compiled.amx_state() == "ready")


@pytest.fixture
def fresh_choice():
    chosen_isa.cache_clear()
    yield
    chosen_isa.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
def test_the_emulation_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTEJAR_ISA", AMX_EMULATED)

    assert chosen_isa() == AMX_EMULATED
    assert AMX_EMULATED not in runnable_isas()


@pytest.mark.usefixtures("fresh_choice")
def test_a_cpu_without_amx_is_refused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTEJAR_ISA", "amx")
    monkeypatch.setattr(instruction_set, "runnable_isas", lambda: ("portable", "numpy"))

    with pytest.raises(UsageError, match="this CPU does not run amx"):
        chosen_isa()
