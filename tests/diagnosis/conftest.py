"""Tiny models, opened once, and ways to run them with one operation wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.diagnosis.arithmetic import declared_arithmetic
from cotejar.diagnosis.case import Case
from cotejar.diagnosis.observed import Observed, declared_truth
from cotejar.diagnosis.replay import replay_sides
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.native.forward import Pass
from cotejar.engines.oracle import OracleEngine
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.diagnosis.observed import SideName
    from cotejar.trace.forward_trace import ForwardTrace

TOKENS = (3, 141, 59, 26, 53, 58, 97, 93, 238, 46, 264, 33)
DECODERS = {
    "llama": TinyDecoder(num_layers=2, block_type=BlockType.Q4_1),
    "mistral": TinyDecoder(
        architecture="mistral", num_layers=2, sliding_window=5, block_type=BlockType.Q8_0
    ),
    "qwen2": TinyDecoder(architecture="qwen2", num_layers=2, block_type=BlockType.Q4_0),
    "qwen3": TinyDecoder(architecture="qwen3", num_layers=2),
    "gemma3": TinyDecoder(
        architecture="gemma3",
        num_layers=3,
        sliding_window=5,
        sliding_window_pattern=2,
        rope_local_theta=1000.0,
        final_softcap=20.0,
        query_scalar=24.0,
    ),
    "linear": TinyDecoder(num_layers=2, rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "Q4_K": TinyDecoder(
        hidden_size=256, num_heads=8, ffn_size=512, num_layers=2, block_type=BlockType.Q4_K
    ),
}


class Models:
    """`models("qwen2")`: one of `DECODERS`, as a model; `models.path("qwen2")`, as a file."""

    def __init__(self, folder: object) -> None:
        self._folder = folder
        self._opened: dict[str, LanguageModel] = {}

    def __call__(self, name: str) -> LanguageModel:
        if name not in self._opened:
            path = self._folder / f"{name}.gguf"  # type: ignore[operator]
            self._opened[name] = open_language_model(write_tiny_gguf(path, DECODERS[name]))
        return self._opened[name]

    def path(self, name: str) -> str:
        return str(self(name).file.path)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("diagnosis"))


def run(
    model: LanguageModel,
    numerics: str,
    forward: Callable[..., Pass] = Pass,
    tokens: tuple[int, ...] = TOKENS,
) -> ForwardTrace:
    """A trace with every array; `f64` is the oracle's."""
    capture = Capture(array_slots=EVERY_ARRAY)
    if numerics == "f64":
        return OracleEngine(model).trace(tokens, capture=capture)
    engine = NativeEngine(model, numerics=numerics, forward=forward)
    return engine.trace(tokens, capture=capture)


def observe(
    trace: ForwardTrace, model: LanguageModel, side: SideName = "candidate"
) -> Observed:
    arithmetic = declared_arithmetic(trace.engine)
    assert arithmetic is not None
    declared = model.declared
    truth = declared_truth(declared.config, declared.weights)
    return Observed(side=side, trace=trace, truth=truth, arithmetic=arithmetic)


def first_wrong_case(side: Observed) -> Case:
    """The first operation of that side that its replay does not explain."""
    error = next(e for e in replay_sides([side]) if not e.explained)
    operation = side.truth.operations[error.site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None
    return Case(operation, side, inputs.arrays, recorded, error)
