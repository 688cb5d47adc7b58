"""From a function object to the syntax tree it was compiled from, and proof that it is so.

The engine reads source text, and production runs code objects. They must be the same thing:
the whole module is compiled anew and the function's code object must equal its own in there.
An edited file, a decorated function and a patched one are all refused.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

from cotejar.contracts.prove.terms import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class SourceReader:
    """Syntax trees of functions; every file is read and compiled once."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[ast.Module, list[CodeType]]] = {}
        self._trees: dict[CodeType, ast.FunctionDef] = {}
        self.reached: dict[str, ast.FunctionDef] = {}
        """Every function that was read, by `module.qualified_name`."""
        self.constants: dict[str, str] = {}
        """Numbers, texts and lists of the modules that those functions read."""

    def tree_of(self, function: FunctionType) -> ast.FunctionDef:
        """The function's own syntax tree.

        Raises:
            Unsupported: there is no source, or it is not what the function runs.
        """
        code = function.__code__
        if code not in self._trees:
            self._trees[code] = self._find(function)
            name = f"{function.__module__}.{function.__qualname__}"
            self.reached[name] = self._trees[code]
        return self._trees[code]

    def closure_hash(self) -> str:
        """SHA-256 over the trees of every function that was read, and the constants.

        Comments, layout and docstrings do not count; `<=` for `<` does.
        """
        lines = [f"{name} {_dump(tree)}" for name, tree in sorted(self.reached.items())]
        lines += [f"{name} = {shown}" for name, shown in sorted(self.constants.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _find(self, function: FunctionType) -> ast.FunctionDef:
        name = f"{function.__module__}.{function.__qualname__}"
        if hasattr(function, "__wrapped__"):
            raise Unsupported(f"{name} is wrapped by a decorator")
        tree, codes = self._read(function.__code__.co_filename, function.__module__)
        if not any(_same_code(code, function.__code__) for code in codes):
            raise Unsupported(f"{name} does not run the source in its file")
        line, last = function.__code__.co_firstlineno, function.__name__
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == last:
                lines = [node.lineno, *(d.lineno for d in node.decorator_list)]
                if min(lines) == line:
                    return node
        raise Unsupported(f"{name} is no plain function of its file")

    def _read(self, file: str, module: str) -> tuple[ast.Module, list[CodeType]]:
        if file not in self._files:
            try:
                text = Path(file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise Unsupported(f"there is no source of {module}") from None
            compiled = compile(text, file, "exec", dont_inherit=True)
            self._files[file] = (ast.parse(text), list(_codes_below(compiled)))
        return self._files[file]


def _codes_below(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_below(constant)


def _same_code(a: CodeType, b: CodeType) -> bool:
    """The same place, instructions, names and constants."""
    if (a.co_firstlineno, a.co_qualname, a.co_code) != (
        b.co_firstlineno,
        b.co_qualname,
        b.co_code,
    ):
        return False
    if (a.co_names, a.co_varnames, a.co_freevars) != (b.co_names, b.co_varnames, b.co_freevars):
        return False
    return len(a.co_consts) == len(b.co_consts) and all(
        _same_code(x, y)
        if isinstance(x, CodeType) and isinstance(y, CodeType)
        else (type(x), repr(x)) == (type(y), repr(y))
        for x, y in zip(a.co_consts, b.co_consts, strict=True)
    )


def _dump(tree: ast.FunctionDef) -> str:
    return ast.dump(ast.Module(body=_without_docstring(tree), type_ignores=[]))


def _without_docstring(tree: ast.FunctionDef) -> list[ast.stmt]:
    body: Iterable[ast.stmt] = tree.body
    first = tree.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        body = tree.body[1:]
    return [ast.Expr(tree.args), *body]  # type: ignore[arg-type]
