"""What can be bisected: a model's layers or tensors, a project's commits, options.

A space names its differences and makes a state real: what `{}` in the command becomes, and the
environment that it runs in.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cotejar.errors import UsageError
from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.formats.gguf.reader import GgufFile
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import open_model
from cotejar.model.names import canonical_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cotejar.formats.model_file import ModelFile, TensorEntry

METADATA = "metadata"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_GIT_SECONDS = 600


class Space(Protocol):
    """Differences between a good and a bad side, in order."""

    @property
    def differences(self) -> Sequence[str]:
        """What a reader is told, one each."""

    def state(self, count: int) -> contextlib.AbstractContextManager[State]:
        """The first `count` differences as the bad side has them, the rest as the good."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What a command is run on."""

    subject: str
    """What `{}` becomes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    """To run in; None for the current one."""


class ModelSpace:
    """Tensors of two models that differ, one by one or a layer at a time."""

    def __init__(self, good: str, bad: str, *, by_layer: bool) -> None:
        """Open both and compare every byte.

        Raises:
            UsageError: other containers, names or shapes; nothing differs.
            CotejarError: as opening finds.
        """
        self._files = [open_model(path) for path in (good, bad)]
        _require_alike(self._files)
        # By place in the forward pass, not in the file: an error shows where it enters.
        names = sorted(
            (canonical, entry.name)
            for canonical, entry in canonical_names(self._files[0]).items()
        )
        differing = [
            (canonical, name)
            for canonical, name in sorted(names, key=lambda pair: _place(pair[0]))
            if not self._same(name)
        ]
        groups: dict[str, list[str]] = {}
        if _metadata_of(self._files[0]) != _metadata_of(self._files[1]):
            groups[METADATA] = []
        for canonical, name in differing:
            layer = _LAYER.match(canonical)
            title = f"layer {layer[1]}" if by_layer and layer else canonical
            groups.setdefault(title, []).append(name)
        if not groups:
            raise UsageError(
                "there is nothing to search in",
                where=f"{good}, {bad}",
                expected="two models that differ",
                found="the same metadata and the same tensors, byte for byte",
                hint="`apr diff` compares files; the cause is not in them",
            )
        self._groups = groups
        self.differences = list(groups)

    @contextlib.contextmanager
    def state(self, count: int) -> Iterator[State]:
        """Write the mixed model, for as long as it is wanted."""
        from_bad = set(self.differences[:count])
        taken = {name for title in from_bad for name in self._groups[title]}
        suffix = ".gguf" if self._files[0].format == "gguf" else ".apr"
        with tempfile.TemporaryDirectory(prefix="cotejar-bisect-") as folder:
            path = Path(folder) / f"state-{count}{suffix}"
            self._write(path, taken, bad_metadata=METADATA in from_bad)
            yield State(subject=str(path))

    def _same(self, name: str) -> bool:
        a, b = (file.tensors[name] for file in self._files)
        if a.block_type is not b.block_type:
            return False
        good, bad = (np.asarray(file.read_bytes(name)) for file in self._files)
        return np.array_equal(good, bad)

    def _write(self, path: Path, from_bad: set[str], *, bad_metadata: bool) -> None:
        good, bad = self._files
        source = bad if bad_metadata else good
        entries = [(bad if name in from_bad else good).tensors[name] for name in good.tensors]
        files = [bad if name in from_bad else good for name in good.tensors]
        if isinstance(source, GgufFile):
            tensors = [_gguf_tensor(f, e) for f, e in zip(files, entries, strict=True)]
            write_gguf(path, metadata=source.typed_metadata, tensors=tensors)
        else:
            to_write = [_apr_tensor(f, e) for f, e in zip(files, entries, strict=True)]
            write_apr(path, metadata=dict(source.metadata), tensors=to_write)


def _gguf_tensor(file: ModelFile, entry: TensorEntry) -> GgufTensor:
    return GgufTensor(
        name=entry.name,
        block_type=entry.decodable_type(file.path),
        shape=entry.shape,
        data=lambda: np.asarray(file.read_bytes(entry.name)),
    )


def _apr_tensor(file: ModelFile, entry: TensorEntry) -> TensorToWrite:
    return TensorToWrite(
        name=entry.name,
        block_type=entry.decodable_type(file.path),
        shape=entry.shape,
        read=lambda: [np.asarray(file.read_bytes(entry.name))],
    )


def _metadata_of(file: ModelFile) -> object:
    if isinstance(file, GgufFile):
        return {k: (v.value_type, bytes(v.payload)) for k, v in file.typed_metadata.items()}
    # The types of extension blocks follow from the tensors, which are looked at themselves.
    return {k: v for k, v in file.metadata.items() if k != "cotejar.block_types"}


def _place(canonical: str) -> tuple[int, str]:
    layer = _LAYER.match(canonical)
    if layer:
        return (int(layer[1]), canonical)
    return (-1 if "embed" in canonical else 1 << 30, canonical)


def _require_alike(files: Sequence[ModelFile]) -> None:
    good, bad = files
    if good.format != bad.format or good.format == "safetensors":
        raise _unlike("one container, .gguf or .apr", f"{good.format} and {bad.format}")
    other = set(good.tensors) ^ set(bad.tensors)
    if other:
        raise _unlike("the same tensors", f"{sorted(other)[0]} on one side alone")
    for name, entry in good.tensors.items():
        shape = bad.tensors[name].shape
        if entry.shape != shape:
            raise _unlike(f"{name} of {entry.shape}", str(shape))


def _unlike(expected: str, found: str) -> UsageError:
    return UsageError(
        "the two models cannot be mixed",
        where="--good, --bad",
        expected=expected,
        found=found,
        hint="bring both to one container with `apr import` or `apr export`",
    )


class OptionSpace:
    """Settings `KEY=VALUE`: environment variables, and words of the command."""

    def __init__(self, good: str, bad: str) -> None:
        """Read both lists.

        Raises:
            UsageError: a word that is no KEY=VALUE, or nothing differs.
        """
        self._good, self._bad = _read_options(good, "--good"), _read_options(bad, "--bad")
        keys = [*self._good, *(key for key in self._bad if key not in self._good)]
        self._keys = [key for key in keys if self._good.get(key) != self._bad.get(key)]
        if not self._keys:
            raise UsageError(
                "there is nothing to search in",
                where="--good, --bad",
                expected="two lists of KEY=VALUE that differ",
                found="the same",
                hint='--good "A=1 B=1" --bad "A=2 B=1"',
            )
        self.differences = [
            f"{key}: {self._good.get(key, 'unset')} -> {self._bad.get(key, 'unset')}"
            for key in self._keys
        ]

    @contextlib.contextmanager
    def state(self, count: int) -> Iterator[State]:
        """The words, in one text for `{}` and in the environment."""
        values = dict(self._good)
        for key in self._keys[:count]:
            values.pop(key, None)
            if key in self._bad:
                values[key] = self._bad[key]
        subject = " ".join(f"{key}={value}" for key, value in values.items())
        yield State(subject=subject, environment=values)


def _read_options(text: str, option: str) -> dict[str, str]:
    values = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(
                "the options cannot be read",
                where=option,
                expected="words of KEY=VALUE, with spaces between",
                found=word[:80],
                hint='--good "COTEJAR_ISA=portable COTEJAR_THREADS=1"',
            )
        values[key] = value
    return values


class CommitSpace:
    """Commits of the git repository in a folder; each state is a working tree of its own."""

    def __init__(self, good: str, bad: str, folder: Path) -> None:
        """List the commits after `good` up to `bad`, oldest first.

        Raises:
            UsageError: no repository, no such revisions, or `good` is not before `bad`.
        """
        self._folder = folder
        ends = [
            self._git("rev-parse", "--verify", "--end-of-options", f"{end}^{{commit}}")
            for end in (good, bad)
        ]
        listed = self._git("rev-list", "--reverse", "--first-parent", f"{ends[0]}..{ends[1]}")
        commits = listed.split()
        if not commits:
            raise UsageError(
                "there is nothing to search in",
                where=f"--good {good} --bad {bad}",
                expected="a good commit before a bad one",
                found="no commit between the two",
                hint="is it the other way round?",
            )
        self._commits = [ends[0], *commits]
        titles = self._git("log", "--no-walk=unsorted", "--format=%h %s", *commits)
        self.differences = titles.splitlines()

    @contextlib.contextmanager
    def state(self, count: int) -> Iterator[State]:
        """A detached working tree at the commit, for as long as it is wanted."""
        with tempfile.TemporaryDirectory(prefix="cotejar-bisect-") as folder:
            tree = Path(folder) / "tree"
            self._git("worktree", "add", "--detach", "--quiet", str(tree), self._commits[count])
            try:
                yield State(subject=str(tree), folder=tree)
            finally:
                self._git("worktree", "remove", "--force", str(tree))

    def _git(self, *arguments: str) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - git, with revisions as arguments
                ["git", "-C", str(self._folder), *arguments],  # noqa: S607 - git of the PATH
                capture_output=True,
                text=True,
                timeout=_GIT_SECONDS,
                check=False,
                env=os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._refused(arguments, str(error)) from None
        if done.returncode:
            raise self._refused(arguments, done.stderr.strip().splitlines()[-1:] or ["nothing"])
        return done.stdout.strip()

    def _refused(self, arguments: Sequence[str], found: object) -> UsageError:
        return UsageError(
            "git does not do what is asked",
            where=f"git {arguments[0]}",
            expected="a repository that has the two revisions",
            found=str(found)[:200],
            hint="run it inside the repository, with revisions that `git log` shows",
        )
