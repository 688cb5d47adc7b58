"""A branch that is not added, in a sum that nobody recorded: who else reads it bears it out.

A norm that takes the stream from before the branch shows the same in its own output; but then
the next sum has the branch.

Shape letters: T tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Add, Norm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.trace.site import Site

_CLEARLY = 16.0
"""So many times less does a sum without the branch leave, at every token, to be what was
recorded rather than the right one."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a norm whose input is a sum that was not recorded."""
    site = case.operation.inputs[0] if isinstance(case.operation.step, Norm) else None
    if site is None or str(site) not in case.error.derived:
        return
    adding = case.observed.truth.operations[str(site)]
    if not isinstance(adding.step, Add):
        return
    stream_TD = case.recorded_at(adding.inputs[0])
    if stream_TD is None or stream_TD.shape != case.inputs[0].shape:
        return
    also = _borne_out(case, site, stream_TD)
    if also:
        skipped = "attention" if site.slot == "attn_residual" else "feed-forward"
        yield Alternative(
            id="branch-missing",
            title=f"the branch is not added: {skipped} is skipped, in {site}",
            output=replay(case.operation, [stream_TD], case.observed),
            also=also,
        )


def _borne_out(case: Case, site: Site, stream_TD: Float64[np.ndarray, "T D"]) -> int:
    """Recorded sums that read `site` and are those of the bare stream."""
    count = 0
    for operation in case.observed.truth.operations.values():
        if not isinstance(operation.step, Add) or operation.inputs[0] != site:
            continue
        recorded_TD = case.recorded_at(operation.site)
        branch_TD = _branch(case, operation.inputs[1])
        if recorded_TD is None or branch_TD is None or recorded_TD.shape != stream_TD.shape:
            continue
        left_T, right_T = (
            np.linalg.norm(recorded_TD - (taken_TD + branch_TD), axis=1)
            for taken_TD in (stream_TD, case.inputs[0])
        )
        count += bool((_CLEARLY * left_T <= right_T).all())
    return count


def _branch(case: Case, site: Site) -> Float64[np.ndarray, "T D"] | None:
    """As recorded; of a norm behind a branch, made of what was recorded before it."""
    recorded_TD = case.recorded_at(site)
    operation = case.observed.truth.operations[str(site)]
    if recorded_TD is not None or not isinstance(operation.step, Norm):
        return recorded_TD
    before_TD = case.recorded_at(operation.inputs[0])
    return None if before_TD is None else replay(operation, [before_TD], case.observed)
