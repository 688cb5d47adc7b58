"""`apr diff`: 0 the same, 1 they differ, 2 bad input, 3 nothing compared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

import click
import numpy as np
import pytest

from cotejar.cli.apr.group import apr
from cotejar.cli.run_command import run_command
from cotejar.formats.apr.stage_file import StageFile, write_stage_file
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import (
    write_tiny_apr,
    write_tiny_gguf,
    write_tiny_hugging_face,
)
from cotejar.trace.forward_trace import (
    EVERY_ARRAY,
    Capture,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    TraceRecorder,
)
from cotejar.trace.trace_file import write_trace

if TYPE_CHECKING:
    from pathlib import Path


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        run_command(apr, "apr", ["diff", *(str(arg) for arg in args)])
    assert isinstance(done.value.code, int)
    return done.value.code


def refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """One model in three forms, and one of other weights."""
    return {
        "gguf": write_tiny_gguf(tmp_path / "a.gguf"),
        "apr": write_tiny_apr(tmp_path / "a.apr", pairing="adjacent"),
        "folder": write_tiny_hugging_face(tmp_path / "a"),
        "q8": write_tiny_gguf(tmp_path / "q8.gguf", TinyDecoder(block_type=BlockType.Q8_0)),
        "other": write_tiny_gguf(tmp_path / "other.gguf", TinyDecoder(seed=1)),
    }


def write_values(path: Path, values: np.ndarray, tokens: tuple[int, ...] = (1, 2)) -> Path:
    recorder = TraceRecorder(Capture(array_slots=EVERY_ARRAY))
    recorder.record("output", values, 0)
    trace = ForwardTrace(
        engine=EngineInfo(name="native", build="1", numerics="f32"),
        model=ModelInfo(name="m", format="gguf", architecture="llama", fingerprint="sha256:1"),
        config={},
        token_ids=tokens,
        positions=(0, 1),
        prompt=None,
        sites=recorder.sites,
        arrays=recorder.arrays,
    )
    write_trace(path, trace)
    return path


def test_a_gguf_and_its_apr_are_the_same(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(models["gguf"], models["apr"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "      21  equal byte for byte" in lines
    assert "  keys are not compared: gguf and apr name them differently" in lines
    assert lines[-1] == "SAME"


def test_another_type_differs_and_is_within_a_threshold(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(models["gguf"], models["q8"], "--limit", "2") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  ... and 14 more (--limit)" in lines
    assert lines[-1] == "THEY DIFFER  in 16 of 21 tensors"

    # Q8_0's step is 1/127 of the largest of 32 weights: some 0.5 % of a Gaussian's norm.
    assert run(models["gguf"], models["q8"], "--threshold", "0.02") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "SAME, within rel L2 0.02"


def test_other_weights_differ(models: dict[str, Path]) -> None:
    assert run(models["gguf"], models["other"], "--threshold", "0.5") == 1


def test_rows_in_another_order_are_looked_through_when_asked(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(models["gguf"], models["folder"]) == 1
    assert "--transpose-aware looks through that" in capsys.readouterr().out

    assert run(models["gguf"], models["folder"], "--transpose-aware") == 0
    text = capsys.readouterr().out
    assert "4  the same rows, in the RoPE order that each file declares" in text


def test_elements_are_shown_when_asked(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(models["gguf"], models["other"], "--filter", "norm", "--values") == 1

    text = capsys.readouterr().out
    assert "model.norm.weight\n  96 of 96 values differ" in text
    assert "|B - A|" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_text_fits_the_terminal(
    models: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))

    run(models["gguf"], models["other"], "--values")

    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width


def test_a_model_and_a_trace_are_bad_input(models: dict[str, Path], tmp_path: Path) -> None:
    trace = write_values(tmp_path / "a.trace", np.ones((2, 3)))

    assert run(models["gguf"], trace) == 2


def test_a_filter_that_leaves_nothing_exits_3(models: dict[str, Path]) -> None:
    assert run(models["gguf"], models["apr"], "--filter", "nope") == 3


@pytest.mark.parametrize("threshold", ["-1", "x", "nan", "inf"])
def test_a_threshold_that_cannot_be_is_bad_usage(
    models: dict[str, Path], threshold: str
) -> None:
    assert run(models["gguf"], models["apr"], "--threshold", threshold) == 2


def test_two_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.arange(6.0).reshape(2, 3)
    a = write_values(tmp_path / "a.trace", values)
    b = write_values(tmp_path / "b.trace", values * 1.5, tokens=(1, 9))

    assert run(a, a) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "SAME"
    assert run(a, b) == 1
    lines = capsys.readouterr().out.splitlines()
    said = "the token_ids differ, first at index 1, 2 against 9: every site saw another input"
    assert f"  NOTE  {said}" in lines
    assert lines[-1] == "THEY DIFFER  (a list, no judgement: `apr parity` judges)"


def test_two_stage_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.bin", tmp_path / "b.bin"
    write_stage_file(a, StageFile(layer=1, values=np.array([1, 2], np.float32)))
    write_stage_file(b, StageFile(layer=1, values=np.array([1, np.nan], np.float32)))

    assert run(a, b, "--json") == 1
    facts = json.loads(capsys.readouterr().out, parse_constant=refuse)

    assert facts["schema"] == "apr-stage-diff-v1"
    assert facts["nonfinite_mismatches"] == 1
    assert facts["top_diffs"] == [
        {
            "index": 1,
            "a": 2.0,
            "b": None,
            "b_nonfinite": "NaN",
            "abs_diff": None,
            "abs_diff_nonfinite": "NaN",
        }
    ]
    assert run(a, b) == 1
    assert (
        "NaN/Inf  0/1 (A/B), 1 of them in places where the other side has something else"
        in capsys.readouterr().out
    )


def test_the_json_of_two_models_is_strict(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(models["gguf"], models["q8"], "--json", "--limit", "3") == 1
    facts = json.loads(capsys.readouterr().out, parse_constant=refuse)

    assert facts["counts"]["differs"] == 16
    assert facts["tensors_listed"] == 3
    assert (facts["same"], facts["exit_code"]) == (False, 1)
    assert facts["tensors"][0]["rel_l2"] >= facts["tensors"][1]["rel_l2"] > 0
