"""The version of a contract before the present one: another file, or a revision in git.

`OLD` is a file, a folder whose files have the same relative names, or `git:REV`, where REV
is whatever `git rev-parse` understands (`git:HEAD~1`, `git:v1.0`, `git:origin/main`).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.corpus import is_folder
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
            revision = old.removeprefix(GIT_PREFIX)
            self._revision = resolve_revision(
                _folder_of(target), revision, option=f"--against {GIT_PREFIX}"
            )
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
            return self._find_inrun_git(Path(contract_file))
        if not is_folder(self._old):
            return read_contract(self._old)
        old = self._old / os.path.relpath(contract_file, self._target)
        return read_contract(old) if old.is_file() else None

    def _find_inrun_git(self, file: Path) -> Contract | None:
        # A path with `./` is relative to the folder in which git runs.
        blob = f"{self._revision}:./{file.name}"
        where = f"{self.name}:{file}"
        size = run_git(file.parent, "cat-file", "-s", blob)
        if size is None:
            return None
        if int(size) > MAX_BYTES:
            raise too_large(f"{int(size)} bytes", where=where)
        content = run_git(file.parent, "cat-file", "blob", blob) or b""
        return parse_contract(content.decode("utf-8-sig", errors="replace"), file=where)


def _folder_of(target: str) -> Path:
    path = Path(target)
    return path if is_folder(path) else path.parent


def _require_same_kind(old: str, target: str) -> None:
    if not _exists(old):
        raise MissingFileError(
            "there is no old version to compare with",
            where=f"--against {old}",
            expected="a contract, a folder of contracts, or git:REV",
            found="nothing at this path",
            hint="`--against git:HEAD~1` takes the version of the last commit but one",
        )
    if is_folder(old) != is_folder(target):
        kinds = ("a file", "a folder")
        raise UsageError(
            "a folder is compared with a folder, and a file with a file",
            where=f"--against {old}",
            expected=f"{kinds[is_folder(target)]}, as {target} is",
            found=kinds[is_folder(old)],
            hint="name both of one kind, or give git:REV",
        )


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name that is too long for the system, or a folder that it closes to us
        return False


def resolve_revision(folder: Path, revision: str, *, option: str) -> str:
    """The commit's hash, so that later commands all see the same one.

    Raises:
        UsageError: git knows no such revision, or there is no git.
    """
    arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    found = run_git(folder, *arguments, f"{revision}^{{commit}}")
    if found is None:
        raise UsageError(
            "git knows no such revision",
            where=f"{option}{revision}",
            expected=f"a commit of the repository that holds {folder}",
            found=revision or "no revision",
            hint="`git log --oneline` lists commits; a shallow clone has few of them",
        )
    return found.decode().strip()


def run_git(folder: Path, *arguments: str) -> bytes | None:
    """What a git command prints; None if it fails.

    Raises:
        UsageError: there is no git, or it takes too long.
    """
    command: Sequence[str] = ("git", "-C", str(folder), *arguments)
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and fixed words before the user's
            command, capture_output=True, check=False, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            "git cannot be asked what was before",
            where=f"git {' '.join(arguments)}",
            expected=f"git on the PATH, and an answer within {_GIT_SECONDS} s",
            found=str(error),
            hint="put git on the PATH, or do without --diff and --against git:REV",
        ) from None
    return done.stdout if done.returncode == 0 else None
