"""A side that recorded little, beside one that was seen whole and is right: who is wrong?

Of the one every operation was replayed, from the tokens to the first site where the two part:
it is right there. So the other is wrong there, at that site or at one before it of which
nothing was recorded; unless its numerics explains the distance. Two things say how much that
explains, and it must be beyond both: the gates of `parity`, which are measured, and a run from
the tokens on in which every operation of this very model rounds as the numerics declares and
errs by its whole limit.

Which operation it is nobody can say; but the site itself can be tried with the input that it
ought to have had. A way to be wrong that gives what was recorded is the cause.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.finding import make_case
from cotejar.diagnosis.limits import divide
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import FEW_PARAMETERS, Found, find_causes
from cotejar.parity.gates import noise_gates
from cotejar.trace.site import parse_site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.coverage import Unseen
    from cotejar.diagnosis.observed import Observed, SideName
    from cotejar.diagnosis.replay import LocalError
    from cotejar.parity.compare import Comparison

_BEYOND = 4.0
"""Times what an honest run would be off, that a wrong one is off at the least."""
_TELLS = 8.0
"""What is named as the cause leaves so many times less than the right operation."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parting:
    """Where a side that recorded little leaves one that is right."""

    side: SideName
    """The wrong one."""
    other: SideName
    site: str
    agreed: str | None
    """The last site before it at which the two are as near as they ought to be."""
    distance: float
    """Relative L2 of the worst token."""
    explained: float
    """The most that the numerics explains."""
    case: Case
    """The site's operation on what it ought to have been given."""
    found: Found

    @property
    def sentence(self) -> str:
        """For people."""
        start = f"behind {self.agreed}, at {self.site} or" if self.agreed else f"at {self.site}"
        unseen = "between" if self.agreed else "or before it"
        where = f"{start} {unseen}, where nothing was recorded"
        if self.found.causes:
            cause = f"{self.found.causes[0].title}, with the {self.other}'s input"
        else:
            cause = (
                f"the {self.other} is right from the tokens to there, and the two lie "
                f"{self.distance:.3g} apart, where the numerics explains {self.explained:.3g}"
            )
        return f"the {self.side} is wrong {where}: {cause}"


def find_parting(
    observed: Sequence[Observed],
    comparison: Comparison | None,
    unseen: Sequence[Unseen],
) -> Parting | None:
    """The wrong side, of two of which all that could be replayed is right; or None."""
    first = None if comparison is None else comparison.first_divergence
    if comparison is None or first is None or observed[0].truth is not observed[1].truth:
        return None
    missing = {one.side: one.sites for one in unseen}
    order = parse_site(first.site).order
    blind = [s for s in observed if first.site in missing.get(s.side, ())]
    if len(blind) != 1 or first.site not in blind[0].truth.operations:
        return None
    wrong = blind[0]
    right = next(side for side in observed if side is not wrong)
    if any(parse_site(site).order <= order for site in missing.get(right.side, ())):
        return None
    gates = noise_gates(comparison.reference, comparison.candidate)
    measured = max(
        (g.limit for g in gates if g.metric == "rel_l2_max" and g.applies_to(first.site)),
        default=np.inf,
    )
    judged = part_at(first.site, wrong, right, measured)
    if judged is None:
        return None
    agreed = None
    for one in comparison.sites:
        if one.verdict is not None and parse_site(one.site).order < order:
            agreed = one.site
    distance, explained, case = judged
    return Parting(
        side=wrong.side,
        other=right.side,
        site=first.site,
        agreed=agreed,
        distance=distance,
        explained=explained,
        case=case,
        found=_causes(case),
    )


def part_at(
    site: str, wrong: Observed, right: Observed, measured: float
) -> tuple[float, float, Case] | None:
    """Distance, what explains at most so much, and the operation; None if that explains it."""
    ours, theirs = (side.recorded(parse_site(site)) for side in (wrong, right))
    if ours is None or theirs is None or len(ours) > len(theirs):
        return None
    theirs = theirs[-len(ours) :]
    distance = _farthest(ours, theirs)
    if not distance > measured:
        return None
    mixed = _mixed(wrong, right, site)
    errors = {error.site: error for error in replay_sides([mixed])}
    if site not in errors:
        return None
    honest = _honest_run(mixed, errors, site)[-len(ours) :]
    explained = max(measured, _BEYOND * _farthest(honest, theirs))
    if not distance > explained:
        return None
    # What goes in is known as well as an honest run knows it.
    error = errors[site]
    error = replace(error, limits=error.limits + explained / _BEYOND)
    return distance, explained, make_case(error, [mixed])


def _farthest(
    values_TW: Float64[np.ndarray, "T W"], right_TW: Float64[np.ndarray, "T W"]
) -> float:
    off_T = np.linalg.norm(values_TW - right_TW, axis=1)
    return float(divide(off_T, np.linalg.norm(right_TW, axis=1)).max())


def _mixed(wrong: Observed, right: Observed, site: str) -> Observed:
    """The wrong side with the right one's arrays before the site."""
    order = parse_site(site).order
    arrays = {n: a for n, a in right.trace.arrays.items() if parse_site(n).order < order}
    arrays |= {n: a for n, a in wrong.trace.arrays.items() if parse_site(n).order >= order}
    return replace(wrong, trace=replace(wrong.trace, arrays=arrays), _derived={})


def _honest_run(
    side: Observed, errors: Mapping[str, LocalError], site: str
) -> Float64[np.ndarray, "T W"]:
    """From the tokens to the site, each operation off by its limit in any direction."""
    random, last = np.random.default_rng(0), parse_site(site)
    held: dict[str, np.ndarray] = {}
    for name, operation in side.truth.operations.items():
        inputs = [held[str(one)] for one in operation.inputs]
        if operation.site.layer is not None:  # the layer before it is done with
            near = {operation.site.layer, operation.site.layer - 1}
            held = {n: a for n, a in held.items() if (parse_site(n).layer or 0) in near}
        output_TW = replay(operation, inputs, side)
        if name == str(last):
            break
        if name in errors:
            limit = float(errors[name].limits.max())
            size_T1 = np.linalg.norm(output_TW, axis=1, keepdims=True)
            noise_TW = random.standard_normal(output_TW.shape) / np.sqrt(output_TW.shape[1])
            output_TW = output_TW + limit * size_T1 * noise_TW
        held[name] = output_TW
    return output_TW


def _causes(case: Case) -> Found:
    """Those that leave far less, with few fitted numbers: what went in is not known well."""
    found = find_causes(case)
    causes = tuple(
        cause
        for cause in found.causes
        if cause.parameters <= FEW_PARAMETERS
        and cause.residual_after * _TELLS <= cause.residual_before
    )
    output = found.output if causes and causes[0] is found.causes[0] else None
    return replace(found, causes=causes, output=output)
