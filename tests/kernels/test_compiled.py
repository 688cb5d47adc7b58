"""The compiled products against the same arithmetic in numpy: equal bits, whatever the shape.

And what only compiled code can do wrong: read past a buffer, run what the CPU lacks, depend
on its threads.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.errors import UsageError
from cotejar.kernels import _compiled, instruction_set
from cotejar.kernels.instruction_set import NUMPY, chosen_isa, runnable_isas
from cotejar.kernels.products import multiply_f32, multiply_q8, multiply_w8a8
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType

F32 = np.float32
COMPILED = [isa for isa in runnable_isas() if isa != NUMPY]
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
    raw = rng.integers(0, 256, block_type.num_bytes(rows * columns), dtype=np.uint8)
    if block_type is BlockType.APR_Q8:
        raw[:4] = np.array([-0.0123], "<f4").view(np.uint8)
    elif block_type is BlockType.F32:
        raw = rng.standard_normal(rows * columns).astype("<f4").view(np.uint8)
    elif block_type in {BlockType.F16, BlockType.BF16}:
        raw[1::2] &= 0xBF
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
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
@settings(max_examples=15, deadline=None)
@given(
    num_tokens=st.integers(1, 37),
    rows=st.integers(1, 50),
    num_blocks=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_every_shape_has_the_bits_of_numpy(
    isa: str, block_type: BlockType, num_tokens: int, rows: int, num_blocks: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = random_weight(block_type, rows, columns_of(block_type, num_blocks), rng)
    activations = rng.standard_normal((num_tokens, weight.columns)).astype(F32)
    activations *= F32(10) ** rng.integers(-44, 38, (num_tokens, 1))  # down to subnormals

    for multiply in (multiply_q8, multiply_f32, multiply_w8a8):
        expected = multiply(weight, activations, isa=NUMPY)
        assert same_bits(multiply(weight, activations, isa=isa), expected)


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
        for tokens in (activations[:1], activations):
            for multiply in (multiply_q8, multiply_f32, multiply_w8a8):
                expected = multiply(weight, tokens, isa=NUMPY)
                assert same_bits(multiply(weight, tokens, isa=isa), expected)


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("columns", [1, 15, 17, 33])
@pytest.mark.parametrize("block_type", [BlockType.F32, BlockType.F16, BlockType.BF16])
def test_floats_of_any_width_have_the_bits_of_numpy(
    isa: str, columns: int, block_type: BlockType
) -> None:
    rng = np.random.default_rng(columns)
    weight = random_weight(block_type, 17, columns, rng)
    activations = rng.standard_normal((5, columns)).astype(F32)

    for multiply in (multiply_q8, multiply_w8a8):
        expected = multiply(weight, activations, isa=NUMPY)
        assert same_bits(multiply(weight, activations, isa=isa), expected)


@pytest.mark.parametrize("columns", [31, 33])
def test_f32_decodes_rows_that_share_a_block(columns: int) -> None:
    rng = np.random.default_rng(columns)
    raw = rng.integers(0, 60, BlockType.APR_Q4.num_bytes(3 * columns), dtype=np.uint8)
    weight = BlockMatrix(block_type=BlockType.APR_Q4, rows=3, columns=columns, raw=raw)

    product = multiply_f32(weight, np.eye(columns, dtype=F32))

    assert same_bits(product, weight.decode_rows(0, 3).T + F32(0))


@pytest.fixture
def restored_threads():
    before = _compiled.num_threads()
    yield
    _compiled.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("num_tokens", [1, 19])
def test_bits_do_not_depend_on_the_number_of_threads(num_tokens: int) -> None:
    rng = np.random.default_rng(1)
    weight = random_weight(BlockType.Q5_0, 100, 96, rng)
    activations = rng.standard_normal((num_tokens, 96)).astype(F32)
    products = []
    for num_threads in (1, 2, 3, 9):
        _compiled.set_num_threads(num_threads)
        products.append(multiply_q8(weight, activations, isa=COMPILED[0]))

    assert all(same_bits(product, products[0]) for product in products)


@pytest.mark.usefixtures("restored_threads")
def test_two_engines_in_two_threads_give_the_bits_of_one() -> None:
    _compiled.set_num_threads(2)
    rng = np.random.default_rng(2)
    weight = random_weight(BlockType.Q4_K, 64, 512, rng)
    inputs = [rng.standard_normal((tokens, 512)).astype(F32) for tokens in (1, 5)]
    alone = [multiply_q8(weight, x, isa=COMPILED[0]) for x in inputs]
    differing: list[int] = []

    def run(which: int) -> None:
        for _ in range(200):
            product = multiply_q8(weight, inputs[which], isa=COMPILED[0])
            differing.extend([which] * (not same_bits(product, alone[which])))

    threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert differing == []


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_the_same() -> None:
    _compiled.set_num_threads(2)
    rng = np.random.default_rng(3)
    weight = random_weight(BlockType.Q8_0, 200, 64, rng)
    activations = rng.standard_normal((1, 64)).astype(F32)
    expected = multiply_q8(weight, activations, isa=COMPILED[0])

    child = os.fork()
    if child == 0:  # its threads are not there: a pool that waited for them would hang
        product = multiply_q8(weight, activations, isa=COMPILED[0])
        os._exit(0 if same_bits(product, expected) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


GOOD = {"isa": "portable", "block_type": 8, "rows": 3, "columns": 64}


@pytest.mark.parametrize(
    "product",
    [
        _compiled.multiply_q8,
        _compiled.multiply_f32,
        _compiled.multiply_bf16,
        _compiled.multiply_w8a8,
    ],
)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"isa": "mmx"}, "an instruction set that this build or this CPU lacks"),
        ({"block_type": 99}, "an unknown block type"),
        ({"rows": 0}, "rows or columns out of range"),
        ({"rows": -1}, "rows or columns out of range"),
        ({"rows": 2**31}, "rows or columns out of range"),
        ({"columns": 2**62}, "rows or columns out of range"),
        ({"columns": 65}, "a row is no whole number of blocks"),
        ({"rows": 4}, "the bytes are not the matrix's"),
        ({"raw": np.zeros(203, np.uint8)}, "the bytes are not the matrix's"),
        ({"raw": np.zeros(0, np.uint8)}, "the bytes are not the matrix's"),
        ({"activations": np.zeros((2, 32), F32)}, "the activations have another width"),
        ({"out": np.zeros((1, 3), F32)}, "the output has another shape than the product"),
        ({"out": np.zeros((2, 4), F32)}, "the output has another shape than the product"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_a_byte_is_read(
    product, change: dict[str, object], problem: str
) -> None:
    arrays = {
        "raw": np.zeros(204, np.uint8),
        "activations": np.zeros((2, 64), F32),
        "out": np.zeros((2, 3), F32),
    }
    product(**GOOD | arrays)

    with pytest.raises(ValueError, match=problem):
        product(**GOOD | arrays | change)


@pytest.mark.parametrize(
    "change",
    [
        {"activations": np.zeros((2, 64), np.float64)},
        {"activations": np.zeros((64, 2), F32).T},
        {"activations": np.zeros(64, F32)},
        {"raw": np.zeros(408, np.uint8)[::2]},
        {"out": np.zeros((2, 6), F32)[:, ::2]},
        {"out": np.zeros((2, 3), np.float64)},
    ],
)
def test_arrays_of_another_kind_are_refused(change: dict[str, object]) -> None:
    arrays = {
        "raw": np.zeros(204, np.uint8),
        "activations": np.zeros((2, 64), F32),
        "out": np.zeros((2, 3), F32),
    }

    with pytest.raises(TypeError):
        _compiled.multiply_q8(**GOOD | arrays | change)


@pytest.fixture
def fresh_choice():
    chosen_isa.cache_clear()
    yield
    chosen_isa.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize("isa", runnable_isas())
def test_the_environment_forces_an_instruction_set(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTEJAR_ISA", isa)

    assert chosen_isa() == isa


@pytest.mark.usefixtures("fresh_choice")
def test_an_instruction_set_that_the_cpu_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COTEJAR_ISA", "avx2")
    monkeypatch.setattr(instruction_set, "runnable_isas", lambda: ("portable", "numpy"))

    with pytest.raises(UsageError) as caught:
        chosen_isa()

    assert str(caught.value) == (
        "error[APR-U001]: this CPU does not run avx2\n"
        "  where     environment variable COTEJAR_ISA\n"
        "  expected  portable, numpy\n"
        "  found     avx2\n"
        "  try       unset it to use the best; `apr doctor` shows what the CPU has"
    )


@pytest.mark.usefixtures("fresh_choice")
def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTEJAR_ISA", "sse9")

    with pytest.raises(UsageError, match="there is no instruction set 'sse9' here"):
        chosen_isa()


@pytest.mark.usefixtures("fresh_choice", "restored_threads")
@pytest.mark.parametrize("threads", ["0", "-1", "two", "1025", "1" * 5000, "²"])
def test_a_number_of_threads_that_is_none_is_refused(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTEJAR_THREADS", threads)

    with pytest.raises(UsageError, match="is no number of threads"):
        chosen_isa()


@pytest.mark.usefixtures("fresh_choice", "restored_threads")
def test_the_environment_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTEJAR_THREADS", "3")

    assert instruction_set.num_threads() == 3
