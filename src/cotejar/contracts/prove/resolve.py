"""Find the functions behind harness ids: our own, and those of files that the user names."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from cotejar.contracts import harnesses
from cotejar.contracts.corpus import is_folder
from cotejar.contracts.prove.harness import HARNESSES, Registry
from cotejar.errors import MissingFileError, UsageError


def load_own_harnesses() -> Registry:
    """Import every module of `cotejar.contracts.harnesses`; each registers its claims."""
    for module in pkgutil.iter_modules(harnesses.__path__):
        importlib.import_module(f"{harnesses.__name__}.{module.name}")
    return HARNESSES


def find_harness_files(path: str) -> list[str]:
    """A Python file, or every `.py` file directly in a folder, sorted.

    Raises:
        MissingFileError: there is nothing.
    """
    at = Path(path)
    in_folder = is_folder(path)
    # Unlike its like in pathlib, isfile raises for no path.
    found = [at] if os.path.isfile(path) else sorted(at.glob("*.py")) if in_folder else []  # noqa: PTH113
    if not found:
        raise MissingFileError(
            "there are no harnesses to load",
            where=path,
            expected="a Python file that uses @harness, or a folder of them",
            found="a folder without .py files" if in_folder else "no file at this path",
            hint="check the path; relative ones start at the working folder",
        )
    return [str(file.resolve()) for file in found]


def load_harness_file(path: str) -> ModuleType:
    """Import a file of harnesses, once; it runs, so name only files that you trust.

    Raises:
        UsageError: it cannot be imported.
    """
    file = Path(path).resolve()
    name = f"cotejar_harnesses_{file.stem}_{abs(hash(str(file))):x}"
    if name in sys.modules:
        return sys.modules[name]
    loader = SourceFileLoader(name, str(file))
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise UsageError(
            "a file of harnesses cannot be imported",
            where=str(file),
            expected="Python that registers claims with @harness",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}",
            hint="run it with Python to see the whole traceback",
        ) from error
    return module
