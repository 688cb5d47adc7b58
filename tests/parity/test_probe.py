"""What a prompt can show on a model, and what it cannot, is said and not guessed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import EmptyPromptError, TokenIdError, UsageError
from cotejar.faults.catalogue import FAULTS
from cotejar.parity.probe import probe_prompt
from cotejar.parity.probe_text import longer_prompt
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.tokenizer.tokenizer import Tokenizer
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel
    from cotejar.parity.probe import Measure, ProbeReport, Prospect
    from tests.conftest import TinyModels

IDS = (3, 141, 59, 26, 53, 7)


def probe(
    model: LanguageModel, *faults: str, ids: tuple[int, ...] = IDS, measure: Measure = "none"
) -> ProbeReport:
    return probe_prompt(model, token_ids=ids, faults=faults, measure=measure)


def only(report: ProbeReport) -> Prospect:
    (prospect,) = report.prospects
    return prospect


def test_a_bos_alone_cannot_show_rope(tiny: TinyModels) -> None:
    report = probe(tiny(), "rope-theta", ids=(0,))

    prospect = only(report)
    assert (prospect.outcome, prospect.tokens_needed) == ("hidden", 2)
    assert prospect.reason == "position 0 is not turned: needs 2 tokens, found 1"
    assert report.verdict is Verdict.FAIL


@pytest.mark.parametrize(("num_tokens", "outcome"), [(4, "hidden"), (5, "shown")])
def test_a_text_within_the_window_cannot_show_it(
    tiny: TinyModels, num_tokens: int, outcome: str
) -> None:
    model = tiny(TinyDecoder(architecture="mistral", sliding_window=4))

    assert only(probe(model, "window-missing", ids=IDS[:num_tokens])).outcome == outcome


@pytest.mark.parametrize(
    ("fault", "needed"), [("window-off-by-one", 5), ("window-off-by-one*-1", 4)]
)
def test_a_window_that_moves_shows_where_the_narrower_one_ends(
    tiny: TinyModels, fault: str, needed: int
) -> None:
    """Held against runs: one token fewer changes no bit, so many do."""
    from cotejar.engines.oracle import OracleEngine
    from cotejar.engines.registry import parse_engine_name
    from cotejar.faults.engine import faulty_engine
    from cotejar.parity.compare import compare_traces
    from cotejar.parity.probe import CAPTURE

    model = tiny(TinyDecoder(architecture="mistral", sliding_window=4))
    verdicts = []
    for count in (needed - 1, needed):
        ids = IDS[:count]
        exact = OracleEngine(model).trace(ids, capture=CAPTURE)
        engine = faulty_engine(parse_engine_name("native+f32:x"), model, fault)
        verdicts.append(compare_traces(exact, engine.trace(ids, capture=CAPTURE)).verdict)

    assert verdicts == [Verdict.PASS, Verdict.FAIL]
    assert only(probe(model, fault, ids=IDS[: needed - 1])).tokens_needed == needed
    assert only(probe(model, fault, ids=IDS[:needed])).outcome == "shown"


def test_a_model_without_biases_cannot_miss_one(tiny: TinyModels) -> None:
    report = probe(tiny(), "missing-bias")

    prospect = only(report)
    assert prospect.outcome == "nothing to break"
    assert prospect.reason == "needs a tensor self_attn.q_proj.bias; found no such tensor"
    assert report.verdict is Verdict.INCOMPARABLE  # of nothing, nothing was shown


@pytest.mark.parametrize(("first", "outcome"), [(0, "shown"), (7, "hidden")])
def test_ids_without_a_bos_cannot_show_that_it_is_left_out(
    tiny: TinyModels, first: int, outcome: str
) -> None:
    model = tiny()
    model.__dict__["tokenizer"] = Tokenizer(replace(model.tokenizer.spec, add_bos=True))

    prospect = only(probe(model, "bos-missing", ids=(first, 8)))

    assert prospect.outcome == outcome
    assert first == 0 or prospect.reason == "there is no BOS to leave out: token 7 first"


def test_what_only_decoding_shows_is_no_shortcoming_of_the_prompt(tiny: TinyModels) -> None:
    report = probe(tiny(), "rope-theta", "decode-position")

    assert [p.outcome for p in report.prospects] == ["shown", "needs decoding"]
    assert report.verdict is Verdict.PASS


def test_a_layer_that_is_not_there(tiny: TinyModels) -> None:
    prospect = only(probe(tiny(), "block-shift@7"))

    assert (prospect.outcome, prospect.reason) == ("nothing to break", "needs layer 7 of 0..1")


def test_what_length_alone_promises_a_run_keeps(tiny: TinyModels) -> None:
    """Every fault that is called shown, run: the comparison fails or is INCOMPARABLE."""
    model = tiny(TinyDecoder(architecture="qwen2"))

    promised = probe(model).having("shown")
    run = probe(model, measure="all").having("shown")

    assert [p.fault for p in promised] == [p.fault for p in run]
    assert all(p.measured for p in run)
    assert len(run) > 80


def test_what_drowns_in_noise_is_hidden(tiny: TinyModels) -> None:
    """A billionth more of eps moves nothing that float32 could show."""
    report = probe(tiny(), "norm-eps*1.000000001", measure="doubt")

    prospect = only(report)
    assert (prospect.outcome, prospect.measured) == ("hidden", True)
    assert prospect.reason.startswith("drowns in the noise of f32: ")
    assert prospect.tokens_needed is None
    assert report.proposal is None  # no length helps


@pytest.mark.parametrize(
    ("fault", "measured"),
    [
        ("rope-theta", False),
        ("rope-theta*0.5", True),
        ("rope-theta@1", True),
        ("block-shift@1", False),
        ("norm-eps", True),
    ],
)
def test_what_is_weaker_than_usual_is_in_doubt(
    tiny: TinyModels, fault: str, measured: bool
) -> None:
    assert only(probe(tiny(), fault, measure="doubt")).measured is measured


def test_a_fault_in_doubt_that_shows_says_where(tiny: TinyModels) -> None:
    prospect = only(probe(tiny(), "norm-eps*10", measure="doubt"))

    assert (prospect.outcome, prospect.measured) == ("shown", True)
    assert prospect.reason.startswith("at layer.0.attn_norm: rel_l2_max ")


def test_a_better_prompt_is_proposed_and_shows_what_it_says(tiny: TinyModels) -> None:
    model = tiny(TinyDecoder(architecture="mistral", sliding_window=32))
    before = probe_prompt(model, token_ids=[0], prompt="A", measure="none")

    proposal = before.proposal

    assert proposal is not None
    assert "window-missing" in proposal.shows
    assert proposal.prompt.startswith("A")
    ids = model.tokenizer.encode(proposal.prompt)
    assert len(ids) == proposal.num_tokens
    after = probe_prompt(model, token_ids=ids, measure="none")
    assert {p.fault for p in before.having("hidden")} == set(proposal.shows)
    assert after.having("hidden") == ()
    assert after.proposal is None


def test_no_prompt_is_proposed_beyond_the_models_context(tiny: TinyModels) -> None:
    model = tiny(TinyDecoder(architecture="mistral", sliding_window=64, context_length=64))

    report = probe(model, "window-missing")

    assert only(report).tokens_needed is None
    assert report.proposal is None


def test_none_is_proposed_without_a_tokenizer(tiny: TinyModels) -> None:
    report = probe(tiny(TinyDecoder(tokenizer=False)), "rope-theta", ids=(1,))

    assert only(report).outcome == "hidden"
    assert report.proposal is None


@pytest.mark.parametrize("num_tokens", [1, 40, 200, 3000])
def test_a_text_is_continued_until_it_is_long_enough(tiny: TinyModels, num_tokens: int) -> None:
    tokenizer = tiny(TinyDecoder(context_length=4096)).tokenizer

    text, ids = longer_prompt(tokenizer, "Hello", num_tokens)

    assert text.startswith("Hello")
    assert tokenizer.encode(text) == ids
    # It overshoots by a piece of text, not by a multiple of what was asked.
    assert num_tokens <= len(ids) < num_tokens + 200


def test_ids_that_cannot_be_run_are_refused(tiny: TinyModels) -> None:
    model = tiny()

    with pytest.raises(EmptyPromptError):
        probe(model, ids=())
    with pytest.raises(TokenIdError):
        probe(model, ids=(320,))
    with pytest.raises(UsageError, match="there is no fault 'none'"):
        probe(model, "none")


def test_the_json_has_the_same_facts(tiny: TinyModels) -> None:
    report = probe(tiny(), ids=(0,))

    facts = report.as_json()

    assert facts["verdict"] == "FAIL"
    assert isinstance(facts["faults"], list)
    assert [fault["id"] for fault in facts["faults"]] == [p.fault for p in report.prospects]
    assert len(report.prospects) == len(FAULTS)
    assert facts["hidden"] == len(report.having("hidden")) > 10


@pytest.mark.qwen
def test_a_real_model_shows_every_fault_that_it_can_have(qwen_model: Path) -> None:
    from cotejar.model.language_model import open_language_model

    model = open_language_model(qwen_model)
    ids = model.tokenizer.encode("What is 2+2?")

    assert probe(model, ids=tuple(ids)).having("hidden") == ()
