"""What was recorded at a layer's end, had the layer been taken for another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend, Project, Rotate
from cotejar.trace.site import Site, parse_site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.operations import Operation


def other_kinds(case: Case) -> Iterator[Alternative]:
    """This layer's weights with another layer's table and window: local for global."""
    operations, layer = case.observed.truth.operations, case.operation.site.layer
    own = [str(Site(slot, layer)) for slot in ("q_rope", "k_rope", "attn_context")]
    if layer is None or not set(own) <= set(case.error.derived):
        return
    tried = {_kind(operations, layer)}
    for other in range(case.observed.truth.config.num_layers):
        kind = _kind(operations, other)
        if kind in tried:
            continue
        tried.add(kind)
        changed = {}
        for name in own:
            step = operations[name].step
            if isinstance(step, Rotate):
                step = replace(step, frequencies=kind[0], theta=kind[1])
            elif isinstance(step, Attend):
                step = replace(step, window=kind[2])
            changed[name] = replace(operations[name], step=step)
        truth = replace(case.observed.truth, operations={**operations, **changed})
        observed = replace(case.observed, truth=truth, _derived={})
        inputs = observed.inputs(case.operation)
        if inputs is not None:
            yield Alternative(
                id="rope-other-layer",
                title=f"layer {layer} turns and looks back as layer {other} does: a local "
                "layer is taken for a global one, or the reverse",
                output=replay(case.operation, inputs.arrays, observed),
                declared=True,
            )


def _kind(
    operations: Mapping[str, Operation], layer: int
) -> tuple[tuple[float, ...], float, int | None]:
    """Table, theta and window."""
    turn = operations[str(Site("q_rope", layer))].step
    attend = operations[str(Site("attn_context", layer))].step
    if not isinstance(turn, Rotate) or not isinstance(attend, Attend):
        return (), 0.0, None
    return turn.frequencies, turn.theta, attend.window


def other_layers(case: Case) -> Iterator[Alternative]:
    """The same inputs through another layer's operations."""
    truth, layer = case.observed.truth, case.operation.site.layer
    names = [*case.error.derived, case.operation.name]
    has_weights = any(isinstance(truth.operations[n].step, Project) for n in names)
    if layer is None or not has_weights:
        return
    for other in range(truth.config.num_layers):
        steps = {
            name: truth.operations.get(str(Site(parse_site(name).slot, other)))
            for name in names
        }
        if other == layer or None in steps.values():
            continue
        changed = {
            name: replace(truth.operations[name], step=found.step)
            for name, found in steps.items()
            if found is not None
        }
        there = replace(truth, operations={**truth.operations, **changed})
        observed = replace(case.observed, truth=there, _derived={})
        operation = changed[case.operation.name]
        inputs = observed.inputs(operation)
        if inputs is not None:
            yield Alternative(
                id="other-layer",
                title=f"layer {layer} computes with the weights of layer {other}",
                output=replay(operation, inputs.arrays, observed),
            )
