"""The native engine: `f32` against the oracle, `q8` against itself, and defects that show."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.native.cache import FIRST_CAPACITY_TOKENS, KVCache
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.native.forward import Pass
from cotejar.engines.native.rope import rope_tables
from cotejar.engines.oracle import OracleEngine
from cotejar.kernels import numpy_operations
from cotejar.kernels.instruction_set import chosen_isa
from cotejar.model.inventory import layer_tensor
from cotejar.model.language_model import open_language_model
from cotejar.model.weights import Weights
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cotejar.model.language_model import LanguageModel

IDS = [5, 77, 300, 12, 9, 9, 250, 31, 4, 199, 2, 64]
EVERYTHING = Capture(array_slots=EVERY_ARRAY)

F32_LIMIT = 1e-5
"""Largest relative L2 error of a token at a site, float32 against float64.

A float32 sum of n terms errs by at most n u of its terms' sizes, u = 6e-8: 1e-5 for the
longest here, n = 160, and about sqrt(n) u = 8e-7 as rounding falls out. Measured: 1e-6, and
2e-6 where n = 512.
"""
Q8_LIMIT = 0.15
"""The same for 8-bit activations, which are off by 1/254 of a block's largest value at each
of 14 products: 0.4 % of a typical value and 5 % after 14, if nothing cancels. Measured: 0.06.
"""

BF16_LIMIT = 0.05
"""The same for factors of products in bfloat16, each off by 2**-9: 2**-8 of a product, and 5 %
after 14, if nothing cancels. Measured: 0.026.
"""

W8A8_LIMIT = 0.23
"""The same for 8-bit weights, too, and groups of 64: either factor is off by 1/254 of its
group's largest value, which of normal values is 1.1 times that of a block of 32: sqrt(2) * 1.1
times the error of `q8`. Measured: 0.08.
"""

GEMMA3 = TinyDecoder(
    architecture="gemma3",
    num_layers=3,
    sliding_window=5,
    sliding_window_pattern=2,
    rope_theta=1e6,
    final_softcap=3.0,
)
LINEAR = {"rope_type": "linear", "factor": 4.0}
WIDE = {"hidden_size": 256, "num_heads": 8, "ffn_size": 512}
DECODERS = {
    "llama": TinyDecoder(),
    "llama, tied": TinyDecoder(tied_embeddings=True, seed=3),
    "llama, biases": TinyDecoder(attention_bias=True, mlp_bias=True),
    "llama, linear": TinyDecoder(rope_scaling=LINEAR),
    "llama, divisors": TinyDecoder(rope_divisors=(1, 1, 1.5, 2, 4, 8, 8, 8)),
    "llama, Q4_0": TinyDecoder(block_type=BlockType.Q4_0),
    "llama, Q8_0": TinyDecoder(block_type=BlockType.Q8_0),
    "llama, Q5_1": TinyDecoder(block_type=BlockType.Q5_1),
    "llama, Q4_K": TinyDecoder(block_type=BlockType.Q4_K, **WIDE),
    "llama, Q6_K": TinyDecoder(block_type=BlockType.Q6_K, **WIDE),
    "llama, F16": TinyDecoder(block_type=BlockType.F16),
    "mistral, window": TinyDecoder(architecture="mistral", sliding_window=5),
    "qwen2": TinyDecoder(architecture="qwen2", tied_embeddings=True),
    "qwen2, Q5_0": TinyDecoder(architecture="qwen2", block_type=BlockType.Q5_0),
    "qwen3": TinyDecoder(architecture="qwen3"),
    "gemma3": GEMMA3,
    "gemma3, Q8_0": replace(GEMMA3, block_type=BlockType.Q8_0, tied_embeddings=True),
}


def native(model: LanguageModel, numerics: str = "f32") -> dict[str, np.ndarray]:
    engine = NativeEngine(model, numerics=numerics)
    return dict(engine.trace(IDS, capture=EVERYTHING).arrays)


def oracle(model: LanguageModel) -> dict[str, np.ndarray]:
    return dict(OracleEngine(model).trace(IDS, capture=EVERYTHING).arrays)


def distances(
    reference: dict[str, np.ndarray], candidate: dict[str, np.ndarray]
) -> dict[str, float]:
    """Relative L2 error of the worst token, by site in forward order."""
    assert reference.keys() == candidate.keys()
    return {
        site: float(
            np.max(
                np.linalg.norm(candidate[site] - array, axis=1) / np.linalg.norm(array, axis=1)
            )
        )
        for site, array in reference.items()
    }


@pytest.mark.parametrize("name", DECODERS)
def test_f32_is_the_oracle_within_its_rounding(tiny: Any, name: str) -> None:
    model = tiny(DECODERS[name])

    found = distances(oracle(model), native(model))

    far = {site: value for site, value in found.items() if not value <= F32_LIMIT}
    assert not far
    is_gemma = model.config.architecture == "gemma3"
    assert len(found) == model.config.num_layers * (19 if is_gemma else 17) + 3


@pytest.mark.parametrize("name", DECODERS)
def test_q8_is_the_oracle_within_its_coarser_rounding(tiny: Any, name: str) -> None:
    model = tiny(DECODERS[name])

    found = distances(oracle(model), native(model, "q8"))

    assert max(found.values()) <= Q8_LIMIT


@pytest.mark.parametrize("name", DECODERS)
def test_bf16_is_the_oracle_within_its_coarser_rounding(tiny: Any, name: str) -> None:
    model = tiny(DECODERS[name])

    found = distances(oracle(model), native(model, "bf16"))

    assert max(found.values()) <= BF16_LIMIT


@pytest.mark.parametrize("name", DECODERS)
def test_w8a8_is_the_oracle_within_its_coarser_rounding(tiny: Any, name: str) -> None:
    model = tiny(DECODERS[name])

    found = distances(oracle(model), native(model, "w8a8"))

    assert max(found.values()) <= W8A8_LIMIT


# --- defects that the limit of f32 must see -------------------------------------------


def with_config(**changes: object) -> Callable[[LanguageModel], LanguageModel]:
    return lambda model: model.altered(config=replace(model.config, **changes))


def with_rope(**changes: object) -> Callable[[LanguageModel], LanguageModel]:
    return lambda model: model.altered(
        config=replace(model.config, rope=replace(model.config.rope, **changes))
    )


def with_local_rope(**changes: object) -> Callable[[LanguageModel], LanguageModel]:
    return lambda model: model.altered(
        config=replace(model.config, local_rope=replace(model.config.rope_of(0), **changes))
    )


def without(name: str) -> Callable[[LanguageModel], LanguageModel]:
    return lambda model: model.altered(
        weights=Weights({n: m for n, m in model.weights.items() if n != name})
    )


def swapped(a: str, b: str) -> Callable[[LanguageModel], LanguageModel]:
    return lambda model: model.altered(
        weights=model.weights.replaced({a: model.weights[b], b: model.weights[a]})
    )


def in_layer_1(part: str) -> str:
    return layer_tensor(1, part)


BIASED = TinyDecoder(attention_bias=True, mlp_bias=True)
WINDOWED = TinyDecoder(architecture="mistral", sliding_window=5)
QWEN3 = TinyDecoder(architecture="qwen3")
ALTERED: dict[str, tuple[TinyDecoder, Callable[[LanguageModel], LanguageModel], str]] = {
    "theta": (TinyDecoder(), with_rope(theta=10010.0), "layer.0.q_rope"),
    # The capture undoes the pairing that it is told, so a wrong one shows before RoPE.
    "pairing": (TinyDecoder(), with_rope(pairing="halves"), "layer.0.q"),
    "pairing, qwen2": (
        TinyDecoder(architecture="qwen2"),
        with_rope(pairing="adjacent"),
        "layer.0.q",
    ),
    "a divisor": (
        TinyDecoder(),
        with_rope(frequency_divisors=(1,) * 7 + (2,)),
        "layer.0.q_rope",
    ),
    "eps": (TinyDecoder(), with_config(rms_eps=1e-6), "layer.0.attn_norm"),
    "window, one more": (WINDOWED, with_config(sliding_window=6), "layer.0.attn_context"),
    "window, one less": (WINDOWED, with_config(sliding_window=4), "layer.0.attn_context"),
    "window, none": (WINDOWED, with_config(sliding_window=None), "layer.0.attn_context"),
    "no head norm": (QWEN3, with_config(qk_norm=False), "layer.0.q_rope"),
    "norms of q and k swapped": (
        QWEN3,
        swapped(in_layer_1("self_attn.q_norm.weight"), in_layer_1("self_attn.k_norm.weight")),
        "layer.1.q_rope",
    ),
    "gate and up swapped": (
        TinyDecoder(),
        swapped(in_layer_1("mlp.gate_proj.weight"), in_layer_1("mlp.up_proj.weight")),
        "layer.1.ffn_gate",
    ),
    "k and v swapped": (
        TinyDecoder(),
        swapped(in_layer_1("self_attn.k_proj.weight"), in_layer_1("self_attn.v_proj.weight")),
        "layer.1.k",
    ),
    "global theta": (GEMMA3, with_rope(theta=1.01e6), "layer.1.q_rope"),
    "local theta": (GEMMA3, with_local_rope(theta=10010.0), "layer.0.q_rope"),
    "one RoPE for all": (GEMMA3, with_config(local_rope=None), "layer.0.q_rope"),
    "no global layer": (GEMMA3, with_config(global_layers=()), "layer.1.q_rope"),
    "no scale of embeddings": (GEMMA3, with_config(embedding_scale=1.0), "embed"),
    "SiLU for GELU": (GEMMA3, with_config(activation="silu"), "layer.0.ffn_silu_gate"),
    "scores of another scale": (
        GEMMA3,
        with_config(query_scalar=33.0),
        "layer.0.attn_context",
    ),
    "no cap": (GEMMA3, with_config(final_softcap=None), "logits"),
    "norms behind and before swapped": (
        GEMMA3,
        swapped(
            in_layer_1("post_attention_layernorm.weight"),
            in_layer_1("pre_feedforward_layernorm.weight"),
        ),
        "layer.1.attn_post_norm",
    ),
    "the last norm of a layer for the first": (
        GEMMA3,
        swapped(
            in_layer_1("post_feedforward_layernorm.weight"),
            in_layer_1("pre_feedforward_layernorm.weight"),
        ),
        "layer.1.ffn_norm",
    ),
    "the tied table as head": (TinyDecoder(), without("lm_head.weight"), "logits"),
    **{
        f"no bias of {part}": (BIASED, without(in_layer_1(f"{part}.bias")), f"layer.1.{slot}")
        for part, slot in {
            "self_attn.q_proj": "q",
            "self_attn.k_proj": "k",
            "self_attn.v_proj": "v",
            "self_attn.o_proj": "attn_out",
            "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_out",
        }.items()
    },
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_wrong_model_is_seen_where_it_goes_wrong(tiny: Any, name: str) -> None:
    decoder, alter, first_wrong = ALTERED[name]
    model = tiny(decoder)

    found = distances(oracle(model), native(alter(model)))

    wrong = [site for site, value in found.items() if not value <= F32_LIMIT]
    assert wrong[0] == first_wrong
    assert wrong[-1] == "logits"


class NoScale(Pass):
    def attend(self, layer: int, q_THE: Any, k_SKE: Any, v_SKE: Any) -> Any:
        return super().attend(layer, q_THE * np.float32(np.sqrt(q_THE.shape[2])), k_SKE, v_SKE)


class ScaleOfTheWidth(Pass):
    """1 / sqrt(hidden / heads) where the head size is another."""

    def attend(self, layer: int, q_THE: Any, k_SKE: Any, v_SKE: Any) -> Any:
        factor = np.sqrt(q_THE.shape[2] * q_THE.shape[1] / QWEN3.hidden_size)
        return super().attend(layer, q_THE * np.float32(factor), k_SKE, v_SKE)


class HeadsDealtInTurn(Pass):
    """Head h reads key/value head h % K, not h // (H / K)."""

    def attend(self, layer: int, q_THE: Any, k_SKE: Any, v_SKE: Any) -> Any:
        order = np.arange(q_THE.shape[1]).reshape(-1, k_SKE.shape[1]).T.reshape(-1)
        context = np.empty_like(q_THE)
        q_THE = np.ascontiguousarray(q_THE[:, order])
        context[:, order] = super().attend(layer, q_THE, k_SKE, v_SKE)
        return context


class MaskOneTooWide(Pass):
    """The first token sees the second too; all later tokens are right."""

    def attend(self, layer: int, q_THE: Any, k_SKE: Any, v_SKE: Any) -> Any:
        context = super().attend(layer, q_THE, k_SKE, v_SKE)
        context[:1] = super().attend(layer, q_THE[[0, 0]], k_SKE[:2], v_SKE[:2])[1:]
        return context


class PositionOffByOne(Pass):
    def angles(self, layer: int) -> Any:
        tokens = self.cache.num_tokens + len(super().angles(layer)[0])
        return tuple(table[1:] for table in rope_tables(self.model.config.rope, 0, tokens + 1))


class SineTheOtherWay(Pass):
    def angles(self, layer: int) -> Any:
        cos, sin = super().angles(layer)
        return cos, -sin


class OnlyKeysTurned(Pass):
    def rotate(self, layer: int, values_THE: Any, *, which: Any) -> Any:
        return values_THE if which == "q" else super().rotate(layer, values_THE, which=which)


class GeluForSilu(Pass):
    def activate(self, layer: int, gate_TF: Any) -> Any:
        return gate_TF / (1 + np.exp(np.float32(-1.702) * gate_TF))


class GateAddedToUp(Pass):
    def gate_product(self, layer: int, activated_TF: Any, up_TF: Any) -> Any:
        return activated_TF + up_TF


class MeanLeftIn(Pass):
    def norm(self, layer: int | None, part: str, values: Any) -> Any:
        return super().norm(layer, part, values - values.mean(axis=-1, keepdims=True))


class NoLastNorm(Pass):
    def norm(self, layer: int | None, part: str, values: Any) -> Any:
        return values if layer is None else super().norm(layer, part, values)


class NoNormOfKeys(Pass):
    def norm(self, layer: int | None, part: str, values: Any) -> Any:
        if (layer, part) == (1, "k_norm"):
            return values
        return super().norm(layer, part, values)


class OldKeysMoved(Pass):
    def extend_cache(self, layer: int, k_TKE: Any, v_TKE: Any) -> Any:
        keys, values = super().extend_cache(layer, k_TKE, v_TKE)
        return np.concatenate([keys[:1], keys[:-1]]), values


class NoResidual(Pass):
    def add_residual(self, layer: int, which: Any, hidden_TD: Any, branch_TD: Any) -> Any:
        if (layer, which) == (1, "ffn"):
            return branch_TD
        return super().add_residual(layer, which, hidden_TD, branch_TD)


class ScaledEmbedding(Pass):
    def embed(self, token_ids: Any) -> Any:
        return super().embed(token_ids) * np.float32(1.001)


class OutputsReversed(Pass):
    def linear(self, layer: int, part: str, inputs_TC: Any) -> Any:
        outputs = super().linear(layer, part, inputs_TC)
        return outputs[:, ::-1] if (layer, part) == (1, "attn_out") else outputs


class NoNormBehind(Pass):
    def norm(self, layer: int | None, part: str, values: Any) -> Any:
        if (layer, part) == (1, "ffn_post_norm"):
            return values
        return super().norm(layer, part, values)


class HeadOneRowOff(Pass):
    def head(self, hidden_TD: Any) -> Any:
        return np.roll(super().head(hidden_TD), 1, axis=1)


OPERATIONS: dict[type[Pass], str] = {
    ScaledEmbedding: "embed",
    MeanLeftIn: "layer.0.attn_norm",
    PositionOffByOne: "layer.0.q_rope",
    SineTheOtherWay: "layer.0.q_rope",
    OnlyKeysTurned: "layer.0.q_rope",
    NoNormOfKeys: "layer.1.k_rope",
    OldKeysMoved: "layer.0.attn_context",
    NoScale: "layer.0.attn_context",
    ScaleOfTheWidth: "layer.0.attn_context",
    HeadsDealtInTurn: "layer.0.attn_context",
    MaskOneTooWide: "layer.0.attn_context",
    OutputsReversed: "layer.1.attn_out",
    GeluForSilu: "layer.0.ffn_silu_gate",
    GateAddedToUp: "layer.0.ffn_swiglu_inner",
    NoResidual: "layer.1.output",
    NoLastNorm: "final_norm",
    HeadOneRowOff: "logits",
}
"""A pass that does one operation wrong, and the first site that must show it."""


@pytest.mark.parametrize("wrong_pass", OPERATIONS)
def test_a_wrong_operation_is_seen_where_it_goes_wrong(
    tiny: Any, wrong_pass: type[Pass]
) -> None:
    model = tiny(QWEN3)
    engine = NativeEngine(model, numerics="f32", forward=wrong_pass)

    found = distances(oracle(model), dict(engine.trace(IDS, capture=EVERYTHING).arrays))

    wrong = [site for site, value in found.items() if not value <= F32_LIMIT]
    assert wrong[0] == OPERATIONS[wrong_pass]


def test_a_norm_behind_is_a_norm_like_any_other(tiny: Any) -> None:
    model = tiny(GEMMA3)
    engine = NativeEngine(model, numerics="f32", forward=NoNormBehind)

    found = distances(oracle(model), dict(engine.trace(IDS, capture=EVERYTHING).arrays))

    wrong = [site for site, value in found.items() if not value <= F32_LIMIT]
    assert wrong[0] == "layer.1.ffn_post_norm"


def test_a_session_runs_the_pass_that_it_was_given(tiny: Any) -> None:
    model = tiny(QWEN3)
    right = NativeEngine(model, numerics="q8").start().append(IDS)

    wrong = NativeEngine(model, numerics="q8", forward=HeadOneRowOff).start().append(IDS)

    np.testing.assert_array_equal(wrong, np.roll(right, 1))


# --- one arithmetic, however the tokens are cut ----------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 7, 12])
@pytest.mark.parametrize(
    "name",
    [
        *("llama", "llama, F16", "llama, Q8_0", "llama, Q5_1", "llama, Q4_K"),
        *("mistral, window", "qwen2, Q5_0", "qwen3", "gemma3", "gemma3, Q8_0"),
    ],
)
@pytest.mark.parametrize("numerics", ["q8", "bf16", "w8a8"])
def test_a_cached_decode_has_the_bits_of_one_prefill(
    tiny: Any, name: str, chunk: int, numerics: str
) -> None:
    engine = NativeEngine(tiny(DECODERS[name]), numerics=numerics)
    whole = engine.trace(IDS, capture=EVERYTHING).arrays["logits"]
    session = engine.start()

    for start in range(0, len(IDS), chunk):
        logits = session.append(IDS[start : start + chunk])
        assert logits.tobytes() == whole[session.num_tokens - 1].tobytes()
    assert session.num_tokens == len(IDS)


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    yield
    chosen_isa.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize("isa", ["amx-emulated", "portable", "numpy"])
@pytest.mark.parametrize("name", ["llama, biases", "qwen2, Q5_0", "llama, Q4_K"])
@pytest.mark.parametrize("numerics", ["bf16", "w8a8"])
def test_bits_are_the_same_on_every_instruction_set(
    tiny: Any, name: str, numerics: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(DECODERS[name])
    best = native(model, numerics)
    monkeypatch.setenv("COTEJAR_ISA", isa)
    chosen_isa.cache_clear()

    found = native(model, numerics)

    assert chosen_isa() == isa
    assert all(found[site].tobytes() == array.tobytes() for site, array in best.items())


def test_blocks_of_queries_change_no_bit(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(WINDOWED)
    whole = native(model, "q8")

    monkeypatch.setenv("COTEJAR_ISA", "numpy")
    monkeypatch.setattr(numpy_operations, "QUERIES_AT_ONCE", 5)

    in_blocks = native(model, "q8")
    assert all(in_blocks[site].tobytes() == array.tobytes() for site, array in whole.items())


def test_f32_in_chunks_is_f32_in_one_go_within_its_rounding(tiny: Any) -> None:
    engine = NativeEngine(tiny(), numerics="f32")
    whole = engine.trace(IDS, capture=EVERYTHING).arrays["logits"]
    session = engine.start()

    found = np.array([session.append([token]) for token in IDS])

    # BLAS sums in other orders for other numbers of tokens; both are within the limit.
    assert max(distances({"logits": whole}, {"logits": found}).values()) <= 2 * F32_LIMIT


def test_a_cache_that_forgets_a_key_is_seen(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = NativeEngine(tiny(), numerics="q8")
    whole = engine.trace(IDS, capture=EVERYTHING).arrays["logits"]
    extend = KVCache.extend

    def forget(cache: KVCache, layer: int, k: np.ndarray, v: np.ndarray) -> Any:
        keys, values = extend(cache, layer, k, v)
        return np.concatenate([0 * keys[:1], keys[1:]]), values

    monkeypatch.setattr(KVCache, "extend", forget)
    session = engine.start()

    logits = [session.append([token]) for token in IDS]

    assert logits[0].tobytes() == whole[0].tobytes()
    assert logits[1].tobytes() != whole[1].tobytes()


def test_a_cache_grows_and_keeps_what_it_holds() -> None:
    config = TinyDecoder().config(pairing="halves")
    cache = KVCache(config)
    rows = np.random.default_rng(0).normal(size=(3 * FIRST_CAPACITY_TOKENS, 2, 16)).astype("f4")

    for start in range(0, len(rows), 48):
        for layer in range(config.num_layers):
            keys, values = cache.extend(
                layer, rows[start : start + 48] + layer, -rows[start : start + 48]
            )
            np.testing.assert_array_equal(keys, rows[: start + 48] + np.float32(layer))
            np.testing.assert_array_equal(values, -rows[: start + 48])
        cache.advance(48)

    assert cache.num_tokens == len(rows)


def test_sessions_do_not_share_a_context(tiny: Any) -> None:
    engine = NativeEngine(tiny(), numerics="q8")
    first, second = engine.start(), engine.start()

    first.append(IDS[:5])

    assert second.append(IDS[5:]).tobytes() == engine.start().append(IDS[5:]).tobytes()


@pytest.mark.parametrize("numerics", ["f32", "q8"])
def test_the_order_of_stored_rows_does_not_show_in_what_is_captured(
    tiny: Any, numerics: str
) -> None:
    """Up to the scores, whose sums run over a head in the stored order."""
    decoder = TinyDecoder(block_type=BlockType.Q8_0, attention_bias=True)
    halves, adjacent = (
        native(tiny(decoder, "apr", pairing=pairing), numerics)
        for pairing in ("halves", "adjacent")
    )

    same = ["attn_norm", "q", "k", "v", "qkv", "q_rope", "k_rope"]
    if numerics == "q8":
        for slot in same:
            site = f"layer.0.{slot}"
            assert halves[site].tobytes() == adjacent[site].tobytes()
    found = distances(halves, adjacent)
    # f32: two sums in two orders. q8: a last bit may carry a code to its neighbour.
    assert max(found.values()) <= (2 * F32_LIMIT if numerics == "f32" else Q8_LIMIT)
    assert max(found[f"layer.0.{slot}"] for slot in same) <= 2 * F32_LIMIT


def test_q8_is_not_f32(tiny: Any) -> None:
    """The two numerics are two arithmetics, not one under two names."""
    model = tiny(TinyDecoder(block_type=BlockType.Q8_0))

    found = distances(native(model, "f32"), native(model, "q8"))

    assert found["embed"] == found["layer.0.attn_norm"] == 0
    assert all(value > 1e-4 for site, value in found.items() if site.endswith((".q", "logits")))


def test_the_demo_model_in_f32_is_the_oracle_within_its_rounding(demo_model: Any) -> None:
    model = open_language_model(demo_model)
    ids = [1, 9690, 198, 2683, 2]

    arrays = [
        dict(engine.trace(ids, capture=EVERYTHING).arrays)
        for engine in (OracleEngine(model), NativeEngine(model, numerics="f32"))
    ]

    # As above: sqrt(1536) u = 2.4e-6 a sum, of which 30 layers add up. Measured: 5e-6.
    assert max(distances(arrays[0], arrays[1]).values()) < 1e-5


@pytest.mark.qwen
def test_qwen_in_f32_is_the_oracle_within_its_rounding(qwen_model: Any) -> None:
    """Large key biases add one large number to every score of a query: the hard case."""
    model = open_language_model(qwen_model)
    ids = [3838, 374, 220, 17, 10, 17, 30]

    arrays = [
        dict(engine.trace(ids, capture=EVERYTHING).arrays)
        for engine in (OracleEngine(model), NativeEngine(model, numerics="f32"))
    ]

    assert max(distances(arrays[0], arrays[1]).values()) < 1e-5
