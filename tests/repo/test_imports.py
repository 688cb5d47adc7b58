"""Rooms import only from the rooms above them, and a command's help loads nothing heavy."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "src" / "cotejar"
HEAVY = ("torch", "transformers", "llama_cpp", "ray")

needs_import_linter = pytest.mark.skipif(
    importlib.util.find_spec("importlinter") is None, reason="import-linter is not installed"
)


def lint_imports(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = (
        "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"
    )
    return subprocess.run(
        [sys.executable, "-c", command, "--config", str(config), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


@needs_import_linter
def test_every_room_imports_only_from_rooms_above_it(tmp_path: Path) -> None:
    run = lint_imports(REPOSITORY / "pyproject.toml", tmp_path)

    assert run.returncode == 0, run.stdout
    assert re.search(r"[1-9] kept, 0 broken", run.stdout)


@needs_import_linter
def test_an_import_from_below_is_seen(tmp_path: Path) -> None:
    """The same rule with two rooms exchanged: formats import quant, which is now below."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    swapped = re.sub(r'"cotejar\.(quant|formats)"', lambda m: f'"cotejar.{_other(m[1])}"', text)
    config = tmp_path / "pyproject.toml"
    config.write_text(swapped)

    run = lint_imports(config, tmp_path)

    assert run.returncode == 1
    assert "cotejar.formats is not allowed to import cotejar.quant" in run.stdout


def _other(room: str) -> str:
    return {"quant": "formats", "formats": "quant"}[room]


def test_every_room_is_in_the_rule() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [one["layers"] for one in contracts if one["type"] == "layers"]
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    rooms |= {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}

    assert sorted(layers) == sorted(f"cotejar.{room}" for room in rooms)


@pytest.mark.parametrize("library", HEAVY)
def test_a_library_of_an_extra_is_imported_by_one_engine_at_most(library: str) -> None:
    importing = {
        path.parent.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if re.search(rf"^\s*(import|from) {library}\b", path.read_text(), re.MULTILINE)
    }

    assert len(importing) <= 1
    assert all(folder.startswith("engines/") for folder in importing)


@pytest.mark.parametrize("command", ["apr", "pv", "cotejar"])
def test_help_loads_nothing_heavy(command: str) -> None:
    module = "cotejar.cli.main" if command == "cotejar" else f"cotejar.cli.{command}.main"
    code = (
        f"import sys; from {module} import main\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try: main()\n"
        "except SystemExit as done: assert done.code == 0, done.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )

    assert "Usage:" in run.stdout
    loaded = set(run.stderr.split())
    assert {"cotejar", "click"} <= loaded
    assert not loaded & {"numpy", "safetensors", "tokenizers", "jinja2", "yaml", "rich", *HEAVY}


@pytest.mark.parametrize("module", ["cotejar", "cotejar.errors", "cotejar.verdict"])
def test_the_words_of_all_rooms_load_no_numpy(module: str) -> None:
    code = f"import sys, {module}; print('numpy' in sys.modules)"

    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )

    assert run.stdout == "False\n"
