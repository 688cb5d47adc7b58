"""Traces without an engine: small, seeded, with every site of two layers and its array."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.formats.convert import import_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import (
    BOTH_SCOPES,
    EVERY_ARRAY,
    Capture,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    TraceRecorder,
    in_forward_order,
)
from cotejar.trace.site import OPTIONAL_SLOTS, SLOTS, parse_site

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cotejar.trace.forward_trace import Scope

NUM_LAYERS = 2
WIDTH = 6
VOCAB = 9


class TraceMaker:
    """Makes traces that are equal but for what a test changes."""

    def values(self, *, tokens: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
        """What an engine would compute, by site."""
        rng = np.random.default_rng(seed)
        slots = [slot for slot in SLOTS if slot not in OPTIONAL_SLOTS]
        names = [f"layer.{n}.{slot}" for n in range(NUM_LAYERS) for slot in slots]
        values = {n: rng.normal(size=(tokens, WIDTH)) for n in ["embed", *names, "final_norm"]}
        return values | {"logits": rng.normal(size=(tokens, VOCAB))}

    def __call__(
        self,
        values: Mapping[str, np.ndarray] | None = None,
        *,
        scopes: tuple[Scope, ...] = BOTH_SCOPES,
        array_slots: frozenset[str] = EVERY_ARRAY,
        numerics: str = "f32",
    ) -> ForwardTrace:
        """Record `values`, or the seeded ones."""
        values = self.values() if values is None else values
        recorder = TraceRecorder(Capture(scopes=scopes, array_slots=array_slots))
        for name, array in values.items():
            site = parse_site(name)
            recorder.record(site.slot, array, site.layer)
        tokens = len(next(iter(values.values())))
        return ForwardTrace(
            engine=EngineInfo(name="native", build="cotejar 0.1.0", numerics=numerics),
            model=ModelInfo(
                name="tiny.gguf", format="gguf", architecture="llama", fingerprint="sha256:12ab"
            ),
            config={"num_layers": NUM_LAYERS, "rms_eps": 2.0**-10, "rope_theta": 10000.0},
            token_ids=tuple(range(10, 10 + tokens)),
            positions=tuple(range(tokens)),
            prompt=None,
            sites=in_forward_order(recorder.sites),
            arrays=recorder.arrays,
            host={"machine": "x86_64"},
        )

    def with_element(self, site: str, token: int, column: int, value: float) -> ForwardTrace:
        """The trace of the seeded values with one number changed."""
        values = self.values()
        values[site] = values[site].copy()
        values[site][token, column] = value
        return self(values)

    def with_site(self, trace: ForwardTrace, name: str, **changes: object) -> ForwardTrace:
        """The trace with fields of one site's record changed."""
        record = replace(trace.sites[name], **changes)
        return replace(trace, sites=dict(trace.sites) | {name: record})


@pytest.fixture(scope="session")
def make_trace() -> TraceMaker:
    """See `TraceMaker`."""
    return TraceMaker()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of three layers, with a tokenizer."""
    path = tmp_path_factory.mktemp("parity") / "tiny.gguf"
    return write_tiny_gguf(path, TinyDecoder(num_layers=3))


@pytest.fixture(scope="session")
def tiny_apr(tiny_gguf: Path) -> Path:
    """The same, imported."""
    path = tiny_gguf.with_suffix(".apr")
    import_model(tiny_gguf, path)
    return path
