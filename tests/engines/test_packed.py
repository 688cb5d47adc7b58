"""Contexts that run side by side have the bits that each has alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.engines.native.decoder import Decoder, has_decoder
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.native.packed import PackedPass
from cotejar.errors import TokenIdError, UsageError
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

TEXTS = ([3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5], [8, 9])
NEXT = [7, 9, 3, 2]


MODELS = [
    {"block_type": BlockType.Q4_0},
    {"architecture": "qwen2", "block_type": BlockType.Q5_0},
    {"architecture": "qwen3", "block_type": BlockType.Q4_1},
    {"architecture": "mistral", "sliding_window": 3, "block_type": BlockType.Q8_0},
    {"architecture": "gemma3", "sliding_window": 3, "block_type": BlockType.Q8_0},
    {"block_type": BlockType.F32},
]
"""The last two have no compiled decoder."""


@pytest.fixture(scope="module", params=MODELS, ids=str)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LanguageModel:
    path = tmp_path_factory.mktemp("m") / "tiny.gguf"
    return open_language_model(write_tiny_gguf(path, TinyDecoder(**request.param)))


@pytest.mark.parametrize("numerics", ["q8", "q8-kvf16", "q8-kvq8"])
def test_prompts_and_steps_side_by_side_have_the_bits_of_each_alone(
    model: LanguageModel, numerics: str
) -> None:
    engine = NativeEngine(model, numerics=numerics)
    alone = [engine.start() for _ in TEXTS]
    packed = [engine.start() for _ in TEXTS]

    first_NV = engine.append_packed(list(zip(packed, TEXTS, strict=True)))
    then_NV = engine.append_packed([(s, [t]) for s, t in zip(packed, NEXT, strict=True)])

    for row, session in enumerate(alone):
        assert (first_NV[row] == session.append(TEXTS[row])).all()
        assert (then_NV[row] == session.append([NEXT[row]])).all()
        assert packed[row].token_ids == session.token_ids


def noting(taken: list[type], way: type, run: Callable[..., object]) -> Callable[..., object]:
    def noted(*arguments: object) -> object:
        taken.append(way)
        return run(*arguments)

    return noted


@pytest.mark.parametrize("numerics", ["q8", "q8-kvf16", "q8-kvq8"])
def test_only_a_step_of_single_tokens_is_one_compiled_call(
    numerics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", TinyDecoder(block_type=BlockType.Q4_0))
    engine = NativeEngine(open_language_model(path), numerics=numerics)
    sessions = [engine.start(), engine.start()]
    taken: list[type] = []
    for way in (Decoder, PackedPass):
        name = "step" if way is Decoder else "run_packed"
        monkeypatch.setattr(way, name, noting(taken, way, getattr(way, name)))

    engine.append_packed([(sessions[0], [7, 3]), (sessions[1], [5])])
    engine.append_packed([(session, [9]) for session in sessions])

    compiled = Decoder if has_decoder(engine.model) else PackedPass
    assert taken == [PackedPass, compiled]


def test_a_prompt_may_join_while_others_decode(model: LanguageModel) -> None:
    engine = NativeEngine(model, numerics="q8")
    old, new = engine.start(), engine.start()
    old.append(TEXTS[0])

    logits_NV = engine.append_packed([(old, [7]), (new, TEXTS[2])])

    assert (logits_NV[0] == engine.start().append([*TEXTS[0], 7])).all()
    assert (logits_NV[1] == engine.start().append(TEXTS[2])).all()


def test_contexts_that_see_each_other_are_seen(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = NativeEngine(model, numerics="q8")
    parts = ([5, 8], [9, 8])
    last_of_two = engine.append_packed([(engine.start(), ids) for ids in parts])[1]
    extend = PackedPass.extend_cache

    def shared(self: PackedPass, layer: int, k: np.ndarray, v: np.ndarray) -> object:
        pair = extend(self, layer, k, v)
        self._kept = [self._kept[0]] * len(self._kept)
        return pair

    monkeypatch.setattr(PackedPass, "extend_cache", shared)

    wrong = engine.append_packed([(engine.start(), ids) for ids in parts])[1]

    assert (wrong != last_of_two).any()


def test_a_session_twice_is_refused(model: LanguageModel) -> None:
    engine = NativeEngine(model, numerics="q8")
    session = engine.start()

    with pytest.raises(UsageError, match="sessions cannot be run side by side so"):
        engine.append_packed([(session, [1]), (session, [2])])
    with pytest.raises(UsageError, match="sessions cannot be run side by side so"):
        engine.append_packed([])


def test_one_bad_token_changes_no_session(model: LanguageModel) -> None:
    engine = NativeEngine(model, numerics="q8")
    good, bad = engine.start(), engine.start()

    with pytest.raises(TokenIdError):
        engine.append_packed([(good, [1]), (bad, [1 << 20])])

    assert good.num_tokens == bad.num_tokens == 0
    assert good.token_ids == []
