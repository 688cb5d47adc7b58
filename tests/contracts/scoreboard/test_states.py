"""The state of an obligation, by what is on record."""

from __future__ import annotations

from typing import Any

import pytest

from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.scoreboard.states import ObligationState, Scoreboard, score_corpus
from cotejar.errors import EvidenceError, NothingMeasuredError

PYTHON = "python tests/test_x.py"


def score(bench: Any) -> Scoreboard:
    return score_corpus(read_corpus(bench.file))


def state(bench: Any) -> ObligationState:
    (obligation,) = score(bench).contracts[0].obligations
    return obligation


def seen(bench: Any) -> tuple[str, str]:
    return state(bench).state.value, state(bench).reason


@pytest.fixture
def proved(bench: Any) -> Any:
    bench.blocks["kani_harnesses"] = [{"id": "KH-1", "obligation": "PO-1", "bound": 8}]
    return bench.save()


def test_nothing_names_it(bench: Any) -> None:
    assert seen(bench) == ("OPEN", "no test and no harness names it")


def test_a_test_that_never_ran_leaves_it_open(bench: Any) -> None:
    bench.test(PYTHON)

    assert seen(bench) == ("OPEN", "F-1 NOT-RUN (never run)")


def test_a_live_survivor_discharges_it(bench: Any) -> None:
    bench.test(PYTHON)
    bench.record()

    assert seen(bench) == ("DISCHARGED", "F-1 SURVIVED")


@pytest.mark.parametrize("rule", ["PO-1", "p", "e"])
def test_a_test_is_bound_by_id_property_or_equation(bench: Any, rule: str) -> None:
    bench.blocks["proof_obligations"][0]["applies_to"] = "e"
    bench.test(PYTHON, rule=rule)
    bench.record()

    assert state(bench).state == "DISCHARGED"


def test_a_survivor_that_names_something_else_discharges_nothing(bench: Any) -> None:
    bench.test(PYTHON, rule="finite")
    bench.record()

    assert seen(bench) == ("OPEN", "no test and no harness names it")


def test_stale_evidence_counts_as_not_run(bench: Any) -> None:
    bench.test(PYTHON)
    record = bench.record()
    (bench.root / "src" / "code.py").write_text("x = 2\n")

    assert seen(bench) == (
        "OPEN",
        f"F-1 STALE (the code changed since {record.stamp.started})",
    )


@pytest.mark.parametrize("verdict", ["FALSIFIED", "STOPPED"])
def test_a_newer_failure_opens_it_again(bench: Any, verdict: str) -> None:
    bench.test(PYTHON)
    bench.record(verdict="SURVIVED")
    bench.record(verdict=verdict, reason="exit 1")

    assert seen(bench) == ("OPEN", f"F-1 {verdict} (exit 1)")


def test_one_failure_outweighs_survivors_and_proofs(proved: Any) -> None:
    proved.test(PYTHON, "F-1").test(PYTHON, "F-2")
    proved.record("F-1")
    proved.prove()
    proved.record("F-2", "FALSIFIED")

    assert seen(proved) == ("OPEN", "F-2 FALSIFIED")
    assert not state(proved).is_tested
    assert not state(proved).is_proved


def test_a_refuted_harness_outweighs_survivors(proved: Any) -> None:
    proved.test(PYTHON)
    proved.record()
    proved.prove(verdict="REFUTED", reason="x = 1")

    assert seen(proved) == ("OPEN", "KH-1 REFUTED (x = 1)")


def test_a_proof_alone_is_partial(proved: Any) -> None:
    proved.prove()

    assert seen(proved) == ("PARTIAL", "KH-1 PROVED; no live evidence")


@pytest.mark.parametrize(
    ("verdict", "bound"), [("UNKNOWN", 8), ("PROVED", 7), ("PROVED", None)]
)
def test_an_unknown_or_smaller_proof_is_none(
    proved: Any, verdict: str, bound: int | None
) -> None:
    proved.prove(verdict=verdict, bound=bound)

    assert state(proved).state == "OPEN"
    assert not state(proved).is_proved


def test_a_survivor_at_algorithm_level_is_partial(bench: Any) -> None:
    bench.test(PYTHON, level="algorithm")
    bench.record()

    assert seen(bench) == ("PARTIAL", "F-1 SURVIVED; no live evidence")


def test_some_survivors_of_several_are_partial(bench: Any) -> None:
    bench.test(PYTHON, "F-1").test(PYTHON, "F-2")
    bench.record("F-1")

    assert seen(bench) == ("PARTIAL", "F-1 SURVIVED; but F-2 NOT-RUN (never run)")


def test_prose_neither_discharges_nor_holds_back(bench: Any) -> None:
    bench.test("Check it by hand", "F-1")
    only_prose = state(bench)
    bench.test(PYTHON, "F-2")
    bench.record("F-2")

    assert only_prose.state == "OPEN"
    assert only_prose.reason.startswith("F-1 NOT-RUNNABLE (prose: ")
    assert seen(bench) == ("DISCHARGED", "F-2 SURVIVED")


def test_an_absent_fixture_blocks_it(bench: Any) -> None:
    bench.test(PYTHON, fixtures=["models/absent.gguf"])

    assert seen(bench) == ("BLOCKED", "F-1 BLOCKED (a fixture is absent: models/absent.gguf)")


def test_an_obligation_that_is_not_applicable_is_counted_apart(bench: Any) -> None:
    extra = {"type": "invariant", "property": "q", "applies_to": "not_applicable"}
    bench.blocks["proof_obligations"].append(extra)
    bench.save()

    board = score(bench)

    assert (len(board.contracts[0].obligations), board.contracts[0].num_not_applicable) == (
        1,
        1,
    )


def test_the_total_is_discharged_plus_partial(bench: Any) -> None:
    for name in ("PO-2", "PO-3"):
        bench.blocks["proof_obligations"].append(
            {"id": name, "type": "invariant", "property": name}
        )
    bench.test(PYTHON, "F-1").test(PYTHON, "F-2", rule="PO-2", level="algorithm")
    bench.record("F-1")
    bench.record("F-2")

    assert score(bench).total == "1+1"


def test_nothing_to_judge_is_declined(bench: Any) -> None:
    bench.blocks["proof_obligations"] = []
    bench.save()

    with pytest.raises(NothingMeasuredError) as caught:
        score(bench)

    assert caught.value.exit_code == 3


def test_malformed_evidence_is_an_error_and_no_pass(bench: Any) -> None:
    bench.test(PYTHON)
    bench.evidence.mkdir()
    (bench.evidence / "example.jsonl").write_text("{}\n")

    with pytest.raises(EvidenceError) as caught:
        score(bench)

    assert caught.value.parts["where"] == f"{bench.evidence}/example.jsonl:1"


def test_a_run_of_falsify_is_what_the_scoreboard_reads(bench: Any) -> None:
    bench.python("pass")
    bench.run()

    assert seen(bench) == ("DISCHARGED", "F-1 SURVIVED")
