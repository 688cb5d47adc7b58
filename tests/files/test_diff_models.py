"""Two model files: what differs is found and named, and what is the same is said to be."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import NothingMeasuredError
from cotejar.files.diff_models import DiffOptions, TensorStatus, diff_models
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.tensor_names import to_gguf
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode
from cotejar.testing.tiny_decoder import TinyDecoder, make_tensors
from cotejar.testing.tiny_metadata import gguf_metadata
from cotejar.testing.tiny_models import (
    write_tiny_apr,
    write_tiny_gguf,
    write_tiny_hugging_face,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cotejar.files.diff_models import ModelDiff, TensorDiff

GATE = "blk.0.ffn_gate.weight"
CANONICAL_GATE = "model.layers.0.mlp.gate_proj.weight"
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((4, 64)).astype(np.float32)


@dataclass
class Maker:
    """Writes a GGUF of a few tensors."""

    folder: Path
    written: list[Path] = field(default_factory=list)

    def __call__(
        self,
        tensors: Mapping[str, np.ndarray],
        block_type: BlockType = BlockType.F32,
        **metadata: GgufValue,
    ) -> Path:
        path = self.folder / f"{len(self.written)}.gguf"
        self.written.append(path)
        write_gguf(
            path,
            metadata=metadata,
            tensors=[
                GgufTensor(
                    name=name,
                    block_type=block_type,
                    shape=values.shape,
                    data=values.astype("<f4").reshape(-1).view(np.uint8)
                    if block_type is BlockType.F32
                    else encode(block_type, values.reshape(-1)),
                )
                for name, values in tensors.items()
            ],
        )
        return path


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def statuses(diff: ModelDiff) -> set[TensorStatus]:
    return {tensor.status for tensor in diff.tensors}


def only(diff: ModelDiff) -> TensorDiff:
    (tensor,) = diff.tensors
    return tensor


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_gguf_and_its_apr_are_the_same(tmp_path: Path, architecture: str) -> None:
    decoder = TinyDecoder(architecture=architecture)
    a = write_tiny_gguf(tmp_path / "a.gguf", decoder)
    pairing = "adjacent" if architecture == "llama" else "halves"
    b = write_tiny_apr(tmp_path / "b.apr", decoder, pairing=pairing)

    diff = diff_models(a, b)

    assert statuses(diff) == {TensorStatus.EQUAL}
    assert diff.metadata is not None
    assert (diff.metadata.facts, diff.metadata.num_keys) == ((), None)
    assert (diff.is_same, diff.exit_code) == (True, 0)


def test_one_flipped_bit_is_found_and_measured(make: Maker) -> None:
    changed = WEIGHTS.copy()
    changed.view(np.uint32)[2, 5] ^= 1  # the last bit of one float32

    diff = diff_models(make({GATE: WEIGHTS}), make({GATE: changed}), DiffOptions(num_worst=3))

    tensor = only(diff)
    assert tensor.name == CANONICAL_GATE
    assert tensor.status is TensorStatus.DIFFERS
    assert tensor.distance is not None
    assert tensor.distance.num_different == 1
    assert [pair.index for pair in tensor.distance.worst] == [2 * 64 + 5]
    assert diff.exit_code == 1


def test_a_tensor_that_is_larger_than_a_chunk_is_compared_to_its_end(make: Maker) -> None:
    values = np.ones((3, 1 << 15), np.float32)
    changed = values.copy()
    changed[-1, -1] = 2

    tensor = only(diff_models(make({GATE: values}), make({GATE: changed})))

    assert tensor.distance is not None
    assert tensor.distance.max_abs_index == values.size - 1
    assert tensor.distance.num_elements == values.size


def test_another_type_with_the_same_values_is_the_same(make: Maker) -> None:
    exact = np.round(WEIGHTS * 8) / 8  # float16 holds them
    a, b = make({GATE: exact}), make({GATE: exact}, BlockType.F16)

    diff = diff_models(a, b)

    assert only(diff).status is TensorStatus.SAME_VALUES
    assert diff.exit_code == 0


def test_the_worst_come_first(make: Maker) -> None:
    names = [f"blk.{i}.ffn_gate.weight" for i in range(3)]
    a = dict.fromkeys(names, WEIGHTS)
    factors = dict(zip(names, (1.1, 1.3, 1.2), strict=True))
    b = {name: WEIGHTS * np.float32(factor) for name, factor in factors.items()}

    diff = diff_models(make(a), make(b))

    assert [tensor.name.split(".")[2] for tensor in diff.tensors] == ["1", "2", "0"]


def test_a_nan_comes_before_all_and_no_threshold_hides_it(make: Maker) -> None:
    names = ["blk.0.ffn_gate.weight", "blk.1.ffn_gate.weight"]
    broken = WEIGHTS.copy()
    broken[0, 0] = math.nan
    a, b = dict.fromkeys(names, WEIGHTS), {names[0]: WEIGHTS * 100, names[1]: broken}

    diff = diff_models(make(a), make(b), DiffOptions(threshold=1e9))

    first = diff.tensors[0]
    assert first.name == "model.layers.1.mlp.gate_proj.weight"
    assert first.distance is not None
    assert (first.distance.nan_count_a, first.distance.nan_count_b) == (0, 1)
    assert diff.deciding == [first]
    assert diff.exit_code == 1


def test_the_same_nan_on_both_sides_is_equal(make: Maker) -> None:
    broken = WEIGHTS.copy()
    broken[0, 0] = math.nan

    assert (
        only(diff_models(make({GATE: broken}), make({GATE: broken}))).status
        is TensorStatus.EQUAL
    )


def test_tensors_of_one_side_are_named_and_decide(make: Maker) -> None:
    a = make({GATE: WEIGHTS, "blk.0.ffn_up.weight": WEIGHTS})
    b = make({GATE: WEIGHTS, "blk.0.ffn_down.weight": WEIGHTS})

    diff = diff_models(a, b, DiffOptions(threshold=1.0))

    assert {(t.name.split(".")[4], t.status) for t in diff.tensors} == {
        ("up_proj", TensorStatus.ONLY_IN_A),
        ("down_proj", TensorStatus.ONLY_IN_B),
        ("gate_proj", TensorStatus.EQUAL),
    }
    assert diff.exit_code == 1


def test_another_shape_decides_whatever_the_threshold(make: Maker) -> None:
    a, b = make({GATE: WEIGHTS}), make({GATE: WEIGHTS.reshape(8, 32)})

    diff = diff_models(a, b, DiffOptions(threshold=1e9))

    assert only(diff).status is TensorStatus.SHAPE_DIFFERS
    assert diff.exit_code == 1


def test_a_threshold_bounds_each_tensor(make: Maker) -> None:
    a, b = make({GATE: WEIGHTS}), make({GATE: WEIGHTS * np.float32(1.25)})  # rel L2 0.25

    assert diff_models(a, b, DiffOptions(threshold=0.26)).exit_code == 0
    assert diff_models(a, b, DiffOptions(threshold=0.24)).exit_code == 1


def test_a_tied_head_and_its_copy_are_the_same(tmp_path: Path) -> None:
    tied = TinyDecoder(tied_embeddings=True)
    repeated = TinyDecoder(tied_embeddings=True, repeat_tied_head=True)
    a = write_tiny_gguf(tmp_path / "a.gguf", tied)
    b = write_tiny_gguf(tmp_path / "b.gguf", repeated)

    for pair in ((a, b), (b, a)):
        diff = diff_models(*pair)
        assert diff.count(TensorStatus.TIED_COPY) == 1
        assert diff.exit_code == 0


def test_a_head_that_is_no_copy_of_the_table_is_only_on_one_side(tmp_path: Path) -> None:
    a = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(tied_embeddings=True))
    b = write_tiny_gguf(tmp_path / "b.gguf", TinyDecoder())

    diff = diff_models(a, b)

    assert diff.count(TensorStatus.ONLY_IN_B) == 1
    assert diff.exit_code == 1


# --- layouts ------------------------------------------------------------------------

AWARE = DiffOptions(transpose_aware=True)


@pytest.mark.parametrize("bias", [False, True])
def test_rows_in_the_order_that_each_file_declares_are_the_same(
    tmp_path: Path, *, bias: bool
) -> None:
    decoder = TinyDecoder(attention_bias=bias)
    a = write_tiny_gguf(tmp_path / "a.gguf", decoder)
    b = write_tiny_hugging_face(tmp_path / "b", decoder)

    for pair in ((a, b), (b, a)):
        diff = diff_models(*pair, AWARE)
        # q and k of two layers, each with a bias or without
        assert diff.count(TensorStatus.REORDERED) == (8 if bias else 4)
        assert diff.exit_code == 0
        assert diff_models(*pair).exit_code == 1


def test_rows_permuted_against_what_the_file_declares_are_recognised_and_decide(
    tmp_path: Path,
) -> None:
    decoder = TinyDecoder(architecture="qwen2")  # as a GGUF always in halves
    a, b = write_tiny_gguf(tmp_path / "a.gguf", decoder), tmp_path / "b.gguf"
    write_gguf(
        b,
        metadata=gguf_metadata(decoder, decoder.config(pairing="halves")),
        tensors=[
            GgufTensor(
                name=to_gguf(tensor.name) or tensor.name,
                block_type=tensor.block_type,
                shape=tensor.shape,
                data=tensor.raw,
            )
            for tensor in make_tensors(decoder, pairing="adjacent")
        ],
    )

    diff = diff_models(a, b, AWARE)

    layouts = [tensor.layout for tensor in diff.tensors if tensor.layout is not None]
    assert {layout.name for layout in layouts} == {"rows halves -> adjacent"}
    assert len(layouts) == 8  # weights and biases of q and k in two layers
    assert all(layout.distance.is_zero and not layout.is_declared for layout in layouts)
    assert len(diff.deciding) == 8
    assert diff.exit_code == 1


def test_a_declared_order_that_the_rows_do_not_have_decides(tmp_path: Path) -> None:
    a = write_tiny_gguf(tmp_path / "a.gguf")  # rows adjacent, and said so
    b = write_tiny_apr(tmp_path / "b.apr", pairing="adjacent")
    data = b.read_bytes()
    assert data.count(b'"rope_type":0') == 1
    b.write_bytes(_with_checksum(data.replace(b'"rope_type":0', b'"rope_type":2')))

    diff = diff_models(a, b, AWARE)

    assert statuses(diff) == {TensorStatus.EQUAL}
    assert diff.metadata is not None
    assert [(f.key, f.a, f.b) for f in diff.metadata.facts] == [
        ("rope_pairing", "adjacent", "halves")
    ]
    assert diff.exit_code == 1


def _with_checksum(data: bytes) -> bytes:
    """An `.apr` of the same length, with the footer that its bytes now ask for."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@pytest.mark.parametrize("block_type", [BlockType.F32, BlockType.Q8_0])
def test_a_transposed_matrix_is_recognised_and_decides(
    make: Maker, block_type: BlockType
) -> None:
    values = RNG.standard_normal((96, 64)).astype(np.float32)
    a, b = make({GATE: values}, block_type), make({GATE: values.T.copy()}, block_type)

    diff = diff_models(a, b, AWARE)

    tensor = only(diff)
    assert tensor.layout is not None
    assert tensor.layout.name == "transposed"
    assert tensor.distance is not None
    # Q8_0 rounds each row by itself: a step of max/127, so about 0.005 of the norm.
    assert tensor.distance.rel_l2 < (0.02 if block_type is BlockType.Q8_0 else 1e-30)
    assert diff.exit_code == 1


def test_a_square_matrix_that_is_transposed_is_recognised(make: Maker) -> None:
    values = RNG.standard_normal((64, 64)).astype(np.float32)

    tensor = only(diff_models(make({GATE: values}), make({GATE: values.T.copy()}), AWARE))

    assert tensor.status is TensorStatus.DIFFERS
    assert tensor.layout is not None
    assert tensor.layout.name == "transposed"


def test_noise_is_not_taken_for_a_transposition(make: Maker) -> None:
    values = RNG.standard_normal((64, 64)).astype(np.float32)
    noise = RNG.standard_normal((64, 64)).astype(np.float32) * np.float32(0.1)
    a = make({GATE: values})

    for other in (values + noise, RNG.standard_normal((64, 64)).astype(np.float32)):
        tensor = only(diff_models(a, make({GATE: other}), AWARE))
        assert (tensor.status, tensor.layout) == (TensorStatus.DIFFERS, None)


def test_a_nearly_symmetric_matrix_is_not_called_transposed(make: Maker) -> None:
    values = RNG.standard_normal((64, 64)).astype(np.float32)
    values += values.T
    changed = values.copy()
    changed[3, 7] += 1

    tensor = only(diff_models(make({GATE: values}), make({GATE: changed}), AWARE))

    assert tensor.layout is None


# --- metadata -----------------------------------------------------------------------


def text(value: str) -> GgufValue:
    return GgufValue.encode(ValueType.STRING, value)


def test_a_key_that_differs_is_shown_with_both_values(make: Maker) -> None:
    a = make({GATE: WEIGHTS}, name=text("one"), same=text("x"), mine=text("y"))
    b = make({GATE: WEIGHTS}, name=text("two"), same=text("x"))

    diff = diff_models(a, b)

    assert diff.metadata is not None
    assert [one.as_json() for one in diff.metadata.keys] == [
        {"key": "name", "place": "", "a": "one", "b": "two", "only_in": None},
        {"key": "mine", "place": "", "a": "y", "b": None, "only_in": "a"},
    ]
    assert diff.exit_code == 1


@pytest.mark.parametrize(
    "options", [DiffOptions(weights_only=True), DiffOptions(threshold=0.0)]
)
def test_a_key_alone_does_not_decide_where_weights_were_asked_for(
    make: Maker, options: DiffOptions
) -> None:
    a, b = make({GATE: WEIGHTS}, name=text("one")), make({GATE: WEIGHTS}, name=text("two"))

    assert diff_models(a, b, options).exit_code == 0


def test_the_same_number_of_another_type_differs(make: Maker) -> None:
    a = make({GATE: WEIGHTS}, n=GgufValue.encode(ValueType.UINT32, 1))
    b = make({GATE: WEIGHTS}, n=GgufValue.encode(ValueType.BOOL, value=True))

    diff = diff_models(a, b)

    assert diff.metadata is not None
    assert [(one.key, one.a, one.b) for one in diff.metadata.keys] == [("n", 1, True)]


def test_the_architecture_decides_even_with_a_threshold(tmp_path: Path) -> None:
    a = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder())
    b = write_tiny_apr(tmp_path / "b.apr", TinyDecoder(rope_theta=500000.0), pairing="adjacent")

    diff = diff_models(a, b, DiffOptions(threshold=1.0))

    assert diff.metadata is not None
    assert [(f.key, f.a, f.b) for f in diff.metadata.facts] == [("rope_theta", 1e4, 5e5)]
    assert diff.exit_code == 1


def test_one_other_token_is_found_across_formats(tmp_path: Path) -> None:
    a = write_tiny_gguf(tmp_path / "a.gguf")
    b = write_tiny_apr(tmp_path / "b.apr", pairing="adjacent")
    # JSON: exchange two tokens of one letter each
    data = b.read_bytes()
    first, second = b'"A","B"', b'"B","A"'
    assert data.count(first) == 1
    b.write_bytes(_with_checksum(data.replace(first, second)))

    diff = diff_models(a, b)

    assert diff.metadata is not None
    (fact,) = diff.metadata.facts
    assert (fact.key, fact.a, fact.b) == ("tokenizer.tokens", "A", "B")
    assert fact.place.startswith("[")
    assert diff.exit_code == 1


def test_a_tokenizer_that_one_side_lacks_differs(tmp_path: Path) -> None:
    a = write_tiny_gguf(tmp_path / "a.gguf")
    b = write_tiny_apr(tmp_path / "b.apr", TinyDecoder(tokenizer=False), pairing="adjacent")

    diff = diff_models(a, b)

    assert diff.metadata is not None
    assert [(f.key, f.a, f.b) for f in diff.metadata.facts] == [
        ("tokenizer", "understood", "none")
    ]


# --- what is compared ---------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["ffn_gate", "gate_proj", "blk.*.ffn_gate.*", "model.*gate*"]
)
def test_a_filter_takes_either_spelling(make: Maker, pattern: str) -> None:
    tensors = {GATE: WEIGHTS, "blk.0.ffn_up.weight": WEIGHTS}

    diff = diff_models(make(tensors), make(tensors), DiffOptions(name_filter=pattern))

    assert [tensor.name for tensor in diff.tensors] == [CANONICAL_GATE]


def test_a_filter_that_leaves_nothing_is_no_pass(make: Maker) -> None:
    a, b = make({GATE: WEIGHTS}), make({GATE: WEIGHTS})

    with pytest.raises(NothingMeasuredError) as caught:
        diff_models(a, b, DiffOptions(name_filter="nope"))

    assert str(caught.value) == (
        "error[APR-U009]: the filter matches no tensor\n"
        f"  where     {a} and {b}\n"
        f"  expected  names like '{CANONICAL_GATE}'\n"
        "  found     'nope', which none of 1 has\n"
        "  try       a text is looked for anywhere in a name, case and all; with `*` in it, it "
        "is a glob for the whole name"
    )
    assert caught.value.exit_code == 3


def test_files_without_a_common_tensor_are_no_pass(make: Maker) -> None:
    a, b = make({GATE: WEIGHTS}), make({"blk.0.ffn_up.weight": WEIGHTS})

    with pytest.raises(NothingMeasuredError) as caught:
        diff_models(a, b)

    assert str(caught.value) == (
        "error[APR-U009]: the two files have no tensor in common\n"
        f"  where     {a} and {b}\n"
        "  expected  tensors of the same names\n"
        f"  found     1 only in the first ({CANONICAL_GATE}, ...), "
        "1 only in the second (model.layers.0.mlp.up_proj.weight, ...)\n"
        "  try       are they files of one model? `apr tensors` lists what each holds"
    )


def test_progress_names_every_tensor(make: Maker) -> None:
    seen: list[tuple[str, int, int]] = []
    path = make({GATE: WEIGHTS, "blk.0.ffn_up.weight": WEIGHTS})

    diff_models(path, path, on_tensor=lambda *facts: seen.append(facts))

    assert seen == [
        (CANONICAL_GATE, 0, 2),
        ("model.layers.0.mlp.up_proj.weight", 1, 2),
    ]


def test_the_json_lists_what_is_not_equal_up_to_the_limit(make: Maker) -> None:
    names = [f"blk.{i}.ffn_gate.weight" for i in range(3)]
    a, b = dict.fromkeys(names, WEIGHTS), {n: WEIGHTS * 2**i for i, n in enumerate(names)}

    facts = diff_models(make(a), make(b)).as_json(limit=1)

    assert (facts["num_compared"], facts["tensors_listed"], facts["same"]) == (3, 1, False)
    (tensor,) = facts["tensors"]
    assert tensor["name"] == "model.layers.2.mlp.gate_proj.weight"
    assert tensor["name_a"] == "blk.2.ffn_gate.weight"
    assert tensor["max_abs"] == 3 * float(np.abs(WEIGHTS).max())
    assert facts["counts"]["differs"] == 2
