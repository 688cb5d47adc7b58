"""`apr bisect`: run any command on states between good and bad until one difference is left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotejar.diagnosis.bisection.search import Found, Outcome, search
from cotejar.diagnosis.bisection.spaces import CommitSpace, ModelSpace, OptionSpace
from cotejar.errors import UsageError
from cotejar.formats.atomic import atomic_write
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cotejar.diagnosis.bisection.spaces import Space, State

SPACES = ("layers", "tensors", "commits", "options")
SCHEMA = "cotejar.bisect/1"
MAX_STATE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BisectRequest:
    """What is asked of `apr bisect`."""

    good: str
    bad: str
    check: str
    """A command; `{}` becomes the subject. Exit 0 is good, 1 bad, anything else undecided."""
    over: str
    """One of `SPACES`."""
    saved: Path
    """Keeps every outcome; an interrupted search goes on from it."""
    timeout_s: float = 600.0
    """Of one run; what takes longer is undecided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bisection:
    """What came of it."""

    over: str
    differences: tuple[str, ...]
    guilty: tuple[str, ...]
    """The difference that makes it bad; several where those between are undecided."""
    outcomes: dict[int, Outcome]
    blocked: str | None
    """Why nothing could be searched; None where something was found."""
    num_run: int
    """Runs of the command now; the others were kept."""

    @property
    def verdict(self) -> Verdict:
        """PASS where one difference is named: the question is answered."""
        return Verdict.PASS if len(self.guilty) == 1 else Verdict.INCOMPARABLE


def run_bisect(
    request: BisectRequest, on_state: Callable[[str], None] = lambda _: None
) -> Bisection:
    """Search until one difference is left, or nothing more can be decided.

    Raises:
        UsageError: no such space, a command without `{}`, or a file of another search.
        CotejarError: as the space finds.
    """
    command = _read_command(request)
    space = open_space(request)
    identity = _identity(request, space)
    kept = _load(request.saved, identity)
    num_run = 0

    def try_state(count: int) -> Outcome:
        nonlocal num_run
        if count not in kept:
            total = len(space.differences)
            on_state(f"state {count} of {total}: {_described(space, count)}")
            with space.state(count) as state:
                kept[count] = _run(command, state, request.timeout_s)
            num_run += 1
            _save(request.saved, identity, kept)
        return kept[count]

    found = search(len(space.differences), try_state)
    blocked, guilty = None, tuple[str, ...]()
    if isinstance(found, Found):
        guilty = tuple(space.differences[found.last_good : found.first_bad])
    elif kept.get(0) is not Outcome.GOOD:
        blocked = f"the good side is {kept[0].value}"
    else:
        blocked = f"the bad side is {kept[len(space.differences)].value}"
    return Bisection(
        over=request.over,
        differences=tuple(space.differences),
        guilty=guilty,
        outcomes=dict(sorted(kept.items())),
        blocked=blocked,
        num_run=num_run,
    )


def open_space(request: BisectRequest) -> Space:
    """What the request searches over.

    Raises:
        UsageError: no such space, or as the space finds.
    """
    match request.over:
        case "layers" | "tensors":
            return ModelSpace(request.good, request.bad, by_layer=request.over == "layers")
        case "options":
            return OptionSpace(request.good, request.bad)
        case "commits":
            return CommitSpace(request.good, request.bad, Path.cwd())
    raise UsageError(
        f"there is no search over {request.over[:80]!r}",
        where="--over",
        expected=", ".join(SPACES),
        found=request.over[:80],
        hint="layers and tensors are of two models",
    )


def _read_command(request: BisectRequest) -> list[str]:
    try:
        command = shlex.split(request.check)
    except ValueError as error:
        raise _bad_command(str(error)) from None
    needs_subject = request.over in {"layers", "tensors"}
    if not command or (needs_subject and not any("{}" in word for word in command)):
        raise _bad_command(request.check[:200] or "nothing")
    return command


def _bad_command(found: str) -> UsageError:
    return UsageError(
        "the command cannot be run",
        where="--check",
        expected="a command with {} where the model is named",
        found=found,
        hint="--check 'apr parity reference.gguf {} --brief'",
    )


def _run(command: list[str], state: State, timeout_s: float) -> Outcome:
    words = [word.replace("{}", state.subject) for word in command]
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
            words,
            env=os.environ | dict(state.environment),
            cwd=state.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise _bad_command(f"{words[0]}: {error.strerror}") from None
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return Outcome.UNDECIDED
    finally:
        _end_session(process)
    return {0: Outcome.GOOD, 1: Outcome.BAD}.get(code, Outcome.UNDECIDED)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """The command, and what it has started and left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _described(space: Space, count: int) -> str:
    return "good" if count == 0 else f"up to {space.differences[count - 1]}"


def _identity(request: BisectRequest, space: Space) -> dict[str, object]:
    """Another search's outcomes are of no use; of a changed file, neither."""
    facts = [_fingerprint(side) for side in (request.good, request.bad)]
    return {
        "over": request.over,
        "check": request.check,
        "sides": [request.good, request.bad],
        "files": facts,
        "differences": list(space.differences),
    }


def _fingerprint(side: str) -> str:
    path = Path(side)
    try:
        if not path.is_file():
            return ""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()


def _save(path: Path, identity: Mapping[str, object], kept: Mapping[int, Outcome]) -> None:
    facts = {
        "schema": SCHEMA,
        "of": identity,
        "outcomes": {str(count): outcome.value for count, outcome in kept.items()},
    }
    with atomic_write(path, overwrite=True) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())


def _load(path: Path, identity: Mapping[str, object]) -> dict[int, Outcome]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _refused(path, error.strerror or type(error).__name__) from None
    try:
        facts: Any = json.loads(raw) if len(raw) <= MAX_STATE_BYTES else None
        if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
            raise _refused(path, "another file")
        kept = {int(k): Outcome(v) for k, v in facts["outcomes"].items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise _refused(path, "a damaged file") from None
    if facts.get("of") != json.loads(json.dumps(identity)):
        raise _refused(path, "the outcomes of another search")
    return kept


def _refused(path: Path, found: str) -> UsageError:
    return UsageError(
        "the search cannot go on from this file",
        where=str(path),
        expected="what the same search saved, or no file",
        found=found,
        hint="name another file with --state, or remove this one",
    )
