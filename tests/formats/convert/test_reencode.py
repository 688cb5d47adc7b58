"""Which weights are re-encoded, how, and what the report says of it."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import (
    EncodingError,
    UsageError,
)
from cotejar.formats.apr.reader import open_apr
from cotejar.formats.convert import export_model, import_model, reencode
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.tensor_names import to_hugging_face
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode, encode
from cotejar.testing.refusals import refused
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path

K_QUANTS = {"hidden_size": 256, "num_heads": 8, "ffn_size": 512}


@pytest.mark.parametrize("name", ["q8_0", "Q4_0", "q4_k", "q6_k"])
def test_matrices_are_encoded_as_a_whole_would_be(tmp_path: Path, monkeypatch, name) -> None:
    monkeypatch.setattr(reencode, "_VALUES_AT_A_TIME", 100 * 256 + 1)
    wanted = BlockType[name.upper()]
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(**K_QUANTS))

    report = import_model(source, tmp_path / "m.apr", quantize=name)

    with open_gguf(source) as before, open_apr(tmp_path / "m.apr") as after:
        for theirs, entry in before.tensors.items():
            ours = to_hugging_face(theirs)
            assert ours is not None
            raw, kind = before.read_bytes(theirs), after.tensors[ours].block_type
            if len(entry.shape) == 1:
                assert kind is BlockType.F32
            elif ours != "lm_head.weight":
                assert kind is wanted
            if kind is not entry.block_type:
                raw = encode(kind, decode(entry.block_type, raw, entry.num_elements))
            assert after.read_bytes(ours).tobytes() == raw.tobytes()
    assert report.num_reencoded == 16
    assert not any("twice" in note for note in report.notes)


@pytest.mark.parametrize(
    ("name", "sizes", "head"),
    [
        ("q4_k", K_QUANTS, BlockType.Q6_K),
        ("q4_0", K_QUANTS, BlockType.Q6_K),
        ("q4_0", {}, BlockType.Q8_0),  # rows of 96 are no Q6_K blocks
        ("q6_k", K_QUANTS, BlockType.Q6_K),
        ("q8_0", K_QUANTS, BlockType.Q8_0),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_the_head_keeps_more_bits(tmp_path: Path, name, sizes, head, tied) -> None:
    decoder = TinyDecoder(tied_embeddings=tied, **sizes)
    source = write_tiny_gguf(tmp_path / "s.gguf", decoder)
    import_model(source, tmp_path / "m.apr", quantize=name)
    with open_apr(tmp_path / "m.apr") as file:
        assert file.tensors["lm_head.weight"].block_type is head
        embedding = file.tensors["model.embed_tokens.weight"].block_type
        assert embedding is (head if tied else BlockType[name.upper()])


def test_a_head_that_is_small_already_is_left_alone(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(block_type=BlockType.Q4_1))
    import_model(source, tmp_path / "m.apr", quantize="q4_0")
    with open_apr(tmp_path / "m.apr") as file:
        assert file.tensors["lm_head.weight"].block_type is BlockType.Q4_1


def test_rows_that_do_not_fit_keep_their_type_and_the_report_says_so(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(block_type=BlockType.Q8_0))
    report = import_model(source, tmp_path / "m.apr", quantize="q6_k")
    assert (report.num_reencoded, report.block_types) == (0, {"Q8_0": 16, "F32": 5})
    assert report.notes[-1] == (
        "16 of the matrices keep their type: their rows are no whole Q6_K blocks of 256"
    )


def test_a_quantised_source_loses_twice_and_the_report_says_so(
    tmp_path: Path, rewritten
) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(block_type=BlockType.Q8_0))
    rewritten(source, keys={"general.file_type": GgufValue.encode(ValueType.UINT32, 7)})
    report = import_model(source, tmp_path / "m.apr", quantize="q4_0")
    assert report.num_reencoded == 15
    assert report.notes[-1] == (
        "weights that were quantised already (Q8_0) lose precision twice"
    )
    export_model(tmp_path / "m.apr", tmp_path / "back.gguf")
    with open_gguf(tmp_path / "back.gguf") as file:
        assert file.metadata["general.file_type"] == 2  # MOSTLY_Q4_0


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin = header["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
    start = 8 + int.from_bytes(data[:8], "little") + begin
    data[start : start + 4] = struct.pack("<f", math.nan)
    path.write_bytes(data)
    refused(
        EncodingError,
        "error[APR-F033]: NaN and Inf cannot be encoded\n"
        f"  where     {folder}, tensor 'model.layers.1.mlp.up_proj.weight', rows 0..160\n"
        "  expected  finite values\n"
        "  found     1 not finite, the first at index 0\n"
        "  try       `apr tensors FILE --stats` shows which tensors hold them",
        lambda: import_model(folder, tmp_path / "m.apr", quantize="q8_0"),
    )
    assert not (tmp_path / "m.apr").exists()


def test_a_type_that_is_no_choice(tmp_path: Path) -> None:
    refused(
        UsageError,
        "error[APR-U001]: weights cannot be re-encoded as 'q5_1'\n"
        "  where     --quantize\n"
        "  expected  q8_0, q4_0, q4_k, q6_k\n"
        "  found     q5_1\n"
        "  try       leave --quantize out to keep every byte",
        lambda: import_model(tmp_path / "s.gguf", tmp_path / "m.apr", quantize="q5_1"),
    )
