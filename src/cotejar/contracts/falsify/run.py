"""Run the falsification tests of contracts, and record what came of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.evidence.fingerprint import Fingerprints, model_names
from cotejar.contracts.evidence.ledger import append_record
from cotejar.contracts.evidence.project import Project, find_project
from cotejar.contracts.evidence.record import (
    FalsificationRecord,
    FalsificationVerdict,
    make_stamp,
)
from cotejar.contracts.falsify.command import Command, NotRunnable, plan_command
from cotejar.contracts.falsify.keys import TestKeys, read_test_keys
from cotejar.contracts.falsify.supervise import DEPTH_VARIABLE, run_command
from cotejar.errors import UnknownTestError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cotejar.contracts.corpus import Corpus
    from cotejar.contracts.schema import Contract, FalsificationTest

TAIL_LINES = 20
_MAX_TAIL_LINE = 400
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|.)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to run."""

    shell: bool = False
    """Let a command that needs a shell have one."""
    record: bool = True
    evidence: Path | None = None
    """Instead of the project's folder."""
    timeout_s: float | None = None
    """Instead of the test's and the project's."""
    landlock: bool = True
    """Use it where the kernel has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TestResult:
    """One test, run or not."""

    file: str
    id: str
    prediction: str
    if_fails: str
    command: str
    verdict: FalsificationVerdict
    reason: str
    blocked_by: tuple[str, ...]
    """Fixtures that the test names and that are not there."""
    record: FalsificationRecord | None
    """None if nothing ran."""

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "file": self.file,
            "id": self.id,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "command": self.command,
            "blocked_by": list(self.blocked_by),
            "record": None if self.record is None else self.record.as_json(),
        }


class Falsifier:
    """Runs the tests of one project; each file is fingerprinted once."""

    def __init__(self, project: Project, options: Options) -> None:
        """Refuse what must not be.

        Raises:
            UsageError: a shell under CI, or a run from within a run.
        """
        _require_permitted(options)
        self._project = project
        self._options = options
        self._fingerprints = Fingerprints(project)

    def run(self, contract: Contract, test: FalsificationTest, keys: TestKeys) -> TestResult:
        """Run one test and record it.

        Raises:
            FileError: the record cannot be written.
        """
        plan = plan_command(test.test, self._project, shell=self._options.shell)
        if isinstance(plan, NotRunnable):
            return _not_run(contract, test, plan.reason)
        absent = tuple(f for f in keys.fixtures if self._fingerprints.find_model(f) is None)
        if absent:
            reason = f"a fixture is absent: {', '.join(absent)}"
            return _not_run(contract, test, reason, blocked_by=absent)
        record = self._run_command(contract, test, keys, plan)
        verdict = record.verdict
        if verdict is FalsificationVerdict.NOT_RUN:
            return _not_run(contract, test, record.reason)
        if self._options.record:
            append_record(self._options.evidence or self._project.evidence, record)
        return TestResult(
            file=contract.source.file,
            id=test.id,
            prediction=test.prediction,
            if_fails=test.if_fails,
            command=test.test or "",
            verdict=verdict,
            reason=record.reason,
            blocked_by=(),
            record=record,
        )

    def _run_command(
        self,
        contract: Contract,
        test: FalsificationTest,
        keys: TestKeys,
        command: Command,
    ) -> FalsificationRecord:
        stamp = make_stamp(
            contract,
            self._fingerprints,
            words=command.words,
            models=self._models(contract, keys, command),
        )
        run = run_command(
            command,
            self._project,
            timeout_s=self._options.timeout_s or keys.timeout_s,
            landlock=self._options.landlock,
        )
        return FalsificationRecord(
            stamp=stamp,
            id=test.id,
            verdict=run.ending.verdict,
            reason=run.ending.reason,
            command=test.test or "",
            exit_code=run.exit_code,
            signal=run.signal,
            duration_s=run.duration_s,
            output_bytes=run.output_bytes,
            output_sha256=run.output_sha256,
            output_tail=last_lines(run.output_tail),
            confinement=run.confinement,
        )

    def _models(self, contract: Contract, keys: TestKeys, command: Command) -> list[str]:
        """Every model that the run may read, but none that runs write themselves."""
        parity = contract.source.value_of("parity")
        sides = [parity.get(s) for s in ("reference", "candidate")] if _is_map(parity) else []
        texts = [text for text in sides if isinstance(text, str)]
        names = dict.fromkeys((*keys.fixtures, *model_names((*command.words, *texts))))
        outputs = self._project.writable
        return [
            name
            for name in names
            if not any((self._project.root / name).is_relative_to(folder) for folder in outputs)
        ]


def falsify_corpus(
    corpus: Corpus,
    options: Options,
    *,
    ids: Sequence[str] = (),
    on_result: Callable[[TestResult], None] | None = None,
) -> list[TestResult]:
    """Run every test of every contract, or those with the given ids.

    Args:
        corpus: the contracts.
        options: how to run.
        ids: tests to run; none given: all.
        on_result: called with each result as it comes.

    Raises:
        UnknownTestError: no contract has a test of that id.
        UsageError: a shell under CI, or a run from within a run.
        ContractError: the project's settings, or a test's keys, mean nothing.
        FileError: a record cannot be written.
    """
    _require_permitted(options)
    _require_known(corpus, ids)
    results = []
    for contract, test, keys, falsifier in _selected(corpus, options, ids):
        result = falsifier.run(contract, test, keys)
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def last_lines(text: str) -> tuple[str, ...]:
    """The last lines of an output, each cut to a length that a record can hold.

    Colours are dropped and other control characters replaced: a terminal that shows them
    must not obey them.
    """
    plain = [_ESCAPE.sub("", line) for line in text.rstrip().splitlines()[-TAIL_LINES:]]
    lines = ["".join(c if c.isprintable() else "\ufffd" for c in line) for line in plain]
    return tuple(x if len(x) <= _MAX_TAIL_LINE else x[:_MAX_TAIL_LINE] + "..." for x in lines)


def _selected(
    corpus: Corpus, options: Options, ids: Sequence[str]
) -> Iterator[tuple[Contract, FalsificationTest, TestKeys, Falsifier]]:
    # All settings and keys are read before anything runs, so that a slip costs no time.
    falsifiers: dict[Path, Falsifier] = {}
    planned = []
    for contract in corpus.contracts:
        project = find_project(contract.source.file)
        falsifier = falsifiers.setdefault(project.root, Falsifier(project, options))
        planned.append((contract, read_test_keys(contract), falsifier))
    for contract, keys, falsifier in planned:
        for test in contract.tests:
            if not ids or test.id in ids:
                yield contract, test, keys[test.id], falsifier


def _require_permitted(options: Options) -> None:
    if options.shell and os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        raise UsageError(
            "a shell is not allowed under CI",
            where="--shell",
            expected="commands that need no shell",
            found=f"the variable CI={os.environ['CI']}",
            hint="write the pipeline as a script or a test, and name that in the contract",
        )
    if os.environ.get(DEPTH_VARIABLE):
        raise UsageError(
            "a falsification test cannot run falsification tests",
            where=f"the variable {DEPTH_VARIABLE}",
            expected="to be started by a user, not by a contract",
            found=f"{DEPTH_VARIABLE}={os.environ[DEPTH_VARIABLE]}",
            hint="let the contract name the inner command itself",
        )


def _require_known(corpus: Corpus, ids: Sequence[str]) -> None:
    known = {test.id for contract in corpus.contracts for test in contract.tests}
    for test_id in ids:
        if test_id not in known:
            raise UnknownTestError(
                f"no contract has a test {test_id!r}",
                where=corpus.target,
                expected=f"one of {len(known)} ids: {', '.join(sorted(known)[:10]) or 'none'}",
                found=test_id,
                hint="`pv status` and `pv audit` list what a contract holds",
            )


def _not_run(
    contract: Contract,
    test: FalsificationTest,
    reason: str,
    *,
    blocked_by: tuple[str, ...] = (),
) -> TestResult:
    return TestResult(
        file=contract.source.file,
        id=test.id,
        prediction=test.prediction,
        if_fails=test.if_fails,
        command=test.test or "",
        verdict=FalsificationVerdict.NOT_RUN,
        reason=reason,
        blocked_by=blocked_by,
        record=None,
    )


def _is_map(value: object) -> bool:
    return isinstance(value, dict)
