"""Public functions of a source folder, and which of them an equation is bound to.

Public is a function of a module, or a method of a class of a module, whose whole path has no
leading underscore. Left out, as they compute nothing of their own: properties, overloads,
abstract methods, and bodies that are a docstring, `...` or `raise NotImplementedError` only.
Source is parsed, never imported.
"""

from __future__ import annotations

import ast
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.corpus import is_folder
from cotejar.contracts.traceability import MAX_SOURCE_BYTES
from cotejar.errors import MissingFileError, NothingMeasuredError, UnreadableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.binding import BindingRegistry

NOT_OF_ITS_OWN = frozenset({"property", "cached_property", "overload", "abstractmethod"})
DEFAULT_LEAST = 0.5
"""Upstream's threshold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicFunction:
    """A function that code outside its module may call."""

    name: str
    """Dotted, from the package: `cotejar.quant.codec.decode`."""
    file: str
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReverseCoverage:
    """All public functions of a source folder; at least one."""

    source: str
    functions: tuple[PublicFunction, ...]
    bound: frozenset[str]
    """Dotted names that entries of the registry have."""
    least: float
    """Share that must be bound, in [0, 1]."""
    registry: str

    @property
    def unbound(self) -> tuple[PublicFunction, ...]:
        """Those that no equation is bound to."""
        return tuple(one for one in self.functions if one.name not in self.bound)

    @property
    def share(self) -> float:
        """Bound over all, in [0, 1]."""
        return 1 - len(self.unbound) / len(self.functions)


def measure_reverse_coverage(
    source: str, bindings: BindingRegistry, *, least: float = DEFAULT_LEAST
) -> ReverseCoverage:
    """Parse every Python file under `source` and hold its functions against the registry.

    Raises:
        MissingFileError: there is no such folder.
        UnreadableFileError: a file is too large, or cannot be read or parsed.
        NothingMeasuredError: it holds no public function.
    """
    root = Path(source)
    if not is_folder(source):
        raise MissingFileError(
            "there is no such source folder",
            where=f"--source {source}",
            expected="a folder of Python files",
            found="no folder at this path",
            hint="name the folder that holds the package, such as src",
        )
    top = _import_folder(root)
    functions = tuple(one for file in _python_files(root) for one in _public(top, file))
    if not functions:
        raise NothingMeasuredError(
            "there is nothing to cover",
            where=f"--source {source}",
            expected="at least one public Python function",
            found="none",
            hint="name the folder that holds the package, such as src",
        )
    return ReverseCoverage(
        source=source,
        functions=functions,
        bound=frozenset(filter(None, (entry.dotted for entry in bindings.bindings))),
        least=least,
        registry=bindings.file,
    )


def _python_files(root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield from (Path(parent, name) for name in sorted(names) if name.endswith(".py"))


def _import_folder(root: Path) -> Path:
    """The folder that dotted names start at: `src` where `src/package` is meant."""
    while (root / "__init__.py").is_file() and root.parent != root:
        root = root.parent
    return root


def _public(top: Path, file: Path) -> Iterator[PublicFunction]:
    parts = file.relative_to(top).with_suffix("").parts
    module = parts[:-1] if parts[-1] == "__init__" else parts
    for names, line in _functions(_parse(file).body):
        path = (*module, *names)
        if not any(part.startswith("_") for part in path):
            yield PublicFunction(name=".".join(path), file=str(file), line=line)


def _functions(body: list[ast.stmt]) -> Iterator[tuple[tuple[str, ...], int]]:
    """The path and line of each function in a module or class that computes something."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            for names, line in _functions(node.body):
                yield (node.name, *names), line
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not _decorators(node) & NOT_OF_ITS_OWN and not _is_stub(node):
                yield (node.name,), node.lineno
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _functions(node.body)


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    names = set()
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        last = target.attr if isinstance(target, ast.Attribute) else target
        name = last.id if isinstance(last, ast.Name) else last
        if isinstance(name, str):
            # `@x.setter` belongs to a property too.
            names.add("property" if name in {"setter", "deleter"} else name)
    return names


def _is_stub(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    for statement in node.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement, ast.Raise) and statement.exc is not None:
            raised = ast.unparse(statement.exc).partition("(")[0]
            if raised == "NotImplementedError":
                continue
        if not isinstance(statement, ast.Pass):
            return False
    return True


def _parse(file: Path) -> ast.Module:
    try:
        if file.stat().st_size > MAX_SOURCE_BYTES:
            raise _unreadable(file, f"more than {MAX_SOURCE_BYTES} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own invalid escapes
            return ast.parse(file.read_bytes())
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(file, f"{type(error).__name__}: {error}") from None


def _unreadable(file: Path, found: str) -> UnreadableFileError:
    return UnreadableFileError(
        "a source file cannot be read, so its functions cannot be counted",
        where=str(file),
        expected=f"Python source of at most {MAX_SOURCE_BYTES} bytes",
        found=found,
        hint="mend the file, or name a folder without it",
    )
