"""Falsification tests of contracts/apr-cli-ship-via-cpu-v1.yaml."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cotejar.cli.apr.group import apr
from cotejar.contracts.read import read_contract
from cotejar.engines.spec import ENGINES
from cotejar.testing.tiny_models import write_tiny_gguf

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "contracts/apr-cli-ship-via-cpu-v1.yaml"
GPU_LIBRARY = re.compile(r"lib(cuda|cudart|nvidia|amdhip|hsa-runtime|OpenCL|vulkan)[\w.-]*\.so")


def answers(output: str) -> bool:
    """Does the first line after `Output:` that is not blank hold the sum's result?"""
    lines = output.splitlines()
    if "Output:" not in lines:
        return False
    for line in lines[lines.index("Output:") + 1 :]:
        if line.startswith("Completed in "):
            return False  # nothing was answered, and a time is no answer
        if line.strip():
            return "equals" in line or "4" in line
    return False


def ask(model: Path, max_tokens: int) -> str:
    command = ["run", str(model), "--prompt", "What is 2+2?", "--temperature", "0"]
    result = CliRunner().invoke(apr, [*command, "--max-tokens", str(max_tokens), "--no-gpu"])
    assert result.exit_code == 0
    return result.stdout


def test_falsify_001_the_demo_model_answers_on_the_cpu(demo_model: Path) -> None:
    assert answers(ask(demo_model, 16))


@pytest.mark.qwen
def test_falsify_002_qwen_answers_on_the_cpu(qwen_model: Path) -> None:
    assert answers(ask(qwen_model, 5))


HEAD = "=== APR Run ===\nSource: model.Q4_1.gguf\n\n"
END = "\n\nCompleted in 4.44s (cached)\n"


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (f"{HEAD}Output:\n2 + 2 equals{END}", True),
        (f"{HEAD}Output:\n\n  \n4{END}", True),
        (f"{HEAD}Output:\n{END}", False),  # the time has a 4, and the model's name
        (f"{HEAD}Output:\nThe answer is 5.{END}", False),
        (f"{HEAD}Output:\nLet me see.\nIt is 4.{END}", False),
        (f"{HEAD}4{END}", False),
        ("", False),
    ],
)
def test_an_answer_that_is_missing_wrong_or_elsewhere_is_seen(output: str, found: bool) -> None:
    assert answers(output) is found


def gpu_libraries(code: str, *arguments: str) -> tuple[str, list[str]]:
    """Run Python code in a process of its own; its output, and the GPU libraries it mapped."""
    after = "import pathlib; print(pathlib.Path('/proc/self/maps').read_text())"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{after}", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, [match[0] for match in GPU_LIBRARY.finditer(done.stdout)]


def test_falsify_003_no_gpu_means_that_no_gpu_library_is_loaded(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    code = (
        "import sys\n"
        "from cotejar.cli.apr.group import apr\n"
        "apr(sys.argv[1:], standalone_mode=False)\n"
    )

    output, loaded = gpu_libraries(code, "run", str(model), "hi", "--no-gpu", "--json")

    assert '"used_gpu": false' in output or '"used_gpu":false' in output
    assert "/libc.so" in output  # the list of libraries was there to be read
    assert loaded == []


def test_003_sees_a_library_by_its_file_name(tmp_path: Path) -> None:
    """Mapping a file of that name is what loading one looks like from outside."""
    fake = tmp_path / "libcuda.so.1"
    fake.write_bytes(bytes(4096))
    code = (
        "import mmap, sys\n"
        "file = open(sys.argv[1], 'rb')\n"
        "kept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
    )

    assert set(gpu_libraries(code, str(fake))[1]) == {"libcuda.so"}


def test_falsify_004_the_documents_name_the_limit() -> None:
    spec = (ROOT / "docs/spec.md").read_text()
    section = spec.partition("### 11.7 ")[2].partition("\n### ")[0]
    readme = " ".join((ROOT / "README.md").read_text().split())
    run_help = " ".join(CliRunner().invoke(apr, ["run", "--help"]).stdout.split())

    assert "there is no GPU engine" in section
    assert "`--no-gpu`" in section
    assert "Everything runs on the CPU" in readme
    assert "--no-gpu" in run_help
    assert "Every engine here runs on the CPU" in run_help


def test_falsify_005_version_1_is_about_the_cpu_only() -> None:
    major = int(read_contract(CONTRACT).metadata.version.partition(".")[0])
    devices = {device for spec in ENGINES.values() for device in spec.devices}

    assert "cpu" in devices
    assert major == (1 if devices == {"cpu"} else 2)
