"""`apr inspect` and `apr tensors`: exit codes, JSON that parses, help that stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest

from cotejar.cli.apr.group import apr
from cotejar.cli.run_command import run_command
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_models import (
    write_tiny_apr,
    write_tiny_gguf,
    write_tiny_hugging_face,
)

if TYPE_CHECKING:
    from pathlib import Path

VERBS = ("inspect", "tensors", "diff", "import", "export")


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        run_command(apr, "apr", [str(arg) for arg in args])
    assert isinstance(done.value.code, int)
    return done.value.code


def refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("kind", ["gguf", "apr", "folder"])
@pytest.mark.parametrize("verb", ["inspect", "tensors"])
def test_every_format_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, verb: str
) -> None:
    writers = {
        "gguf": write_tiny_gguf,
        "apr": write_tiny_apr,
        "folder": write_tiny_hugging_face,
    }
    path = writers[kind](tmp_path / "model")

    assert run(verb, path) == 0
    text = capsys.readouterr()
    assert run(verb, path, "--json") == 0
    facts = json.loads(capsys.readouterr().out, parse_constant=refuse)

    assert text.out.startswith(f"{path}\n")
    assert text.err == ""
    assert facts["file"] == str(path)
    assert facts["tensor_count"] == 21


def test_statistics_of_a_tensor_without_a_number_are_strict_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nan.gguf"
    data = np.array([np.nan], "<f4").view(np.uint8)
    tensor = GgufTensor(name="t", block_type=BlockType.F32, shape=(1,), data=data)
    write_gguf(path, metadata={}, tensors=[tensor])

    assert run("tensors", path, "--stats", "--json") == 0
    (facts,) = json.loads(capsys.readouterr().out, parse_constant=refuse)["tensors"]

    assert (facts["min"], facts["min_nonfinite"]) == (None, "Infinity")
    assert (facts["max"], facts["max_nonfinite"]) == (None, "-Infinity")
    assert facts["nan_count"] == 1


@pytest.mark.parametrize("verb", ["inspect", "tensors"])
@pytest.mark.parametrize("length", [0, 3, 24, 400, 5000])
def test_a_file_that_is_cut_short_exits_2_with_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, length: int
) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:length])

    assert run(verb, path, "--json") == 2
    streams = capsys.readouterr()

    assert streams.err.startswith("error[APR-F0")
    assert streams.err.count("error[") == 1
    found = json.loads(streams.out)
    assert (found["exit_code"], found["error"]["code"][:5]) == (2, "APR-F")


def test_a_filter_that_matches_nothing_exits_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")

    assert run("tensors", path, "--filter", "nope") == 3
    assert capsys.readouterr().err.startswith("error[APR-U009]: the filter matches no tensor\n")


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_below_1_is_bad_usage(tmp_path: Path, limit: str) -> None:
    assert run("tensors", write_tiny_gguf(tmp_path / "a.gguf"), "--limit", limit) == 2


def test_the_demo_model_has_an_address(
    demo_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", "demo:smollm2", "--json") == 0
    facts = json.loads(capsys.readouterr().out)

    assert facts["file"] == str(demo_model)
    assert facts["tensor_count"] == 272
    assert [share["type"] for share in facts["block_types"]] == ["Q4_1", "Q8_0", "F32"]
    assert facts["tokenizer"] == {
        "kind": "gpt2",
        "pre_tokenizer": "smollm",
        "num_tokens": 49152,
    }
    assert facts["metadata"]["tokenizer.ggml.bos_token_id"] == 1


@pytest.mark.qwen
def test_qwen_is_inspected(qwen_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", qwen_model, "--json") == 0
    facts = json.loads(capsys.readouterr().out)

    assert (facts["architecture"], facts["num_layers"], facts["num_heads"]) == ("qwen2", 24, 14)
    assert (facts["hidden_size"], facts["vocab_size"]) == (896, 151936)
    assert facts["metadata"]["tokenizer.ggml.merges"]["count"] == 151387


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_light_and_fits_a_narrow_terminal(verb: str) -> None:
    program = (
        "import sys\n"
        "from cotejar.cli.apr.group import apr\n"
        "from cotejar.cli.run_command import run_command\n"
        "try:\n"
        f"    run_command(apr, 'apr', ['{verb}', '--help'])\n"
        "finally:\n"
        "    heavy = {'numpy', 'rich', 'safetensors', 'tokenizers'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy), file=sys.stderr)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "60", "PATH": ""},
    )

    assert done.stderr == "heavy: []\n"
    assert "Exits 0" in done.stdout
    assert f"apr {verb} " in done.stdout
    prose = [line for line in done.stdout.splitlines() if not line.startswith("  apr ")]
    assert max(map(len, prose)) <= 60
