"""How `pv lint` ended over time: one line a run in `.pv/lint-trend.jsonl`.

The file lies beside the folder of contracts and is only ever appended to. A run is compared
with the runs of the seven days before it: their mean score, and the errors of the last one.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotejar.contracts.evidence.ledger import append_line
from cotejar.contracts.previous import run_git
from cotejar.contracts.read import read_text
from cotejar.errors import EvidenceError, MissingFileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW = timedelta(days=7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One run over every contract and every gate."""

    time: str
    """ISO 8601, UTC."""
    commit: str | None
    """None outside a repository."""
    num_contracts: int
    num_errors: int
    num_warnings: int
    mean_score: float
    """Of all contracts, in [0, 1]."""

    def as_json(self) -> dict[str, Any]:
        """The same facts, for a line of the file."""
        return asdict(self)

    def as_text(self) -> str:
        """One line."""
        return (
            f"{self.time[:16]} {(self.commit or 'no commit')[:9]} score {self.mean_score:.3f}, "
            f"{self.num_errors} errors, {self.num_warnings} warnings, "
            f"{self.num_contracts} contract(s)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrendStep:
    """A run, and those of the seven days before it, oldest first."""

    file: str
    now: Snapshot
    before: tuple[Snapshot, ...]


def trend_file(target: str) -> Path:
    """Where the runs over a folder of contracts, or over one contract, are kept."""
    return Path(target).resolve().parent / ".pv" / "lint-trend.jsonl"


def read_trend(file: Path) -> list[Snapshot]:
    """Every run on record, oldest first; none if there is no file.

    Raises:
        FileError: it cannot be read, or is too large.
        EvidenceError: a line is no record of a run.
    """
    try:
        lines = read_text(str(file)).splitlines()
    except MissingFileError:
        return []
    return [_parse(line, f"{file}:{number}") for number, line in enumerate(lines, start=1)]


def make_snapshot(
    target: str, *, num_contracts: int, num_errors: int, num_warnings: int, mean_score: float
) -> Snapshot:
    """A record of a run that ends now."""
    try:
        commit = run_git(Path(target).resolve().parent, "rev-parse", "HEAD")
    except UsageError:  # no git: a trend needs none
        commit = None
    return Snapshot(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=None if commit is None else commit.decode().strip(),
        num_contracts=num_contracts,
        num_errors=num_errors,
        num_warnings=num_warnings,
        mean_score=mean_score,
    )


def step_of(file: Path, now: Snapshot) -> TrendStep:
    """The run, and those within `WINDOW` before it."""
    end = datetime.fromisoformat(now.time)
    recent = (
        one
        for one in read_trend(file)
        if end - WINDOW <= datetime.fromisoformat(one.time) <= end
    )
    return TrendStep(file=str(file), now=now, before=tuple(recent))


def append_snapshot(file: Path, snapshot: Snapshot) -> None:
    """Add a run to the record.

    Raises:
        WriteError: the system refuses, or the disk is full.
        NotAFileError: something else has the file's name.
    """
    append_line(
        file, json.dumps(snapshot.as_json(), allow_nan=False), hint="run without --trend"
    )


def trend_text(snapshots: Sequence[Snapshot], *, last: int = 10) -> str:
    """The last runs, newest first."""
    shown = [snapshot.as_text() for snapshot in list(snapshots)[: -last - 1 : -1]]
    return "\n".join([*shown, f"{len(snapshots)} run(s) on record"])


def _parse(line: str, where: str) -> Snapshot:
    types: dict[str, tuple[type, ...]] = {
        "time": (str,),
        "commit": (str, type(None)),
        "num_contracts": (int,),
        "num_errors": (int,),
        "num_warnings": (int,),
        "mean_score": (int, float),
    }
    try:
        found = json.loads(line)
        values = {name: found[name] for name in types}
        typed = all(type(values[name]) in kinds for name, kinds in types.items())
        zone = datetime.fromisoformat(values["time"]).tzinfo if typed else None
    except (ValueError, KeyError, TypeError, RecursionError):
        typed, zone, values = False, None, {}
    if not typed or zone is None or not math.isfinite(values["mean_score"]):
        raise EvidenceError(
            "a line is no record of a run of `pv lint`",
            where=where,
            expected=f"a JSON object with {', '.join(types)}; the time with its zone",
            found=line[:80],
            hint="take the line out, or move the file away",
        )
    return Snapshot(**values)
