"""A file of any architecture says what it says, and no more is made of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from cotejar.formats.open_model import open_model
from cotejar.model.architecture_summary import ArchitectureSummary, summarize_architecture
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import (
    write_tiny_apr,
    write_tiny_gguf,
    write_tiny_hugging_face,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.formats.model_file import ModelFile

NOTHING = ArchitectureSummary(
    architecture=None,
    num_layers=None,
    hidden_size=None,
    num_heads=None,
    num_kv_heads=None,
    head_dim=None,
    ffn_size=None,
    vocab_size=None,
    context_length=None,
    rms_eps=None,
    rope_theta=None,
    rope_pairing=None,
)


def make(kind: str, **metadata: object) -> ModelFile:
    keys = {name.replace("__", "."): value for name, value in metadata.items()}
    return SimpleNamespace(format=kind, metadata=keys, tensors={})  # type: ignore[return-value]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_three_formats_say_the_same_but_for_the_order_of_rows(
    tmp_path: Path, architecture: str
) -> None:
    decoder = TinyDecoder(architecture=architecture)
    paths = (
        write_tiny_gguf(tmp_path / "a.gguf", decoder),
        write_tiny_apr(tmp_path / "a.apr", decoder, pairing="halves"),
        write_tiny_hugging_face(tmp_path / "a", decoder),
    )
    found = []
    for path in paths:
        with open_model(path) as file:
            found.append(summarize_architecture(file).facts())

    pairings = [facts.pop("rope_pairing") for facts in found]
    assert pairings == ["adjacent" if architecture == "llama" else "halves", "halves", "halves"]
    assert found[0] == found[1] == found[2]
    config = decoder.config(pairing="halves")
    assert found[0] == {
        "architecture": architecture,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "ffn_size": config.ffn_size,
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "rms_eps": config.rms_eps,
        "rope_theta": config.rope.theta,
    }


def test_an_architecture_that_nobody_runs_is_read() -> None:
    file = make(
        "gguf", general__architecture="mamba", mamba__block_count=7, mamba__embedding_length=64
    )

    found = summarize_architecture(file)

    assert (found.architecture, found.num_layers, found.hidden_size) == ("mamba", 7, 64)
    assert (found.num_heads, found.head_dim, found.rope_pairing) == (None, None, None)


@pytest.mark.parametrize("kind", ["gguf", "apr", "safetensors"])
def test_a_file_that_says_nothing_gives_nothing(kind: str) -> None:
    assert summarize_architecture(make(kind)) == NOTHING


@pytest.mark.parametrize("value", [[4, 8], "32", True, None, 2.5, float("nan"), float("inf")])
def test_a_value_of_another_kind_is_none(value: object) -> None:
    file = make("apr", architecture=value, num_layers=value, rope_type=value)

    found = summarize_architecture(file)

    assert (found.num_layers, found.rope_pairing) == (None, None)


def test_heads_that_do_not_divide_give_no_head_size() -> None:
    assert summarize_architecture(make("apr", hidden_size=10, num_heads=3)).head_dim is None


def test_no_head_at_all_divides_nothing() -> None:
    found = summarize_architecture(make("apr", hidden_size=10, num_heads=0))

    assert (found.num_heads, found.num_kv_heads, found.head_dim) == (None, None, None)


def test_the_newer_place_of_rope_theta_is_read() -> None:
    file = make("safetensors", config={"rope_parameters": {"rope_theta": 5e5}})

    assert summarize_architecture(file).rope_theta == 5e5
