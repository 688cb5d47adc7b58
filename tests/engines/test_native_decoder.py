"""The compiled decoder and the fused pass: the bits of `Pass`, whatever is run and however."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.native.cache import KVCache
from cotejar.engines.native.decoder import POSITIONS_AT_ONCE, Decoder, has_decoder
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.native.forward import Pass
from cotejar.engines.native.fused import FusedPass
from cotejar.kernels import _compiled
from cotejar.kernels.instruction_set import chosen_isa
from cotejar.kernels.products import multiply_q8, multiply_w8a8
from cotejar.model.inventory import EMBEDDING, layer_tensor
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import Capture, TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDE = {"hidden_size": 256, "num_heads": 8, "ffn_size": 512}
DECODERS = {
    "llama": TinyDecoder(block_type=BlockType.Q4_0),
    "llama, biases": TinyDecoder(attention_bias=True, mlp_bias=True, block_type=BlockType.Q5_1),
    "mistral": TinyDecoder(architecture="mistral", sliding_window=5, block_type=BlockType.Q8_0),
    "qwen2": TinyDecoder(architecture="qwen2", tied_embeddings=True, block_type=BlockType.Q5_0),
    "qwen3": TinyDecoder(architecture="qwen3", block_type=BlockType.Q4_1),
    "odd heads": TinyDecoder(num_heads=3, num_kv_heads=3, block_type=BlockType.Q5_0),
    "Q4_K": TinyDecoder(**WIDE, block_type=BlockType.Q4_K),
    "Q6_K": TinyDecoder(**WIDE, block_type=BlockType.Q6_K),
}
WITH_VECTOR_KERNELS = [
    isa
    for isa in _compiled.isa_names()
    if _compiled.has_vector_kernel(isa, int(BlockType.Q4_0))
]
IDS = [(7919 * index + 101) % 320 for index in range(24)]
FEW = IDS[:9]

pytestmark = pytest.mark.skipif(
    not WITH_VECTOR_KERNELS, reason="this CPU has no kernel for one token"
)


@pytest.fixture(params=[1, 3, 5])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    chosen_isa()  # which sets the number of threads, once
    before = _compiled.num_threads()
    _compiled.set_num_threads(request.param)
    yield request.param
    _compiled.set_num_threads(before)


def run_singly(model: Any, token_ids: list[int]) -> list[bytes]:
    cache = KVCache(model.config)
    step = Pass(model, multiply_q8, cache)
    with np.errstate(all="ignore"):
        return [step.run([token], last_only=True).tobytes() for token in token_ids]


@pytest.mark.parametrize("isa", WITH_VECTOR_KERNELS)
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.usefixtures("num_threads")
def test_every_token_has_the_bits_of_the_pass(
    name: str, isa: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(DECODERS[name])
    expected = run_singly(model, IDS)
    monkeypatch.setattr("cotejar.engines.native.decoder.chosen_isa", lambda: isa)
    decoder, cache = Decoder(model), KVCache(model.config)

    assert has_decoder(model)
    assert [decoder.step([(cache, token)]).tobytes() for token in IDS] == expected


@pytest.mark.parametrize(
    "block_type",
    [BlockType.F16, BlockType.Q4_1, BlockType.Q4_K, BlockType.Q6_K, BlockType.APR_Q8],
)
def test_an_embedding_of_any_type_has_the_bits_of_the_pass(
    block_type: BlockType, tiny: Any
) -> None:
    model = tiny(TinyDecoder(**WIDE, block_type=BlockType.Q4_0))
    old = model.weights[EMBEDDING]
    raw = encode(block_type, old.decode_rows(0, old.rows).reshape(-1))
    table = BlockMatrix(block_type=block_type, rows=old.rows, columns=old.columns, raw=raw)
    other = model.altered(weights=model.weights.replaced({EMBEDDING: table}))
    decoder, cache = Decoder(other), KVCache(other.config)

    assert has_decoder(other)
    assert [decoder.step([(cache, token)]).tobytes() for token in FEW] == run_singly(other, FEW)


def test_it_goes_on_where_a_prefill_ended(tiny: Any) -> None:
    engine = NativeEngine(tiny(DECODERS["qwen2"]), numerics="q8")
    session = engine.start()
    session.append(IDS[:-1])

    assert session.append(IDS[-1:]).tobytes() == engine.start().append(IDS).tobytes()


def test_the_cache_grows_and_angles_of_later_positions_are_computed(tiny: Any) -> None:
    model = tiny(TinyDecoder(context_length=400, block_type=BlockType.Q4_0))
    engine = NativeEngine(model, numerics="q8")
    ids = (IDS * 12)[: POSITIONS_AT_ONCE + 2]
    session = engine.start()
    session.append(ids[:-4])

    for token in ids[-4:]:
        logits = session.append([token])

    assert logits.tobytes() == engine.start().append(ids).tobytes()


@pytest.mark.parametrize("part", ["self_attn.k_proj", "mlp.down_proj"])
def test_one_changed_weight_is_seen(part: str, tiny: Any) -> None:
    model = tiny(DECODERS["qwen2"])
    name = layer_tensor(1, f"{part}.weight")
    raw = model.weights[name].raw.copy()
    raw[-1] ^= 16
    old = model.weights[name]
    changed = BlockMatrix(
        block_type=old.block_type, rows=old.rows, columns=old.columns, raw=raw
    )
    other = model.altered(weights=model.weights.replaced({name: changed}))

    decoded = []
    for one in (model, other):
        decoder, cache = Decoder(one), KVCache(one.config)
        decoded.append([decoder.step([(cache, token)]).tobytes() for token in FEW])

    assert decoded[0] != decoded[1]
    assert decoded[1] == run_singly(other, FEW)


@pytest.mark.parametrize(
    "decoder",
    [
        TinyDecoder(block_type=BlockType.F32),
        TinyDecoder(architecture="gemma3", block_type=BlockType.Q8_0),
    ],
    ids=["floats", "gemma3"],
)
def test_what_it_lacks_is_left_to_the_pass(decoder: TinyDecoder, tiny: Any) -> None:
    model = tiny(decoder)

    assert not has_decoder(model)
    assert NativeEngine(model, numerics="q8").start().append(FEW[:1]).size == 320


def test_other_numerics_or_another_pass_are_not_decoded_in_one_call(tiny: Any) -> None:
    model = tiny(DECODERS["llama"])

    for numerics, forward in (("f32", FusedPass), ("w8a8", FusedPass), ("q8", Pass)):
        session = NativeEngine(model, numerics=numerics, forward=forward).start()
        assert session._decoder is None


@pytest.mark.parametrize("name", ["llama, biases", "mistral", "qwen3", "Q6_K"])
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("multiply", [multiply_q8, multiply_w8a8])
def test_the_fused_pass_has_the_bits_of_the_pass(
    name: str, last_only: bool, multiply: Any, tiny: Any
) -> None:
    model = tiny(DECODERS[name])
    found, statistics = [], []
    for forward in (Pass, FusedPass):
        recorder = TraceRecorder(Capture())
        for one in (None, recorder):
            step = forward(model, multiply, KVCache(model.config), one)
            # A part of few tokens, and one of as many as are multiplied together.
            logits = [step.run(ids, last_only=last_only) for ids in (IDS[:15], IDS[15:] * 7)]
            found.append(b"".join(x.tobytes() for x in logits))
        statistics.append(recorder.sites)

    assert len(set(found)) == 1
    assert statistics[0] == statistics[1]


LENGTHS = (1, 17, 6, 31, 1, 16, 3, 40, 2, 22, 5, 9, 33, 4, 15, 8, 12)
"""Of 17 contexts, so that there is more than one tile of tokens."""


@pytest.mark.parametrize("isa", WITH_VECTOR_KERNELS)
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("count", [3, 17])
@pytest.mark.usefixtures("num_threads")
def test_contexts_side_by_side_have_the_bits_of_each_alone(
    name: str, isa: str, count: int, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(DECODERS[name])
    monkeypatch.setattr("cotejar.engines.native.decoder.chosen_isa", lambda: isa)
    decoder = Decoder(model)
    alone = contexts_of(model, LENGTHS[:count], "f32")
    together = deepcopy(alone)

    for index in range(3):
        tokens = [IDS[(index + 5 * row) % len(IDS)] for row in range(count)]
        found_NV = decoder.step(list(zip(together, tokens, strict=True)))
        for row, (cache, token) in enumerate(zip(alone, tokens, strict=True)):
            assert (found_NV[row] == decoder.step([(cache, token)])).all()


def test_a_change_in_one_cache_is_seen_by_its_own_context_alone(tiny: Any) -> None:
    model = tiny(DECODERS["qwen2"])
    decoder, caches = Decoder(model), contexts_of(model, (4, 9, 6), "f32")
    others = deepcopy(caches)
    others[1]._layers[0].keys[8, 0] += 1

    tokens = IDS[:3]
    clean_NV, found_NV = (
        decoder.step(list(zip(some, tokens, strict=True))) for some in (caches, others)
    )

    assert (clean_NV != found_NV).any(axis=1).tolist() == [False, True, False]


def contexts_of(model: Any, lengths: tuple[int, ...], kv_type: str) -> list[KVCache]:
    caches = []
    for row, length in enumerate(lengths):
        cache = KVCache(model.config, kv_type)
        tokens = [IDS[(3 * row + index) % len(IDS)] for index in range(length)]
        FusedPass(model, multiply_q8, cache).run(tokens, last_only=True)
        caches.append(cache)
    return caches


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "Q6_K"])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.usefixtures("num_threads")
def test_a_cache_of_any_type_has_the_bits_of_the_pass(
    name: str, kv_type: str, tiny: Any
) -> None:
    model = tiny(DECODERS[name])
    decoder = Decoder(model)
    expected = contexts_of(model, LENGTHS[:4], kv_type)
    found = deepcopy(expected)

    for token in IDS[:20]:
        logits_NV = decoder.step([(cache, token) for cache in found])
        for row, cache in enumerate(expected):
            one_1V = Pass(model, multiply_q8, cache).run([token], last_only=True)
            assert (logits_NV[row] == one_1V[0]).all()

    for ours, theirs in zip(found, expected, strict=True):
        state = theirs.state()
        assert all((rows == state[key]).all() for key, rows in ours.state().items())


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_a_broken_model_stays_broken_in_a_rounded_cache(kv_type: str, tiny: Any) -> None:
    model = tiny(DECODERS["llama"])
    name = layer_tensor(0, "self_attn.v_proj.weight")
    old = model.weights[name]
    raw = old.raw.copy()
    raw[:2] = np.array([np.nan], "<f2").view(np.uint8)
    broken = BlockMatrix(block_type=old.block_type, rows=old.rows, columns=old.columns, raw=raw)
    other = model.altered(weights=model.weights.replaced({name: broken}))
    cache = KVCache(other.config, kv_type)

    assert np.isnan(Decoder(other).step([(cache, IDS[0])])).all()


def test_a_cache_that_goes_back_or_moves_is_followed(tiny: Any) -> None:
    windowed = TinyDecoder(
        architecture="mistral", sliding_window=5, context_length=400, block_type=BlockType.Q8_0
    )
    engine = NativeEngine(tiny(windowed), numerics="q8")
    session = engine.start()
    for token in IDS:
        session.append([token])
    session.truncate(len(IDS) - 1)  # the same rows again
    session.append(IDS[:1])
    session.append((IDS * 9)[:200])  # other arrays
    other = engine.start()
    other.append([*IDS[:-1], IDS[0], *(IDS * 9)[:200]])

    assert (session.append([5]) == other.append([5])).all()


def step_of(decoder: _compiled.Decoder, **changes: Any) -> None:
    """Two tokens through a decoder of one layer: width 32, 2 heads of 16, 1 key/value head."""
    arguments: dict[str, Any] = {
        "token_ids": [0, 63],
        "cosine": np.ones((2, 8), "f4"),
        "sine": np.zeros((2, 8), "f4"),
        "caches": [small_cache(), small_cache()],
        "rows": [0, 3],
        "logits": np.zeros((2, 48), "f4"),
    }
    arguments |= changes
    if callable(arguments["caches"]):
        arguments["caches"] = arguments["caches"]()
    decoder.step(**arguments)


def small_cache(
    width: int = 16, block_type: BlockType = BlockType.F32, num_layers: int = 1
) -> _compiled.Cache:
    row_bytes = block_type.num_bytes(width)
    rows = [np.zeros((4, row_bytes), np.uint8) for _ in range(2 * num_layers)]
    return _compiled.Cache(int(block_type), width, rows[:num_layers], rows[num_layers:])


def small_decoder() -> _compiled.Decoder:
    def linear(rows: int, columns: int) -> _compiled.Linear:
        raw = np.zeros(rows * columns // 32 * 18, np.uint8)
        return _compiled.Linear(int(BlockType.Q4_0), raw, rows, columns, None)

    ones = np.ones(32, "f4")
    decoder = _compiled.Decoder(
        isa=WITH_VECTOR_KERNELS[0],
        heads=2,
        kv_heads=1,
        head_size=16,
        pairs=8,
        adjacent=False,
        window=0,
        eps=1e-5,
        embedding=linear(64, 32),
        final_norm=ones,
        lm_head=linear(48, 32),
    )
    shapes = [(32, 32), (16, 32), (16, 32), (32, 32), (64, 32), (64, 32), (32, 64)]
    decoder.add_layer(ones, ones, None, None, *(linear(*shape) for shape in shapes))
    return decoder


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"token_ids": [0]}, "no caches, or another number of rows or tokens"),
        ({"token_ids": [0, 64]}, "no such token"),
        ({"token_ids": [-1, 0]}, "no such token"),
        (
            {"logits": np.zeros((2, 47), "f4")},
            "the logits have another size than the decoder's",
        ),
        ({"cosine": np.zeros((2, 7), "f4")}, "the tables do not fit the decoder"),
        ({"sine": np.zeros((3, 8), "f4")}, "the tables do not fit the decoder"),
        ({"caches": [], "rows": []}, "no caches, or another number of rows or tokens"),
        ({"rows": [0]}, "no caches, or another number of rows or tokens"),
        (
            {"caches": lambda: [small_cache(num_layers=2), small_cache()]},
            "the cache has another number of layers than the decoder",
        ),
        (
            {"caches": lambda: [small_cache(), small_cache(width=15)]},
            "the cache does not fit the decoder or has no room",
        ),
        (
            {"caches": lambda: [small_cache(), small_cache(block_type=BlockType.F16)]},
            "the cache does not fit the decoder or has no room",
        ),
        ({"caches": lambda: [small_cache()] * 2}, "one cache for two tokens"),
        ({"rows": [4, 0]}, "the cache does not fit the decoder or has no room"),
        ({"rows": [0, -1]}, "the cache does not fit the decoder or has no room"),
        ({"measured": True}, "moments of several tokens"),
    ],
)
def test_no_size_that_does_not_fit_is_used(changes: dict[str, Any], problem: str) -> None:
    decoder = small_decoder()
    step_of(decoder)

    with pytest.raises(ValueError, match=f"^{problem}$"):
        step_of(decoder, **changes)


BYTES = np.zeros((4, 64), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((0, 16, [], []), "keys without values"),
        ((0, 16, [BYTES], []), "keys without values"),
        ((2, 32, [BYTES], [BYTES]), "a block type that no cache has"),
        ((99, 32, [BYTES], [BYTES]), "a block type that no cache has"),
        ((8, 16, [BYTES], [BYTES]), "a row is no whole number of blocks"),
        ((0, 0, [BYTES], [BYTES]), "a row is no whole number of blocks"),
        (
            (0, 15, [BYTES], [BYTES]),
            "the layers of a cache differ, or its rows have another size",
        ),
        (
            (0, 16, [BYTES], [BYTES[:3]]),
            "the layers of a cache differ, or its rows have another size",
        ),
        (
            (0, 16, [BYTES], [np.zeros(4 * 64 + 1, np.uint8)[1:].reshape(4, 64)]),
            "the layers of a cache differ, or its rows have another size",
        ),
    ],
)
def test_a_cache_of_other_sizes_is_refused(arguments: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        _compiled.Cache(*arguments)
