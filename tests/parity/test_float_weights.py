"""`q8` over weights in floats rounds nothing to 8 bits, and is not judged as if it did."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cotejar.parity import float_noise
from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.side import open_side
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.trace.forward_trace import ForwardTrace

IDS = range(3, 40)
EVERYTHING = Capture(array_slots=EVERY_ARRAY)


def trace(path: Path, engine: str, fault: str | None = None) -> ForwardTrace:
    side = open_side(f"{engine}:{path}", fault=fault)
    return side.trace(list(IDS), capture=EVERYTHING, prompt=None)


def verdict(reference: ForwardTrace, candidate: ForwardTrace) -> Verdict:
    return compare_traces(reference, candidate, Plan()).verdict


def as_if_nobody_said(found: ForwardTrace) -> ForwardTrace:
    """The trace of a program that leaves the types out: the noise of 8 bits counts."""
    return replace(found, model=replace(found.model, product_types=()))


@pytest.mark.parametrize(
    ("block_type", "products", "fault"),
    [
        (BlockType.F32, "f32", "activations-f16"),
        (BlockType.F16, "f16", "activations-bf16"),
        (BlockType.BF16, "bf16", "activations-int8"),
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_a_fault_between_the_two_gates_fails(
    tmp_path: Path, block_type: BlockType, products: str, fault: str
) -> None:
    """The next coarser rounding of activations; 8 bits would hide it."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", TinyDecoder(block_type=block_type))
    exact, sound, faulty = (
        trace(path, "oracle"),
        trace(path, "native+q8"),
        trace(path, "native+q8", fault),
    )

    assert (sound.engine.numerics, sound.products) == ("q8", products)
    assert verdict(exact, sound) is Verdict.PASS
    assert verdict(exact, faulty) is Verdict.FAIL
    assert verdict(*map(as_if_nobody_said, (exact, faulty))) is Verdict.PASS


@pytest.mark.cross
@pytest.mark.parametrize("block_type", [BlockType.F32, BlockType.F16, BlockType.BF16])
def test_llamacpp_over_floats_is_within_its_noise(
    tmp_path: Path, block_type: BlockType
) -> None:
    pytest.importorskip("llama_cpp")
    path = write_tiny_gguf(tmp_path / "tiny.gguf", TinyDecoder(block_type=block_type))
    theirs = trace(path, "llamacpp")

    for engine in ("oracle", "native+q8"):
        assert verdict(trace(path, engine), theirs) is Verdict.PASS


def test_the_figures_are_those_of_the_benchmark() -> None:
    whole = (Path(__file__).parents[2] / float_noise.MEASURED).read_text()
    text = whole.partition("\n## ")[0]
    rows = dict(
        line.strip("| \n").split(" | ", 1)
        for line in text.splitlines()
        if line.startswith("| ")
    )

    for slot, noise in float_noise.FLOAT_NOISE.items():
        found = rows[slot].replace("not observed", "nan").replace(" | ", ", ").split(", ")
        assert [float(value) for value in found] == pytest.approx(list(noise), nan_ok=True)
    first = rows["layer.0.attn_norm"].replace(" | ", ", ").split(", ")[0::2]
    assert [float(value) for value in first] == list(float_noise.FLOAT_FIRST_NORM)
    logits = re.findall(r"KL at most (\S+) nats; a lead changes by at most (\S+)\.", text)
    assert [float(kl) for kl, _ in logits] == list(float_noise.FLOAT_LOGITS["kl_max"])
    assert [float(lead) for _, lead in logits] == list(
        float_noise.FLOAT_LOGITS["top1_flip_margin"]
    )
