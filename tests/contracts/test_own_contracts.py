"""Our own contracts meet our own rules, and the documents that they cite point back."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from cotejar.cli.pv.group import pv
from cotejar.contracts.audit import audit_corpus
from cotejar.contracts.binding import Binding, read_bindings
from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.coverage import measure_coverage
from cotejar.contracts.evidence.project import find_project
from cotejar.contracts.falsify.command import NotRunnable, plan_command
from cotejar.contracts.falsify.keys import read_test_keys
from cotejar.contracts.own_harnesses import load_harnesses
from cotejar.contracts.read import read_contract
from cotejar.contracts.score_codebase import score_codebase
from cotejar.contracts.traceability import names_in
from cotejar.contracts.validate import validate_path

ROOT = Path(__file__).parents[2]
CONTRACTS = ROOT / "contracts"
FILES = sorted(set(CONTRACTS.glob("**/*.yaml")) - {CONTRACTS / "binding.yaml"})
BINDING = CONTRACTS / "binding.yaml"
FORWARD_PARITY = CONTRACTS / "apr-vs-gguf-forward-parity-v1.yaml"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_contract_breaks_no_rule_and_warns_of_nothing(file: Path) -> None:
    report = validate_path(file)

    assert report.files[0].problem is None
    assert [finding.as_text() for finding in report.findings] == []


def test_every_name_in_our_contracts_leads_somewhere_and_back() -> None:
    report = audit_corpus(read_corpus(CONTRACTS), harnesses=load_harnesses())

    assert [finding.as_text() for finding in report.findings] == []


def test_every_equation_is_bound_and_what_is_bound_in_part_needs_a_gpu() -> None:
    bindings = read_bindings(BINDING)
    report = audit_corpus(read_corpus(CONTRACTS), bindings)

    assert [(finding.rule, Path(finding.file).stem) for finding in report.findings] == [
        ("BIND-002", "apr-cpu-vs-gpu-output-parity-v1")
    ] * 2
    assert bindings.stems == {file.stem for file in FILES}
    coverage = measure_coverage(read_corpus(CONTRACTS), bindings).as_json()["totals"]
    assert (coverage["binding_missing"], coverage["binding_partial"]) == (0, 2)
    assert coverage["falsification_covered"] == coverage["obligations"] > 0


@pytest.mark.parametrize(
    "entry",
    read_bindings(BINDING).bindings,
    ids=lambda entry: f"{entry.contract}:{entry.equation}",
)
def test_a_bound_function_can_be_called(entry: Binding) -> None:
    """The audit looks at the source; this is what `import` finds."""
    found = import_module(entry.module_path or "")
    for name in (entry.function or "").split("."):
        found = getattr(found, name)

    assert callable(found)


def test_the_critical_path_is_bound() -> None:
    corpus, bindings = read_corpus(CONTRACTS), read_bindings(BINDING)

    score = score_codebase(corpus.contracts, bindings, drift=None)

    assert bindings.critical_path
    assert (score.parts["critical_path"], score.parts["resolution"]) == (1.0, 1.0)


def test_forward_parity_names_ten_slots_and_280_cells() -> None:
    contract = read_contract(FORWARD_PARITY)
    parity = contract.source.value_of("parity")

    (harness,) = contract.harnesses
    assert (harness.id, harness.bound) == ("KH-APR-GGUF-PARITY-003", 28 * 10)
    assert len(parity["required_sites"]) == 10
    assert [test.id for test in contract.tests] == [
        f"FALSIFY-APR-GGUF-PARITY-{number:03}" for number in range(1, 8)
    ]
    assert [o.type.value for o in contract.obligations] == ["invariant", "soundness"]


def run(verb: str, folder: Path, *options: str) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(pv, [verb, str(folder), *options, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_commands_themselves_find_no_error_in_the_folder() -> None:
    code, validated = run("validate", CONTRACTS, "--jobs", "1")
    assert (code, validated["num_errors"], validated["num_warnings"]) == (0, 0, 0)

    code, linted = run("lint", CONTRACTS, "--strict-test-binding")
    assert (code, linted["num_errors"]) == (0, 0)

    code, audited = run("audit", CONTRACTS)
    assert (code, audited["num_errors"], audited["num_warnings"]) == (0, 0, 0)

    code, covered = run("coverage", CONTRACTS, "--binding", str(BINDING))
    assert (code, covered["percent"]) == (0, 100.0)


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("validate", "prediction: tokens at -inf are never drawn", "prediction: ''"),
        ("lint", "test_falsify_001_greedy", "test_gone"),
        ("audit", "test_falsify_001_greedy", "test_gone"),
        ("audit", "docs/spec.md §11.4", "docs/spec.md §11.99"),
        ("audit --binding", "  greedy:\n", "  greediest:\n"),
    ],
)
def test_the_commands_see_one_slip_in_one_contract(
    tmp_path: Path, verb: str, before: str, after: str
) -> None:
    for part in ("contracts", "docs", "tests"):
        kept = shutil.ignore_patterns("__pycache__", "golden")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=kept)
    verb, *options = verb.split()
    options += [str(tmp_path / "contracts/binding.yaml")] if options else []
    if options:
        shutil.copytree(ROOT / "src", tmp_path / "src")
    assert run(verb, tmp_path / "contracts", *options)[0] == 0
    file = tmp_path / "contracts/sampling-v1.yaml"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))

    assert run(verb, tmp_path / "contracts", *options)[0] == 1


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_test_of_ours_can_be_run_and_speaks_of_an_obligation(file: Path) -> None:
    contract, project = read_contract(file), find_project(file)
    keys = read_test_keys(contract)

    for test in contract.tests:
        assert not isinstance(plan_command(test.test, project, shell=False), NotRunnable)
        assert test.rule in names_in(contract)
        assert keys[test.id].id == test.id
    ids = [test.id for test in contract.tests]
    stem = ids[0].rpartition("-")[0]
    assert ids == [f"{stem}-{number:03}" for number in range(1, len(ids) + 1)]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_obligation_of_ours_has_a_test_of_its_own(file: Path) -> None:
    contract = read_contract(file)
    rules = {test.rule for test in contract.tests}

    for obligation in contract.obligations:
        assert obligation.id
        assert {obligation.id, obligation.applies_to} & rules


def test_what_needs_a_gpu_names_a_fixture_that_only_a_gpu_can_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COTEJAR_GPU_TRACE", raising=False)
    contract = read_contract(CONTRACTS / "apr-cpu-vs-gpu-output-parity-v1.yaml")
    keys = read_test_keys(contract)

    gated = [t.id for t in contract.tests if "$COTEJAR_GPU_TRACE" in keys[t.id].fixtures]

    assert gated == [f"FALSIFY-CPU-GPU-{number:03}" for number in (1, 2, 3)]
    bound = {t.rule for t in contract.tests if t.id in gated}
    free = {t.rule for t in contract.tests if t.id not in gated}
    assert bound.isdisjoint(free)  # so that nothing else can discharge what needs a GPU
