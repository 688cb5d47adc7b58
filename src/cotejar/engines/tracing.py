"""From what an engine recorded to a whole trace: identity and host are the same for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.trace.forward_trace import (
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    TraceRecorder,
    describe_host,
    in_forward_order,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.model.language_model import LanguageModel


def finish_trace(
    recorder: TraceRecorder,
    *,
    engine: EngineInfo,
    model: LanguageModel,
    token_ids: Sequence[int],
    prompt: str | None,
) -> ForwardTrace:
    """Join a recorder's sites with who ran what; positions count from 0."""
    declared = model.declared.config
    return ForwardTrace(
        engine=engine,
        model=ModelInfo(
            name=model.name,
            format=model.file.format,
            architecture=declared.architecture,
            fingerprint=model.fingerprint,
        ),
        config=declared.comparable(),
        token_ids=tuple(int(token) for token in token_ids),  # numpy's are no JSON
        positions=tuple(range(len(token_ids))),
        prompt=prompt,
        sites=in_forward_order(recorder.sites),
        arrays=recorder.arrays,
        host=describe_host(),
    )
