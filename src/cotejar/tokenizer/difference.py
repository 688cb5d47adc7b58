"""Where two lists of token ids for one text part, and the probable reason.

What is compared are ids. What a token spells (its bytes) says which part of the text the
two read differently, and what the models' files declare says why. A reason is probable, not
proven: it is the first of these that fits.

| the two | reason |
| --- | --- |
| are the same but for a token in front, or at the end | BOS or EOS is added by one |
| one has a special token where the other spells its name | special tokens are parsed by one |
| spell other text | a normaliser, or a space in front |
| cut that part of the text at other places | another pre-tokenizer |
| have one token each, spelled alike, under other ids | another vocabulary |
| cut alike and merge otherwise | another table of merges |
"""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.tokenizer.declared import DeclaredTokenizer

SHOWN_BYTES = 24
"""Of the text before the difference."""
SHOWN_TOKENS = 6
_FORMS: tuple[Literal["NFC", "NFKC", "NFD", "NFKD"], ...] = ("NFC", "NFKC", "NFD", "NFKD")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedText:
    """One side's ids of a text, and what each of them spells."""

    ids: tuple[int, ...]
    spellings: tuple[bytes, ...]
    """One an id; of a special token its name."""
    special_ids: frozenset[int] = frozenset()
    """Those of the ids that this tokenizer takes for special tokens."""
    declared: DeclaredTokenizer | None
    """What the model's files say; None where we cannot read them."""
    bos_id: int | None = None
    eos_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDifference:
    """The first place at which two lists of ids part."""

    index: int
    """Of the first token that differs."""
    before: str
    """The end of what the tokens before it spell."""
    text: str
    """What the tokens that differ spell on the reference's side."""
    reference: tuple[tuple[int, str], ...]
    candidate: tuple[tuple[int, str], ...]
    """(id, spelling), from there to where the two agree again; the first few."""
    reason: str

    @property
    def sentence(self) -> str:
        """For people, in one line."""
        after = f"after {self.before!r}" if self.before else "at the start"
        return (
            f"first at token {self.index}, {after}: {_listed(self.reference)} against "
            f"{_listed(self.candidate)}; {self.reason}"
        )


def find_difference(
    text: str, reference: TokenizedText, candidate: TokenizedText
) -> TokenDifference | None:
    """The first difference of two sides' ids of `text`; None where there is none."""
    a, b = reference.ids, candidate.ids
    if a == b:
        return None
    start = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    end_a, end_b = _meet_again(reference, candidate, start)
    before = b"".join(reference.spellings[:start])[-SHOWN_BYTES:]
    part = b"".join(reference.spellings[start:end_a])
    return TokenDifference(
        index=start,
        before=before.decode("utf-8", "replace"),
        text=part.decode("utf-8", "replace"),
        reference=_shown(reference, start, end_a),
        candidate=_shown(candidate, start, end_b),
        reason=_reason(text, reference, candidate, start, (end_a, end_b)),
    )


def _meet_again(a: TokenizedText, b: TokenizedText, start: int) -> tuple[int, int]:
    """The ends of the shortest parts from `start` that spell equally much; else all."""
    i, j = start, start
    spelled_a = spelled_b = 0
    while True:
        if spelled_a <= spelled_b and i < len(a.ids):
            spelled_a += len(a.spellings[i])
            i += 1
        elif j < len(b.ids):
            spelled_b += len(b.spellings[j])
            j += 1
        else:
            return len(a.ids), len(b.ids)
        if spelled_a == spelled_b > 0 and a.ids[i : i + 1] == b.ids[j : j + 1]:
            return i, j


def _shown(side: TokenizedText, start: int, end: int) -> tuple[tuple[int, str], ...]:
    end = min(end, start + SHOWN_TOKENS)
    return tuple(
        (side.ids[i], side.spellings[i].decode("utf-8", "replace")) for i in range(start, end)
    )


def _listed(tokens: Sequence[tuple[int, str]]) -> str:
    return " ".join(f"{i} {text!r}" for i, text in tokens) or "nothing"


def _reason(
    text: str, a: TokenizedText, b: TokenizedText, start: int, ends: tuple[int, int]
) -> str:
    end_a, end_b = ends
    for side, other, name in ((a, b, "reference"), (b, a, "candidate")):
        added = _added_token(side, other)
        if added:
            return f"the {name} alone adds {added}"
    for side, end, name in ((a, end_a, "reference"), (b, end_b, "candidate")):
        other, other_end = (b, end_b) if side is a else (a, end_a)
        parsed = [i for i in range(start, end) if side.ids[i] in side.special_ids]
        if parsed and not other.special_ids & set(other.ids[start:other_end]):
            spelled = side.spellings[parsed[0]].decode("utf-8", "replace")
            return f"the {name} alone takes {spelled!r} for a special token"
    part_a = b"".join(a.spellings[start:end_a])
    part_b = b"".join(b.spellings[start:end_b])
    if part_a != part_b:
        return _other_text(text, a, b)
    if a.spellings[start : start + 1] == b.spellings[start : start + 1] != ():
        spelled = a.spellings[start].decode("utf-8", "replace")
        return f"another vocabulary: {spelled!r} is {a.ids[start]} against {b.ids[start]}"
    return _other_cuts(a, b, start, ends) or _other_merges(a, b)


def _added_token(side: TokenizedText, other: TokenizedText) -> str:
    """What `side` has in front or at the end, if that is all that parts the two."""
    if len(side.ids) != len(other.ids) + 1:
        return ""
    if side.ids[1:] == other.ids:
        index, kind = 0, "BOS" if side.ids[0] == side.bos_id else "a token"
        where = "in front"
    elif side.ids[:-1] == other.ids:
        index, kind = -1, "EOS" if side.ids[-1] == side.eos_id else "a token"
        where = "at the end"
    else:
        return ""
    spelled = side.spellings[index].decode("utf-8", "replace")
    if kind == "a token" and side.ids[index] not in side.special_ids:
        return ""  # a word of the text, not one that is put around it
    return f"{kind} {where}, {side.ids[index]} {spelled!r}"


def _other_text(text: str, a: TokenizedText, b: TokenizedText) -> str:
    spelled = [b"".join(side.spellings).decode("utf-8", "replace") for side in (a, b)]
    for name, found in zip(("reference", "candidate"), spelled, strict=True):
        for form in _FORMS:
            normal = unicodedata.normalize(form, text)
            if normal != text and normal in found and text not in found:
                return f"another normaliser: the {name}'s tokens spell the text in {form}"
    if spelled[0].lstrip(" ") == spelled[1].lstrip(" "):
        return "another normaliser: one puts a space in front of the text"
    return "another normaliser: the two lists of tokens spell other text"


def _other_cuts(a: TokenizedText, b: TokenizedText, start: int, ends: tuple[int, int]) -> str:
    """Who cuts the part otherwise, by what the files declare and by what tokens cross."""
    segment, offset = _segment(a, start, ends[0])
    part = b"".join(a.spellings[start : ends[0]])
    inside = range(offset + 1, offset + len(part))
    cuts = [_cuts_inside(side, segment, inside) for side in (a, b)]
    names = [side.declared.pre_tokenizer if side.declared else "" for side in (a, b)]
    if cuts[0] is not None and cuts[1] is not None and cuts[0] != cuts[1]:
        ends_of_part = (offset, offset + len(part))
        first, second = (
            f"{name!r} cuts {pieces}"
            for name, pieces in zip(
                names, _pieces(segment, cuts[0], cuts[1], ends_of_part), strict=True
            )
        )
        return f"another pre-tokenizer: {first}, {second}"
    for i, (side, end) in enumerate(((b, ends[1]), (a, ends[0]))):
        at = cuts[i]
        crossing = None if at is None else _crossing(side, start, end, offset, at)
        if crossing is not None:
            who, whose = ("candidate", "reference") if i == 0 else ("reference", "candidate")
            return (
                f"another pre-tokenizer: the {who}'s token {crossing!r} runs across a cut of "
                f"the {whose}'s, {names[i]!r}"
            )
    return ""


def _segment(side: TokenizedText, start: int, end: int) -> tuple[str, int]:
    """The text between the special tokens around a part, and the part's byte offset in it."""
    special = side.special_ids
    first, last = start, end
    while first > 0 and side.ids[first - 1] not in special:
        first -= 1
    while last < len(side.ids) and side.ids[last] not in special:
        last += 1
    before = b"".join(side.spellings[first:start])
    rest = b"".join(side.spellings[start:last])
    return (before + rest).decode("utf-8", "replace"), len(before)


def _cuts_inside(side: TokenizedText, segment: str, inside: range) -> frozenset[int] | None:
    cuts = side.declared.cuts(segment) if side.declared else None
    return None if cuts is None else frozenset(cut for cut in cuts if cut in inside)


def _pieces(
    segment: str, a: frozenset[int], b: frozenset[int], ends: tuple[int, int]
) -> tuple[str, str]:
    """What the two make of the shortest text around the first cut that one alone has."""
    data, at = segment.encode(), min(a ^ b)
    common = (a & b) | {*ends}
    first = max(cut for cut in common if cut < at)
    last = min(cut for cut in common if cut > at)
    while last < len(data) and data[last] & 0xC0 == 0x80:  # noqa: PLR2004 - 10xxxxxx goes on
        last += 1  # a part may end inside a character
    shown = []
    for cuts in (a, b):
        edges = [first, *sorted(cut for cut in cuts if first < cut < last), last]
        pieces = (data[i:j].decode("utf-8", "replace") for i, j in itertools.pairwise(edges))
        shown.append(" | ".join(map(repr, itertools.islice(pieces, SHOWN_TOKENS))))
    return shown[0], shown[1]


def _crossing(
    side: TokenizedText, start: int, end: int, offset: int, cuts: frozenset[int]
) -> str | None:
    """The first token of a part that runs across one of the cuts."""
    at = offset
    for i in range(start, end):
        stop = at + len(side.spellings[i])
        if any(at < cut < stop for cut in cuts):
            return side.spellings[i].decode("utf-8", "replace")
        at = stop
    return None


def _other_merges(a: TokenizedText, b: TokenizedText) -> str:
    tables = [side.declared.merges if side.declared else () for side in (a, b)]
    if all(tables) and tables[0] != tables[1]:
        pairs = zip(*tables, strict=False)
        rank = next((i for i, (x, y) in enumerate(pairs) if x != y), min(map(len, tables)))
        first, second = (repr(t[rank]) if rank < len(t) else "none" for t in tables)
        return (
            f"another table of merges: the first that differs is {rank}, {first} against "
            f"{second}"
        )
    return "another table of merges: both cut the text alike here, and merge it otherwise"
