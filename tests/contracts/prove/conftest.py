"""What the tests of proofs share: harnesses and changed gates from text."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cotejar.contracts.prove.mutants import load_functions
from cotejar.parity import sample_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FunctionType, ModuleType

TARGETS = (sample_gate.judge_samples, sample_gate.samples_agree, sample_gate.std_spread)


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import a text as a module that lies in a file, as the engine needs it."""
    made: list[str] = []

    def load_text(text: str) -> ModuleType:
        name = f"proved_{tmp_path.name}_{len(made)}"
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        spec = util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        made.append(name)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    yield load_text
    for name in made:
        del sys.modules[name]


Change = tuple[str, str]


@pytest.fixture
def changed_gate(tmp_path: Path) -> Callable[..., dict[FunctionType, FunctionType]]:
    """The gate's functions by production's, after replacements in its source."""

    def change(*changes: Change) -> dict[FunctionType, FunctionType]:
        text = Path(sample_gate.__file__).read_text()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return load_functions(text, tmp_path, 0, TARGETS)

    return change
