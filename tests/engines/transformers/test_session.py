"""Text over transformers' own cache: what one pass over everything gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.errors import ContextLengthError, EngineDataError, TokenIdError
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import Capture

if TYPE_CHECKING:
    from cotejar.engines.transformers.session import TransformersSession

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from cotejar.engines.transformers.engine import TransformersEngine  # noqa: E402

IDS = [(7 * i + 3) % 60 for i in range(24)]
CHUNKS = (1, 5, 1, 1, 9, 7)
DECODERS = {
    "llama": TinyDecoder(),
    "llama, a window": TinyDecoder(sliding_window=6),
    "qwen3": TinyDecoder(architecture="qwen3"),
    "gemma3": TinyDecoder(architecture="gemma3", sliding_window=5, sliding_window_pattern=2),
}
NOISE = {"f32": 1e-5, "f64": 1e-13, "bf16": 0.1}
"""Relative L2 of a token: the order of sums of at most 160 terms over two layers, a hundred
units in the last place; of bfloat16, whose unit is 4e-3, ten and more roundings that turn."""


def rows_of(session: TransformersSession) -> np.ndarray:
    """Logits after each token, in chunks, the first of which is a single step."""
    rows, start = [], 0
    for size in CHUNKS:
        chunk = IDS[start : start + size]
        rows += [session.append(chunk)] if size == 1 else [*session.append_all(chunk)]
        start += size
    return np.stack(rows)


def rel_l2(reference: np.ndarray, candidate: np.ndarray) -> float:
    error = np.linalg.norm(candidate.astype(float) - reference, axis=1)
    return float((error / np.linalg.norm(reference, axis=1)).max())


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("numerics", NOISE)
def test_chunks_are_one_pass_over_everything(tiny: Any, name: str, numerics: str) -> None:
    engine = TransformersEngine(tiny(DECODERS[name]), numerics=numerics)
    trace = engine.trace(IDS, capture=Capture(array_slots=frozenset({"logits"})))
    session = engine.start()

    rows_TV = rows_of(session)

    assert session.num_tokens == len(IDS) == sum(CHUNKS)
    assert rows_TV.dtype == (np.float64 if numerics == "f64" else np.float32)
    assert rel_l2(trace.arrays["logits"], rows_TV) <= NOISE[numerics]


def test_a_cache_that_forgets_one_key_is_seen(tiny: Any) -> None:
    engine = TransformersEngine(tiny(), numerics="f64")
    whole, session = engine.start().append_all(IDS), engine.start()
    session.append(IDS[:4])
    session._cache.layers[0].keys[:, :, 2] = 0

    rows_TV = session.append_all(IDS[4:])

    assert rel_l2(whole[4:], rows_TV) > 1e3 * NOISE["f64"]


def test_sessions_share_nothing(tiny: Any) -> None:
    engine = TransformersEngine(tiny(), numerics="f64")
    alone, one, two = engine.start().append_all(IDS), engine.start(), engine.start()

    for position, token in enumerate(IDS):
        logits_V = one.append([token])
        two.append([IDS[-1 - position]])
        assert rel_l2(alone[position][None], logits_V[None]) <= NOISE["f64"]


def test_what_cannot_be_run_changes_nothing(tiny: Any) -> None:
    session = TransformersEngine(tiny(), numerics="f32").start()
    session.append([1, 2])

    with pytest.raises(TokenIdError):
        session.append([320])
    with pytest.raises(ContextLengthError):
        session.append([1] * 63)

    assert (session.num_tokens, session._cache.get_seq_length()) == (2, 2)


def test_logits_of_another_number_are_refused(tiny: Any) -> None:
    engine = TransformersEngine(tiny(), numerics="f32")
    head = engine._module.lm_head
    hook = head.register_forward_hook(lambda _module, _inputs, out: out[..., :-1])

    with pytest.raises(EngineDataError) as caught:
        engine.start().append([1, 2])
    hook.remove()

    assert str(caught.value) == (
        "error[APR-E005]: transformers' cache and logits are not what the tokens make\n"
        "  where     engine transformers\n"
        "  expected  logits of (1, 320), 2 tokens in the cache\n"
        "  found     logits of (1, 319), 2 tokens in the cache\n"
        "  try       does this release keep its cache in another way?"
    )
