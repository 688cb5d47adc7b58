"""The engine `transformers`, as a command line names it: in a process of its own."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import cotejar
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.engines.spec import ENGINES
from cotejar.errors import MissingExtraError, TokenIdError, UnknownEngineError
from cotejar.model.language_model import open_language_model
from cotejar.parity.compare import compare_traces
from cotejar.parity.preconditions import CHECKS
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from cotejar.engines.transformers.engine import TransformersEngine  # noqa: E402

TOKENS = [5, 77, 300, 12]
CAPTURE = Capture(array_slots=EVERY_ARRAY)


def test_numerics_are_three_and_float32_is_the_default() -> None:
    assert parse_engine_name("transformers:DIR").numerics == "f32"
    assert ENGINES["transformers"].numerics == ("f32", "f64", "bf16")
    with pytest.raises(UnknownEngineError):
        parse_engine_name("transformers+f16:DIR")


@pytest.mark.parametrize(
    ("kind", "numerics", "weights", "exception"),
    [
        ("gguf", "f32", "decoded by cotejar {ours}", ""),
        ("safetensors", "f32", "read by safetensors", ""),
        (
            "gguf",
            "f64",
            "decoded by cotejar {ours}",
            "; what its code has in float32 is float64",
        ),
        (
            "safetensors",
            "bf16",
            "read by safetensors",
            "; norms, softmax and rotary tables in float32",
        ),
    ],
)
def test_the_build_says_what_ran_and_what_is_not_in_its_numerics(
    kind: Any, numerics: str, weights: str, exception: str, tiny: Any
) -> None:
    info = TransformersEngine(tiny(TinyDecoder(), kind), numerics=numerics).info

    assert (info.name, info.numerics, info.device) == ("transformers", numerics, "cpu")
    assert info.build == (
        f"transformers {transformers.__version__}, torch {torch.__version__}, eager attention, "
        f"{torch.get_num_threads()} threads; weights "
        f"{weights.format(ours=cotejar.__version__)}{exception}"
    )


def test_bfloat16_rounds_weights_and_products(tiny: Any) -> None:
    model = tiny(TinyDecoder(), "safetensors")

    coarse = TransformersEngine(model, numerics="bf16").trace(TOKENS, capture=CAPTURE)

    exact = TransformersEngine(model, numerics="f64").trace(TOKENS, capture=CAPTURE)
    table = torch.from_numpy(exact.arrays["embed"]).to(torch.bfloat16).float().numpy()
    assert np.array_equal(coarse.arrays["embed"], table)
    error = np.linalg.norm(coarse.arrays["logits"] - exact.arrays["logits"])
    relative = error / np.linalg.norm(exact.arrays["logits"])
    # 8 bits are kept: a half unit is 2e-3, and two layers make some of them of one.
    assert 1e-3 < relative < 0.1


def test_ids_that_cannot_be_run_are_refused(tiny: Any) -> None:
    engine = TransformersEngine(tiny(TinyDecoder()), numerics="f32")

    with pytest.raises(TokenIdError):
        engine.trace([320], capture=CAPTURE)


def test_the_child_process_gives_what_this_one_gives(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    model = open_language_model(path)
    engine = create_engine(parse_engine_name(f"transformers+bf16:{path}"), model)

    trace = engine.trace(TOKENS, capture=CAPTURE, prompt="abcd")

    here = TransformersEngine(model, numerics="bf16").trace(TOKENS, capture=CAPTURE)
    assert (trace.engine.numerics, trace.prompt) == ("bf16", "abcd")
    assert trace.model == here.model
    assert {record.dtype for record in trace.sites.values()} == {"bfloat16"}
    assert set(trace.arrays) == set(here.arrays)
    for name, array in here.arrays.items():
        # Threads may cut a sum in other places: at most a few units of 8 bits.
        np.testing.assert_allclose(trace.arrays[name], array, rtol=0.05, atol=0.05)


def test_a_folder_and_a_gguf_can_be_compared_with_every_precondition(tmp_path: Path) -> None:
    folder = open_language_model(write_tiny_hugging_face(tmp_path / "tiny"))
    gguf = open_language_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    pairs = (
        (OracleEngine(folder), TransformersEngine(folder, numerics="f32")),
        (TransformersEngine(gguf, numerics="f32"), NativeEngine(gguf, numerics="f32")),
    )

    for reference, candidate in pairs:
        traces = [
            engine.trace(TOKENS, capture=CAPTURE, prompt="abcd")
            for engine in (reference, candidate)
        ]
        comparison = compare_traces(*traces)
        assert len(comparison.preconditions) == len(CHECKS)
        assert [p.id for p in comparison.preconditions if not p.holds] == []
        assert comparison.verdict is not Verdict.INCOMPARABLE
        assert not comparison.only_in_reference
        assert not comparison.only_in_candidate


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "transformers" else find_spec(name),
    )

    with pytest.raises(MissingExtraError) as raised:
        create_engine(parse_engine_name("transformers:m.gguf"), tiny(TinyDecoder()))

    assert str(raised.value) == (
        "error[APR-U006]: the engine transformers is not installed\n"
        "  where     engine transformers\n"
        "  expected  the package transformers\n"
        "  found     no such package in this Python\n"
        "  try       pip install 'cotejar[transformers]'"
    )
