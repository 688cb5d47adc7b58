"""Notice writes where they cannot be prevented: the project's files before and after.

Used where the kernel has no Landlock. It sees files that appear, vanish, or change in size
or time of change under the project's root; it sees nothing elsewhere, and it cannot tell
the command's writes from those that others make meanwhile.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SKIPPED = frozenset({".git", ".hg", "__pycache__", "node_modules"})

Snapshot = dict[str, tuple[int, int, int]]
"""Path relative to the root -> (inode, size in bytes, time of change in ns)."""


def take_snapshot(root: Path, writable: Iterable[Path]) -> Snapshot:
    """Note every file under `root`; hidden folders of version control and environments,
    and the `writable` folders, are skipped.
    """  # noqa: D205 - one list
    allowed = {str(folder) for folder in writable}
    found: Snapshot = {}
    for parent, folders, names in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if name not in _SKIPPED
            and str(Path(parent) / name) not in allowed
            and not (Path(parent) / name / "pyvenv.cfg").exists()
        ]
        for name in (*names, *folders):
            path = Path(parent) / name
            try:
                status = path.lstat()
            except OSError:
                continue
            # A folder's own size and time change with what is in it, which is listed itself.
            size, changed = (0, 0) if name in folders else (status.st_size, status.st_mtime_ns)
            found[str(path.relative_to(root))] = (status.st_ino, size, changed)
    return found


def changed_paths(before: Snapshot, after: Snapshot) -> list[str]:
    """What appeared, vanished or changed, sorted."""
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
