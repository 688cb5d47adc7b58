"""The version of a contract before the present one: another file, or a revision in git.

`OLD` is a file, a folder whose files have the same relative names, or `git:REV`, where REV
is whatever `git rev-parse` understands (`git:HEAD~1`, `git:v1.0`, `git:origin/main`).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.read import parse_contract, read_contract
from cotejar.contracts.yaml_nodes import MAX_BYTES, too_large
from cotejar.errors import MissingFileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.contracts.schema import Contract

GIT_PREFIX = "git:"
_GIT_SECONDS = 30


class PreviousVersions:
    """Finds the old version of contracts that were read from `target`."""

    def __init__(self, old: str, target: str) -> None:
        """Check that the old versions are there at all.

        Raises:
            UsageError: a file is given for a folder or the reverse, or git knows no such
                revision, or there is no git.
            MissingFileError: there is nothing at the path.
        """
        self._target = target
        self._revision: str | None = None
        self._old = Path(old)
        if old.startswith(GIT_PREFIX):
            self._revision = _resolve(_folder_of(target), old.removeprefix(GIT_PREFIX))
        else:
            _require_same_kind(old, target)
        self.name = old
        """As the user gave it."""

    def find(self, contract_file: str) -> Contract | None:
        """The old version; None where there was no such file.

        Raises:
            FileError: it cannot be read.
            ContractError: it is no contract.
        """
        if self._revision is not None:
            return self._find_in_git(Path(contract_file))
        if not self._old.is_dir():
            return read_contract(self._old)
        old = self._old / os.path.relpath(contract_file, self._target)
        return read_contract(old) if old.is_file() else None

    def _find_in_git(self, file: Path) -> Contract | None:
        # A path with `./` is relative to the folder in which git runs.
        blob = f"{self._revision}:./{file.name}"
        where = f"{self.name}:{file}"
        size = _git(file.parent, "cat-file", "-s", blob)
        if size is None:
            return None
        if int(size) > MAX_BYTES:
            raise too_large(f"{int(size)} bytes", where=where)
        content = _git(file.parent, "cat-file", "blob", blob) or b""
        return parse_contract(content.decode("utf-8-sig", errors="replace"), file=where)


def _folder_of(target: str) -> Path:
    path = Path(target)
    return path if path.is_dir() else path.parent


def _require_same_kind(old: str, target: str) -> None:
    if not _exists(old):
        raise MissingFileError(
            "there is no old version to compare with",
            where=f"--against {old}",
            expected="a contract, a folder of contracts, or git:REV",
            found="nothing at this path",
            hint="`--against git:HEAD~1` takes the version of the last commit but one",
        )
    if Path(old).is_dir() != Path(target).is_dir():
        kinds = ("a file", "a folder")
        raise UsageError(
            "a folder is compared with a folder, and a file with a file",
            where=f"--against {old}",
            expected=f"{kinds[Path(target).is_dir()]}, as {target} is",
            found=kinds[Path(old).is_dir()],
            hint="name both of one kind, or give git:REV",
        )


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name that is too long for the system, or a folder that it closes to us
        return False


def _resolve(folder: Path, revision: str) -> str:
    """The commit's hash, so that later commands all see the same one."""
    arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    found = _git(folder, *arguments, f"{revision}^{{commit}}")
    if found is None:
        raise UsageError(
            "git knows no such revision",
            where=f"--against {GIT_PREFIX}{revision}",
            expected=f"a commit of the repository that holds {folder}",
            found=revision or "nothing after git:",
            hint="`git log --oneline` lists commits; a shallow clone has few of them",
        )
    return found.decode().strip()


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What a git command prints; None if it fails."""
    command: Sequence[str] = ("git", "-C", str(folder), *arguments)
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and fixed words before the user's
            command, capture_output=True, check=False, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            "git cannot be asked for the old version",
            where=f"git {' '.join(arguments)}",
            expected=f"git on the PATH, and an answer within {_GIT_SECONDS} s",
            found=str(error),
            hint="give the old version as a file: --against OLD.yaml",
        ) from None
    return done.stdout if done.returncode == 0 else None
