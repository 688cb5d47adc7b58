"""A layer, or a half of one, run twice or in the wrong place.

Where each operation is right given its own input but the first of a layer, that layer was
given something else: the output of another run. The layers between are computed again.

Shape letters: T tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.limits import derived_limit
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Add, Norm
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

    Stream = Float64[np.ndarray, "T D"]

_CLEARLY_WRONG = 1e-3
"""Relative error below which no layer can be too many."""
_ATTENTION = ("attn_norm", "q", "k", "v", "q_rope", "k_rope", "attn_context", "attn_out",
              "attn_post_norm", "attn_residual")  # fmt: skip
_FEED_FORWARD = ("ffn_norm", "ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner",
                 "ffn_out", "ffn_post_norm", "output")  # fmt: skip


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the first norm of a layer, of the last norm, and of the two residual additions."""
    step, site = case.operation.step, case.operation.site
    if case.error.rel_l2 < _CLEARLY_WRONG or case.error.derived or case.rows is not None:
        return
    if isinstance(step, Norm) and site.slot in {"attn_norm", "final_norm"}:
        yield from _fed_otherwise(case)
    elif isinstance(step, Add) and site.layer is not None:
        yield from _run_again(case, site.slot, site.layer)


def _fed_otherwise(case: Case) -> Iterator[Alternative]:
    """What the norm was given had gone through a layer more."""
    last = case.observed.truth.config.num_layers - 1
    layer = case.operation.site.layer
    own = last + 1 if layer is None else layer
    for other in dict.fromkeys((own - 1, own, own + 1, own - 2)):
        if not 0 <= other <= last:
            continue
        stream_TD = _run(case, other, case.inputs[0], (*_ATTENTION, *_FEED_FORWARD))
        if stream_TD is not None:
            twice = other in {own - 1, own}
            yield Alternative(
                id="layer-twice" if twice else "layer-extra",
                title=f"layer {other} is run {'twice' if twice else 'once more'} before "
                f"{case.operation.name}",
                output=replay(case.operation, [stream_TD], case.observed),
                slack=_slack(case, other),
            )


def _run_again(case: Case, slot: str, layer: int) -> Iterator[Alternative]:
    """What came out had gone through the layer, or half of it, once more."""
    half = _ATTENTION if slot == "attn_residual" else _FEED_FORWARD
    what = "attention" if slot == "attn_residual" else "the feed-forward"
    parts: list[tuple[str, str, Sequence[str]]] = [
        ("branch-twice", f"{what} of layer {layer} is run twice, one after the other", half)
    ]
    if slot == "output":
        whole = (*_ATTENTION, *_FEED_FORWARD)
        parts.append(("layer-twice", f"layer {layer} is run twice", whole))
    for id_, title, slots in parts:
        stream_TD = _run(case, layer, case.right, slots)
        if stream_TD is not None:
            yield Alternative(id=id_, title=title, output=stream_TD, slack=_slack(case, layer))


_FLIPPED = 3e-3
"""What some activations that fall into the next of 255 steps add to a layer's output."""


def _slack(case: Case, layer: int) -> float:
    """What a layer's honest rounding adds to a stream that nobody recorded."""
    arithmetic = case.observed.arithmetic
    steps = [o.step for o in case.observed.truth.operations.values() if o.site.layer == layer]
    flips = 0.0 if arithmetic.activations == "exact" else _FLIPPED
    return derived_limit(steps, arithmetic) / len(steps) + flips


def _run(case: Case, layer: int, stream_TD: Stream, slots: Sequence[str]) -> Stream | None:
    """The operations of these slots, from a stream that nobody recorded."""
    operations = case.observed.truth.operations
    before = Site("output", layer - 1) if layer else Site("embed")
    at_hand: dict[Site, np.ndarray] = {before: stream_TD}
    if slots[0] == "ffn_norm":
        at_hand = {Site("attn_residual", layer): stream_TD}
    result: Stream | None = None
    for slot in slots:
        operation = operations.get(str(Site(slot, layer)))
        if operation is None:
            continue  # a norm that this model has not
        inputs = [at_hand.get(site) for site in operation.inputs]
        given = [array for array in inputs if array is not None]
        if len(given) < len(inputs):
            return None
        result = at_hand[operation.site] = replay(operation, given, case.observed)
    return result
