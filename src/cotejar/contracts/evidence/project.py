"""The project that a contract belongs to, and its settings for runs.

The root is the nearest folder upward that holds a `pyproject.toml`; without one it is the
contract's own folder. Settings, all optional:

    [tool.cotejar.falsify]
    allow = ["pytest", "apr"]      # programs that a contract may start; replaces the default
    writable = ["demo-out"]        # folders that a command may write, beside its scratch
    code = ["src"]                 # what counts as the code under test
    evidence = "evidence"          # where records are kept
    timeout_s = 300
    memory_mib = 8192              # resident memory of all its processes together
    output_mib = 4
    file_mib = 4096                # the largest file it may write
    processes = 256                # alive at the same time
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cotejar.errors import SettingsError, UnreadableFileError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

DEFAULT_ALLOW = ("pytest", "python", "apr", "pv", "cotejar")
MAX_SETTINGS_BYTES = 1024 * 1024
_LISTS = ("allow", "writable", "code")
_NUMBERS = ("timeout_s", "memory_mib", "output_mib", "file_mib", "processes")
_MAX_NUMBER = 10**7
"""116 days, or 9.5 TiB: beyond it a setting is a slip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one command may use before it is stopped."""

    timeout_s: float = 300.0
    memory_mib: int = 8192
    output_mib: int = 4
    file_mib: int = 4096
    processes: int = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """Where commands run, and what they may do."""

    root: Path
    """Absolute."""
    allow: tuple[str, ...] = DEFAULT_ALLOW
    writable: tuple[Path, ...] = ()
    """Absolute folders."""
    code: tuple[str, ...] = ("src",)
    """Relative to the root."""
    evidence: Path
    """Absolute folder; it need not be there yet."""
    limits: Limits = field(default_factory=Limits)


def find_project(contract_file: str | os.PathLike[str]) -> Project:
    """The project around a contract.

    Raises:
        SettingsError: its `pyproject.toml` is no TOML, or a setting means nothing.
        UnreadableFileError: the system refuses to read it.
    """
    folder = Path(contract_file).resolve().parent
    for root in (folder, *folder.parents):
        settings = root / "pyproject.toml"
        if settings.is_file():
            return _project(root, settings, _read_table(settings))
    return Project(root=folder, evidence=folder / "evidence")


def _read_table(file: Path) -> Mapping[str, Any]:
    """`[tool.cotejar.falsify]`; empty where there is none."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise UnreadableFileError(
            "the project's settings cannot be read",
            where=str(file),
            expected="a file that this user may read",
            found=error.strerror or str(error),
            hint="check its permissions",
        ) from None
    if len(content) > MAX_SETTINGS_BYTES:
        found = f"more than {MAX_SETTINGS_BYTES} bytes"
        _fail(file, f"at most {MAX_SETTINGS_BYTES} bytes", found)
    try:
        table: Any = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        _fail(file, "TOML", str(error))
    for key in ("tool", "cotejar", "falsify"):
        table = table.get(key, {})
        if not isinstance(table, dict):
            _fail(file, f"a table `{key}`", type(table).__name__)
    settings: dict[str, Any] = table
    return settings


def _project(root: Path, file: Path, table: Mapping[str, Any]) -> Project:
    known = (*_LISTS, *_NUMBERS, "evidence")
    for key in table:
        if key not in known:
            _fail(file, f"keys of: {', '.join(known)}", key)
    lists = {name: _texts(file, table, name) for name in _LISTS if name in table}
    numbers = {name: _number(file, table, name) for name in _NUMBERS if name in table}
    evidence = table.get("evidence", "evidence")
    if not isinstance(evidence, str) or not evidence:
        _fail(file, "evidence: the name of a folder", repr(evidence))
    project = Project(
        root=root,
        allow=lists.get("allow", DEFAULT_ALLOW),
        writable=tuple((root / name).resolve() for name in lists.get("writable", ())),
        code=lists.get("code", ("src",)),
        evidence=(root / evidence).resolve(),
        limits=Limits(**numbers),
    )
    for folder in project.writable:
        if project.evidence.is_relative_to(folder) or folder.is_relative_to(project.evidence):
            # A command that writes there could write its own verdict.
            expected = "an evidence folder apart from every writable one"
            _fail(file, expected, f"{project.evidence} and {folder}")
    return project


def _texts(file: Path, table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = table[name]
    if not isinstance(found, list) or not all(isinstance(x, str) and x for x in found):
        _fail(file, f"{name}: a list of texts", repr(found))
    return tuple(found)


def _number(file: Path, table: Mapping[str, Any], name: str) -> Any:
    found = table[name]
    kinds = (int, float) if name == "timeout_s" else (int,)
    is_number = isinstance(found, kinds) and not isinstance(found, bool)
    if not is_number or not 0 < found <= _MAX_NUMBER:
        what = "a number" if name == "timeout_s" else "an integer"
        _fail(file, f"{name}: {what} above 0, at most {_MAX_NUMBER}", repr(found))
    return found


def _fail(file: Path, expected: str, found: str) -> NoReturn:
    raise SettingsError(
        "a setting of `pv falsify` means nothing",
        where=f"{file}, [tool.cotejar.falsify]",
        expected=expected,
        found=found,
        hint="docs/evidence.md lists the settings",
    )
