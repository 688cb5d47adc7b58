"""Two tokenizers over a corpus, judged: what `apr tokens` does.

A case is compared where both sides can read it. PASS needs every id of every such case
equal, and what each id spells; and at least one case. A case that a side fails at leaves
the whole undecided, unless another case has failed already. A case that a side does not
offer (bytes that are no UTF-8, a chat where neither model has a template) is listed, and
counts for nothing. A chat template that one model alone has is a difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cotejar.errors import (
    CotejarError,
    EngineCrashError,
    EngineProtocolError,
    EngineTimeoutError,
)
from cotejar.tokenizer.difference import TokenDifference, TokenizedText, find_difference
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotejar.engines.tokenizers import TokenizerSide
    from cotejar.tokenizer.corpus import Case


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """One case, compared or not."""

    case: Case
    text: str
    """What was tokenized: of messages what the template made of them."""
    num_ids: int = 0
    """Of the reference."""
    difference: TokenDifference | None = None
    skipped: str = ""
    """Why a side does not offer it."""
    failed: str = ""
    """What a side said when it failed at it."""

    @property
    def was_compared(self) -> bool:
        """Did both sides give ids?"""
        return not (self.skipped or self.failed)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensReport:
    """Two tokenizers over all cases."""

    reference: str
    candidate: str
    """As the sides were named."""
    builds: tuple[str, str]
    results: tuple[CaseResult, ...]

    @property
    def compared(self) -> list[CaseResult]:
        """Cases in which both sides gave ids."""
        return [r for r in self.results if r.was_compared]

    @property
    def differing(self) -> list[CaseResult]:
        """Cases in which the ids differ, or what they spell."""
        return [r for r in self.results if r.difference is not None]

    @property
    def skipped(self) -> list[CaseResult]:
        """Cases that a side does not offer."""
        return [r for r in self.results if r.skipped]

    @property
    def failed(self) -> list[CaseResult]:
        """Cases that a side failed at."""
        return [r for r in self.results if r.failed]

    @property
    def num_ids(self) -> int:
        """Ids compared, of the reference."""
        return sum(r.num_ids for r in self.compared)

    @property
    def verdict(self) -> Verdict:
        """FAIL on a difference; INCOMPARABLE if a side failed, or no id was compared."""
        if self.differing:
            return Verdict.FAIL
        return Verdict.INCOMPARABLE if self.failed or not self.num_ids else Verdict.PASS

    def as_json(self) -> dict[str, object]:
        """The object that `--json` prints."""
        return {
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "reference": {"name": self.reference, "build": self.builds[0]},
            "candidate": {"name": self.candidate, "build": self.builds[1]},
            "num_cases": len(self.results),
            "num_compared": len(self.compared),
            "num_ids": self.num_ids,
            "num_differing": len(self.differing),
            "differences": [_difference_json(r) for r in self.differing],
            "skipped": [{"case": r.case.name, "why": r.skipped} for r in self.skipped],
            "failed": [{"case": r.case.name, "why": r.failed} for r in self.failed],
        }


def _difference_json(result: CaseResult) -> dict[str, object]:
    difference = result.difference
    assert difference is not None, "only what differs is listed"
    return {
        "case": result.case.name,
        "text": result.text,
        "add_special": result.case.add_special,
        "parse_special": result.case.parse_special,
        "index": difference.index,
        "before": difference.before,
        "reference": [{"id": i, "text": text} for i, text in difference.reference],
        "candidate": [{"id": i, "text": text} for i, text in difference.candidate],
        "reason": difference.reason,
    }


def compare_tokenizers(
    reference: TokenizerSide,
    candidate: TokenizerSide,
    corpus: Sequence[Case],
    on_progress: Callable[[str], None] = lambda _: None,
) -> TokensReport:
    """Compare two tokenizers case by case.

    Raises:
        EngineCrashError, EngineTimeoutError, EngineProtocolError: another program's process
            has ended; the rest cannot be compared.
    """
    results = []
    for number, case in enumerate(corpus, 1):
        on_progress(f"case {number} of {len(corpus)}: {case.name}")
        results.append(_compare_case(reference, candidate, case))
    return TokensReport(
        reference=reference.name,
        candidate=candidate.name,
        builds=(reference.build, candidate.build),
        results=tuple(results),
    )


def _compare_case(a: TokenizerSide, b: TokenizerSide, case: Case) -> CaseResult:
    try:
        if case.messages is not None:
            return _compare_chat(a, b, case)
        if case.data is not None:
            return _compare_bytes(a, b, case)
        return _compare_text(a, b, case, (case.text, case.text))
    except (EngineCrashError, EngineTimeoutError, EngineProtocolError):
        raise
    except CotejarError as error:
        return CaseResult(case=case, text=case.text, failed=_brief(error))


def _compare_text(
    a: TokenizerSide, b: TokenizerSide, case: Case, texts: tuple[str, str]
) -> CaseResult:
    found = [
        side.tokenize(text, add_special=case.add_special, parse_special=case.parse_special)
        for side, text in zip((a, b), texts, strict=True)
    ]
    return _judge(case, texts[0], found[0], found[1])


def _judge(case: Case, text: str, a: TokenizedText, b: TokenizedText) -> CaseResult:
    difference = find_difference(text, a, b) or _other_spelling(a, b)
    return CaseResult(case=case, text=text, num_ids=len(a.ids), difference=difference)


def _other_spelling(a: TokenizedText, b: TokenizedText) -> TokenDifference | None:
    """The first id that is the same on both sides, and spells another text."""
    pairs = zip(a.spellings, b.spellings, strict=True)
    index = next((i for i, (x, y) in enumerate(pairs) if x != y), None)
    if index is None:
        return None
    shown = [
        ((side.ids[index], side.spellings[index].decode("utf-8", "replace")),)
        for side in (a, b)
    ]
    return TokenDifference(
        index=index,
        before=b"".join(a.spellings[:index])[-24:].decode("utf-8", "replace"),
        text=shown[0][0][1],
        reference=shown[0],
        candidate=shown[1],
        reason="another vocabulary: the same id spells another text",
    )


def _compare_bytes(a: TokenizerSide, b: TokenizerSide, case: Case) -> CaseResult:
    assert case.data is not None, "checked before"
    text = case.data.decode("utf-8", "replace")
    without = [side.name for side in (a, b) if not side.takes_bytes]
    if without:
        return CaseResult(case=case, text=text, skipped=f"{without[0]} takes text, not bytes")
    x, y = (
        side.tokenize(case.data, add_special=case.add_special, parse_special=case.parse_special)
        for side in (a, b)
    )
    return _judge(case, text, x, y)


def _compare_chat(a: TokenizerSide, b: TokenizerSide, case: Case) -> CaseResult:
    """Each side's own rendering; where only one can render, both read what it rendered.

    The template writes what goes around the text, so nothing is added to it.
    """
    assert case.messages is not None, "checked before"
    rendered = [side.render(case.messages) for side in (a, b)]
    text = next((r for r in rendered if r is not None), None)
    if text is None:
        return CaseResult(case=case, text="", skipped="neither side has a chat template")
    texts = tuple(text if r is None else r for r in rendered)
    found = [
        _NO_TOKENS
        if own is None and side.renders
        else side.tokenize(t, add_special=False, parse_special=True)
        for side, own, t in zip((a, b), rendered, texts, strict=True)
    ]
    result = _judge(case, texts[0], found[0], found[1])
    if any(side is _NO_TOKENS for side in found):
        return _with_reason(result, "one model alone has a chat template")
    if texts[0] == texts[1] or result.difference is None:
        return result
    return _with_reason(result, "the two render the chat template to other texts")


_NO_TOKENS = TokenizedText(ids=(), spellings=(), declared=None)
"""Of a chat, where the model has no template to make a text of it."""


def _with_reason(result: CaseResult, reason: str) -> CaseResult:
    if result.difference is None:  # a template that renders nothing is like none
        return result
    return replace(result, difference=replace(result.difference, reason=reason))


def _brief(error: CotejarError) -> str:
    return f"{error.problem}: expected {error.parts['expected']}, found {error.parts['found']}"
