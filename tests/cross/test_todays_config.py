"""`config.json` in the words of today's transformers, and in those of older releases."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.cross

GEMMA3 = TinyDecoder(
    architecture="gemma3",
    num_layers=3,
    sliding_window=5,
    sliding_window_pattern=2,
    rope_theta=1e6,
    tied_embeddings=True,
)
"""Layers 0 and 2 with a window and theta 10000, layer 1 global with theta 1000000."""
DECODERS = {
    "gemma3": GEMMA3,
    "gemma3, linear": replace(GEMMA3, rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "gemma3, local theta": replace(GEMMA3, rope_local_theta=500.0),
    "gemma3, a cap": replace(GEMMA3, final_softcap=3.0),
    "gemma3, a scalar": replace(GEMMA3, query_scalar=20),
    "gemma3, biases": replace(GEMMA3, attention_bias=True),
    "gemma3, all local": replace(GEMMA3, sliding_window_pattern=6),
    "gemma3, all global": replace(GEMMA3, sliding_window_pattern=1),
    "gemma3, untied": replace(GEMMA3, tied_embeddings=False),
    "gemma3, small heads": replace(GEMMA3, head_dim=16),
    "qwen2": TinyDecoder(architecture="qwen2", num_layers=3, sliding_window=4),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_config_as_transformers_writes_it_today_is_read_alike(
    name: str, tmp_path: Path
) -> None:
    """With `layer_types`, and theta and scaling for each of them in `rope_parameters`."""
    folder = write_tiny_hugging_face(tmp_path / "tiny", DECODERS[name])
    path = folder / "config.json"
    if name == "qwen2":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"max_window_layers": 1}))
    before = open_language_model(folder).config

    transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)

    today = json.loads(path.read_text())
    assert "layer_types" in today
    assert "rope_theta" not in today
    assert open_language_model(folder).config == before
