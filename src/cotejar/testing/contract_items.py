"""Contracts as pytest items; loaded by `pytest_plugin.py` when `--contracts` is given.

| outcome                        | item                                             |
| ------------------------------ | ------------------------------------------------ |
| SURVIVED, PROVED               | passes                                           |
| FALSIFIED, STOPPED, REFUTED    | fails                                            |
| UNKNOWN                        | fails: it is no proof                            |
| NOT-RUN, no such harness, no solver | skipped, with the reason                    |
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.contracts.corpus import find_contract_files
from cotejar.contracts.evidence.fingerprint import Fingerprints
from cotejar.contracts.evidence.project import find_project
from cotejar.contracts.evidence.record import FalsificationVerdict
from cotejar.contracts.falsify.command import NotRunnable, plan_command
from cotejar.contracts.falsify.keys import read_test_keys
from cotejar.contracts.falsify.report import result_text
from cotejar.contracts.falsify.run import Falsifier, Options
from cotejar.contracts.read import read_contract
from cotejar.errors import CotejarError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.contracts.falsify.keys import TestKeys
    from cotejar.contracts.schema import Contract, FalsificationTest, Harness

_PV = "from cotejar.cli.pv.main import main; main()"


class ContractFailure(Exception):  # noqa: N818 - a verdict, shown without a traceback
    """A prediction that was contradicted, or a claim that is not proved."""


class ContractCollection:
    """Turns the contracts of some folders into items."""

    def __init__(self, config: pytest.Config, paths: Sequence[str], *, record: bool) -> None:
        """Find the contracts, and have pytest visit them.

        Raises:
            pytest.UsageError: a path holds no contract, or cannot be listed.
        """
        self.record = record
        self._falsifiers: dict[Path, Falsifier] = {}
        self._files: set[Path] = set()
        roots = [(config.invocation_params.dir / path).resolve() for path in paths]
        for root in roots:
            try:
                found = find_contract_files(str(root)) if root.is_dir() else [str(root)]
            except CotejarError as error:
                raise pytest.UsageError(str(error)) from None
            self._files.update(Path(file).resolve() for file in found)
        _visit(config, roots)

    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> ContractFile | None:
        """Take the contracts; leave every other file to others."""
        if file_path.resolve() not in self._files:
            return None
        return ContractFile.from_parent(parent, path=file_path, collection=self)

    def falsifier(self, contract_file: Path) -> Falsifier:
        """One for each project, so that each file is fingerprinted once."""
        project = find_project(contract_file)
        if project.root not in self._falsifiers:
            options = Options(record=self.record)
            self._falsifiers[project.root] = Falsifier(project, options)
        return self._falsifiers[project.root]


class ContractFile(pytest.File):
    """One contract."""

    def __init__(self, *, collection: ContractCollection, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.collection = collection

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each test and each harness.

        Raises:
            CollectError: the file is no contract, or its project's settings mean nothing.
        """
        try:
            contract = read_contract(str(self.path))
            keys = read_test_keys(contract)
            project = find_project(self.path)
        except CotejarError as error:
            raise self.CollectError(str(error)) from None
        fingerprints = Fingerprints(project)
        for index, test in enumerate(contract.tests):
            item = FalsificationItem.from_parent(
                self, name=test.id, contract=contract, test=test, keys=keys[test.id]
            )
            item.line = contract.source.place_of(("falsification_tests", index)).line
            plan = plan_command(test.test, project, shell=False)
            absent = [f for f in keys[test.id].fixtures if not fingerprints.find_model(f)]
            if isinstance(plan, NotRunnable):
                item.add_marker(pytest.mark.skip(reason=plan.reason))
            elif absent:
                reason = f"a fixture is absent: {', '.join(absent)}"
                item.add_marker(pytest.mark.skip(reason=reason))
            yield item
        for index, harness in enumerate(contract.harnesses):
            proof = HarnessItem.from_parent(
                self, name=harness.id, harness=harness, record=self.collection.record
            )
            proof.line = contract.source.place_of(("kani_harnesses", index)).line
            yield proof


class _ContractItem(pytest.Item):
    """What the two kinds of item share: a place in a contract, failures without traceback."""

    line = 1

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """The verdict's own words."""
        if isinstance(excinfo.value, ContractFailure | CotejarError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the contract states it; pytest counts lines from 0."""
        return self.path, self.line - 1, self.name


class FalsificationItem(_ContractItem):
    """One falsification test."""

    def __init__(
        self,
        *,
        contract: Contract,
        test: FalsificationTest,
        keys: TestKeys,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._contract = contract
        self._test = test
        self._keys = keys

    def runtest(self) -> None:
        """Run the command and record it."""
        assert isinstance(self.parent, ContractFile)
        falsifier = self.parent.collection.falsifier(self.path)
        result = falsifier.run(self._contract, self._test, self._keys)
        if result.verdict is FalsificationVerdict.NOT_RUN:
            pytest.skip(result.reason)
        if result.verdict is not FalsificationVerdict.SURVIVED:
            raise ContractFailure(result_text(result))


class HarnessItem(_ContractItem):
    """One harness, proved by `pv prove` in a process of its own."""

    def __init__(self, *, harness: Harness, record: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._harness = harness
        self._record = record

    def runtest(self) -> None:
        """Ask for the proof, have it recorded, and judge what is said."""
        argv = ["prove", str(self.path), "--harness", self._harness.id, "--json"]
        if not self._record:
            argv.append("--no-record")
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", _PV, *argv],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.config.invocation_params.dir,
        )
        judge_proof(self._harness.id, done.stdout, done.stderr)


def judge_proof(harness_id: str, stdout: str, stderr: str) -> None:
    """Pass, skip or fail by what `pv prove --json` printed.

    Raises:
        ContractFailure: it is not proved.
        pytest.skip.Exception: nobody registered it, or its solver is not installed.
    """
    try:
        facts = json.loads(stdout)
    except ValueError:
        raise ContractFailure(f"`pv prove` gave no answer:\n{stderr}") from None
    error = facts.get("error")
    if error:
        if error["code"] == MissingExtraError.code:
            pytest.skip(error["problem"])
        raise ContractFailure(stderr)
    for found in facts["harnesses"]:
        if found["id"] != harness_id:
            continue
        if found["verdict"] == "NOT FOUND":
            pytest.skip("no harness is registered under this id")
        if found["verdict"] != "PROVED":
            raise ContractFailure(json.dumps(found, indent=2, ensure_ascii=False))
        return
    pytest.skip("no harness is registered under this id")


def _visit(config: pytest.Config, roots: Sequence[Path]) -> None:
    """Have pytest collect the folders: alone, or beside the paths that the user gave."""
    is_given = config.args_source is pytest.Config.ArgsSource.ARGS
    args = list(config.args) if is_given else []
    given = [(config.invocation_params.dir / a.partition("::")[0]).resolve() for a in args]
    args += [str(root) for root in roots if not any(_overlap(root, path) for path in given)]
    config.args[:] = args


def _overlap(root: Path, path: Path) -> bool:
    """Does a given path already reach into the folder, or hold it?"""
    return path.is_relative_to(root) or root.is_relative_to(path)
