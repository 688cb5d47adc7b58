"""A norm of what is added to the residual stream that comes after the sum, not before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.operations import Norm, vector
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.case import Case


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the norms behind attention and behind the feed-forward."""
    step, site = case.operation.step, case.operation.site
    if not isinstance(step, Norm) or site.layer is None:
        return
    if site.slot == "attn_post_norm":
        stream = Site("output", site.layer - 1) if site.layer else Site("embed")
    elif site.slot == "ffn_post_norm":
        stream = Site("attn_residual", site.layer)
    else:
        return
    stream_TD = case.recorded_at(stream)
    if stream_TD is not None and stream_TD.shape == case.inputs[0].shape:
        weight_D = vector(case.observed.truth.weights, step.weight)
        yield Alternative(
            id="norm-after-sum",
            title=f"the norm comes after the sum with {stream}, not before it",
            output=exact.rms_norm(case.inputs[0] + stream_TD, weight_D, step.eps),
        )
