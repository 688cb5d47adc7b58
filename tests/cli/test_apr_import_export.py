"""`apr import` and `apr export`: whole files or none, and what they say of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from cotejar.cli.apr.group import apr
from cotejar.cli.run_command import run_command
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        run_command(apr, "apr", [str(arg) for arg in args])
    assert isinstance(done.value.code, int)
    return done.value.code


def test_there_and_back_is_the_same_file(tmp_path: Path) -> None:
    decoder = TinyDecoder(block_type=BlockType.Q8_0, tied_embeddings=True)
    source = write_tiny_gguf(tmp_path / "a.gguf", decoder)

    assert run("import", source, "-o", tmp_path / "a.apr") == 0
    assert run("export", tmp_path / "a.apr", "-o", tmp_path / "b.gguf") == 0

    assert (tmp_path / "b.gguf").read_bytes() == source.read_bytes()


def test_the_json_has_the_reports_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_tiny_hugging_face(tmp_path / "a")

    assert run("import", source, "-o", tmp_path / "a.apr", "--json") == 0
    facts = json.loads(capsys.readouterr().out)

    assert (facts["source_format"], facts["target_format"]) == ("safetensors", "apr")
    assert facts["num_bytes"] == (tmp_path / "a.apr").stat().st_size
    assert facts["verified"]["equal_count"] == facts["num_tensors"] == 21
    assert facts["seconds"] > 0


def test_an_output_that_is_there_is_left_alone_without_force(tmp_path: Path) -> None:
    source, target = write_tiny_gguf(tmp_path / "a.gguf"), tmp_path / "a.apr"
    target.write_text("mine")

    assert run("import", source, "-o", target) == 2
    assert target.read_text() == "mine"
    assert run("import", source, "-o", target, "--force") == 0
    assert run("export", target, "-o", source) == 2


def test_strict_refuses_what_upstream_has_no_code_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(block_type=BlockType.Q8_0))

    assert run("import", source, "-o", tmp_path / "a.apr", "--strict") == 2
    assert capsys.readouterr().err.startswith("error[APR-F030]")
    assert not (tmp_path / "a.apr").exists()


def test_quantizing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf")

    assert run("import", source, "-o", tmp_path / "a.apr", "--quantize", "Q8_0") == 0

    text = capsys.readouterr().out
    assert "tensors     21: 16 Q8_0, 5 F32" in text
    assert "re-encoded  16 tensors" in text
    assert "; 16 were re-encoded" in text


def test_another_quantization_is_bad_usage(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf")

    assert run("import", source, "-o", tmp_path / "a.apr", "--quantize", "q3_k") == 2
    assert not (tmp_path / "a.apr").exists()


def test_a_gguf_is_not_exported(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf")

    assert run("export", source, "-o", tmp_path / "b.gguf") == 2
    assert not (tmp_path / "b.gguf").exists()


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted\n"),
        (signal.SIGTERM, 143, "terminated\n"),
        (signal.SIGHUP, 129, "the terminal hung up\n"),
    ],
)
def test_a_signal_leaves_nothing(
    demo_model: Path, tmp_path: Path, number: int, code: int, word: str
) -> None:
    command = "from cotejar.cli.apr.main import main; main()"
    args = ["import", str(demo_model), "-o", str(tmp_path / "a.apr"), "--quantize", "q4_k"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *args], stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.01)

    process.send_signal(number)
    _, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (code, word)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", ["", "symbolic", "hard"])
def test_force_never_replaces_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str
) -> None:
    source = output = write_tiny_gguf(tmp_path / "a.gguf")
    before = source.read_bytes()
    if link:
        output = tmp_path / "link"
        (output.symlink_to if link == "symbolic" else output.hardlink_to)(source)
    apr = tmp_path / "a.apr"
    assert run("import", source, "-o", apr) == 0
    contract = tmp_path / "c.yaml"
    contract.write_text("parity: {gates: [{metric: nmse, limit: 1, origin: x}]}")
    pair = ("parity", source, apr, "--contract", contract, "--force", "-o")

    for args in (
        ("import", source, "-o", output, "--force"),
        ("trace", source, "--payload", "-o", output, "--force"),
        ("trace", f"oracle:{source}", "--payload", "-o", output, "--force"),
        (*pair, output),
        (*pair, apr),
        (*pair, contract),
    ):
        capsys.readouterr()
        assert run(*args) == 2
        assert "the output is one of the files that are read" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_recorded_trace_is_not_replaced_by_itself(tmp_path: Path) -> None:
    source, recorded = write_tiny_gguf(tmp_path / "a.gguf"), tmp_path / "a.trace"
    assert run("trace", source, "--tokens", "1,2", "-o", recorded) == 0
    before = recorded.read_bytes()

    assert run("trace", f"recorded:{recorded}", "-o", recorded, "--force") == 2
    assert recorded.read_bytes() == before
