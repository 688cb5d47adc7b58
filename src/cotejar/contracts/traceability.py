"""Which parts of a contract speak of which: equation, obligation, test, harness, and code.

A test's `rule` and a harness's `obligation` name an obligation by its id or its property
text, or an equation by its name; an obligation's `applies_to` may name an equation. Other
text there is free, and links to nothing.
"""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.prove.harness import Registry
    from cotejar.contracts.schema import Contract, Obligation

# Not from the middle of a word: a long one would be read again from each of its letters.
_SPEC_REFERENCE = re.compile(r"(?<![\w./-])([\w./-]+\.md)\s*§\s*([0-9]+(?:\.[0-9]+)*)")
_HEADING = re.compile(r"#{1,6}\s+([0-9]+(?:\.[0-9]+)*)\.?\s")
_CONTRACT_LINE = re.compile(r"Contracts?:(.*)")
_TICKED = re.compile(r"`([^`]+)`")
MAX_SOURCE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ObligationLinks:
    """An obligation and what speaks of it."""

    label: str
    """Its id, or else its property."""
    type: str
    tests: tuple[str, ...]
    harnesses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EquationLinks:
    """An equation, the obligations that apply to it, and the function that computes it."""

    equation: str | None
    """None for the obligations that name no equation."""
    code: str | None
    obligations: tuple[ObligationLinks, ...]

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "equation": self.equation,
            "code": self.code,
            "obligations": [
                {
                    "obligation": link.label,
                    "type": link.type,
                    "tests": list(link.tests),
                    "harnesses": list(link.harnesses),
                }
                for link in self.obligations
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecSection:
    """A numbered section of a specification."""

    number: str
    line: int
    """Of its heading, from 1."""
    contracts: tuple[tuple[str, int], ...]
    """Stems that its `Contracts:` lines name, and the line of each."""


def trace_contract(
    contract: Contract, bindings: BindingRegistry | None = None
) -> tuple[EquationLinks, ...]:
    """Every equation with all that leads to it; obligations without one come last."""
    tests = _by_text((test.rule, test.id) for test in contract.tests)
    harnesses = _by_text((h.obligation, h.id) for h in contract.harnesses)
    names = {equation.name for equation in contract.equations}
    links: dict[str | None, list[ObligationLinks]] = {}
    for obligation in contract.obligations:
        equation = obligation.applies_to if obligation.applies_to in names else None
        links.setdefault(equation, []).append(_links(obligation, tests, harnesses))
    chains = [
        EquationLinks(
            equation=equation.name,
            code=_code_of(contract, equation.name, bindings),
            obligations=tuple(links.get(equation.name, ())),
        )
        for equation in contract.equations
    ]
    if None in links:
        loose = tuple(links[None])
        chains.append(EquationLinks(equation=None, code=None, obligations=loose))
    return tuple(chains)


def trace_harnesses(contract: Contract, registry: Registry) -> dict[str, tuple[str, ...]]:
    """Each harness's id, and the functions of production that its claims are about."""
    return {
        harness.id: tuple(
            dict.fromkeys(
                f"{target.__module__}.{target.__qualname__}"
                for claim in registry.claims_of(harness.id)
                for target in claim.targets
            )
        )
        for harness in contract.harnesses
    }


def names_of(obligation: Obligation) -> set[str]:
    """What a test's rule or a harness's obligation may say to mean this obligation."""
    names = {obligation.id, obligation.property, obligation.applies_to}
    return {name for name in names if name}


def names_in(contract: Contract) -> set[str]:
    """Every name of an obligation or an equation of the contract."""
    names = {equation.name for equation in contract.equations}
    return names.union(*(names_of(obligation) for obligation in contract.obligations))


def spec_references(text: str) -> list[tuple[str, str]]:
    """Each `FILE.md §N` in a reference, as (file, section number)."""
    return _SPEC_REFERENCE.findall(text)


def find_upward(start: Path, relative: str) -> Path | None:
    """The nearest file of that relative name, looked for from `start` to the root."""
    for folder in (start, *start.parents):
        candidate = folder / relative
        try:
            if candidate.is_file():
                return candidate
        except OSError:  # a name that is too long for the system: no file has it
            return None
    return None


def read_sections(spec: Path) -> dict[str, SpecSection]:
    """The numbered sections of a Markdown file; a section ends where the next starts."""
    return _sections(*_stamp(spec))


def pytest_nodes(command: str) -> list[tuple[str, str | None]]:
    """Each test file that a pytest command names, with its function if it names one."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    runs_pytest = words[:1] == ["pytest"] or words[1:3] == ["-m", "pytest"]
    if not runs_pytest:
        return []
    nodes = []
    for word in words:
        file, *names = word.split("::")
        if file.endswith(".py") and not word.startswith("-"):
            # A parametrised node carries its values in brackets.
            nodes.append((file, names[-1].partition("[")[0] if names else None))
    return nodes


def defines(file: Path, function: str) -> bool:
    """Does the Python file define a function of that name, at any depth?"""
    return function in _functions(*_stamp(file))


def find_module(start: Path, module: str) -> Path | None:
    """The file of a dotted Python module, looked for upward, there and under `src`."""
    path = module.replace(".", "/")
    for relative in (f"src/{path}.py", f"{path}.py", f"src/{path}/__init__.py"):
        found = find_upward(start, relative)
        if found is not None:
            return found
    return find_upward(start, f"{path}/__init__.py")


def declares(file: Path, qualified: str) -> bool:
    """Does the Python file define `function`, or `Class.method`, by that whole name?

    A class has the methods of those before it in the file that it is derived from.
    """
    return qualified in _qualified_functions(*_stamp(file))


def read_bounded(path: str | Path) -> str:
    """The first `MAX_SOURCE_BYTES` of a text file; "" if it cannot be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path from the cache is text
            return file.read(MAX_SOURCE_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _stamp(path: Path) -> tuple[str, int, int]:
    """What tells a file from what it was before: its path, time and size."""
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _sections(path: str, _time: int, _size: int) -> dict[str, SpecSection]:
    sections: dict[str, tuple[int, list[tuple[str, int]]]] = {}
    current = ""
    for number, line in enumerate(read_bounded(path).splitlines(), start=1):
        heading = _HEADING.match(line)
        if heading:
            current = heading[1]
            sections.setdefault(current, (number, []))
            continue
        named = _CONTRACT_LINE.match(line)
        if named and current:
            sections[current][1].extend((stem, number) for stem in _TICKED.findall(named[1]))
    return {
        name: SpecSection(number=name, line=line, contracts=tuple(contracts))
        for name, (line, contracts) in sections.items()
    }


@lru_cache(maxsize=256)
def _functions(path: str, _time: int, _size: int) -> frozenset[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(n.name for n in ast.walk(_parse(path)) if isinstance(n, kinds))


@lru_cache(maxsize=256)
def _qualified_functions(path: str, _time: int, _size: int) -> frozenset[str]:
    return frozenset(_names(_parse(path).body))


def _names(body: list[ast.stmt]) -> Iterator[str]:
    methods: dict[str, tuple[str, ...]] = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            bases = (base.id for base in node.bases if isinstance(base, ast.Name))
            inherited = (name for base in bases for name in methods.get(base, ()))
            methods[node.name] = tuple(dict.fromkeys((*_names(node.body), *inherited)))
            yield from (f"{node.name}.{name}" for name in methods[node.name])
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name


def _parse(path: str) -> ast.Module:
    """The syntax tree of a file; an empty one where it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a test file's own invalid escapes
            return ast.parse(read_bounded(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module(body=[], type_ignores=[])


def _by_text(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text, identifier in pairs:
        found.setdefault(text, []).append(identifier)
    return found


def _links(
    obligation: Obligation, tests: dict[str, list[str]], harnesses: dict[str, list[str]]
) -> ObligationLinks:
    names = sorted(names_of(obligation))
    return ObligationLinks(
        label=obligation.id or obligation.property,
        type=obligation.type.value,
        tests=tuple(dict.fromkeys(t for name in names for t in tests.get(name, ()))),
        harnesses=tuple(dict.fromkeys(h for name in names for h in harnesses.get(name, ()))),
    )


def _code_of(contract: Contract, equation: str, bindings: BindingRegistry | None) -> str | None:
    entry = None if bindings is None else bindings.find(contract.stem, equation)
    if entry is None:
        return None
    parts = [part for part in (entry.module_path, entry.function) if part]
    return f"{'.'.join(parts) or '(no function)'} [{entry.status.value}]"
