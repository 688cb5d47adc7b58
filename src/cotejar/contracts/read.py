"""Files and text -> contracts.

A contract is one YAML document of the schema in `schema.py`. What cannot be read raises one
`ContractError` with file, line and column; what can be read but breaks a rule is a finding
(`validate.py`).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from cotejar.contracts.build import build_contract
from cotejar.contracts.source import Source
from cotejar.contracts.yaml_nodes import LOADER, MAX_BYTES, compose, too_large
from cotejar.errors import (
    ContractSyntaxError,
    MissingFileError,
    NotAFileError,
    UnreadableFileError,
)

if TYPE_CHECKING:
    from cotejar.contracts.schema import Contract


def read_contract(path: str | os.PathLike[str]) -> Contract:
    """Read one contract file.

    Raises:
        FileError: there is no such file, or it cannot be read.
        ContractError: it is too large, no YAML, or no contract.
    """
    return build_contract(read_source(path))


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read one YAML file as a graph of nodes; `path` becomes the name in findings."""
    name = os.fspath(path)
    return parse_source(read_text(name), file=name)


def parse_contract(
    text: str, *, file: str = "contract.yaml", loader: type = LOADER
) -> Contract:
    """Parse the text of one contract; `file` is its name in findings."""
    return build_contract(parse_source(text, file=file, loader=loader))


def parse_source(text: str, *, file: str, loader: type = LOADER) -> Source:
    """Parse one YAML document."""
    return Source(file=file, root=compose(text, where=file, loader=loader))


def read_text(name: str) -> str:
    """The text of a regular UTF-8 file of at most `MAX_BYTES`; never waits on a pipe."""
    content = _read_bytes(name)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ContractSyntaxError(
            "Failed to read contract file: it is no UTF-8",
            where=f"{name}:{line}",
            expected="UTF-8",
            found=f"byte 0x{content[error.start]:02x} at offset {error.start}",
            hint="save the file as UTF-8",
        ) from None


def _read_bytes(name: str) -> bytes:
    try:
        # Non-blocking: opening a pipe for reading would otherwise wait for a writer.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(
            "Failed to read contract file: there is none",
            where=name,
            expected="a YAML file or a folder of them",
            found="nothing at this path",
            hint="check the path; relative ones start at the working folder",
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAFileError(
                "Failed to read contract file: it is no regular file",
                where=name,
                expected="a regular file",
                found="a folder, pipe, socket or device",
                hint="give a `.yaml` file; `pv validate` takes folders too",
            )
        if status.st_size > MAX_BYTES:
            raise too_large(f"{status.st_size} bytes", where=name)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(name, error) from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise too_large(f"more than {MAX_BYTES} bytes", where=name)
    return content


def _unreadable(name: str, error: OSError | ValueError) -> UnreadableFileError:
    return UnreadableFileError(
        "Failed to read contract file: the system refuses",
        where=name,
        expected="a file that this user may read",
        found=(error.strerror or str(error)) if isinstance(error, OSError) else str(error),
        hint="check the path and its permissions",
    )
