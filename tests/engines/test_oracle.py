"""The oracle by itself; `tests/cross` holds it against transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cotejar.engines.oracle as oracle_module
from cotejar.engines.oracle import OracleEngine
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture

IDS = [5, 77, 300, 12, 9, 9, 250, 31]
EVERYTHING = Capture(array_slots=EVERY_ARRAY)

DECODERS = {
    "llama": TinyDecoder(),
    "llama, quantised": TinyDecoder(block_type=BlockType.Q4_1),
    "mistral, window": TinyDecoder(architecture="mistral", sliding_window=3),
    "qwen2": TinyDecoder(architecture="qwen2", tied_embeddings=True),
    "qwen3": TinyDecoder(architecture="qwen3"),
}


def arrays_of(model: Any, ids: list[int]) -> dict[str, np.ndarray]:
    return dict(OracleEngine(model).trace(ids, capture=EVERYTHING).arrays)


@pytest.mark.parametrize("name", DECODERS)
def test_a_model_gives_the_same_bits_from_every_container(tiny: Any, name: str) -> None:
    """All the storage order of q and k may change is where a row lies."""
    decoder = DECODERS[name]
    if decoder.block_type is not BlockType.F32:
        kinds = [tiny(decoder, kind) for kind in ("gguf", "apr", "safetensors")]
    else:
        kinds = [tiny(decoder, "gguf"), tiny(decoder, "safetensors")]
        kinds += [tiny(decoder, "apr", pairing=pairing) for pairing in ("halves", "adjacent")]

    first, *others = [arrays_of(model, IDS) for model in kinds]

    for other in others:
        assert first.keys() == other.keys()
        for site, array in first.items():
            # BLAS may sum a row of another place in another order: n u = 160 x 1.1e-16, grown
            # by 2 layers. A row in the wrong place is wrong in the first digit.
            assert np.abs(array - other[site]).max() <= 1e-12 * np.abs(array).max()


@pytest.mark.parametrize("name", DECODERS)
def test_a_token_sees_nothing_after_it(tiny: Any, name: str) -> None:
    model = tiny(DECODERS[name])

    whole, part = arrays_of(model, IDS), arrays_of(model, IDS[:5])

    for site, array in part.items():
        # As above: BLAS sums in an order of its own for each number of tokens.
        assert np.abs(whole[site][:5] - array).max() <= 1e-12 * np.abs(array).max()


def test_a_token_outside_the_window_is_not_seen(tiny: Any) -> None:
    """With a window of 3 and 1 layer, tokens 0..4 cannot reach token 7."""
    model = tiny(TinyDecoder(architecture="mistral", sliding_window=3, num_layers=1))

    first, other = arrays_of(model, IDS), arrays_of(model, [1, 2, 3, 4, 6, *IDS[5:]])

    assert np.abs(first["logits"][7] - other["logits"][7]).max() <= 1e-12
    assert np.abs(first["logits"][6] - other["logits"][6]).max() > 1e-3


def test_blocks_of_rows_change_nothing(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(TinyDecoder(block_type=BlockType.Q4_1))
    whole = arrays_of(model, IDS)

    monkeypatch.setattr(oracle_module, "ROWS_AT_ONCE_BYTES", 7 * 8 * 96)

    for site, array in arrays_of(model, IDS).items():
        assert np.abs(whole[site] - array).max() <= 1e-12 * np.abs(array).max()


def test_silu_of_a_very_negative_gate_is_zero_and_no_nan(tiny: Any) -> None:
    """exp(1000) is infinite; x / (1 + inf) is the right limit, -0."""
    model = tiny(TinyDecoder(mlp_bias=True))
    name = "model.layers.0.mlp.gate_proj.bias"
    bias = model.weights[name]
    far = replace(bias, raw=np.full(bias.columns, -1000, np.float32).view(np.uint8))

    trace = OracleEngine(model.altered(weights=model.weights.replaced({name: far}))).trace(
        IDS, capture=EVERYTHING
    )

    assert np.abs(trace.arrays["layer.0.ffn_silu_gate"]).max() < 1e-300
    assert np.isfinite(trace.arrays["logits"]).all()


def test_it_computes_in_float64(tiny: Any) -> None:
    trace = OracleEngine(tiny()).trace(IDS, capture=EVERYTHING)

    assert {record.dtype for record in trace.sites.values()} == {"float64"}
    assert {array.dtype for array in trace.arrays.values()} == {np.dtype(np.float64)}
    assert (trace.engine.name, trace.engine.numerics, trace.engine.device) == (
        *("oracle", "f64", "cpu"),
    )
