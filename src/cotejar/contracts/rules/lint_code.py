"""Rules of the gates `verify`, `enforce` and `enforcement-level`: PV-VER, PV-ENF, PV-LCK."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.findings import Severity
from cotejar.contracts.proof_level import (
    ProofLevel,
    declared_enforcement_level,
    declared_proof_level,
    level_rank,
)
from cotejar.contracts.rules.lint_rule import LintRule
from cotejar.contracts.rules.rule import blank
from cotejar.contracts.schema import EnforcementLevel
from cotejar.contracts.traceability import defines, find_upward, pytest_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.rules.lint_rule import LintSubject

_ACCELERATOR = re.compile(r"gpu|cuda", re.IGNORECASE)
PROGRAMS = frozenset(
    {"apr", "bash", "cargo", "cotejar", "grep", "make", "pv", "pytest", "python", "python3"}
    | {"sh", "test", "true"}
)
"""What a `test` may start with to count as a command; a path with a slash does too."""


class GoneTest(LintRule):
    """PV-VER-001: a command names a test that is not there.

    Why:
        pytest then runs nothing, and what was never run was never survived. A warning where
        test or contract speak of a GPU, which may not be on this machine.
    Bad:
        falsification_tests:
          - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow,
             test: "pytest tests/test_example.py::test_gone"}
    Good:
        falsification_tests:
          - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow,
             test: "pytest tests/test_example.py::test_it"}
    """

    gate = "verify"
    effort_minutes = 10

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look for the file upward from the contract, and in it for the function."""
        contract = subject.contract
        folder = Path(contract.source.file).resolve().parent
        for index, test in enumerate(contract.tests):
            for file, function in pytest_nodes(test.test or ""):
                found = find_upward(folder, file)
                if found is not None and (function is None or defines(found, function)):
                    continue
                message = f"{test.id} runs {function or file}, which is not there"
                finding = self.find(subject, message, "falsification_tests", index, "test")
                soft = _ACCELERATOR.search(f"{contract.stem} {function or file}")
                yield replace(finding, severity=Severity.WARNING) if soft else finding


class ProseTest(LintRule):
    """PV-VER-002: a test's text is no command.

    Why:
        Prose cannot be run, so it can never fail. Judged with --strict-test-binding only.
    Bad:
        falsification_tests:
          - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow,
             test: try random vectors}
    Good:
        falsification_tests:
          - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow,
             test: "pytest tests/test_example.py::test_it"}
    """

    severity = Severity.WARNING
    gate = "verify"
    effort_minutes = 10

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look at the first word of every test."""
        if not subject.settings.strict_test_binding:
            return
        for index, test in enumerate(subject.contract.tests):
            if not is_command(test.test or test.test_harness or ""):
                message = f"{test.id} is prose: nothing can run it"
                yield self.find(subject, message, "falsification_tests", index)


class NoConditions(LintRule):
    """PV-ENF-001: a kernel's equation has no precondition or no postcondition.

    Why:
        Without them nothing can be asserted where the code runs.
    Bad:
        equations:
          identity: {formula: y = x, domain: R, lean_theorem: t}
    Good:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
                     lean_theorem: t}
    """

    severity = Severity.WARNING
    gate = "enforce"
    effort_minutes = 20

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look at every equation of a kernel."""
        for equation in subject.contract.equations if subject.contract.is_kernel else ():
            if not equation.preconditions or not equation.postconditions:
                message = f"the equation {equation.name} lacks a pre- or postcondition"
                yield self.find(subject, message, "equations", equation.name)


class NoTheorem(LintRule):
    """PV-ENF-002: a kernel's equation names no Lean theorem.

    Why:
        The strongest claim about it has no place to be found.
    Bad:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y]}
    Good:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
                     lean_theorem: t}
    """

    severity = Severity.WARNING
    gate = "enforce"
    effort_minutes = 20

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look at every equation of a kernel."""
        for equation in subject.contract.equations if subject.contract.is_kernel else ():
            if blank(equation.lean_theorem):
                message = f"the equation {equation.name} names no Lean theorem"
                yield self.find(subject, message, "equations", equation.name)


class BelowLock(LintRule):
    """PV-LCK-001: a contract fell below the level it was locked at.

    Why:
        A locked level may only rise. The lock is basic, standard, strict or proven, or
        L1 to L5; another word cannot be kept and counts as broken.
    Bad:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)],
           locked_level: L4}
    Good:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)],
           locked_level: L3}
    """

    gate = "enforcement-level"
    effort_minutes = 5

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Compare the lock with what the contract's lists amount to."""
        contract, lock = subject.contract, subject.contract.metadata.locked_level
        if lock is None:
            return
        level = declared_proof_level(contract, subject.settings.bindings)
        enforced = declared_enforcement_level(contract)
        word = lock.strip()
        if word in ProofLevel.__members__:
            kept, actual = level >= ProofLevel[word], level.name
        else:
            words = tuple(EnforcementLevel)
            kept = word in words and level_rank(enforced) >= words.index(EnforcementLevel(word))
            actual = enforced.value
        if not kept:
            message = f"locked at {lock}, but what the contract lists amounts to {actual}"
            yield self.find(subject, message, "metadata", "locked_level")


class BelowLevel(LintRule):
    """PV-LCK-002: a contract lists less than the level it declares, or the caller asks for.

    Why:
        A declared level that nothing backs misleads. --min-level asks it of every contract.
    Bad:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)],
           enforcement_level: proven}
    Good:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)],
           enforcement_level: standard}
    """

    severity = Severity.WARNING
    gate = "enforcement-level"
    effort_minutes = 5

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Compare both with what the contract's lists amount to."""
        actual = declared_enforcement_level(subject.contract)
        wanted = (
            ("declared", subject.contract.metadata.enforcement_level),
            ("asked for", subject.settings.min_level),
        )
        for how, level in wanted:
            if level is not None and level_rank(actual) < level_rank(level):
                message = f"{level} is {how}, but what the contract lists amounts to {actual}"
                yield self.find(subject, message, "metadata", "enforcement_level")


def is_command(text: str) -> bool:
    """Does the text start with a known program or a path?"""
    try:
        words = shlex.split(text)
    except ValueError:
        return False
    return bool(words) and (words[0] in PROGRAMS or "/" in words[0])
