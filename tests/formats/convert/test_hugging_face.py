"""A Hugging Face folder becomes an `.apr`, and that the GGUF that llama.cpp wants."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import (
    ArchitectureError,
    ConfigValueError,
    MissingConfigError,
    WeightShapeError,
)
from cotejar.formats.apr.reader import open_apr
from cotejar.formats.convert import export_model, import_model
from cotejar.formats.convert.rope_rows import llama3_divisors
from cotejar.formats.gguf.reader import open_gguf
from cotejar.testing.refusals import refused
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path

AGAIN = "import the model again from its source"
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_keeps_its_bytes_and_its_order_of_rows(tmp_path: Path, dtype) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf", dtype=dtype)
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])

    import_model(folder, tmp_path / "m.apr")

    with open_apr(tmp_path / "m.apr") as file:
        assert file.metadata["rope_type"] == 2
        assert file.metadata["source_metadata"] == header.pop("__metadata__")
        assert file.tensors.keys() == header.keys()
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            assert file.read_bytes(name).tobytes() == data[start + begin : start + end]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("bias", [False, True])
def test_a_folder_becomes_the_gguf_that_llama_cpp_would_make(
    tmp_path: Path, architecture, bias
) -> None:
    window = None if architecture == "llama" else 16  # `LlamaConfig` has none
    decoder = TinyDecoder(architecture=architecture, attention_bias=bias, sliding_window=window)
    folder = write_tiny_hugging_face(tmp_path / "hf", decoder)
    wanted = write_tiny_gguf(tmp_path / "wanted.gguf", decoder)

    import_model(folder, tmp_path / "m.apr")
    report = export_model(tmp_path / "m.apr", tmp_path / "back.gguf")

    with open_gguf(wanted) as theirs, open_gguf(tmp_path / "back.gguf") as ours:
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name in theirs.tensors:
            assert ours.read_bytes(name).tobytes() == theirs.read_bytes(name).tobytes(), name
        not_said = {"general.name", "tokenizer.ggml.unknown_token_id"}
        for key, value in theirs.typed_metadata.items():
            if key in not_said or key.endswith(("_length", "token_type")):
                continue
            assert ours.typed_metadata[key] == value, key
        assert ours.metadata["general.type"] == "model"
    permuted = "put in adjacent pairs" in " ".join(report.notes)
    assert permuted == (architecture in {"llama", "mistral"})


def test_rows_are_permuted_as_llama_cpp_says(tmp_path: Path) -> None:
    # convert_hf_to_gguf: w.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)
    folder = write_tiny_hugging_face(tmp_path / "hf", TinyDecoder(head_dim=32))
    import_model(folder, tmp_path / "m.apr", quantize="q8_0")
    export_model(tmp_path / "m.apr", tmp_path / "back.gguf")
    with open_apr(tmp_path / "m.apr") as before, open_gguf(tmp_path / "back.gguf") as after:
        for name, heads in (("q", 6), ("k", 2)):
            rows = before.read_bytes(f"model.layers.0.self_attn.{name}_proj.weight")
            rows = rows.reshape(heads * 32, -1)
            moved = after.read_bytes(f"blk.0.attn_{name}.weight").reshape(heads * 32, -1)
            for head in range(heads):
                for i in range(16):
                    at = 32 * head
                    assert np.array_equal(moved[at + 2 * i], rows[at + i])
                    assert np.array_equal(moved[at + 2 * i + 1], rows[at + 16 + i])


def test_heads_that_do_not_divide_the_rows(tmp_path: Path, changed_apr) -> None:
    import_model(write_tiny_hugging_face(tmp_path / "hf"), tmp_path / "m.apr")
    path = changed_apr(tmp_path / "m.apr", num_heads=5)
    refused(
        WeightShapeError,
        "error[APR-M007]: the rows cannot be put in adjacent pairs\n"
        f"  where     {path}, tensor 'model.layers.0.self_attn.q_proj.weight'\n"
        "  expected  an even number of rows for each of 5 heads\n"
        "  found     96 rows\n"
        "  try       the head counts in the metadata do not belong to these weights",
        lambda: export_model(path, tmp_path / "back.gguf"),
    )


def test_an_order_of_rows_that_cannot_be_put_right(tmp_path: Path, changed_apr) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(architecture="qwen2"))
    import_model(source, tmp_path / "m.apr")
    path = changed_apr(tmp_path / "m.apr", rope_type=0)
    refused(
        ConfigValueError,
        "error[APR-M004]: the rows of q and k are not in the order that the architecture "
        "wants\n"
        f"  where     {path}, metadata key rope_type\n"
        "  expected  2 for qwen2\n"
        "  found     0\n"
        f"  try       {AGAIN}",
        lambda: export_model(path, tmp_path / "back.gguf"),
    )


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def test_llama_3s_scaling_becomes_a_tensor(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf", TinyDecoder(rope_scaling=LLAMA3))
    import_model(folder, tmp_path / "m.apr")
    report = export_model(tmp_path / "m.apr", tmp_path / "back.gguf")
    # Written out wave by wave, as Meta's reference does.
    expected = []
    for i in range(8):
        wave = 2 * math.pi * 10000.0 ** (2 * i / 16)
        if wave < 16 / 4.0:
            expected.append(1.0)
        elif wave > 16 / 1.0:
            expected.append(8.0)
        else:
            smooth = (16 / wave - 1.0) / (4.0 - 1.0)
            expected.append(1 / ((1 - smooth) / 8.0 + smooth))
    assert 8.0 in expected
    assert any(1.0 < value < 8.0 for value in expected)
    with open_gguf(tmp_path / "back.gguf") as file:
        found = file.read_bytes("rope_freqs.weight").view("<f4")
    # Both are float64 rounded to float32 once: half an ulp of each, 2**-24 relative.
    np.testing.assert_allclose(found, expected, rtol=2.0**-23)
    assert report.notes[-1] == "rope_freqs.weight computed from rope_scaling"


@pytest.mark.parametrize("name", list(LLAMA3)[1:])
def test_a_scaling_without_one_of_its_figures(name) -> None:
    refused(
        ConfigValueError,
        f"error[APR-M004]: rope_scaling has no usable {name}\n"
        "  where     x\n"
        "  expected  a positive number\n"
        "  found     None\n"
        "  try       take rope_scaling over from the model's config.json",
        lambda: llama3_divisors(LLAMA3 | {name: None}, theta=1e4, dim=16, where="x"),
    )


@pytest.mark.parametrize("value", [True, "8", -1, 0, math.inf, 10**400, [8]])
@pytest.mark.parametrize("name", list(LLAMA3)[1:])
def test_a_figure_that_is_no_positive_number(name: str, value: object) -> None:
    with pytest.raises(ConfigValueError) as caught:
        llama3_divisors(LLAMA3 | {name: value}, theta=1e4, dim=16, where="x")

    assert caught.value.problem == f"rope_scaling has no usable {name}"
    assert caught.value.parts["found"] == f"{value!r:.60}"


def test_a_factor_that_float32_cannot_hold() -> None:
    with pytest.raises(ConfigValueError, match="rope_scaling has no usable factor"):
        llama3_divisors(LLAMA3 | {"factor": 1e300}, theta=1e4, dim=16, where="x")


def test_no_table_is_made_of_a_size_that_no_head_has() -> None:
    refused(
        ConfigValueError,
        "error[APR-M004]: a head is too wide to be turned\n"
        "  where     x\n"
        "  expected  a head_dim of at most 65536\n"
        "  found     4294967295\n"
        "  try       the metadata do not belong to these weights",
        lambda: llama3_divisors(LLAMA3, theta=1e4, dim=2**32 - 1, where="x"),
    )


@pytest.mark.parametrize("value", [True, 10**400, "1", -1])
def test_a_theta_that_is_no_positive_number(tmp_path: Path, changed_apr, value: object) -> None:
    import_model(write_tiny_hugging_face(tmp_path / "hf"), tmp_path / "m.apr")
    changed_apr(tmp_path / "m.apr", rope_theta=value)

    with pytest.raises(ConfigValueError, match="rope_theta cannot be"):
        export_model(tmp_path / "m.apr", tmp_path / "back.gguf")


def test_a_scaling_that_gguf_has_no_words_for(tmp_path: Path) -> None:
    decoder = TinyDecoder(rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    import_model(write_tiny_hugging_face(tmp_path / "hf", decoder), tmp_path / "m.apr")
    refused(
        ArchitectureError,
        "error[APR-M002]: GGUF has no words for this scaling of RoPE\n"
        f"  where     {tmp_path / 'm.apr'}, rope_scaling\n"
        "  expected  linear, yarn or llama3\n"
        "  found     'dynamic'\n"
        "  try       a wrong scaling would give fluent nonsense, so it is refused",
        lambda: export_model(tmp_path / "m.apr", tmp_path / "back.gguf"),
    )


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"num_layers": "left out"},
            MissingConfigError,
            "error[APR-M003]: the file does not say num_layers\n"
            "  where     FILE\n"
            "  expected  num_layers or n_layers or num_hidden_layers or n_layer\n"
            "  found     none of these keys\n"
            f"  try       {AGAIN}",
        ),
        (
            {"hidden_size": -1},
            ConfigValueError,
            "error[APR-M004]: hidden_size cannot be\n"
            "  where     FILE\n"
            "  expected  a whole number of at least 1\n"
            "  found     -1\n"
            f"  try       {AGAIN}",
        ),
        (
            {"rope_theta": 0.0},
            ConfigValueError,
            "error[APR-M004]: rope_theta cannot be\n"
            "  where     FILE\n"
            "  expected  a positive finite number\n"
            "  found     0.0\n"
            f"  try       {AGAIN}",
        ),
        (
            {"tokenizer.vocabulary": ["a"] * 321},
            ConfigValueError,
            "error[APR-M004]: the vocabulary has more tokens than the embedding table has "
            "rows\n"
            "  where     FILE\n"
            "  expected  at most 320 tokens\n"
            "  found     321\n"
            f"  try       {AGAIN}",
        ),
    ],
)
def test_metadata_that_describe_no_model(
    tmp_path: Path, change, kind, message, changed_apr
) -> None:
    import_model(write_tiny_hugging_face(tmp_path / "hf"), tmp_path / "m.apr")
    path = changed_apr(tmp_path / "m.apr", **change)
    refused(
        kind,
        message.replace("FILE", str(path)),
        lambda: export_model(path, tmp_path / "back.gguf"),
    )


def test_a_vocabulary_is_padded_to_the_rows_of_the_table(tmp_path: Path, changed_apr) -> None:
    import_model(write_tiny_hugging_face(tmp_path / "hf"), tmp_path / "m.apr")
    with open_apr(tmp_path / "m.apr") as file:
        tokens = file.metadata["tokenizer.vocabulary"][:300]
        types = file.metadata["tokenizer.token_type"][:300]
    changed_apr(
        tmp_path / "m.apr",
        **{"tokenizer.vocabulary": tokens, "tokenizer.token_type": types},
    )
    export_model(tmp_path / "m.apr", tmp_path / "back.gguf")
    with open_gguf(tmp_path / "back.gguf") as file:
        padded = file.metadata["tokenizer.ggml.tokens"]
        assert padded == [*tokens, *(f"[PAD{i}]" for i in range(300, 320))]
        assert file.metadata["tokenizer.ggml.token_type"] == [*types, *[5] * 20]


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf", TinyDecoder(tokenizer=False))
    report = import_model(folder, tmp_path / "m.apr")
    export_model(tmp_path / "m.apr", tmp_path / "back.gguf")
    assert report.notes == (
        "no tokenizer that could be taken over: the model runs from token ids only",
    )
    with open_gguf(tmp_path / "back.gguf") as file:
        assert file.metadata["tokenizer.ggml.model"] == "none"


def test_tables_that_follow_from_theta_are_left_out(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    end = len(data) - start
    header["model.layers.0.self_attn.rotary_emb.inv_freq"] = {
        "dtype": "F32",
        "shape": [8],
        "data_offsets": [end, end + 32],
    }
    text_ = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text_)) + text_ + data[start:] + bytes(32))
    report = import_model(folder, tmp_path / "m.apr")
    assert report.num_tensors == 21
    assert report.notes == (
        "1 rotary_emb.inv_freq tables left out: they follow from rope_theta",
    )


def test_an_apr_without_gguf_keys_is_ordered_as_llama_cpp_orders(tmp_path: Path) -> None:
    decoder = TinyDecoder(num_layers=11, tokenizer=False)
    import_model(write_tiny_hugging_face(tmp_path / "hf", decoder), tmp_path / "m.apr")
    export_model(tmp_path / "m.apr", tmp_path / "back.gguf")
    with open_gguf(tmp_path / "back.gguf") as file:
        names = list(file.tensors)
    assert names[0] == "token_embd.weight"
    assert names[-2:] == ["output.weight", "output_norm.weight"]
    layers = [int(name.split(".")[1]) for name in names if name.startswith("blk.")]
    assert layers == sorted(layers)
