"""Public functions of a folder, and the gate that asks which of them are bound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cotejar.cli.pv.lint import lint
from cotejar.contracts.binding import BindingRegistry, build_bindings
from cotejar.contracts.read import parse_source
from cotejar.contracts.reverse_coverage import (
    ReverseCoverage,
    measure_reverse_coverage,
)
from cotejar.contracts.rules.example import LINT_BLOCKS
from cotejar.contracts.rules.lint_reverse import REVERSE_RULES
from cotejar.errors import MissingFileError, NothingMeasuredError, UnreadableFileError

IDENTITY = (
    "version: 1\ntarget_crate: c\nbindings:\n"
    "- {contract: a-v1.yaml, equation: identity, module_path: example, function: identity,\n"
    "   status: implemented}\n"
)
MODULE = '''
from abc import abstractmethod
def public(): return 1
def _private(): return 1
class Thing:
    def method(self): return 1
    def _hidden(self): return 1
    def __len__(self): return 1
    @property
    def size(self): return 1
    @size.setter
    def size(self, value): self.value = value
    @abstractmethod
    def must(self): return 1
    def stub(self):
        """Doc."""
        raise NotImplementedError
    class Inner:
        async def deep(self): return 1
class _Hidden:
    def method(self): return 1
if True:
    def guarded():
        def inner(): return 1
        return inner
'''


def registry(text: str = IDENTITY) -> BindingRegistry:
    return build_bindings(parse_source(text, file="binding.yaml"))


def measure(folder: Path, text: str, least: float = 0.5) -> ReverseCoverage:
    (folder / "example.py").write_text(text)
    return measure_reverse_coverage(str(folder), registry(), least=least)


def test_public_functions_that_compute_are_counted_and_no_others(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("def top(): return 1\n")
    (package / "_inner.py").write_text("def hidden(): return 1\n")

    found = measure(tmp_path, MODULE)

    assert [function.name for function in found.functions] == [
        "example.public",
        "example.Thing.method",
        "example.Thing.Inner.deep",
        "example.guarded",
        "pack.top",
    ]
    assert found.functions[0].line == 3
    inside = measure_reverse_coverage(str(package), registry())
    assert [function.name for function in inside.functions] == ["pack.top"]


@pytest.mark.parametrize("rule", REVERSE_RULES, ids=lambda rule: rule.id)
def test_a_rule_fires_on_its_bad_example_and_none_on_its_good_one(rule, tmp_path: Path) -> None:
    def fired(code: str) -> set[str]:
        subject = measure(tmp_path, code)
        return {finding.rule for each in REVERSE_RULES for finding in each.check(subject)}

    assert rule.id in fired(rule.help().bad)
    assert fired(rule.help().good) == set()


def test_half_is_enough_and_a_little_less_is_not(tmp_path: Path) -> None:
    two = "def identity(x): return x\ndef other(x): return x\n"
    enough = measure(tmp_path, two)
    short = measure(tmp_path, two, least=0.51)
    messages = [f.message for rule in REVERSE_RULES for f in rule.check(short)]

    assert [f.rule for rule in REVERSE_RULES for f in rule.check(enough)] == ["PV-RCV-001"]
    assert messages == [
        "no equation is bound to example.other",
        f"1 of 2 public functions under {tmp_path} are bound to an equation: 50.0%, "
        "below 51.0%",
    ]


def test_the_same_name_in_another_module_is_not_bound(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("def identity(x): return x + 1\n")

    found = measure(tmp_path, "def identity(x): return x\n")

    assert [function.name for function in found.unbound] == ["other.identity"]


def test_nothing_to_cover_is_no_pass(tmp_path: Path) -> None:
    with pytest.raises(NothingMeasuredError):
        measure(tmp_path, "x = 1\n")
    with pytest.raises(MissingFileError):
        measure_reverse_coverage(str(tmp_path / "gone"), registry())


@pytest.mark.parametrize("text", ["def f(:\n", "(" * 5000, "\0"])
def test_source_that_does_not_parse_is_an_error_not_a_gap(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        measure(tmp_path, text)

    assert caught.value.parts["where"] == str(tmp_path / "example.py")


def test_the_gate_runs_with_a_registry_and_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("contracts", "src", "tests"):
        Path(folder).mkdir()
    Path("tests/test_example.py").write_text("def test_it(): pass\n")
    Path("contracts/a-v1.yaml").write_text("".join(LINT_BLOCKS.values()))
    Path("contracts/binding.yaml").write_text(IDENTITY)
    source = "def identity(x): return x\ndef f(x): return x\ndef g(x): return x\n"
    Path("src/example.py").write_text(source)

    def run(*options: str) -> tuple[int, dict]:
        wanted = ["--binding", "contracts/binding.yaml", "--source", "src", *options, "--json"]
        result = CliRunner().invoke(lint, wanted)
        return result.exit_code, json.loads(result.stdout)

    code, facts = run()
    states = {gate["gate"]: gate["state"] for gate in facts["gates"]}
    assert (code, states["reverse-coverage"], facts["num_errors"]) == (1, "failed", 1)
    assert run("--min-coverage", "0.3")[0] == 0
    assert CliRunner().invoke(lint, ["--source", "src"]).exit_code == 2
