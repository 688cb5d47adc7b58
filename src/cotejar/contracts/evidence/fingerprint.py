"""What a run depends on, as hashes: the contract, the test, the code, the models.

Every hash is the SHA-256 of bytes or of a canonical text, in 64 hex digits. A contract is
hashed by what it demands: comments, layout, the order of keys and what it claims of itself
(`CLAIM_KEYS`) do not count, so that writing down a result does not make the result stale.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotejar.contracts.source import plain_value
from cotejar.errors import CotejarError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cotejar.contracts.evidence.project import Project
    from cotejar.contracts.schema import Contract

CLAIM_KEYS = frozenset(
    {
        "actually_verified",
        "algorithm_evidence",
        "changelog",
        "discharge_status",
        "status",
        "verification_summary",
    }
)
"""Keys under which a contract says how far it is met, at any depth."""

MODEL_SUFFIXES = (".gguf", ".apr", ".safetensors")
_DEMO = re.compile(r"demo:[A-Za-z0-9_.-]+")
_NOT_CODE = (".pyc", ".pyo", ".so", ".pyd", ".dylib")
"""Built on each machine from what is hashed anyway."""


def contract_hash(contract: Contract) -> str:
    """Hash what a contract demands."""
    return _hash_text(_canonical(plain_value(contract.source.root)))


class Fingerprints:
    """The hashes of one project; each file is read once in the object's life."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._root = project.root
        self._files: dict[Path, str] = {}
        self._code: str | None = None

    def code(self) -> str:
        """Hash every file of the project's code folders, by relative path and content."""
        if self._code is None:
            paths = (p for name in self._project.code for p in _walk(self._root / name))
            self._code = self._hash_files(p for p in paths if p.suffix not in _NOT_CODE)
        return self._code

    def test(self, words: Sequence[str]) -> str:
        """Hash the command's words, and the project's files that they name.

        A word names a file, a folder, or a pytest node in a file. With a Python file come
        the `conftest.py` of its folder and of those above it.
        """
        found: set[Path] = set()
        for word in words:
            found.update(self._test_files(word))
        for file in [path for path in found if path.suffix == ".py"]:
            for folder in file.parents:
                if not folder.is_relative_to(self._root):
                    break
                if (folder / "conftest.py").is_file():
                    found.add(folder / "conftest.py")
        return _hash_text("\0".join([*words, self._hash_files(found)]))

    def model(self, name: str) -> str | None:
        """Hash a model's file, or the files of its folder; None if it is not there."""
        path = self.find_model(name)
        if path is None:
            return None
        return self._hash_file(path) if path.is_file() else self._hash_files(_walk(path))

    def find_model(self, name: str) -> Path | None:
        """The path of `demo:NAME`, or of a path relative to the root; None if absent.

        `$NAME` in a path is the variable of that name: records keep the name as it is
        written, so that they mean the same on another machine.
        """
        from cotejar.formats.open_model import DEMO_PREFIX, resolve_model_path

        try:
            is_demo = name.startswith(DEMO_PREFIX)
            path = resolve_model_path(name) if is_demo else Path(os.path.expandvars(name))
        except CotejarError:  # not installed, or no such demo model
            return None
        if path == Path():  # a variable that is set to nothing
            return None
        path = self._root / path
        is_there = _is_there(path, folder=False) or _is_there(path, folder=True)
        return path if is_there else None

    def _test_files(self, word: str) -> Iterator[Path]:
        if not word or word.endswith(MODEL_SUFFIXES):
            return
        # Both `--rootdir=tests` and `tests/x.py::test_y[a=b]` name a path.
        for text in (word, word.partition("=")[2]):
            name = text.partition("::")[0]
            if not name or "\0" in name:
                continue
            try:
                path = (self._root / name).resolve()
            except (OSError, RuntimeError):  # a circle of links
                continue
            if not path.is_relative_to(self._root):
                continue
            if _is_there(path, folder=False):
                yield path
            elif _is_there(path, folder=True):
                kept = (p for p in _walk(path) if not p.is_relative_to(self._project.evidence))
                yield from (p for p in kept if not p.name.endswith(MODEL_SUFFIXES))

    def _hash_files(self, paths: Iterable[Path]) -> str:
        lines = []
        for path in sorted(set(paths)):
            inside = path.is_relative_to(self._root)
            name = path.relative_to(self._root).as_posix() if inside else path.name
            lines.append(f"{name}\0{self._hash_file(path)}")
        return _hash_text("\n".join(lines))

    def _hash_file(self, path: Path) -> str:
        if path not in self._files:
            try:
                with path.open("rb") as file:
                    self._files[path] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                # It is part of the state all the same: "unreadable" is another state.
                self._files[path] = f"unreadable: {error.strerror}"
        return self._files[path]


def model_names(words: Iterable[str]) -> tuple[str, ...]:
    """The models that a command's words name: `demo:NAME`, or a path by its ending.

    An engine in front of the name is dropped: `oracle:demo:smollm2`, `native+f32:m.apr`.
    """
    names: dict[str, None] = {}
    for word in words:
        demo = _DEMO.search(word)
        if demo:
            names[demo[0]] = None
        elif word.endswith(MODEL_SUFFIXES):
            names[re.split(r"[:=]", word)[-1]] = None
    return tuple(names)


def _walk(folder: Path) -> Iterator[Path]:
    """Every regular file under a folder; hidden names and byte code are skipped."""
    if not _is_there(folder, folder=True):
        return
    for parent, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if not n.startswith(".") and n != "__pycache__"]
        for name in names:
            path = Path(parent) / name
            if not name.startswith(".") and _is_there(path, folder=False):
                yield path


def _is_there(path: Path, *, folder: bool) -> bool:
    try:
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _canonical(value: Any) -> str:
    """One text for one meaning: keys sorted, claims left out."""
    if isinstance(value, dict):
        kept = {repr(k): _canonical(v) for k, v in value.items() if k not in CLAIM_KEYS}
        return "{" + ",".join(f"{k}:{kept[k]}" for k in sorted(kept)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    return repr(value)
