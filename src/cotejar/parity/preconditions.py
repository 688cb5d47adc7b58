"""May these two traces be compared at all? Judged before any ratio.

One broken precondition makes a comparison INCOMPARABLE, never PASS and never FAIL. The
sample count is the one that a famous hunt lacked: 25,088 numbers (7 tokens x 3584) were
held against 3,584 (the last token's), and the ratio of their standard deviations, 18.23,
was taken for a bug in a kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cotejar.model.config import MAX_LAYERS
from cotejar.parity.metrics import distance_from_1
from cotejar.parity.sample_gate import samples_agree
from cotejar.trace.forward_trace import UNKNOWN, Scope
from cotejar.trace.site import CONTRACT_SLOTS, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cotejar.parity.gates import Gate
    from cotejar.trace.forward_trace import ForwardTrace, SiteRecord

FLOAT32_ROUNDING = 2.0**-23
"""Two files of one model may store a real number in float32 and in float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Precondition:
    """One condition, and what was found."""

    id: str
    num_checked: int
    num_broken: int
    message: str
    is_undecided: bool = False
    """Broken for want of knowledge: a recorded trace does not say."""

    @property
    def holds(self) -> bool:
        """Something was checked, and nothing was broken."""
        return self.num_checked > 0 and self.num_broken == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What the preconditions are asked about: two traces and what is to be compared."""

    reference: ForwardTrace
    candidate: ForwardTrace
    scopes: tuple[Scope, ...]
    """Scopes that the comparison is to cover."""
    required_slots: tuple[str, ...] | None = None
    """None: the ten of contracts, less what a side says it cannot observe."""
    gates: tuple[Gate, ...] = ()
    """What is to be judged: says which arrays are needed."""
    explain_tokens: Callable[[], str | None] | None = None
    """Names the first token that differs, where both sides tokenized one text."""

    @property
    def common(self) -> list[tuple[SiteRecord, SiteRecord]]:
        """Sites that both traces have, in forward order."""
        other = self.candidate.sites
        return [(r, other[name]) for name, r in self.reference.sites.items() if name in other]

    @property
    def required_sites(self) -> list[str]:
        """Every required slot of every layer that either configuration declares.

        And what comes before and after the layers: a wrong LM head shows in the logits alone.
        """
        slots = self.required_slots
        if slots is None:
            unseen = self.reference.not_observed | self.candidate.not_observed
            slots = tuple(slot for slot in CONTRACT_SLOTS if slot not in unseen)
        layers = max(self.reference.num_layers, self.candidate.num_layers)
        layers = min(layers, MAX_LAYERS)  # a recorded trace can claim anything
        inside = [str(Site(slot, n)) for n in range(layers) for slot in slots]
        return ["embed", *inside, "final_norm", "logits"] if inside else []

    @property
    def judged_arrays(self) -> list[str]:
        """Common sites at which a gate judges elements."""
        gates = [gate for gate in self.gates if gate.needs_arrays]
        names = [str(record.site) for record, _ in self.common]
        return [name for name in names if any(gate.applies_to(name) for gate in gates)]

    def shared_scopes(self, a: SiteRecord, b: SiteRecord) -> list[Scope]:
        """Wanted scopes that both sides recorded at a site."""
        return [scope for scope in self.scopes if scope in a.stats and scope in b.stats]


ALWAYS_JUDGED = frozenset({"shapes", "sample-count", "arrays"})
"""Without these there is nothing to measure, whatever a contract asks for."""


WAIVABLE = ("config", "weights-fingerprint", "capture-points", "ddof")
"""What a user may decide not to insist on: is it the same model, read the same way? Whether
the two were measured alike is not theirs to waive."""


def check_preconditions(question: Question, wanted: Sequence[str] = ()) -> list[Precondition]:
    """Judge the preconditions `wanted` and `ALWAYS_JUDGED`, or all; every one is reported."""
    names = {*wanted, *ALWAYS_JUDGED} if wanted else CHECKS.keys()
    return [check(question) for name, check in CHECKS.items() if name in names]


def _check_token_ids(question: Question) -> Precondition:
    a, b = question.reference.token_ids, question.candidate.token_ids
    found = _sequences("token-ids", "token ids", a, b)
    if found.holds or found.is_undecided or question.explain_tokens is None:
        return found
    explained = question.explain_tokens()
    if explained is None:
        return found
    counts = f"{found.num_broken} of {found.num_checked} token ids differ"
    return replace(found, message=f"{counts}, {explained}")


def _check_positions(question: Question) -> Precondition:
    a, b = question.reference.positions, question.candidate.positions
    return _sequences("positions", "positions", a, b)


def _sequences(name: str, what: str, a: Sequence[int], b: Sequence[int]) -> Precondition:
    checked = max(len(a), len(b))
    if not (a and b):
        return _undecided(name, max(checked, 1), f"{_silent(a, b)} its {what}")
    differing = [i for i in range(checked) if a[i : i + 1] != b[i : i + 1]]
    message = f"the same {checked} {what}"
    if differing:
        i = differing[0]
        message = (
            f"{len(differing)} of {checked} {what} differ, the first at index {i}: "
            f"{list(a[i : i + 1])} against {list(b[i : i + 1])}"
        )
    return Precondition(
        id=name, num_checked=checked, num_broken=len(differing), message=message
    )


def _undecided(name: str, checked: int, message: str, broken: int = 1) -> Precondition:
    return Precondition(
        id=name, num_checked=checked, num_broken=broken, message=message, is_undecided=True
    )


def _silent(reference_says: object, candidate_says: object) -> str:
    """Who keeps silent; what about comes after."""
    if reference_says or candidate_says:
        return f"the {'candidate' if reference_says else 'reference'} does not say"
    return "neither side says"


def _sites_undecided(
    name: str,
    pairs: Sequence[tuple[SiteRecord, SiteRecord]],
    says: Callable[[SiteRecord], bool],
    what: str,
) -> Precondition:
    """The precondition over sites of which a side does not say `what`."""
    silent = [(a, b) for a, b in pairs if not (says(a) and says(b))]
    a, b = silent[0]
    message = (
        f"{_silent(says(a), says(b))} {what} {a.site}, "
        f"one of {len(silent)} such sites of {len(pairs)}"
    )
    return _undecided(name, len(pairs), message, len(silent))


def _check_config(question: Question) -> Precondition:
    a, b = question.reference.config, question.candidate.config
    keys = sorted({*a, *b})
    if not keys:
        return _undecided("config", 1, "neither side says its configuration")
    differing = [k for k in keys if k in a and k in b and not _same_value(a[k], b[k])]
    one_sided = [key for key in keys if key not in a or key not in b]
    if one_sided and not differing:
        silent = _silent(one_sided[0] in a, one_sided[0] in b)
        message = f"{len(one_sided)} of {len(keys)} keys are on one side alone; {silent} "
        return _undecided("config", len(keys), message + one_sided[0], len(one_sided))
    message = f"{len(keys)} keys agree"
    if differing:
        key = differing[0]
        message = (
            f"{len(differing)} of {len(keys)} keys differ: {', '.join(differing)}; "
            f"{key} is {a.get(key)!r} against {b.get(key)!r}"
        )
    return Precondition(
        id="config", num_checked=len(keys), num_broken=len(differing), message=message
    )


def _same_value(a: object, b: object) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same_value, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return (
            isinstance(a, (int, float))
            and isinstance(b, (int, float))
            and math.isclose(a, b, rel_tol=FLOAT32_ROUNDING, abs_tol=0.0)
        )
    return a == b


def _check_fingerprint(question: Question) -> Precondition:
    a, b = question.reference.model.fingerprint, question.candidate.model.fingerprint
    if not (a and b):
        return _undecided("weights-fingerprint", 1, f"{_silent(a, b)} which weights it ran")
    broken = a != b
    message = f"the same weights, {a[:19]}"
    if broken:
        message = f"other weights: {a[:19]} against {b[:19]}; `apr diff` names the tensors"
    return Precondition(
        id="weights-fingerprint", num_checked=1, num_broken=int(broken), message=message
    )


def _check_capture_points(question: Question) -> Precondition:
    pairs = question.common
    known = [(a, b) for a, b in pairs if UNKNOWN not in (a.capture_point, b.capture_point)]
    broken = [(a, b) for a, b in known if a.capture_point != b.capture_point]
    if len(known) < len(pairs) and not broken:
        return _sites_undecided(
            "capture-points", pairs, lambda r: r.capture_point != UNKNOWN, "where it reads"
        )
    message = f"{len(pairs)} sites are read at the same point"
    if broken:
        a, b = broken[0]
        message = (
            f"{len(broken)} of {len(pairs)} sites are read at different points; "
            f"{a.site}: {a.capture_point!r} against {b.capture_point!r}"
        )
    return Precondition(
        id="capture-points", num_checked=len(pairs), num_broken=len(broken), message=message
    )


def _check_shapes(question: Question) -> Precondition:
    pairs = question.common
    broken = [(a, b) for a, b in pairs if 0 != a.shape[1] != b.shape[1] != 0]
    if not broken and any(0 in (a.shape[1], b.shape[1]) for a, b in pairs):
        return _sites_undecided("shapes", pairs, lambda r: r.shape[1] > 0, "the shape of")
    message = f"{len(pairs)} sites have the same width"
    if broken:
        a, b = broken[0]
        message = (
            f"{len(broken)} of {len(pairs)} sites differ in width; {a.site}: "
            f"{a.shape[1]} against {b.shape[1]}"
        )
    return Precondition(
        id="shapes", num_checked=len(pairs), num_broken=len(broken), message=message
    )


def _check_sites(question: Question) -> Precondition:
    """Required sites on both sides, and no other on one side alone.

    A slot that an engine says it cannot observe may be absent, if it is not required.
    """
    required = set(question.required_sites)
    sides = (
        ("reference", question.reference, question.candidate),
        ("candidate", question.candidate, question.reference),
    )
    missing: dict[str, list[str]] = {}
    for side, trace, other in sides:
        expected = [n for n in question.required_sites if n not in trace.sites]
        expected += [
            name
            for name, record in other.sites.items()
            if name not in trace.sites
            and name not in required
            and record.site.slot not in trace.not_observed
        ]
        missing[side] = expected
    broken = {*missing["reference"], *missing["candidate"]}
    num_checked = len(required | broken)
    parts = [f"{s} lacks {len(n)}, first {n[0]}" for s, n in missing.items() if n]
    message = f"all {len(required)} required sites on both sides, and no other on one alone"
    if broken:
        message = f"of {num_checked} sites the {'; the '.join(parts)}"
    return Precondition(
        id="sites", num_checked=num_checked, num_broken=len(broken), message=message
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NaiveRatio:
    """What a ratio of standard deviations over different samples would have claimed."""

    site: str
    reference_scope: str
    candidate_scope: str
    reference_count: int
    candidate_count: int
    std_ratio: float

    @property
    def sentence(self) -> str:
        """For people."""
        ratio = self.std_ratio
        factor = max(ratio, 1 / ratio) if ratio > 0 else math.inf
        return (
            f"at {self.site} the standard deviations of {self.reference_count:,} values "
            f"({self.reference_scope}) and {self.candidate_count:,} ({self.candidate_scope}) "
            f"would have given a ratio of {self.std_ratio:.4g}, a factor of {factor:.4g}, "
            "and it would mean nothing"
        )


def find_naive_ratio(question: Question) -> NaiveRatio | None:
    """The most misleading ratio over unequal samples; None where samples agree.

    Looks at ffn_swiglu_inner, where the famous one was taken, and elsewhere only if that
    slot has none.
    """
    ratios = []
    for a, b in question.common:
        scope_a, scope_b = _widest(a), _widest(b)
        stats_a, stats_b = a.stats[scope_a], b.stats[scope_b]
        if stats_a.count == stats_b.count or stats_a.std == 0 or stats_b.std == 0:
            continue
        ratios.append(
            NaiveRatio(
                site=str(a.site),
                reference_scope=scope_a.value,
                candidate_scope=scope_b.value,
                reference_count=stats_a.count,
                candidate_count=stats_b.count,
                std_ratio=stats_b.std / stats_a.std,
            )
        )
    famous = [r for r in ratios if r.site.endswith("ffn_swiglu_inner")]
    return max(famous or ratios, key=lambda r: distance_from_1(r.std_ratio), default=None)


def _widest(record: SiteRecord) -> Scope:
    return Scope.ALL if Scope.ALL in record.stats else next(iter(record.stats))


def _counts(a: SiteRecord, b: SiteRecord) -> str:
    return (
        f"{a.stats[_widest(a)].count:,} values ({_widest(a).value}) against "
        f"{b.stats[_widest(b)].count:,} ({_widest(b).value})"
    )


def _check_sample_count(question: Question) -> Precondition:
    """Equal counts at every site, in the scopes that the two share; the same at each site."""
    if any(Scope.UNKNOWN in r.stats for pair in question.common for r in pair):
        found = _sites_undecided(
            "sample-count",
            question.common,
            lambda r: Scope.UNKNOWN not in r.stats,
            "which tokens it measured at",
        )
        return replace(found, message=f"{found.message}; {_counts(*question.common[0])}")
    checked = broken = 0
    example = ""
    scopes = {s for a, b in question.common for s in question.shared_scopes(a, b)}
    for a, b in question.common:
        checked += 1
        shared = question.shared_scopes(a, b)
        if shared and len(shared) < len(scopes):
            absent = next(s.value for s in question.scopes if s in scopes and s not in shared)
            bad = [f"no scope {absent} on both sides, as elsewhere"]
        elif shared:
            counts = [(s, a.stats[s].count, b.stats[s].count) for s in shared]
            bad = [
                f"{n:,} values against {m:,} ({s.value})"
                for s, n, m in counts
                if not samples_agree(n, m)
            ]
        else:
            bad = [f"{_counts(a, b)}, and no scope in common"]
        if bad:
            broken += 1
            example = example or f"{a.site}: {bad[0]}"
    message = f"equal sample counts at {checked} sites"
    if broken:
        message = f"the samples differ at {broken} of {checked} sites; {example}"
    return Precondition(
        id="sample-count", num_checked=checked, num_broken=broken, message=message
    )


def _check_ddof(question: Question) -> Precondition:
    a, b = question.reference.ddof, question.candidate.ddof
    if a is None or b is None:
        silent = _silent(a is not None, b is not None)
        return _undecided("ddof", 1, f"{silent} the ddof of its standard deviations")
    message = f"both divide by n - {a}" if a == b else f"ddof {a} against {b}"
    return Precondition(id="ddof", num_checked=1, num_broken=int(a != b), message=message)


def _check_finite(question: Question) -> Precondition:
    checked = 0
    bad: list[str] = []
    for side, trace in (("reference", question.reference), ("candidate", question.candidate)):
        for name, record in trace.sites.items():
            checked += 1
            counts = [s.nan_count + s.inf_count for s in record.stats.values()]
            if max(counts, default=0) > 0:
                bad.append(f"{side} {name}: {max(counts):,} values are NaN or infinite")
    message = f"{checked} sites hold finite numbers only"
    if bad:
        message = f"{len(bad)} of {checked} sites do not; the first is {bad[0]}"
    return Precondition(id="finite", num_checked=checked, num_broken=len(bad), message=message)


def _check_arrays(question: Question) -> Precondition:
    if not any(gate.needs_arrays for gate in question.gates):
        return Precondition(
            id="arrays", num_checked=1, num_broken=0, message="no gate needs elements"
        )
    needed = question.judged_arrays
    traces = (("reference", question.reference), ("candidate", question.candidate))
    missing = [f"{s} {n}" for n in needed for s, t in traces if n not in t.arrays]
    message = f"both sides hold the elements of the {len(needed)} sites that gates judge"
    if missing:
        message = (
            f"{len(missing)} of {2 * len(needed)} arrays that gates judge were not captured, "
            f"the first is {missing[0]}; statistics alone cannot show a fault "
            "(record with --capture all)"
        )
    return Precondition(
        id="arrays", num_checked=2 * len(needed), num_broken=len(missing), message=message
    )


CHECKS: Mapping[str, Callable[[Question], Precondition]] = {
    "token-ids": _check_token_ids,
    "positions": _check_positions,
    "config": _check_config,
    "weights-fingerprint": _check_fingerprint,
    "sites": _check_sites,
    "capture-points": _check_capture_points,
    "shapes": _check_shapes,
    "sample-count": _check_sample_count,
    "ddof": _check_ddof,
    "finite": _check_finite,
    "arrays": _check_arrays,
}
"""Every precondition by its id, in the order of the report."""
