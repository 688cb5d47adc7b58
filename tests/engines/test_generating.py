"""Who can continue a text is said in one place, before anything is opened."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.engines.generating import open_generating
from cotejar.errors import UnknownEngineError
from cotejar.testing.tiny_models import write_tiny_gguf


@pytest.mark.parametrize(
    ("source", "problem", "hint"),
    [
        ("oracle:x.gguf", "oracle cannot continue a text", "for example native:x.gguf"),
        (
            "recorded:run.trace",
            "a recorded trace cannot be continued",
            "name the model that it was recorded of; "
            "`apr trace recorded:run.trace` shows which",
        ),
    ],
)
def test_what_cannot_continue_a_text_is_refused(source: str, problem: str, hint: str) -> None:
    with pytest.raises(UnknownEngineError) as caught:
        open_generating(source)

    assert str(caught.value) == (
        f"error[APR-U005]: {problem}\n"
        f"  where     {source}\n"
        "  expected  native, llamacpp, transformers\n"
        f"  found     {source.partition(':')[0]}\n"
        f"  try       {hint}"
    )


def test_what_can_is_opened_with_its_model(tmp_path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")

    name, model, engine = open_generating(f"native+f32:{path}")

    assert (name.engine, name.numerics, model.name) == ("native", "f32", "tiny.gguf")
    assert np.isfinite(engine.start().append([1, 2])).all()
