"""Two tokenizers, judged: nothing passes on nothing, and a planted defect fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import (
    EngineCrashError,
    EngineError,
    EngineProtocolError,
    EngineTimeoutError,
    TokenizerError,
)
from cotejar.parity.tokens import TokensReport, compare_tokenizers
from cotejar.report.tokens import tokens_lines
from cotejar.tokenizer.corpus import Case, built_in_corpus
from cotejar.tokenizer.difference import TokenizedText
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass
class Words:
    """A tokenizer that knows words: one id a character, but for what a test changes."""

    name: str = "words"
    build: str = "1"
    takes_bytes: bool = False
    template: str | None = None
    ids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Of a text that is to have others."""
    spells: Mapping[int, bytes] = field(default_factory=dict)
    refuses: str = "\x00never"
    raises: type[EngineError] | None = None
    renders: bool = True

    def tokenize(
        self, text: str | bytes, *, add_special: bool, parse_special: bool
    ) -> TokenizedText:
        if self.raises is not None:
            raise self.raises(
                "it ended", where="here", expected="an answer", found="signal 11", hint="none"
            )
        text = text if isinstance(text, str) else text.decode("latin-1")
        if self.refuses in text:
            raise TokenizerError(
                "it refuses", where="here", expected="other text", found="this", hint="none"
            )
        ids = self.ids.get(text, [ord(letter) for letter in text])
        spellings = (self.spells.get(i, chr(i).encode()) for i in ids)
        return TokenizedText(ids=tuple(ids), spellings=tuple(spellings), declared=None)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        if self.template is None:
            return None
        return self.template.join(m["content"] for m in messages)


CORPUS = (Case(name="one", text="abc"), Case(name="two", text="de f"))


def compare(a: Words, b: Words, corpus: Sequence[Case] = CORPUS) -> TokensReport:
    return compare_tokenizers(a, b, corpus)


def test_equal_ids_pass() -> None:
    report = compare(Words(), Words(name="others"))

    assert (report.verdict, report.num_ids) == (Verdict.PASS, 7)
    assert [*tokens_lines(report)][-1] == "PASS  equal ids in 2 cases, 7 ids"


def test_one_other_id_fails_and_is_named() -> None:
    report = compare(Words(), Words(ids={"de f": [ord("d"), ord("e"), ord("f")]}))

    assert report.verdict is Verdict.FAIL
    (differing,) = report.differing
    assert differing.case.name == "two"
    lines = [*tokens_lines(report)]
    assert lines[-3] == "  DIFFERS  two: 'de f'"
    assert lines[-2].startswith(
        "           first at token 2, after 'de': 32 ' ' 102 'f' against "
    )
    assert lines[-1] == "FAIL  the ids differ in 1 of 2 cases"


def test_one_id_that_spells_something_else_fails() -> None:
    report = compare(Words(), Words(spells={ord("b"): b"B"}))

    assert report.verdict is Verdict.FAIL
    difference = report.differing[0].difference
    assert difference is not None
    assert difference.reason == "another vocabulary: the same id spells another text"
    assert (difference.reference, difference.candidate) == (((98, "b"),), ((98, "B"),))


def test_a_case_that_a_side_fails_at_leaves_all_undecided() -> None:
    report = compare(Words(), Words(refuses="de"))

    assert report.verdict is Verdict.INCOMPARABLE
    assert [(r.case.name, r.failed) for r in report.failed] == [
        ("two", "it refuses: expected other text, found this")
    ]
    assert [*tokens_lines(report)][-1] == (
        "INCOMPARABLE  1 case could not be tokenized by both sides"
    )


def test_a_difference_decides_beside_a_failure() -> None:
    report = compare(Words(), Words(refuses="de", ids={"abc": [1]}))

    assert report.verdict is Verdict.FAIL


@pytest.mark.parametrize("corpus", [(), (Case(name="empty"),)], ids=["no case", "no id"])
def test_nothing_compared_passes_nothing(corpus: Sequence[Case]) -> None:
    report = compare(Words(), Words(), corpus)

    assert report.verdict is Verdict.INCOMPARABLE
    assert [*tokens_lines(report)][-1] == "INCOMPARABLE  no id was compared"


@pytest.mark.parametrize("error", [EngineCrashError, EngineTimeoutError, EngineProtocolError])
def test_the_end_of_a_process_is_not_a_case_that_failed(error: type[EngineError]) -> None:
    with pytest.raises(error):
        compare(Words(), Words(raises=error))


def test_an_exception_in_a_process_that_lives_is_a_case_that_failed() -> None:
    """Another program's, of a broken chat template: the texts beside it are still compared."""
    report = compare(Words(), Words(raises=EngineError))

    assert report.verdict is Verdict.INCOMPARABLE
    assert [r.failed for r in report.failed] == [
        "it ended: expected an answer, found signal 11"
    ] * 2


BYTES = Case(name="bytes", data=b"a\xff")


def test_bytes_are_compared_where_both_take_them() -> None:
    both = Words(takes_bytes=True)

    assert compare(both, both, [BYTES]).verdict is Verdict.PASS
    other = Words(takes_bytes=True, ids={"a\xff": [97]})
    assert compare(both, other, [BYTES]).verdict is Verdict.FAIL


def test_bytes_that_a_side_does_not_take_are_listed_and_count_for_nothing() -> None:
    report = compare(Words(takes_bytes=True), Words(name="text alone"), [BYTES, *CORPUS])

    assert (report.verdict, len(report.compared)) == (Verdict.PASS, 2)
    assert [r.skipped for r in report.skipped] == ["text alone takes text, not bytes"]
    assert "  not compared: 1 case, text alone takes text, not bytes" in tokens_lines(report)
    alone = compare(Words(takes_bytes=True), Words(), [BYTES])
    assert alone.verdict is Verdict.INCOMPARABLE


CHAT = Case(
    name="chat", messages=({"role": "user", "content": "x"}, {"role": "user", "content": "y"})
)


def test_templates_that_render_otherwise_fail_and_say_so() -> None:
    report = compare(Words(template="-"), Words(template="+"), [CHAT])

    (differing,) = report.differing
    assert differing.difference is not None
    assert differing.difference.reason == "the two render the chat template to other texts"
    assert differing.text == "x-y"


@pytest.mark.parametrize("templates", [("-", "-"), ("-", None), (None, "-")])
def test_where_one_side_renders_both_read_its_text(
    templates: tuple[str | None, str | None],
) -> None:
    a, b = (Words(template=t, renders=t is not None) for t in templates)

    report = compare(a, b, [CHAT])

    assert (report.verdict, report.results[0].text) == (Verdict.PASS, "x-y")


@pytest.mark.parametrize("templates", [("-", None), (None, "-")])
def test_a_template_that_one_model_has_lost_is_a_difference(
    templates: tuple[str | None, str | None],
) -> None:
    a, b = (Words(template=template) for template in templates)

    report = compare(a, b, [CHAT])

    assert report.verdict is Verdict.FAIL
    difference = report.differing[0].difference
    assert difference is not None
    assert difference.reason == "one model alone has a chat template"
    shown = ((120, "x"), (45, "-"), (121, "y"))
    expected = tuple(shown if t else () for t in templates)
    assert (difference.reference, difference.candidate) == expected


def test_a_chat_that_neither_side_renders_is_not_compared() -> None:
    report = compare(Words(), Words(), [CHAT])

    assert report.verdict is Verdict.INCOMPARABLE
    assert [r.skipped for r in report.skipped] == ["neither side has a chat template"]


def test_the_json_has_the_same_facts() -> None:
    wrong = Words(name="wrong", ids={"abc": [97, 98]})

    facts = compare(Words(), wrong, [*CORPUS, BYTES, Case(name="bad", text="\x00never")])
    found = facts.as_json()

    assert (found["verdict"], found["exit_code"]) == ("FAIL", 1)
    assert found["candidate"] == {"name": "wrong", "build": "1"}
    assert (found["num_cases"], found["num_compared"], found["num_differing"]) == (4, 2, 1)
    assert found["differences"] == [
        {
            "case": "one",
            "text": "abc",
            "add_special": True,
            "parse_special": True,
            "index": 2,
            "before": "ab",
            "reference": [{"id": 99, "text": "c"}],
            "candidate": [],
            "reason": "another normaliser: the two lists of tokens spell other text",
        }
    ]
    assert found["skipped"] == [{"case": "bytes", "why": "words takes text, not bytes"}]
    assert found["failed"] == [
        {"case": "bad", "why": "it refuses: expected other text, found this"}
    ]


def test_what_is_shown_sends_nothing_to_the_terminal() -> None:
    evil = Case(name="evil", text="a\x1b[2Jb\r")
    report = compare(Words(name="n\x1b"), Words(ids={evil.text: [27]}), [evil])

    assert all(line.isprintable() for line in tokens_lines(report))


def test_many_differences_are_counted_and_not_all_shown() -> None:
    corpus = [Case(name=f"n{i}", text=f"{i}") for i in range(15)]
    report = compare(Words(), Words(ids={f"{i}": [1] for i in range(15)}), corpus)

    lines = [*tokens_lines(report)]
    assert sum(line.startswith("  DIFFERS") for line in lines) == 10
    assert "  ... and 5 more: --json lists all" in lines


def test_the_built_in_corpus_is_compared_case_by_case() -> None:
    seen: list[str] = []

    report = compare_tokenizers(Words(), Words(), built_in_corpus(), seen.append)

    assert report.verdict is Verdict.PASS
    assert len(seen) == len(report.results) == len(built_in_corpus())
