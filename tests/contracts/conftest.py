"""A project with one contract, whose commands really run."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.evidence.fingerprint import Fingerprints
from cotejar.contracts.evidence.ledger import append_record
from cotejar.contracts.evidence.project import find_project
from cotejar.contracts.evidence.record import (
    FalsificationRecord,
    FalsificationVerdict,
    ProofRecord,
    make_stamp,
)
from cotejar.contracts.falsify.run import Options, falsify_corpus
from cotejar.contracts.falsify.supervise import DEPTH_VARIABLE
from cotejar.contracts.prove.outcome import ProofVerdict

if TYPE_CHECKING:
    from cotejar.contracts.falsify.run import TestResult
    from cotejar.contracts.schema import Contract


class Bench:
    """Writes a project into a folder and runs its contract."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "contracts" / "example.yaml"
        self.blocks: dict[str, Any] = {
            "metadata": {"version": "1.0.0", "description": "d", "references": ["r"]},
            "equations": {"e": {"formula": "y = x"}},
            "proof_obligations": [{"id": "PO-1", "type": "invariant", "property": "p"}],
            "falsification_tests": [],
            "kani_harnesses": [],
        }
        (root / "src").mkdir(parents=True)
        (root / "src" / "code.py").write_text("x = 1\n")
        self.settings("")
        self.save()

    def settings(self, text: str) -> None:
        (self.root / "pyproject.toml").write_text(f"[tool.cotejar.falsify]\n{text}\n")

    def test(self, command: str | None, test_id: str = "F-1", **keys: Any) -> Bench:
        """Add a falsification test and save the contract."""
        keys = {"rule": "PO-1", "prediction": "p", "if_fails": "f", **keys}
        self.blocks["falsification_tests"].append({"id": test_id, "test": command, **keys})
        return self.save()

    def python(self, code: str, test_id: str = "F-1", **keys: Any) -> Bench:
        """Add a test that runs Python code without a double quote in it."""
        assert '"' not in code
        return self.test(f'python -c "{code}"', test_id, **keys)

    def save(self) -> Bench:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(self.blocks, indent=1))  # JSON is YAML
        return self

    @property
    def contract(self) -> Contract:
        return read_corpus(self.file).contracts[0]

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    def run(self, *, ids: tuple[str, ...] = (), **options: Any) -> list[TestResult]:
        return falsify_corpus(read_corpus(self.file), Options(**options), ids=ids)

    def run_one(self, **options: Any) -> TestResult:
        (result,) = self.run(**options)
        return result

    def record(
        self, test_id: str = "F-1", verdict: str = "SURVIVED", **changes: Any
    ) -> FalsificationRecord:
        """Append a record of a run of today's contract, test, code and models."""
        words = changes.pop("words", ("python", "tests/test_x.py"))
        models = changes.pop("models", ())
        record = FalsificationRecord(
            stamp=make_stamp(self.contract, self.fingerprints(), words=words, models=models),
            id=test_id,
            verdict=FalsificationVerdict(verdict),
            reason="",
            command="python tests/test_x.py",
            exit_code=0,
            signal=None,
            duration_s=0.5,
            output_bytes=3,
            output_sha256="0" * 64,
            output_tail=("ok",),
            confinement="snapshot",
        )
        record = replace(record, **changes)
        append_record(self.evidence, record)
        return record

    def prove(
        self, harness_id: str = "KH-1", verdict: str = "PROVED", **changes: Any
    ) -> ProofRecord:
        """Append a record of a proof about today's contract and code."""
        record = ProofRecord(
            stamp=make_stamp(self.contract, self.fingerprints(), words=("src/code.py",)),
            id=harness_id,
            verdict=ProofVerdict(verdict),
            reason="",
            bound=8,
            strategy="exhaustive",
            solver=None,
            duration_s=0.5,
            assumptions=("a",),
            counterexample=None,
            details={"mutants": 41},
        )
        record = replace(record, **changes)
        append_record(self.evidence, record)
        return record

    def fingerprints(self) -> Fingerprints:
        return Fingerprints(find_project(self.file))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # These tests may themselves run under `pv falsify`, or under CI.
    for name in (DEPTH_VARIABLE, "PYTEST_ADDOPTS", "CI"):
        monkeypatch.delenv(name, raising=False)
    return Bench(tmp_path / "project")


def pids_with(token: str) -> list[int]:
    """Living processes with this text among their arguments."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = Path(entry.path, "cmdline").read_bytes()
                state = Path(entry.path, "stat").read_bytes().rpartition(b") ")[2][:1]
            except OSError:
                continue
            if token.encode() in words and state != b"Z":
                found.append(int(entry.name))
    return found


@pytest.fixture
def assert_all_ended() -> Any:
    def check(token: str, within_s: float = 5.0) -> None:
        deadline = time.monotonic() + within_s
        while pids_with(token):
            assert time.monotonic() < deadline, pids_with(token)
            time.sleep(0.02)

    return check
