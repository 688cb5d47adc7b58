"""The KV cache gives back what was put in, as its type rounds it, and no more than is seen."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from cotejar.engines.native.cache import FIRST_CAPACITY_TOKENS, KVCache
from cotejar.engines.native.engine import NUMERICS, NativeEngine
from cotejar.errors import UsageError
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
WINDOW = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_language_model(write_tiny_gguf(tmp_path_factory.mktemp("m") / "tiny.gguf"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path = tmp_path_factory.mktemp("m") / "windowed.gguf"
    return open_language_model(
        write_tiny_gguf(path, TinyDecoder(sliding_window=WINDOW, context_length=512))
    )


def rows(model: LanguageModel, tokens: int, seed: int = 0) -> np.ndarray:
    config = model.config
    shape = (tokens, config.num_kv_heads, config.head_dim)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def as_stored(kv_type: str, values: np.ndarray) -> np.ndarray:
    """By ggml's own Q8_0, and numpy's own float16."""
    if kv_type == "q8_0":
        packed = gguf.quantize(values.reshape(-1), gguf.GGMLQuantizationType.Q8_0)
        unpacked = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
        return unpacked.reshape(values.shape)
    return values.astype({"f16": np.float16, "f32": np.float32}[kv_type]).astype(np.float32)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_what_comes_back_is_what_the_type_holds(model: LanguageModel, kv_type: str) -> None:
    cache, keys, values = KVCache(model.config, kv_type), rows(model, 5), rows(model, 5, 1)
    cache.extend(0, keys[:3], values[:3])
    cache.advance(3)

    k_SKE, v_SKE = cache.extend(0, keys[3:], values[3:])

    assert (k_SKE == as_stored(kv_type, keys)).all()
    assert (v_SKE == as_stored(kv_type, values)).all()


def test_rows_that_are_made_in_their_place_stay_there(model: LanguageModel) -> None:
    cache, keys, values = KVCache(model.config), rows(model, 5), rows(model, 5, 1)
    cache.extend(0, keys[:3], values[:3])
    cache.advance(3)
    places = cache.places_for(0, 2)
    assert places is not None
    places[0][:], places[1][:] = keys[3:], values[3:]

    k_SKE, v_SKE = cache.extend(0, *places)

    assert np.shares_memory(k_SKE, places[0])
    assert np.shares_memory(v_SKE, places[1])
    assert (k_SKE == keys).all()
    assert (v_SKE == values).all()


def test_rows_of_another_order_in_their_place_are_put_in_order(model: LanguageModel) -> None:
    cache, keys, values = KVCache(model.config), rows(model, 4), rows(model, 4, 1)
    places = cache.places_for(0, 4)
    assert places is not None
    places[0][:], places[1][:] = keys, values

    k_SKE, v_SKE = cache.extend(0, places[0][::-1], places[1])

    assert (k_SKE == keys[::-1]).all()
    assert (v_SKE == values).all()


def test_rows_beside_their_place_are_put_there(model: LanguageModel) -> None:
    cache, keys, values = KVCache(model.config), rows(model, 4), rows(model, 4, 1)
    places = cache.places_for(0, 4)
    assert places is not None
    places[0][:], places[1][:] = keys, values

    # Each of the three lies one row late.
    k_SKE, v_SKE = cache.extend(0, places[0][1:], places[1][1:])

    assert (k_SKE == keys[1:]).all()
    assert (v_SKE == values[1:]).all()


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_what_is_stored_in_another_form_has_no_place(
    model: LanguageModel, kv_type: str
) -> None:
    assert KVCache(model.config, kv_type).places_for(0, 3) is None


def test_narrower_types_take_less_memory(model: LanguageModel) -> None:
    sizes = {}
    for kv_type in ("f32", "f16", "q8_0"):
        cache = KVCache(model.config, kv_type)
        cache.extend(0, rows(model, 100), rows(model, 100))
        sizes[kv_type] = cache.num_bytes

    assert sizes["f16"] * 2 == sizes["f32"]
    assert sizes["q8_0"] * 128 == sizes["f32"] * 34, "34 bytes for 32 values"


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_have_the_bits_of_one_pass_whatever_the_cache_stores(
    model: LanguageModel, numerics: str, chunk: int
) -> None:
    engine = NativeEngine(model, numerics=numerics)
    whole_TV = engine.start().append_all(TOKENS)

    session = engine.start()
    parts = [session.append_all(TOKENS[i : i + chunk]) for i in range(0, len(TOKENS), chunk)]

    assert (np.concatenate(parts) == whole_TV).all()
    assert session.token_ids == TOKENS


def test_the_type_of_the_cache_changes_the_numbers(model: LanguageModel) -> None:
    rows_ = {
        name: NativeEngine(model, numerics=name).start().append(TOKENS) for name in NUMERICS
    }

    for arithmetic in ("q8", "f32"):
        exact = rows_[arithmetic]
        half = np.abs(rows_[f"{arithmetic}-kvf16"] - exact).max()
        eighth = np.abs(rows_[f"{arithmetic}-kvq8"] - exact).max()
        assert 0 < half < eighth


def test_a_window_drops_what_nobody_sees_and_the_bits_stay(windowed: LanguageModel) -> None:
    tokens = (TOKENS * 20)[: 3 * FIRST_CAPACITY_TOKENS]
    engine = NativeEngine(windowed, numerics="q8")
    whole_TV = engine.start().append_all(tokens)

    session = engine.start()
    rows_TV = [session.append([token]) for token in tokens]

    assert (np.stack(rows_TV) == whole_TV).all()
    kept = len(session.cache.state()["layer.0.keys"])
    assert kept == WINDOW - 1, "what the next token sees beside itself"
    config = windowed.config
    row = 4 * 2 * config.num_kv_heads * config.head_dim * config.num_layers
    assert session.cache.num_bytes < 2.5 * FIRST_CAPACITY_TOKENS * row


@pytest.mark.parametrize("numerics", ["q8", "q8-kvf16", "q8-kvq8"])
def test_a_saved_state_goes_on_with_the_same_bits(model: LanguageModel, numerics: str) -> None:
    engine = NativeEngine(model, numerics=numerics)
    first, second = engine.start(), engine.start()
    first.append(TOKENS[:7])

    second.cache.load_state(7, first.cache.state())

    assert (second.append(TOKENS[7:]) == first.append(TOKENS[7:])).all()


def test_a_state_of_another_type_is_refused(model: LanguageModel) -> None:
    cache = KVCache(model.config, "f16")
    cache.extend(0, rows(model, 2), rows(model, 2))

    with pytest.raises(UsageError) as caught:
        KVCache(model.config).load_state(2, {**cache.state()})

    width = model.config.num_kv_heads * model.config.head_dim
    assert "the saved state is not of this model's KV cache" in str(caught.value)
    assert f"(0, {width}) float16" in str(caught.value)


def test_going_back_and_on_has_the_bits_of_never_having_been_elsewhere(
    model: LanguageModel,
) -> None:
    engine = NativeEngine(model, numerics="q8")
    session = engine.start()
    session.append([*TOKENS[:5], 7, 7, 7])

    kept = session.keep_common_prefix(TOKENS)

    assert kept == 5
    assert (session.append(TOKENS[5:]) == engine.start().append(TOKENS)).all()


def test_the_whole_text_again_leaves_one_token_to_run(model: LanguageModel) -> None:
    session = NativeEngine(model, numerics="q8").start()
    session.append(TOKENS)

    assert session.keep_common_prefix(TOKENS) == len(TOKENS) - 1


def test_a_window_that_moved_on_starts_again(windowed: LanguageModel) -> None:
    engine = NativeEngine(windowed, numerics="q8")
    session, other = engine.start(), [*TOKENS[:8], 0]
    for token in TOKENS * 20:
        session.append([token])

    assert session.keep_common_prefix(other) == 0
    assert (session.append(other) == engine.start().append(other)).all()


def test_a_cache_cannot_go_forward(model: LanguageModel) -> None:
    with pytest.raises(UsageError, match="the KV cache cannot go back so far"):
        KVCache(model.config).truncate(1)


def test_an_unknown_type_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UsageError, match="the KV cache of this model cannot be f8"):
        KVCache(model.config, "f8")
