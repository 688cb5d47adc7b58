"""The residual stream: a part missing, doubled or scaled, another stream, a layer skipped.

What was recorded is fitted by least squares as a sum of two sites; the two factors say it.

Shape letters: T tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Add, Norm
from cotejar.trace.site import SLOTS, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_NAMED = {
    (0.0, 1.0): (
        "residual-missing",
        "the residual stream is left out: only the branch is there",
    ),
    (1.0, 0.0): ("branch-missing", "the branch is not added: {skipped} is skipped"),
    (2.0, 1.0): ("residual-doubled", "the residual stream is added twice"),
    (1.0, 2.0): ("branch-doubled", "the branch is added twice"),
    (2.0, 2.0): ("residual-doubled", "the sum is added twice"),
    (1.0, -1.0): ("branch-sign", "the branch is subtracted"),
    (-1.0, 1.0): ("residual-sign", "the residual stream is subtracted"),
    (0.0, 0.0): ("output-zero", "the sum is 0"),
}


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that adds a branch to the stream."""
    if not isinstance(case.operation.step, Add):
        return
    stream, branch = case.inputs
    skipped = "attention" if case.operation.site.slot == "attn_residual" else "feed-forward"
    for (a, b), (id_, title) in _NAMED.items():
        yield Alternative(
            id=id_, title=title.format(skipped=skipped), output=a * stream + b * branch
        )
    yield from _beside_attention(case)
    a, b = _fit(case.recorded, stream, branch)
    for digits in (2, 4, 12):
        x, y = nice(a, digits), nice(b, digits)
        which = "branch" if abs(a - 1) < abs(b - 1) else "residual"
        yield Alternative(
            id=f"{which}-scaled",
            title=f"the stream is scaled by {factor_text(x)} and the branch by "
            f"{factor_text(y)}; both ought to be 1",
            output=x * stream + y * branch,
            parameters=2,
        )
    yield from _other_parts(case)
    yield from _normed_sums(case)
    yield from _moved_rows(case)


def _beside_attention(case: Case) -> Iterator[Alternative]:
    """Attention's branch is missing behind attention, and is there at the layer's end."""
    (stream, branch), site = case.inputs, case.operation.site
    if site.slot != "attn_residual":
        return
    last = case.observed.truth.operations[str(Site("output", site.layer))]
    recorded, behind = case.recorded_at(last.site), case.recorded_at(last.inputs[1])
    if recorded is None or behind is None or recorded.shape != stream.shape:
        return
    with_it, without = stream + branch + behind, stream + behind
    if np.linalg.norm(recorded - with_it) > _NEARER * np.linalg.norm(recorded - without):
        return
    yield Alternative(
        id="parallel-block",
        title="the feed-forward stands beside attention, not behind it: it reads the stream "
        f"before attention is added, which {last.name} shows",
        output=stream.copy(),
        also=1,
    )


_NEARER = 1e-2
"""Of the distance without attention's branch."""


def _normed_sums(case: Case) -> Iterator[Alternative]:
    """A norm of the sum, where one of the branch belongs, or none."""
    stream, branch = case.inputs
    operations, layer = case.observed.truth.operations, case.operation.site.layer
    behind = operations[str(case.operation.inputs[1])]
    if isinstance(behind.step, Norm):
        given = case.observed.inputs(behind)
        if given is not None and given.arrays[0].shape == stream.shape:
            sum_TD = replay(behind, [stream + given.arrays[0]], case.observed)
            yield Alternative(
                id="residual-normed",
                title=f"the sum is normed, not the branch, in the place of {behind.name}",
                output=sum_TD,
            )
    for operation in operations.values():
        if not isinstance(operation.step, Norm) or operation.site.layer != layer:
            continue
        yield Alternative(
            id="residual-normed",
            title=f"the sum is normed with the weight of {operation.name}: norms stand behind "
            "additions",
            output=replay(operation, [stream + branch], case.observed),
        )


def _moved_rows(case: Case) -> Iterator[Alternative]:
    """In the wrong tokens one of the two summands is another token's."""
    wrong = np.flatnonzero(case.error.ratios > 1)
    if len(case.recorded) < 2 or len(wrong) == 0:  # noqa: PLR2004 - there is no other token
        return
    for place, what in enumerate(("stream", "branch")):
        moved, kept = case.inputs[place], case.inputs[1 - place]
        wanted = case.recorded[wrong] - kept[wrong]
        distance = (moved**2).sum(axis=1) - 2 * wanted @ moved.T
        source = np.argmin(distance, axis=1)
        output = case.inputs[0] + case.inputs[1]
        output[wrong] = kept[wrong] + moved[source]
        same_step = np.ptp(source - wrong) == 0
        yield Alternative(
            id="tokens-moved",
            title=f"in {len(wrong)} tokens the {what} is another token's: in token {wrong[0]} "
            f"that of {source[0]}",
            output=output,
            parameters=1 if same_step else len(wrong),
        )


def _fit(
    recorded: Float64[np.ndarray, "T D"],
    stream: Float64[np.ndarray, "T D"],
    branch: Float64[np.ndarray, "T D"],
) -> tuple[float, float]:
    # A massive activation of one token would decide alone: every token counts the same.
    size = np.maximum(np.linalg.norm(recorded, axis=1, keepdims=True), 1e-300)
    parts = np.stack([(stream / size).reshape(-1), (branch / size).reshape(-1)], axis=1)
    factors = np.linalg.lstsq(parts, (recorded / size).reshape(-1), rcond=None)[0]
    return float(factors[0]), float(factors[1])


def _other_parts(case: Case) -> Iterator[Alternative]:
    """The sum of two other sites of the layer, one of the right two among them or not."""
    stream, branch = case.inputs
    names = [str(site) for site in case.operation.inputs]
    sites = [Site(slot, case.operation.site.layer) for slot in SLOTS]
    sites += [case.operation.inputs[0]]
    layer = case.operation.site.layer or 0
    before = Site("output", layer - 1) if layer else Site("embed")
    sites.append(before)
    came_in = case.recorded_at(before)
    if case.operation.site.slot == "output" and came_in is not None:
        yield Alternative(
            id="layer-skipped",
            title=f"the layer is skipped: {before} came through",
            output=came_in,
        )
    for site in dict.fromkeys(sites):
        other = case.recorded_at(site)
        if other is None or other.shape != stream.shape or site == case.operation.site:
            continue
        if str(site) not in names:
            how = "once more: the layer's input" if site == before else "as well"
            yield Alternative(
                id="residual-extra",
                title=f"{site} is added {how}",
                output=stream + branch + other,
            )
        if str(site) != names[0]:
            yield Alternative(
                id="residual-other",
                title=f"the branch is added to {site}, not to {names[0]}",
                output=other + branch,
            )
        if str(site) != names[1]:
            yield Alternative(
                id="residual-other",
                title=f"{site} is added, not {names[1]}",
                output=stream + other,
            )
