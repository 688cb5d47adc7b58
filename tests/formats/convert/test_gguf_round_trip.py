"""From GGUF to `.apr` and back: the same file, byte for byte."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from cotejar.errors import (
    ConfigValueError,
)
from cotejar.formats.apr.reader import open_apr
from cotejar.formats.convert import export_model, import_model
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.tensor_names import to_hugging_face
from cotejar.quant.block_type import BlockType
from cotejar.testing.refusals import refused
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path

AGAIN = "import the model again from its source"
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


def text(value: str) -> GgufValue:
    return GgufValue.encode(ValueType.STRING, value)


@pytest.mark.parametrize("block_type", list(BlockType)[:13], ids=lambda kind: kind.label)
def test_every_type_returns_as_the_same_file(tmp_path: Path, block_type) -> None:
    source, target = tmp_path / "source.gguf", tmp_path / "back.gguf"
    num_bytes = block_type.num_bytes(512)
    data = np.random.default_rng(int(block_type)).integers(0, 256, num_bytes, dtype=np.uint8)
    metadata = {
        "general.architecture": text("qwen2"),
        "general.alignment": GgufValue.encode(ValueType.UINT32, 128),
    }
    tensors = [
        GgufTensor(name="output.weight", block_type=block_type, shape=(2, 256), data=data),
        GgufTensor(name="token_embd.weight", block_type=block_type, shape=(2, 256), data=data),
    ]
    write_gguf(source, metadata=metadata, tensors=tensors)

    import_model(source, tmp_path / "model.apr")
    export_model(tmp_path / "model.apr", target)

    assert target.read_bytes() == source.read_bytes()


def test_keys_of_every_type_return_as_the_gguf_package_wrote_them(tmp_path: Path) -> None:
    source, target = tmp_path / "source.gguf", tmp_path / "back.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_uint8("x.u8", 255)
    writer.add_int8("x.i8", -128)
    writer.add_uint16("x.u16", 65535)
    writer.add_int16("x.i16", -32768)
    writer.add_uint32("x.u32", 2**32 - 1)
    writer.add_int32("x.i32", -(2**31))
    writer.add_uint64("x.u64", 2**64 - 1)
    writer.add_int64("x.i64", -(2**63))
    writer.add_float32("x.f32", 0.1)
    writer.add_float32("x.nan", math.nan)
    writer.add_float64("x.f64", -math.inf)
    writer.add_bool("x.bool", val=True)
    writer.add_string("x.text", 'ñ "\\\n')
    writer.add_array("x.floats", [0.5, math.inf, -0.0])
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "a", "\u2581b"])
    writer.add_token_scores([0.0, -1.5, -1e30])
    writer.add_token_types([2, 1, 1])
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("output.weight", np.ones((3, 4), np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((3, 4), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    import_model(source, tmp_path / "model.apr")
    export_model(tmp_path / "model.apr", target)

    assert target.read_bytes() == source.read_bytes()
    with open_apr(tmp_path / "model.apr") as file:
        assert file.metadata["tokenizer.vocabulary"] == ["<unk>", "a", "\u2581b"]
        assert file.metadata["chat_template"] == "{{ messages }}"
        kept = {key: value for key, _, value in file.metadata["gguf.metadata"]}
        assert kept["tokenizer.ggml.tokens"] == {"same_as": "tokenizer.vocabulary"}
        assert kept["tokenizer.chat_template"] == {"same_as": "chat_template"}
        assert kept["x.nan"] == {"bits": "7fc00000"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_get_their_hugging_face_names_and_keep_their_bytes(
    tmp_path: Path, architecture
) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(architecture=architecture))

    report = import_model(source, tmp_path / "m.apr")

    with open_gguf(source) as file, open_apr(tmp_path / "m.apr") as copy:
        assert copy.tensors.keys() == {to_hugging_face(name) for name in file.tensors}
        for name, entry in file.tensors.items():
            ours = to_hugging_face(name)
            assert ours is not None
            assert copy.tensors[ours].shape == entry.shape
            assert copy.read_bytes(ours).tobytes() == file.read_bytes(name).tobytes()
    assert (report.source_format, report.target_format) == ("gguf", "apr")
    assert report.num_tensors == sum(report.block_types.values())
    assert report.num_bytes == (tmp_path / "m.apr").stat().st_size
    assert report.num_reencoded == 0


def test_the_architecture_is_described_in_upstreams_words(tmp_path: Path) -> None:
    decoder = TinyDecoder(architecture="qwen3", sliding_window=8, block_type=BlockType.Q8_0)
    source = write_tiny_gguf(tmp_path / "s.gguf", decoder)
    import_model(source, tmp_path / "m.apr")
    with open_apr(tmp_path / "m.apr") as file:
        metadata = dict(file.metadata)
    assert {key: metadata[key] for key in list(metadata) if "tokenizer" not in key} == {
        "license": None,
        "data_source": None,
        "data_license": None,
        "created_at": None,
        "model_type": "qwen3",
        "name": "tiny qwen3",
        "description": None,
        "author": None,
        "version": None,
        "source": None,
        "original_format": "gguf",
        "special_tokens": {
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "pad_token": None,
            "im_start_token": "<|im_start|>",
            "im_end_token": "<|im_end|>",
        },
        "architecture": "qwen3",
        "hidden_size": 96,
        "num_layers": 2,
        "num_heads": 6,
        "num_kv_heads": 2,
        "vocab_size": 320,
        "intermediate_size": 160,
        "max_position_embeddings": 64,
        "rope_theta": 10000.0,
        "rope_type": 2,
        "rms_norm_eps": 2.0**-10,
        "head_dim": 32,
        "sliding_window": 8,
        "chat_template": metadata["chat_template"],
        "gguf.metadata": metadata["gguf.metadata"],
        "gguf.tensors": metadata["gguf.tensors"],
        "total_size": metadata["total_size"],
        "param_count": metadata["param_count"],
        "quantization": {
            "quant_type": "q8_0",
            "bits": 8,
            "block_size": 32,
            "symmetric": True,
        },
        "tied_embeddings": False,
        "cotejar.block_types": {"72": "Q8_0"},
    }


@pytest.mark.parametrize(("architecture", "rope_type"), [("llama", 0), ("qwen2", 2)])
def test_the_rope_type_says_how_rows_are_ordered(tmp_path: Path, architecture, rope_type):
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(architecture=architecture))
    import_model(source, tmp_path / "m.apr")
    with open_apr(tmp_path / "m.apr") as file:
        assert file.metadata["rope_type"] == rope_type


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"type": text("none")}, None),
        (
            {"type": text("linear"), "factor": GgufValue.encode(ValueType.FLOAT32, 4.0)},
            {"rope_type": "linear", "factor": 4.0},
        ),
        (
            {"factor": GgufValue.encode(ValueType.FLOAT32, 2.0)},  # linear is the default
            {"rope_type": "linear", "factor": 2.0},
        ),
        (
            {
                "type": text("yarn"),
                "factor": GgufValue.encode(ValueType.FLOAT32, 4.0),
                "original_context_length": GgufValue.encode(ValueType.UINT32, 32),
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
    ],
)
def test_scaling_of_rope_is_taken_over(tmp_path: Path, keys, expected, rewritten) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf")
    rewritten(source, keys={f"llama.rope.scaling.{name}": keys[name] for name in keys})
    import_model(source, tmp_path / "m.apr")
    with open_apr(tmp_path / "m.apr") as file:
        assert file.metadata.get("rope_scaling") == expected


def test_rope_freqs_survive(tmp_path: Path) -> None:
    decoder = TinyDecoder(rope_divisors=(1.0,) * 4 + (8.0,) * 4)
    source = write_tiny_gguf(tmp_path / "s.gguf", decoder)
    import_model(source, tmp_path / "m.apr")
    with open_apr(tmp_path / "m.apr") as file:
        values = file.read_bytes("rope_freqs.weight").view("<f4")
        assert tuple(values.tolist()) == decoder.rope_divisors


def test_a_split_model_becomes_one_file(tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf")
    with open_gguf(whole) as file:
        names = list(file.tensors)
        for i, part in enumerate((names[:4], names[4:])):
            split = {
                "split.no": GgufValue.encode(ValueType.UINT16, i),
                "split.count": GgufValue.encode(ValueType.UINT16, 2),
                "split.tensors.count": GgufValue.encode(ValueType.INT32, len(names)),
            }
            tensors = [
                GgufTensor(
                    name=name,
                    block_type=file.tensors[name].block_type,
                    shape=file.tensors[name].shape,
                    data=file.read_bytes(name),
                )
                for name in part
            ]
            path = tmp_path / f"m-0000{i + 1}-of-00002.gguf"
            write_gguf(path, metadata=file.typed_metadata | split, tensors=tensors)

    import_model(tmp_path / "m-00002-of-00002.gguf", tmp_path / "m.apr")
    export_model(tmp_path / "m.apr", tmp_path / "back.gguf")

    assert (tmp_path / "back.gguf").read_bytes() == whole.read_bytes()


def test_a_report_is_json(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(block_type=BlockType.Q8_0))
    report = import_model(source, tmp_path / "m.apr")
    assert json.loads(json.dumps(report.as_json())) == {
        "source": str(source),
        "source_format": "gguf",
        "target": str(tmp_path / "m.apr"),
        "target_format": "apr",
        "num_tensors": 21,
        "num_bytes": (tmp_path / "m.apr").stat().st_size,
        "block_types": {"Q8_0": 16, "F32": 5},
        "extension_types": ["Q8_0"],
        "num_reencoded": 0,
        "notes": [
            "upstream's .apr has no code for Q8_0: written as 64 + ggml's id and announced in "
            "the metadata",
            "rows of q and k stay in the GGUF's order, permuted for adjacent pairs",
        ],
    }


def test_the_same_source_gives_the_same_file(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf")
    import_model(source, tmp_path / "1.apr")
    import_model(source, tmp_path / "2.apr")
    assert (tmp_path / "1.apr").read_bytes() == (tmp_path / "2.apr").read_bytes()


def test_the_demo_model_returns_as_the_same_file(demo_model: Path, tmp_path: Path) -> None:
    imported = import_model(demo_model, tmp_path / "smol.apr")
    exported = export_model(tmp_path / "smol.apr", tmp_path / "smol.gguf")

    assert (tmp_path / "smol.gguf").read_bytes() == demo_model.read_bytes()
    assert (imported.num_tensors, exported.num_tensors) == (273, 272)
    assert imported.block_types == {"Q4_1": 210, "F32": 61, "Q8_0": 2}
    assert imported.extension_types == ("Q4_1", "Q8_0")


@pytest.mark.qwen
def test_qwen_returns_as_the_same_file(qwen_model: Path, tmp_path: Path) -> None:
    import_model(qwen_model, tmp_path / "qwen.apr")
    export_model(tmp_path / "qwen.apr", tmp_path / "qwen.gguf")
    with (tmp_path / "qwen.gguf").open("rb") as ours, qwen_model.open("rb") as theirs:
        while block := theirs.read(1 << 24):
            assert ours.read(1 << 24) == block
        assert ours.read(1) == b""


def test_a_tied_table_is_copied_and_the_copy_dropped_again(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(tied_embeddings=True))

    imported = import_model(source, tmp_path / "m.apr")
    exported = export_model(tmp_path / "m.apr", tmp_path / "back.gguf")

    with open_apr(tmp_path / "m.apr") as file:
        assert file.metadata["tied_embeddings"] is True
        head = file.read_bytes("lm_head.weight").tobytes()
        assert head == file.read_bytes("model.embed_tokens.weight").tobytes()
        values = sum(entry.num_elements for entry in file.tensors.values())
        assert file.metadata["param_count"] == values - 320 * 96
    assert imported.num_tensors == exported.num_tensors + 1
    assert (tmp_path / "back.gguf").read_bytes() == source.read_bytes()
    assert exported.notes == (
        "lm_head.weight left out: it is the embedding table, and a GGUF stores that once",
    )


def test_a_head_that_is_not_the_table_it_is_said_to_be(tmp_path: Path, changed_apr) -> None:
    import_model(write_tiny_gguf(tmp_path / "s.gguf"), tmp_path / "m.apr")
    path = changed_apr(tmp_path / "m.apr", tied_embeddings=True)
    refused(
        ConfigValueError,
        "error[APR-M004]: the LM head is said to be the embedding table, and is not\n"
        f"  where     {path}, metadata key tied_embeddings\n"
        "  expected  lm_head.weight equal to model.embed_tokens.weight, byte for byte\n"
        "  found     other bytes\n"
        f"  try       {AGAIN}",
        lambda: export_model(path, tmp_path / "back.gguf"),
    )


def test_a_head_stored_twice_in_a_folder(tmp_path: Path) -> None:
    decoder = TinyDecoder(tied_embeddings=True, repeat_tied_head=True)
    folder = write_tiny_hugging_face(tmp_path / "hf", decoder)
    report = import_model(folder, tmp_path / "m.apr")
    with open_apr(tmp_path / "m.apr") as file:
        assert file.metadata["tied_embeddings"] is True
        assert report.num_tensors == len(file.tensors)


def test_a_config_that_ties_two_different_tables(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    refused(
        ConfigValueError,
        "error[APR-M004]: the LM head is said to be the embedding table, and is not\n"
        f"  where     {folder}, config.json\n"
        "  expected  tie_word_embeddings false, or lm_head.weight equal to "
        "model.embed_tokens.weight\n"
        "  found     tie_word_embeddings true, and other bytes\n"
        "  try       delete the one that is wrong, and save the model again",
        lambda: import_model(folder, tmp_path / "m.apr"),
    )
