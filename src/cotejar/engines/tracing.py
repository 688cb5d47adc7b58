"""From what an engine recorded to a whole trace: identity and host are the same for all."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from cotejar.trace.array_store import ArrayStore
from cotejar.trace.counted_step import StatsColumns
from cotejar.trace.forward_trace import (
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    TraceRecorder,
    in_forward_order,
)
from cotejar.trace.host import describe_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.counted_step import StepLayout
    from cotejar.trace.forward_trace import Capture, SiteRecord


def finish_trace(
    recorder: TraceRecorder,
    *,
    engine: EngineInfo,
    model: LanguageModel,
    token_ids: Sequence[int],
    prompt: str | None,
    not_observed: frozenset[str] = frozenset(),
    passes: Sequence[int] = (),
) -> ForwardTrace:
    """Join a recorder's sites with who ran what; positions count from 0.

    Args:
        recorder: what was recorded.
        engine: who ran it.
        model: the model, by its declared identity.
        token_ids: the ids that were run.
        prompt: the text that they came from, where there was one.
        not_observed: slots that the engine cannot observe.
        passes: how many tokens each pass took; none for one pass over all.
    """
    declared = model.declared.config
    return ForwardTrace(
        engine=engine,
        model=ModelInfo(
            name=model.name,
            format=model.file.format,
            architecture=declared.architecture,
            fingerprint=model.fingerprint,
            product_types=model.product_types,
        ),
        config=declared.comparable(),
        token_ids=tuple(int(token) for token in token_ids),  # numpy's are no JSON
        positions=tuple(range(len(token_ids))),
        prompt=prompt,
        passes=tuple(passes) or (len(token_ids),),
        sites=in_forward_order(recorder.sites),
        arrays=recorder.arrays,
        not_observed=not_observed,
        host=describe_host(),
    )


def passes_of(num_tokens: int, num_steps: int) -> tuple[int, ...]:
    """How many tokens each pass takes: all but the last `num_steps` at once, then one each."""
    first = num_tokens - num_steps
    return (*([first] if first > 0 else []), *([1] * num_steps))


def join_recorders(parts: Sequence[TraceRecorder], capture: Capture) -> TraceRecorder:
    """One recorder of several passes over consecutive tokens, each with the same sites."""
    joined = TraceRecorder(capture)
    joined.sites, joined.arrays = dict(parts[0].sites), parts[0].arrays
    keeps_rows = Scope.ALL in capture.scopes
    for layout, some in groupby(parts[1:], key=lambda part: part.step and part.step.layout):
        if layout is not None:
            moments = [part.step.moments for part in some if part.step]
            _join_steps(joined.sites, layout, moments, keeps_rows=keeps_rows)
            continue
        for part in some:
            for name, record in part.sites.items():
                joined.sites[name] = _joined(joined.sites[name], record, keeps_rows=keeps_rows)
    if keeps_rows and len(parts) > 1:
        joined.arrays = store = ArrayStore()
        for name in list(parts[0].arrays):
            store.keep_rows(name, [part.arrays.pop(name) for part in parts])
    elif len(parts) > 1:
        joined.arrays = parts[-1].arrays
    return joined


def _joined(before: SiteRecord, after: SiteRecord, *, keeps_rows: bool) -> SiteRecord:
    """Statistics of all tokens are merged; those of the last token are the later part's."""
    if not keeps_rows:
        return after
    merged = before.stats[Scope.ALL].merged(after.stats[Scope.ALL])
    return replace(
        after,
        shape=(before.shape[0] + after.shape[0], after.shape[1]),
        stats={**after.stats, Scope.ALL: merged},
    )


def _join_steps(
    sites: dict[str, SiteRecord],
    layout: StepLayout,
    moments: Sequence[bytes],
    *,
    keeps_rows: bool,
) -> None:
    """What `_joined` makes of each step in turn, with its bits, all sites at once."""
    kept = [index for index, (site, _) in enumerate(layout.sites) if str(site) in sites]
    names = [str(layout.sites[index].site) for index in kept]
    last = layout.read(moments[-1]).rows(kept)
    every = last
    if keeps_rows:
        every = StatsColumns.of(sites[name].stats[Scope.ALL] for name in names)
        for step in moments:
            every = every.merged(layout.read(step).rows(kept))
    for name, of_all, of_last in zip(names, every.named(), last.named(), strict=True):
        before = sites[name]
        tokens = before.shape[0] + len(moments) if keeps_rows else 1
        of_scope = {Scope.ALL: of_all, Scope.LAST: of_last}
        sites[name] = replace(
            before,
            shape=(tokens, before.shape[1]),
            stats={scope: of_scope[scope] for scope in before.stats},
        )
