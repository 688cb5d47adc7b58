"""The score of a code base: each part by upstream's formula, and what cannot be measured."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from cotejar.cli.pv.score import score
from cotejar.contracts.binding import BindingRegistry, build_bindings, read_bindings
from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.read import parse_contract, parse_source
from cotejar.contracts.rules.example import BASE_BLOCKS, fill_example
from cotejar.contracts.score import score_contract
from cotejar.contracts.score_codebase import (
    CODEBASE_WEIGHTS,
    Drift,
    measure_drift,
    score_codebase,
)

PROVED = (
    "proof_obligations: [{property: p, lean: {theorem: t, status: proved}}, {property: q}]\n"
)


def contract(stem: str, blocks: str = "x: 1\n"):
    return parse_contract(fill_example(blocks), file=f"{stem}.yaml")


def registry(*entries: str, path: str = "") -> BindingRegistry:
    rows = ", ".join(f"{{contract: {entry}}}" for entry in entries)
    text = f"version: 1\ntarget_crate: c\nbindings: [{rows}]\n{path}"
    return build_bindings(parse_source(text, file="binding.yaml"))


A = "a-v1.yaml, equation: e, module_path: pack.codec, function: decode, status: implemented"
B = "b-v1.yaml, equation: e, function: encode, status: partial"
GONE = "gone-v1.yaml, equation: e, status: pending"
NO_DRIFT = Drift(stale=(), num_bound=2)


def test_the_weights_sum_to_one() -> None:
    assert math.isclose(sum(CODEBASE_WEIGHTS.values()), 1.0)


def test_each_part_is_upstreams() -> None:
    contracts = [contract("a-v1", PROVED), contract("b-v1", "kani_harnesses: []\n")]
    contracts.append(contract("free-v1"))
    bindings = registry(A, B, GONE)

    found = score_codebase(contracts, bindings, Drift(stale=("b-v1",), num_bound=2))

    means = [score_contract(one, bindings).composite for one in contracts[:2]]
    # a-v1: 0.8 and, where proved, 1.0; b-v1 has tests and no harness
    depth = (1.0 + 0.8 + 0.4) / 3
    expected = [2 / 3, (1 + 0.5 + 0) / 3, sum(means) / 2, depth, 0.5]
    assert list(found.parts) == list(CODEBASE_WEIGHTS)
    assert [round(value, 12) for value in found.parts.values()] == [
        round(value, 12) for value in expected
    ]
    composite = sum(w * v for w, v in zip(CODEBASE_WEIGHTS.values(), expected, strict=True))
    assert math.isclose(found.composite or 0, composite)
    assert (found.unresolved, found.stale, found.grade) == (("gone-v1",), ("b-v1",), "D")


@pytest.mark.parametrize(
    ("path", "share"),
    [
        ("critical_path: [decode, attend]", 0.5),
        ("critical_path: [codec.decode]", 1.0),
        ("critical_path: [attend]", 0.0),
        ("critical_path: ['']", 0.75),  # nothing declared: the mean of implemented and partial
        ("", 0.75),
    ],
)
def test_the_critical_path_is_what_is_bound_of_it(path: str, share: float) -> None:
    found = score_codebase([contract("a-v1")], registry(A, B, path=path), NO_DRIFT)

    assert found.parts["critical_path"] == share


def test_what_is_not_measured_is_left_out_with_its_weight() -> None:
    found = score_codebase([contract("a-v1")], registry(A), None)

    assert found.not_measured == {"drift": "needs git, and a registry that is committed"}
    mean = score_contract(contract("a-v1"), registry(A)).composite
    expected = (0.25 + 0.20 + 0.20 * mean + 0.15 * 0.8) / 0.8
    assert math.isclose(found.composite or 0, expected)


def test_of_nothing_there_is_no_score() -> None:
    found = score_codebase([contract("a-v1")], registry(), Drift(stale=(), num_bound=0))

    assert (found.composite, found.grade, dict(found.parts)) == (None, None, {})
    assert found.as_text() == (
        "Codebase: not measured\n"
        "  resolution not measured: the registry binds nothing\n"
        "  critical_path not measured: the registry binds nothing\n"
        "  contracts not measured: no contract here is bound\n"
        "  proof_depth not measured: no bound contract has an obligation\n"
        "  drift not measured: needs git, and a registry that is committed"
    )


# --- drift --------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("contracts").mkdir()
    for name in ("a", "b"):
        Path(f"contracts/{name}-v1.yaml").write_text("".join(BASE_BLOCKS.values()))
    text = f"version: 1\ntarget_crate: c\nbindings: [{{contract: {A}}}, {{contract: {B}}}]\n"
    Path("contracts/binding.yaml").write_text(text)
    return tmp_path


def commit(second: int) -> None:
    settings = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    date = f"2026-01-01T00:00:{second:02}Z"
    for words in (("init", "--quiet"), ("add", "--all"), ("commit", "-q", "-m", "m")):
        subprocess.run(["git", *settings, *words], check=True, env={"GIT_COMMITTER_DATE": date})


def drift() -> Drift | None:
    corpus = read_corpus("contracts")
    return measure_drift(corpus.contracts, read_bindings("contracts/binding.yaml"))


def test_a_contract_that_changed_after_the_registry_is_stale(project: Path) -> None:
    assert drift() is None  # no repository
    commit(0)
    assert drift() == Drift(stale=(), num_bound=2)

    with Path("contracts/b-v1.yaml").open("a") as file:
        file.write("note: 1\n")
    assert drift() == Drift(stale=("b-v1",), num_bound=2)  # not committed yet
    commit(1)
    assert drift() == Drift(stale=("b-v1",), num_bound=2)

    with Path("contracts/binding.yaml").open("a") as file:
        file.write("# looked at\n")
    assert drift() == Drift(stale=(), num_bound=2)


def test_a_contract_that_was_never_committed_is_stale(project: Path) -> None:
    new = Path("contracts/b-v1.yaml")
    text = new.read_text()
    new.unlink()
    commit(0)
    new.write_text(text)

    assert drift() == Drift(stale=("b-v1",), num_bound=2)


def test_without_git_drift_is_not_measured(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(0)
    monkeypatch.setenv("PATH", str(project))

    assert drift() is None


def test_the_command_scores_the_code_base_where_a_registry_is_named(project: Path) -> None:
    commit(0)
    options = ["contracts", "--binding", "contracts/binding.yaml"]

    facts = json.loads(CliRunner().invoke(score, [*options, "--json"]).stdout)
    text = CliRunner().invoke(score, options).stdout

    assert facts["codebase"]["parts"]["drift"] == 1.0
    assert f"Codebase: {facts['codebase']['composite']:.3f} B" in text
    assert "Codebase" not in CliRunner().invoke(score, ["contracts"]).stdout
