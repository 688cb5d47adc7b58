"""Models, traces and stage files are told apart by their bytes."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import MissingFileError, UsageError
from cotejar.files.diff_files import diff_files
from cotejar.files.diff_models import DiffOptions, ModelDiff
from cotejar.files.diff_stages import StageDiff
from cotejar.files.diff_traces import TraceDiff
from cotejar.files.file_kind import find_file_kind
from cotejar.formats.apr.stage_file import StageFile, write_stage_file
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face
from cotejar.trace.forward_trace import (
    Capture,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    TraceRecorder,
)
from cotejar.trace.trace_file import write_trace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind, under names that say another."""
    recorder = TraceRecorder(Capture())
    recorder.record("embed", np.ones((2, 3)), None)
    trace = ForwardTrace(
        engine=EngineInfo(name="native", build="1", numerics="f32"),
        model=ModelInfo(name="m", format="gguf", architecture="llama", fingerprint="sha256:1"),
        config={},
        token_ids=(1, 2),
        positions=(0, 1),
        prompt=None,
        sites=recorder.sites,
    )
    write_trace(tmp_path / "trace.gguf", trace)
    write_stage_file(
        tmp_path / "stage.apr", StageFile(layer=None, values=np.ones(3, np.float32))
    )
    write_tiny_gguf(tmp_path / "model.trace")
    write_tiny_hugging_face(tmp_path / "folder")
    return {
        "trace": tmp_path / "trace.gguf",
        "stage": tmp_path / "stage.apr",
        "model": tmp_path / "model.trace",
        "folder": tmp_path / "folder",
    }


@pytest.mark.parametrize("kind", ["trace", "stage", "model"])
def test_a_file_is_told_by_its_bytes(files: dict[str, Path], kind: str) -> None:
    assert find_file_kind(files[kind]) == (kind, files[kind])


def test_a_folder_and_its_weights_are_a_model(files: dict[str, Path]) -> None:
    assert find_file_kind(files["folder"])[0] == "model"
    assert find_file_kind(files["folder"] / "model.safetensors")[0] == "model"


def test_a_tensor_with_the_manifests_name_makes_no_trace(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"cotejar.trace": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))

    assert find_file_kind(path)[0] == "model"


def test_a_header_that_is_cut_short_is_left_to_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 10_000) + b'{"cotejar.trace"')

    assert find_file_kind(path)[0] == "model"


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        find_file_kind(tmp_path / "none")


@pytest.mark.parametrize(
    ("kind", "result"), [("trace", TraceDiff), ("stage", StageDiff), ("model", ModelDiff)]
)
def test_two_of_a_kind_are_compared(
    files: dict[str, Path], kind: str, result: type[object]
) -> None:
    diff = diff_files(files[kind], files[kind], DiffOptions())

    assert isinstance(diff, result)
    assert diff.exit_code == 0


def test_two_kinds_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError) as caught:
        diff_files(files["trace"], files["model"], DiffOptions())

    assert str(caught.value) == (
        "error[APR-U001]: the two files are of different kinds\n"
        f"  where     {files['trace']} and {files['model']}\n"
        "  expected  two models, two traces, or two stage files\n"
        "  found     a trace and a model\n"
        "  try       record a trace of the model: `apr trace MODEL --payload -o run.trace`"
    )
