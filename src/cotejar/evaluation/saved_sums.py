"""What an evaluation has so far, in a small file: it goes on where it was stopped.

The file says what it is of: models, engines, text and chunks. Another run's is refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cotejar.errors import UsageError
from cotejar.formats.atomic import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = "cotejar.evaluation/1"
MAX_BYTES = 64 << 20


def save_sums(path: Path, identity: Mapping[str, object], sums: Mapping[str, object]) -> None:
    """Write, or replace, whole.

    Raises:
        FileError: the file cannot be written.
    """
    text = json.dumps({"schema": SCHEMA, "of": dict(identity), "sums": dict(sums)})
    with atomic_write(path, overwrite=True) as file:
        file.write(text.encode())


def load_sums(path: Path, identity: Mapping[str, object]) -> dict[str, Any] | None:
    """Read what `save_sums` wrote of the same evaluation; None where there is no file.

    Raises:
        UsageError: the file is no such file, or is of another evaluation.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error.strerror or type(error).__name__) from None
    try:
        found = json.loads(raw) if len(raw) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise _refused(path, "another file")
    kept = found.get("of")
    if kept != json.loads(json.dumps(dict(identity))):
        names = [
            k for k in identity if not isinstance(kept, dict) or kept.get(k) != identity[k]
        ]
        raise _refused(path, f"one that differs in {', '.join(names) or 'more than is asked'}")
    sums = found.get("sums")
    if not isinstance(sums, dict):
        raise _refused(path, "one without sums")
    return sums


def _refused(path: Path, found: str) -> UsageError:
    return UsageError(
        "the evaluation cannot go on from this file",
        where=str(path),
        expected="what the same evaluation saved, or no file",
        found=found,
        hint="name another file with --resume, or remove this one",
    )
