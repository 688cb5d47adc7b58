"""contracts/kv-cache-equivalence-v1.yaml, on the demo model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.engines.native.engine import NativeEngine
from cotejar.model.language_model import open_language_model
from cotejar.trace.forward_trace import Capture

if TYPE_CHECKING:
    from pathlib import Path

CHUNKS = (1, 1, 3, 2)


def test_falsify_002_a_real_model_has_the_same_bits_in_chunks(demo_model: Path) -> None:
    model = open_language_model(demo_model)
    engine = NativeEngine(model, numerics="q8")
    ids = model.tokenizer.encode("What is 2+2?")
    capture = Capture(array_slots=frozenset({"logits"}))
    whole = engine.trace(ids, capture=capture).arrays["logits"]
    session = engine.start()

    for size in CHUNKS:
        logits = session.append(ids[session.num_tokens : session.num_tokens + size])
        assert logits.tobytes() == whole[session.num_tokens - 1].tobytes()
    assert session.num_tokens == len(ids) == len(whole) == sum(CHUNKS)
