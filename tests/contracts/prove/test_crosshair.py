"""CrossHair on leaves: what counts as proved, what only looks so, and what is refuted."""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("bitwuzla")
pytest.importorskip("crosshair")
pytest.importorskip("z3")

from click.testing import CliRunner

from cotejar.cli.pv.prove import prove
from cotejar.contracts.harnesses.sample_gate import (
    two_counts_agree_where_equal_and_above_0 as leaf,
)
from cotejar.contracts.prove import crosshair_engine, crosshair_grid
from cotejar.contracts.prove.counterexample import drawn_as_json, drawn_from_json
from cotejar.contracts.prove.crosshair import prove_by_crosshair
from cotejar.contracts.prove.crosshair_engine import load_crosshair
from cotejar.contracts.prove.harness import HARNESSES
from cotejar.contracts.prove.outcome import ProofVerdict
from cotejar.contracts.prove.replay import replay
from cotejar.contracts.prove.substitute import with_functions
from cotejar.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.contracts.prove.inputs import Inputs
    from cotejar.contracts.prove.outcome import Outcome

FLOATS = "a float was drawn or computed, and CrossHair's floats do not round as ours"


def decide(body: Callable[[Inputs], None], seconds: float = 300) -> Outcome:
    return prove_by_crosshair(body, 3, time.monotonic() + seconds)


@pytest.fixture
def few_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that would go on for ever ends by number, not by a clock."""
    monkeypatch.setattr(crosshair_engine, "MAX_PATHS", 100)


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less to compare with CPython; the tests that prove something compare it all."""
    monkeypatch.setattr(crosshair_grid, "NUMBERS", (-7, 0, 1))
    monkeypatch.setattr(crosshair_grid, "TEXTS", ("", "a"))
    monkeypatch.setattr(crosshair_grid, "CHARACTERS", ("", "a"))


def test_a_leaf_of_production_is_proved_for_integers_of_any_size() -> None:
    outcome = decide(leaf)

    assert (outcome.verdict, outcome.why) == (ProofVerdict.PROVED, "")
    assert outcome.solver.startswith("crosshair 0.")
    assert outcome.facts["covers"] == ["equal and empty", "they agree"]
    assert outcome.facts["made_floats"] is False
    assert outcome.facts["paths"] > 1
    pairs, operations = len(crosshair_grid.NUMBERS) ** 2, len(crosshair_grid.NUMBER_OPERATIONS)
    assert outcome.facts["compared"] == pairs * operations


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("reference_count > 0", "reference_count >= 0"),
        ("reference_count == candidate_count and", "reference_count <= candidate_count and"),
        (
            "reference_count == candidate_count",
            "(4 * reference_count) % 2**32 == (4 * candidate_count) % 2**32",
        ),
    ],
)
def test_a_seeded_bug_is_refuted_and_cpython_agrees(
    old: str, new: str, changed_gate: Callable
) -> None:
    body = with_functions(leaf, changed_gate((old, new)))

    outcome = decide(body)

    assert outcome.verdict is ProofVerdict.REFUTED
    with pytest.raises(AssertionError):
        replay(body, outcome.counterexample, bound=3)
    # The leaf that production calls is right on the same values.
    replay(leaf, outcome.counterexample, bound=3)


def test_a_claim_on_drawn_floats_is_not_proved() -> None:
    def claim(inputs: Inputs) -> None:
        x = inputs.double("x")
        inputs.assume(0 < x < 100)
        inputs.cover("above 1", x > 1)
        assert x + 1 > 0

    outcome = decide(claim)

    assert (outcome.verdict, outcome.why) == (ProofVerdict.UNKNOWN, FLOATS)


def test_a_claim_on_computed_floats_is_not_proved() -> None:
    """CrossHair confirms every path of it, in real numbers."""

    def claim(inputs: Inputs) -> None:
        n = inputs.integer("n", 0, 2**60)
        inputs.cover("above 1", n > 1)
        assert n + 0.5 >= 0.5

    outcome = decide(claim)

    assert (outcome.verdict, outcome.why) == (ProofVerdict.UNKNOWN, FLOATS)


@pytest.mark.usefixtures("few_paths")
def test_a_failure_of_real_numbers_alone_refutes_nothing() -> None:
    def claim(inputs: Inputs) -> None:
        n = inputs.integer("n", 1, 3)
        inputs.cover("two", n == 2)
        assert n / 1 + 1e-20 == n

    outcome = decide(claim)

    assert (outcome.verdict, outcome.why) == (
        ProofVerdict.UNKNOWN,
        "CrossHair's counterexample does not fail in CPython",
    )


def test_a_failure_that_cpython_alone_has_refutes() -> None:
    """As if CrossHair had a number wrong: it sees nothing, special values do."""
    load_crosshair()
    is_tracing = sys.modules["crosshair.tracers"].is_tracing

    def claim(inputs: Inputs) -> None:
        n = inputs.integer("n")
        inputs.cover("above 1", n > 1)
        assert n != -1 or is_tracing()

    outcome = decide(claim)

    assert outcome.verdict is ProofVerdict.REFUTED
    assert outcome.counterexample == {"n": -1}


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (("above", "far above"), "vacuous: never reached: far above"),
        ((), "vacuous: it covers nothing"),
    ],
)
def test_a_claim_about_nothing_is_unknown(labels: tuple[str, ...], why: str) -> None:
    limits = {"above": 3, "far above": 9}

    def claim(inputs: Inputs) -> None:
        n = inputs.integer("n", 0, 5)
        for label in labels:
            inputs.cover(label, n > limits[label])
        assert n < 6

    outcome = decide(claim)

    assert (outcome.verdict, outcome.why) == (ProofVerdict.UNKNOWN, why)


@pytest.mark.usefixtures("few_paths")
def test_paths_without_end_are_unknown() -> None:
    def claim(inputs: Inputs) -> None:
        n = inputs.integer("n")
        inputs.cover("above 1", n > 1)
        while n > 0:
            n -= 1
        assert n <= 0

    outcome = decide(claim)

    assert outcome.verdict is ProofVerdict.UNKNOWN
    assert outcome.why == f"not every path was confirmed; {outcome.facts['paths']:,} were run"


def test_every_length_is_tried() -> None:
    def claim(inputs: Inputs) -> None:
        xs = inputs.integers("xs", inputs.choose("length", range(inputs.bound + 1)))
        inputs.cover("the longest", len(xs) == inputs.bound)
        assert not (len(xs) == 3 and xs[2] == 77)

    outcome = decide(claim)

    assert outcome.verdict is ProofVerdict.REFUTED
    assert outcome.counterexample == {"length": 3, "xs[2]": 77}


def test_arithmetic_that_is_not_pythons_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()
    wrong = {"add": lambda a, b: next(count)}
    monkeypatch.setattr(crosshair_grid, "NUMBER_OPERATIONS", wrong)

    outcome = decide(leaf)

    assert outcome.verdict is ProofVerdict.UNKNOWN
    assert outcome.why == (
        f"CrossHair is not Python here: add of {-(2**64)} and {-(2**64)} is 1, not 0"
    )


def test_what_a_harness_may_not_do_is_unknown() -> None:
    def claim(inputs: Inputs) -> None:
        inputs.integer("n")
        inputs.integer("n")

    outcome = decide(claim)

    assert (outcome.verdict, outcome.why) == (
        ProofVerdict.UNKNOWN,
        "not modelled: 'n' is drawn twice",
    )


# --- texts --------------------------------------------------------------------------


def parted(inputs: Inputs) -> None:
    """`partition` takes a text apart, and nothing is lost."""
    text = inputs.text("text", inputs.bound)
    head, colon, tail = text.partition(":")
    inputs.cover("parted", colon == ":")
    inputs.cover("whole", colon == "")
    assert head + colon + tail == text
    assert ":" not in head


def test_a_claim_on_texts_is_proved_for_every_text_up_to_its_length() -> None:
    outcome = decide(parted)

    assert (outcome.verdict, outcome.why) == (ProofVerdict.PROVED, "")
    assert outcome.facts["covers"] == ["parted", "whole"]
    texts = len(crosshair_grid.TEXTS) ** 2 * len(crosshair_grid.TEXT_OPERATIONS)
    characters = len(crosshair_grid.CHARACTERS) * len(crosshair_grid.CHARACTER_OPERATIONS)
    numbers = len(crosshair_grid.NUMBERS) ** 2 * len(crosshair_grid.NUMBER_OPERATIONS)
    assert outcome.facts["compared"] == numbers + texts + characters


@pytest.mark.usefixtures("small_grid")
@pytest.mark.parametrize(
    ("holds", "worst"),
    [
        (lambda text: ":" not in text.partition(":")[2], "::"),
        (lambda text: text != "\ud800", "\ud800"),
        (lambda text: not text.isdigit() or text.isdecimal(), None),  # as of a superscript
    ],
)
def test_a_text_that_refutes_a_claim_is_found_and_fails_in_cpython(
    holds: Callable[[str], bool], worst: str | None
) -> None:
    def claim(inputs: Inputs) -> None:
        text = inputs.text("text", inputs.bound)
        inputs.cover("not empty", text != "")
        assert holds(text)

    outcome = decide(claim)

    assert outcome.verdict is ProofVerdict.REFUTED
    found = outcome.counterexample["text"]
    assert type(found) is str
    assert not holds(found)
    assert worst in (None, found)
    shown = json.loads(json.dumps(drawn_as_json(outcome.counterexample)))
    assert drawn_from_json(shown) == outcome.counterexample


@pytest.mark.usefixtures("small_grid")
def test_texts_that_are_not_pythons_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()
    wrong = {"find": lambda a, b: next(count)}
    monkeypatch.setattr(crosshair_grid, "TEXT_OPERATIONS", wrong)

    outcome = decide(parted)

    assert (outcome.verdict, outcome.why) == (
        ProofVerdict.UNKNOWN,
        "CrossHair is not Python here: find of '' and '' is 1, not 0",
    )


@pytest.mark.usefixtures("few_paths", "small_grid")
def test_a_number_read_from_a_text_comes_to_no_end() -> None:
    def claim(inputs: Inputs) -> None:
        text = inputs.text("text", inputs.bound)
        inputs.cover("a number", text.isdecimal())
        assert not text.isdecimal() or int(text) >= 0

    outcome = decide(claim)

    assert outcome.verdict is ProofVerdict.UNKNOWN
    assert outcome.why == f"not every path was confirmed; {outcome.facts['paths']:,} were run"


CONTRACT = """
metadata:
  version: 1.0.0
  description: a contract
  references: [a paper]
equations:
  e: {formula: "f"}
proof_obligations:
  - {id: PO-1, type: soundness, property: p}
falsification_tests:
  - {id: F-1, rule: r, prediction: p, if_fails: i}
kani_harnesses:
  - {id: KH-CH-TRUE, obligation: PO-1, bound: 3}
  - {id: KH-CH-FALSE, obligation: PO-1, bound: 3}
  - {id: KH-CH-SOUND, obligation: PO-1, bound: 3}
"""
HARNESSES_TEXT = """
from functools import partial

from cotejar.contracts.prove.harness import Side, Strategy, harness


def clamp(x: int):
    if x > 10:
        return 10
    return x


claim = partial(harness, obligation="PO-1", bound=3, strategy=Strategy.CROSSHAIR)


@claim("KH-CH-TRUE", targets=(clamp,))
def clamps(inputs):
    x = inputs.integer("x")
    inputs.cover("a large one", x > 10)
    assert clamp(x) == min(x, 10)


@claim("KH-CH-FALSE")
def clamps_lower(inputs):
    x = inputs.integer("x")
    inputs.cover("a large one", x > 10)
    assert clamp(x) <= 9, "above"


@claim("KH-CH-SOUND", side=Side.SOUNDNESS)
def never_above(inputs):
    x = inputs.integer("x")
    inputs.cover("a large one", x > 10)
    assert clamp(x) <= 10
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of `pv prove`, on a contract with three harnesses."""
    monkeypatch.setattr(HARNESSES, "_claims", dict(HARNESSES._claims))
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    (tmp_path / "harness_file.py").write_text(HARNESSES_TEXT)
    files = [str(tmp_path / "contract.yaml"), "--harnesses", str(tmp_path / "harness_file.py")]
    return [*files, "--no-record"]


def test_pv_prove_decides_such_harnesses_in_children(
    arguments: list[str], tmp_path: Path
) -> None:
    saved = tmp_path / "counterexamples"

    result = CliRunner().invoke(
        prove, [*arguments, "--json", "--counterexamples", str(saved)], catch_exceptions=False
    )

    true, false, sound = json.loads(result.stdout)["harnesses"]
    assert result.exit_code == 1
    assert (true["verdict"], true["strategy"]) == ("PROVED", "crosshair")
    assert true["solver"].startswith("crosshair 0.")
    assert true["mutants"]["survived"] == true["mutants"]["undecided"] == []
    assert false["verdict"] == "REFUTED"
    assert false["counterexample"]["failure"] == "AssertionError: above"
    test = (saved / "test_kh_ch_false_clamps_lower.py").read_text()
    names: dict[str, Any] = {}
    exec(test, names)
    with pytest.raises(AssertionError, match="above"):
        names["test_kh_ch_false_clamps_lower"]()
    assert (sound["verdict"], sound["why"]) == (
        "UNKNOWN",
        "soundness alone: code that never says yes would pass",
    )


def test_without_the_extra_the_error_says_what_to_install(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "crosshair.core_and_libs", None)

    error = CliRunner().invoke(prove, arguments).exception

    assert isinstance(error, MissingExtraError)
    assert error.problem == "CrossHair is not installed"
    assert error.parts == {
        "where": "pv prove",
        "expected": "the package crosshair-tool",
        "found": "no such package in this Python",
        "try": "pip install 'cotejar[prove]'",
    }
