"""What the faults of bytes make of a weight, told by its decoded values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.registry import parse_engine_name
from cotejar.faults.catalogue import inject_fault, parse_fault
from cotejar.faults.engine import faulty_engine
from cotejar.faults.weights import FIRST_NIBBLE_BYTE, MINIMUM_BYTE, SCALE_BYTE, float_matrix
from cotejar.model.inventory import EMBEDDING, layer_tensor
from cotejar.quant.block_type import BlockType
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix

    Models = Callable[[str], LanguageModel]

GATE = layer_tensor(1, "mlp.gate_proj.weight")
CAPTURE = Capture(array_slots=EVERY_ARRAY)


def both(model: LanguageModel, fault: str, name: str) -> tuple[BlockMatrix, BlockMatrix]:
    return model.weights[name], inject_fault(model, fault).model.weights[name]


def decoded(matrix: BlockMatrix) -> np.ndarray:
    return matrix.decode_rows(0, matrix.rows)


@pytest.mark.parametrize("name", ["Q4_0", "llama"])
def test_swapped_nibbles_are_the_block_with_its_halves_exchanged(
    model: Models, name: str
) -> None:
    """In Q4_0 and Q4_1 the low nibble of byte i is weight i, the high one weight i + 16."""
    sound, faulty = (
        decoded(m).reshape(-1, 2, 16) for m in both(model(name), "nibble-order@1", GATE)
    )

    assert np.array_equal(sound, faulty[:, ::-1])


def test_a_signed_nibble_is_eight_away(model: Models) -> None:
    sound, faulty = both(model("Q4_0"), "nibble-sign@1", GATE)

    codes = [m.unpack_rows(0, m.rows).codes.astype(int) for m in (sound, faulty)]

    assert np.array_equal(np.abs(codes[0] - codes[1]), np.full_like(codes[0], 8))


@pytest.mark.parametrize("name", ["Q4_0", "llama", "Q8_0", "Q4_K"])
def test_each_block_has_the_scale_of_the_one_before(model: Models, name: str) -> None:
    sound, faulty = (m.unpack_rows(0, m.rows) for m in both(model(name), "block-scale@1", GATE))

    assert np.array_equal(np.roll(sound.scale, 1), faulty.scale)
    assert np.array_equal(sound.codes, faulty.codes)


@pytest.mark.parametrize("name", ["llama", "Q4_K"])
def test_a_minimum_that_is_not_read_is_0(model: Models, name: str) -> None:
    sound, faulty = (
        m.unpack_rows(0, m.rows) for m in both(model(name), "block-minimum-missing@1", GATE)
    )

    assert sound.offset is not None
    assert faulty.offset is not None
    assert (sound.offset.any(), faulty.offset.any()) == (True, False)
    assert np.array_equal(sound.scale, faulty.scale)


def test_sub_scales_keep_their_low_bits_alone(model: Models) -> None:
    """The first four of eight are whole in the low six bits; the others need the high two."""
    sound, faulty = (
        m.unpack_rows(0, m.rows).sub_scales
        for m in both(model("Q4_K"), "sub-scale-bits@1", GATE)
    )

    assert sound is not None
    assert faulty is not None
    assert np.array_equal(sound[:, :4], faulty[:, :4])
    assert np.array_equal(sound[:, 4:] & 0x0F, faulty[:, 4:])
    assert (sound != faulty).any()


@pytest.mark.parametrize("name", ["llama", "Q8_0", "Q4_K", "qwen2"])
def test_a_weight_that_starts_one_block_late(model: Models, name: str) -> None:
    sound, faulty = both(model(name), "block-shift@1", layer_tensor(1, "mlp.down_proj.weight"))

    late = np.roll(decoded(sound).reshape(-1), sound.block_type.elements_per_block)

    assert np.array_equal(late, decoded(faulty).reshape(-1))


def test_a_square_weight_read_transposed_is_its_transpose(model: Models) -> None:
    sound, faulty = both(
        model("llama"), "output-transposed@1", layer_tensor(1, "self_attn.o_proj.weight")
    )

    assert sound.rows == sound.columns
    assert np.array_equal(decoded(sound).T, decoded(faulty))


def test_another_weights_memory_is_read_by_columns(model: Models) -> None:
    sound, faulty = both(
        model("llama"), "down-transposed", layer_tensor(0, "mlp.down_proj.weight")
    )
    memory = decoded(sound).reshape(-1)

    assert all(
        decoded(faulty)[row, column] == memory[column * sound.rows + row]
        for row, column in ((0, 0), (0, 1), (1, 0), (95, 159), (40, 7))
    )


def test_neighbouring_tiles_change_places(model: Models) -> None:
    """96 columns are three tiles of 32: the third stays."""
    sound, faulty = (decoded(m) for m in both(model("llama"), "tiles-swapped@1", GATE))

    assert np.array_equal(faulty[:, :32], sound[:, 32:64])
    assert np.array_equal(faulty[:, 32:64], sound[:, :32])
    assert np.array_equal(faulty[:, 64:], sound[:, 64:])


def test_tiles_are_read_as_rows(model: Models) -> None:
    """A tile of 32 x 32 is 1,024 values: the memory begins with the first, row after row."""
    sound, faulty = (decoded(m) for m in both(model("llama"), "tiles-as-rows@1", GATE))
    memory = faulty.reshape(-1)

    assert np.array_equal(memory[:1024].reshape(32, 32), sound[:32, :32])
    assert np.array_equal(memory[1024:2048].reshape(32, 32), sound[:32, 32:64])
    assert np.array_equal(memory[-1024:].reshape(32, 32), sound[-32:, -32:])


def test_the_second_half_of_a_weight_is_lost(model: Models) -> None:
    name = layer_tensor(1, "mlp.up_proj.weight")
    sound, faulty = (decoded(m) for m in both(model("llama"), "weight-cut@1", name))

    assert np.array_equal(faulty[:80], sound[:80])
    assert not faulty[80:].any()


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_rows_in_the_other_order_are_right_for_the_other_pairing(
    model: Models, name: str
) -> None:
    """An engine that takes the rows for the other pairing computes the same attention."""
    sound = model(name)
    tokens = (3, 141, 59, 26)
    before = NativeEngine(sound, numerics="f32").trace(tokens, capture=CAPTURE)
    weights = inject_fault(sound, "rope-rows").model.weights
    if name == "qwen2":  # its biases would have to move along
        zeros = {
            n: float_matrix(np.zeros((1, m.columns), np.float32))
            for n, m in weights.items()
            if n.endswith(("q_proj.bias", "k_proj.bias"))
        }
        weights = weights.replaced(zeros)
        plain = sound.altered(weights=sound.weights.replaced(zeros))
        before = NativeEngine(plain, numerics="f32").trace(tokens, capture=CAPTURE)
    other = "halves" if sound.config.rope.pairing == "adjacent" else "adjacent"
    rope = replace(sound.config.rope, pairing=other)
    turned = sound.altered(config=replace(sound.config, rope=rope), weights=weights)

    after = NativeEngine(turned, numerics="f32").trace(tokens, capture=CAPTURE)

    # The same products in another order of the rows: bit for bit.
    assert np.array_equal(before.arrays["layer.0.q_rope"], after.arrays["layer.0.q_rope"])
    assert np.array_equal(before.arrays["layer.0.k_rope"], after.arrays["layer.0.k_rope"])


def test_a_head_read_transposed_is_x_times_the_reread_memory(model: Models) -> None:
    sound = model("qwen2")
    engine = faulty_engine(parse_engine_name("native+f32:x"), sound, "head-transposed")
    trace = engine.trace((3, 141), capture=CAPTURE)
    hidden_TD = trace.arrays["final_norm"].astype(np.float64)
    table_VD = decoded(sound.weights[EMBEDDING]).astype(np.float64)

    expected_TV = hidden_TD @ table_VD.reshape(table_VD.shape[::-1])

    # Float32 sums of 96 products of numbers below 10.
    assert np.allclose(trace.arrays["logits"], expected_TV, rtol=0, atol=1e-4)


def test_an_embedding_read_transposed_is_a_column_of_the_reread_memory(model: Models) -> None:
    sound = model("llama")
    engine = faulty_engine(parse_engine_name("native+f32:x"), sound, "embedding-transposed")
    trace = engine.trace((3, 141), capture=CAPTURE)
    table_VD = decoded(sound.weights[EMBEDDING])

    expected_DV = table_VD.reshape(table_VD.shape[::-1])

    assert np.array_equal(trace.arrays["embed"], expected_DV[:, [3, 141]].T)


def test_fields_of_a_block_lie_within_it() -> None:
    for block_type, first in FIRST_NIBBLE_BYTE.items():
        assert first + block_type.elements_per_block // 2 == block_type.bytes_per_block
    for first_bytes in (SCALE_BYTE, MINIMUM_BYTE):
        for block_type, first in first_bytes.items():
            assert first + 2 <= block_type.bytes_per_block


def test_every_type_of_blocks_has_a_place_for_its_scale() -> None:
    floats = {BlockType.F32, BlockType.F16, BlockType.BF16, BlockType.APR_Q8}

    assert set(SCALE_BYTE) == set(BlockType) - floats


def test_the_first_weight_with_4_bit_codes_is_taken(model: Models) -> None:
    """In a mixed file the gate may be of another type."""
    sound = model("Q4_0")
    plain = float_matrix(decoded(sound.weights[GATE]))
    mixed = sound.altered(weights=sound.weights.replaced({GATE: plain}))

    name = parse_fault("nibble-order@1")

    assert name.fault.site(mixed, name.dose) == "layer.1.ffn_up"
    changed = inject_fault(mixed, "nibble-order@1").model.weights
    up = layer_tensor(1, "mlp.up_proj.weight")
    assert [n for n in mixed.weights if mixed.weights[n] is not changed[n]] == [up]
