"""Which contracts changed since a commit, and which depend on those."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.corpus import is_contract_name, is_folder
from cotejar.contracts.previous import resolve_revision, run_git
from cotejar.errors import NothingMeasuredError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.contracts.schema import Contract


def find_changed_files(target: str, revision: str) -> set[Path]:
    """Files under a folder, or one file, that differ from `revision`: here, staged, or new.

    The working tree is compared, not the last commit; a file that is gone counts.

    Returns:
        Absolute paths.

    Raises:
        UsageError: git knows no such revision, or there is no git.
    """
    path = Path(target)
    folder = path if is_folder(path) else path.parent
    commit = resolve_revision(folder, revision, option="--diff ")
    where = "." if is_folder(path) else path.name
    tracked = ("diff", "--name-only", "--relative", "--no-renames", "-z", commit, "--", where)
    untracked = ("ls-files", "--others", "--exclude-standard", "-z", "--", where)
    found: set[Path] = set()
    for arguments in (tracked, untracked):
        listed = run_git(folder, *arguments)
        if listed is None:
            raise UsageError(
                "git cannot list what changed",
                where=f"--diff {revision}",
                expected="a work tree that holds the contracts",
                found=f"git {arguments[0]} failed in {folder}",
                hint="without --diff every contract is judged",
            )
        names = filter(None, listed.split(b"\0"))
        found |= {(folder / os.fsdecode(name)).resolve() for name in names}
    return found


def select_changed(contracts: Sequence[Contract], changed: set[Path]) -> set[Path]:
    """The files that changed, and that of every contract that depends on one, step by step.

    Args:
        contracts: those that parse.
        changed: absolute paths; files that are gone or broken are among them.
    """
    selected = {path for path in changed if is_contract_name(path)}
    stems = {path.stem for path in selected}
    grew = True
    while grew:
        grew = False
        for contract in contracts:
            file = Path(contract.source.file).resolve()
            if file not in selected and stems.intersection(contract.metadata.depends_on):
                selected.add(file)
                stems.add(contract.stem)
                grew = True
    return selected


def nothing_changed(target: str, revision: str) -> NothingMeasuredError:
    """Nothing to judge is never a pass."""
    return NothingMeasuredError(
        "decline: no contract changed",
        where=f"--diff {revision}",
        expected=f"at least one contract under {target} that differs from {revision}",
        found="none that is there now",
        hint="without --diff every contract is judged; nothing was checked",
    )
