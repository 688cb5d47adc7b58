"""What cannot be converted is refused, and nothing is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import (
    ArchitectureError,
    FooterChecksumError,
    LeftoverTensorError,
    MissingConfigError,
    NoUpstreamCodeError,
    OutputExistsError,
    UnknownDtypeError,
    UsageError,
)
from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.formats.convert import export_model, import_model
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.quant.block_type import BlockType
from cotejar.testing.refusals import refused
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_apr, write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path


def text(value: str) -> GgufValue:
    return GgufValue.encode(ValueType.STRING, value)


def test_a_tensor_without_a_counterpart_is_no_import(tmp_path: Path, rewritten) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf")
    rewritten(source, rename={"blk.1.ffn_up.weight": "blk.1.ffn_up_exps.weight"})
    refused(
        LeftoverTensorError,
        "error[APR-M006]: the model has tensors that have no name in an `.apr`\n"
        f"  where     {source}\n"
        "  expected  the tensors of a llama, mistral, qwen2, qwen3 or gemma3\n"
        "  found     1 of 21 others: 'blk.1.ffn_up_exps.weight'\n"
        "  try       `apr tensors` lists them; an architecture with such parts is not "
        "supported",
        lambda: import_model(source, tmp_path / "m.apr"),
    )
    assert not (tmp_path / "m.apr").exists()


def test_a_tensor_without_a_counterpart_is_no_export(tmp_path: Path) -> None:
    path = tmp_path / "m.apr"
    extra = TensorToWrite(
        name="adapter.weight",
        block_type=BlockType.F32,
        shape=(1,),
        read=lambda: [np.zeros(4, np.uint8)],
    )
    write_apr(path, metadata={}, tensors=[extra])
    refused(
        LeftoverTensorError,
        "error[APR-M006]: the model has tensors that have no name in a GGUF\n"
        f"  where     {path}\n"
        "  expected  the tensors of a llama, mistral, qwen2, qwen3 or gemma3, each once\n"
        "  found     1 of 1 others: 'adapter.weight'\n"
        "  try       `apr tensors` lists them; an architecture with such parts is not "
        "supported",
        lambda: export_model(path, tmp_path / "back.gguf"),
    )


@pytest.mark.parametrize(("value", "found"), [(text("gemma"), "'gemma'"), (None, "none")])
def test_an_architecture_whose_rope_is_not_known(
    tmp_path: Path, value, found, rewritten
) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf")
    rewritten(source, keys={"general.architecture": value})
    refused(
        ArchitectureError,
        "error[APR-M002]: the architecture cannot be converted\n"
        f"  where     {source}\n"
        "  expected  llama, qwen2, qwen3, gemma3\n"
        f"  found     {found}\n"
        "  try       `apr inspect` and `apr tensors` read any architecture",
        lambda: import_model(source, tmp_path / "m.apr"),
    )


@pytest.mark.parametrize(
    ("change", "problem", "expected", "found", "hint"),
    [
        (
            {"model_type": "gpt2"},
            "the architecture cannot be converted",
            "a model_type of llama, mistral, qwen2, qwen3, gemma3_text",
            "'gpt2'",
            "`apr inspect` and `apr tensors` read any architecture",
        ),
        (
            {"hidden_act": "gelu"},
            "the feed-forward layers have another activation",
            "hidden_act silu",
            "'gelu'",
            "`.apr` cannot say so, and an engine would compute another function",
        ),
    ],
)
def test_a_folder_of_another_kind(tmp_path: Path, change, problem, expected, found, hint):
    folder = write_tiny_hugging_face(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    refused(
        ArchitectureError,
        f"error[APR-M002]: {problem}\n"
        f"  where     {folder}, config.json\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        f"  try       {hint}",
        lambda: import_model(folder, tmp_path / "m.apr"),
    )


def test_weights_without_a_config(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf")
    (folder / "config.json").unlink()
    source = folder / "model.safetensors"
    refused(
        MissingConfigError,
        "error[APR-M003]: safetensors hold weights only, and there is no config.json beside "
        "them\n"
        f"  where     {source}\n"
        "  expected  a config.json in the same folder\n"
        "  found     none\n"
        "  try       give the folder that the model was saved to",
        lambda: import_model(source, tmp_path / "m.apr"),
    )


def test_strict_refuses_types_that_upstream_has_no_code_for(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf", TinyDecoder(block_type=BlockType.Q8_0))
    with pytest.raises(NoUpstreamCodeError, match="Q8_0 in 16 of 21 tensors"):
        import_model(source, tmp_path / "m.apr", strict=True)
    assert not (tmp_path / "m.apr").exists()


def test_an_apr_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "m.apr"
    import_model(write_tiny_gguf(tmp_path / "s.gguf"), path)
    refused(
        UsageError,
        "error[APR-U001]: the source cannot be imported\n"
        f"  where     {path}\n"
        "  expected  a GGUF, a Hugging Face folder, or safetensors\n"
        "  found     a file of the format apr\n"
        "  try       to re-encode it, export it to GGUF and import that with --quantize",
        lambda: import_model(path, tmp_path / "2.apr"),
    )


def test_only_an_apr_is_exported(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf")
    refused(
        UsageError,
        "error[APR-U001]: only an `.apr` is exported\n"
        f"  where     {source}\n"
        "  expected  an `.apr`\n"
        "  found     a file of the format gguf\n"
        "  try       import it first: `apr import`",
        lambda: export_model(source, tmp_path / "back.gguf"),
    )


def test_targets_are_replaced_only_when_asked(tmp_path: Path) -> None:
    source, target = write_tiny_gguf(tmp_path / "s.gguf"), tmp_path / "m.apr"
    import_model(source, target)
    with pytest.raises(OutputExistsError):
        import_model(source, target)
    with pytest.raises(OutputExistsError):
        export_model(target, source)
    import_model(source, target, overwrite=True)
    export_model(target, source, overwrite=True)


def test_a_damaged_apr_is_no_export(tmp_path: Path) -> None:
    path = tmp_path / "m.apr"
    import_model(write_tiny_gguf(tmp_path / "s.gguf"), path)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(FooterChecksumError):
        export_model(path, tmp_path / "back.gguf")
    assert not (tmp_path / "back.gguf").exists()


def test_types_that_a_gguf_lacks(tmp_path: Path) -> None:
    path = tmp_path / "m.apr"
    embedding = TensorToWrite(
        name="model.embed_tokens.weight",
        block_type=BlockType.APR_Q8,
        shape=(2, 2),
        read=lambda: [np.zeros(8, np.uint8)],
    )
    write_apr(
        path,
        metadata={"architecture": "qwen2", "rope_type": 2, "gguf.metadata": []},
        tensors=[embedding],
    )
    with pytest.raises(UnknownDtypeError, match="GGUF has no such tensor type"):
        export_model(path, tmp_path / "back.gguf")


@pytest.mark.parametrize("other", ["", "model.safetensors", "config.json", "tokenizer.json"])
def test_a_target_is_no_file_of_the_source(tmp_path: Path, other: str) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf")
    before = {path: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(UsageError, match="the output is one of the files that are read"):
        import_model(folder, folder / other, overwrite=True)

    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_apr_is_not_exported_over_itself(tmp_path: Path) -> None:
    source = write_tiny_apr(tmp_path / "m.apr")
    before = source.read_bytes()

    with pytest.raises(UsageError, match="the output is one of the files that are read"):
        export_model(source, source, overwrite=True)

    assert source.read_bytes() == before
