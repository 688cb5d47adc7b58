"""`pv prove`: verdicts, exit codes, counterexamples, and what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("bitwuzla")
pytest.importorskip("z3")

from click.testing import CliRunner

from cotejar.cli.pv.prove import prove
from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.prove import run as run_module
from cotejar.contracts.prove.harness import HARNESSES
from cotejar.contracts.prove.outcome import ProofVerdict
from cotejar.contracts.prove.run import ProveOptions, prove_corpus
from cotejar.errors import MissingExtraError, MissingFileError, UsageError

if TYPE_CHECKING:
    from click.testing import Result

CONTRACT = """
metadata:
  version: 1.0.0
  description: a contract
  references: [a paper]
equations:
  e: {{formula: "f"}}
proof_obligations:
  - {{id: PO-1, type: soundness, property: p}}
falsification_tests:
  - {{id: F-1, rule: r, prediction: p, if_fails: i}}
kani_harnesses:
{harnesses}
"""
HARNESS = """
from cotejar.contracts.prove.harness import Side, Strategy, harness


def clamp(x: int):
    if x > 10:
        return 10
    return x


@harness("{id}", obligation="PO-1", bound=4, strategy=Strategy.SYMBOLIC, side=Side.SOUNDNESS,
         targets=(clamp,), assumes=("integers of any size",))
def never_above(inputs):
    xs = inputs.integers("xs", inputs.bound)
    inputs.cover("a large one", xs[0] > 10)
    for x in xs:
        assert clamp(x) <= {limit}, "above"


{second}
"""
COMPLETE = """
@harness("{id}", obligation="PO-1", bound=4, strategy=Strategy.SYMBOLIC,
         side=Side.COMPLETENESS, targets=(clamp,))
def small_ones_stay(inputs):
    x = inputs.integer("x")
    inputs.assume(x <= 10)
    inputs.cover("the largest", x == 10)
    assert clamp(x) == x
"""


class Prove:
    """Writes a contract and its harness, and runs `pv prove` on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contract = folder / "contract.yaml"
        self.harness = folder / "harness_file.py"

    def write(self, harness_id: str, *, limit: int = 10, complete: bool = True) -> None:
        second = COMPLETE.format(id=harness_id) if complete else ""
        self.harness.write_text(HARNESS.format(id=harness_id, limit=limit, second=second))
        self.name(harness_id)

    def name(self, *ids: str, obligation: str = "PO-1") -> None:
        lines = [f"  - {{id: {i}, obligation: {obligation}, bound: 3}}" for i in ids]
        self.contract.write_text(CONTRACT.format(harnesses="\n".join(lines)))

    def __call__(self, *args: str) -> Result:
        base = [str(self.contract), "--harnesses", str(self.harness), *args]
        return CliRunner().invoke(prove, base, catch_exceptions=True)

    def json(self, *args: str) -> dict[str, Any]:
        result = self(*args, "--json")
        found = json.loads(result.stdout)
        assert found["exit_code"] == result.exit_code
        return found


@pytest.fixture
def pv_prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prove:
    monkeypatch.setattr(HARNESSES, "_claims", dict(HARNESSES._claims))
    return Prove(tmp_path)


def test_a_claim_that_holds_is_proved(pv_prove: Prove) -> None:
    pv_prove.write("KH-A")

    report = pv_prove.json()

    (found,) = report["harnesses"]
    assert (report["exit_code"], found["verdict"], found["why"]) == (0, "PROVED", "")
    assert (found["id"], found["bound"], found["strategy"]) == ("KH-A", 3, "symbolic")
    assert found["solver"].startswith("bitwuzla ")
    assert found["assumptions"] == ["integers of any size"]
    assert found["counterexample"] is None
    # The first two clamp to the same; that 11 becomes 10 and not 9 is claimed by nobody.
    mutants = found["mutants"]
    assert mutants["equivalent"] == [
        "clamp, line 6: x >= 10 for x > 10",
        "clamp, line 6: 9 for 10",
    ]
    assert mutants["survived"] == ["clamp, line 7: 9 for 10"]
    assert mutants["undecided"] == []
    assert mutants["killed"] == mutants["total"] - 3
    assert report["conformance"]["difference"] == ""


def test_a_claim_that_does_not_hold_is_refuted_and_its_test_fails(pv_prove: Prove) -> None:
    pv_prove.write("KH-B", limit=9)
    saved = pv_prove.folder / "counterexamples"

    result = pv_prove("--no-mutants", "--counterexamples", str(saved))

    file = saved / "test_kh_b_never_above.py"
    assert result.exit_code == 1
    (line, total) = result.stdout.splitlines()
    assert line.startswith("KH-B  REFUTED  (bound 3, 2 claims, bitwuzla ")
    assert line.endswith(f"never_above: AssertionError: above; replay: pytest {file}")
    assert total == "1 REFUTED"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        capture_output=True,
        text=True,
        cwd=pv_prove.folder,
        check=False,
    )
    assert done.returncode == 1
    assert "AssertionError: above" in done.stdout


def test_soundness_alone_proves_nothing(pv_prove: Prove) -> None:
    pv_prove.write("KH-C", complete=False)

    report = pv_prove.json("--no-mutants")

    (found,) = report["harnesses"]
    assert (report["exit_code"], found["verdict"]) == (3, "UNKNOWN")
    assert found["why"] == "soundness alone: code that never says yes would pass"


def test_a_harness_that_nobody_registered_is_not_found(pv_prove: Prove) -> None:
    pv_prove.write("KH-D")
    pv_prove.name("KH-D", "KH-NOBODY")

    result = pv_prove("--no-mutants")

    assert result.exit_code == 3
    assert result.stdout.splitlines()[1:] == [
        "KH-NOBODY  NOT FOUND  no function is registered under this id; "
        "--harnesses FILE|DIR adds some",
        "1 PROVED, 1 NOT FOUND",
    ]


def test_a_contract_without_harnesses_proves_nothing(pv_prove: Prove) -> None:
    pv_prove.write("KH-E")
    pv_prove.contract.write_text(CONTRACT.format(harnesses="  []"))

    result = pv_prove()

    assert (result.exit_code, result.stdout) == (3, "no harness: nothing was proved\n")


def test_a_proof_of_another_obligation_does_not_count(pv_prove: Prove) -> None:
    pv_prove.write("KH-F")
    text = pv_prove.contract.read_text()
    text = text.replace("obligation: PO-1", "obligation: PO-2").replace(
        "{id: PO-1, type", "{id: PO-2, type: soundness, property: q}\n  - {id: PO-1, type"
    )
    pv_prove.contract.write_text(text)

    (found,) = pv_prove.json("--no-mutants")["harnesses"]

    assert (found["verdict"], found["why"]) == (
        "UNKNOWN",
        "the contract names PO-2, the registered claims PO-1",
    )


def test_no_time_is_unknown(pv_prove: Prove) -> None:
    pv_prove.write("KH-G")

    report = pv_prove.json("--no-mutants", "--timeout", "0.0001")

    assert report["exit_code"] == 3
    assert report["harnesses"][0]["verdict"] == "UNKNOWN"


def test_an_engine_that_is_not_python_proves_nothing(
    pv_prove: Prove, monkeypatch: pytest.MonkeyPatch
) -> None:
    pv_prove.write("KH-H")
    right = run_module._Pool._run_one

    def wrong(self: Any, task: dict[str, Any], deadline: float) -> Any:
        if task["kind"] == "conformance":
            return {"compared": 9, "difference": "1 < 2 is False"}, 0.0
        return right(self, task, deadline)

    monkeypatch.setattr(run_module._Pool, "_run_one", wrong)

    (found,) = pv_prove.json("--no-mutants")["harnesses"]

    assert (found["verdict"], found["why"]) == (
        "UNKNOWN",
        "the engine is not Python here: 1 < 2 is False",
    )


def test_a_child_without_memory_is_unknown(pv_prove: Prove) -> None:
    pv_prove.write("KH-I")
    options = ProveOptions(
        harness_paths=(str(pv_prove.harness),), try_mutants=False, memory_bytes=2**24
    )

    (found,) = prove_corpus(read_corpus(pv_prove.contract), options).harnesses

    assert found.verdict is ProofVerdict.UNKNOWN
    assert found.why.startswith("never_above: ")


def test_an_id_that_no_contract_has_is_bad_usage(pv_prove: Prove) -> None:
    pv_prove.write("KH-J")

    result = pv_prove("--harness", "KH-NOT-HERE")

    assert isinstance(result.exception, UsageError)
    assert result.exception.parts["expected"] == "one of: KH-J"


def test_a_harness_file_that_is_not_there_is_bad_input(pv_prove: Prove) -> None:
    pv_prove.name("KH-K")

    assert isinstance(pv_prove().exception, MissingFileError)


def test_a_harness_file_that_does_not_import_is_bad_input(pv_prove: Prove) -> None:
    pv_prove.name("KH-L")
    pv_prove.harness.write_text("1 / 0\n")

    error = pv_prove().exception

    assert isinstance(error, UsageError)
    assert error.parts["found"] == "ZeroDivisionError: division by zero"


def test_without_the_extra_the_error_says_what_to_install(
    pv_prove: Prove, monkeypatch: pytest.MonkeyPatch
) -> None:
    pv_prove.write("KH-M")
    monkeypatch.setitem(sys.modules, "bitwuzla", None)

    error = pv_prove().exception

    assert isinstance(error, MissingExtraError)
    assert error.parts["try"] == "pip install 'cotejar[prove]'"


@pytest.mark.prove
def test_the_sample_size_gate_is_proved_at_bound_280() -> None:
    pytest.importorskip("crosshair")
    contract = Path(__file__).parents[3] / "contracts/apr-vs-gguf-forward-parity-v1.yaml"

    args = [str(contract), "--json", "--no-record", "--timeout", "200"]
    result = CliRunner().invoke(prove, args)

    (found,) = json.loads(result.stdout)["harnesses"]
    assert (result.exit_code, found["verdict"], found["why"]) == (0, "PROVED", "")
    assert (found["id"], found["bound"]) == ("KH-APR-GGUF-PARITY-003", 280)
    assert {c["verdict"] for c in found["claims"]} == {"PROVED"}
    assert "cotejar.parity.sample_gate.judge_samples" in found["claims"][0]["functions"]
    mutants = found["mutants"]
    assert mutants["total"] >= 40
    assert mutants["survived"] == mutants["undecided"] == []
    assert mutants["killed"] == mutants["total"] - len(mutants["equivalent"])
    # `len(...) <= 0` for `== 0`, and `>=` for `>` between numbers known to differ.
    assert len(mutants["equivalent"]) == 2
