"""`llamacpp:`, the engine: what it records is what llama.cpp computed, where we say it did."""

from __future__ import annotations

import ctypes
import importlib.util
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.llamacpp import tensor as mirror
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.errors import (
    ArchitectureError,
    ContextLengthError,
    EngineBuildError,
    EngineError,
)
from cotejar.formats.convert import import_model
from cotejar.kernels.products import multiply_q8
from cotejar.model.language_model import open_language_model
from cotejar.parity.run import Request, run_parity
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None,
        reason="llama-cpp-python is not installed",
    ),
]

IDS = [5, 77, 300, 12, 9, 9, 250, 31, 4, 199, 2, 64]
EVERYTHING = Capture(array_slots=EVERY_ARRAY)
DECODERS = {
    "llama": TinyDecoder(),
    "llama, tied and biases": TinyDecoder(tied_embeddings=True, attention_bias=True),
    "qwen2": TinyDecoder(architecture="qwen2"),
    "qwen3": TinyDecoder(architecture="qwen3"),
    "gemma3": TinyDecoder(
        architecture="gemma3",
        num_layers=2,
        sliding_window=2,
        sliding_window_pattern=2,
        final_softcap=5.0,
    ),
}
FLOAT32_NOISE = 1e-5
"""Relative L2 of a token: sums of at most 160 float32 terms, two layers; a hundredfold of
2**-24 at each is 6e-6. Measured: below 1e-6 at every site."""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that wait for each other take far longer than one where cores are shared."""
    monkeypatch.setenv("COTEJAR_THREADS", "1")


GELU_NOISE = 4 * 2.0**-11
"""ggml looks GELU up in a table of float16 by its float16 input: two roundings of 2**-11, the
first times a slope near 1. Measured: 4e-4."""


def engine_of(model: LanguageModel, numerics: str = "q8", **options: Any) -> Any:
    name = parse_engine_name(f"llamacpp+{numerics}:x")
    return create_engine(name, model, options=options)


def rel_l2(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Of the worst token."""
    error = np.linalg.norm(candidate.astype(float) - reference, axis=1)
    return float((error / np.linalg.norm(reference, axis=1)).max())


def worst(reference: ForwardTrace, candidate: ForwardTrace) -> dict[str, float]:
    return {
        name: rel_l2(reference.arrays[name], array) for name, array in candidate.arrays.items()
    }


@pytest.mark.parametrize("name", DECODERS)
def test_every_site_is_the_oracles(tiny: Any, name: str) -> None:
    """In float32, so that a wrong node, order, bias or row could not hide in 8-bit noise."""
    model = tiny(DECODERS[name])

    exact = OracleEngine(model).trace(IDS, capture=EVERYTHING)
    theirs = engine_of(model).trace(IDS, capture=EVERYTHING)

    fused = {n for n in exact.sites if n.endswith("ffn_silu_gate")}
    assert (theirs.not_observed, len(fused)) == ({"ffn_silu_gate"}, 2)
    assert theirs.sites.keys() == theirs.arrays.keys() == exact.sites.keys() - fused
    assert {r.dtype for r in theirs.sites.values()} == {"float32"}
    distances, limit = worst(exact, theirs), FLOAT32_NOISE
    for site, record in theirs.sites.items():
        if (name, site) == ("gemma3", "layer.0.ffn_swiglu_inner"):
            limit = GELU_NOISE
        assert distances[site] < limit
        assert record.capture_point == exact.sites[site].capture_point
        for scope in Scope.ALL, Scope.LAST:
            assert record.stats[scope].rms == pytest.approx(
                exact.sites[site].stats[scope].rms, rel=limit
            )


@pytest.mark.parametrize(
    "decoder",
    [
        TinyDecoder(architecture="mistral", sliding_window=4),
        TinyDecoder(architecture="qwen2", sliding_window=4),
        TinyDecoder(architecture="qwen3", sliding_window=4),
    ],
    ids=lambda decoder: decoder.architecture,
)
def test_a_window_that_llamacpp_leaves_out_is_refused_where_it_would_cut(
    tiny: Any, decoder: TinyDecoder
) -> None:
    model = tiny(decoder)
    engine, exact = engine_of(model), OracleEngine(model)
    whole = worst(*(e.trace(IDS[:4], capture=EVERYTHING) for e in (exact, engine)))
    assert max(whole.values()) < FLOAT32_NOISE

    session = engine.start()
    session.append(IDS[:4])
    for run in (
        lambda: engine.trace(IDS[:5], capture=EVERYTHING),
        lambda: session.append(IDS[4:5]),
    ):
        with pytest.raises(ArchitectureError) as caught:
            run()

        architecture = model.config.architecture
        assert str(caught.value) == (
            "error[APR-M002]: llama.cpp runs no sliding window in the architecture "
            f"{architecture}\n"
            "  where     engine llamacpp\n"
            "  expected  at most 4 tokens, of which the window cuts none\n"
            "  found     5 tokens\n"
            "  try       shorten the text, or use another engine: oracle, native and "
            "transformers run the window"
        )


def test_beyond_the_window_llamacpp_runs_the_model_without_it(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why that is refused; a release that runs the window would be seen here."""
    from cotejar.engines.llamacpp import engine as llamacpp

    monkeypatch.setattr(llamacpp, "_require_uncut", lambda *_: None)
    model = tiny(TinyDecoder(architecture="mistral", sliding_window=4))
    without = model.altered(config=replace(model.config, sliding_window=None))

    theirs = llamacpp.LlamaCppEngine(model, numerics="q8").trace(IDS[:5], capture=EVERYTHING)

    exact, uncut = (
        OracleEngine(m).trace(IDS[:5], capture=EVERYTHING) for m in (model, without)
    )
    assert max(worst(uncut, theirs).values()) < FLOAT32_NOISE
    assert worst(exact, theirs)["layer.0.attn_context"] > 0.01


def test_passes_of_a_few_tokens_are_put_together(tiny: Any) -> None:
    """12 tokens, 5 at a time: the same sites, values and statistics as in one pass."""
    model = tiny()

    whole = engine_of(model).trace(IDS, capture=EVERYTHING)
    parts = engine_of(model, ubatch_tokens=5).trace(IDS, capture=EVERYTHING)
    last = engine_of(model, ubatch_tokens=5).trace(
        IDS, capture=replace(EVERYTHING, scopes=(Scope.LAST,))
    )

    assert all(value < FLOAT32_NOISE for value in worst(whole, parts).values())
    for name, record in parts.sites.items():
        stats = whole.sites[name].stats
        assert record.shape == whole.sites[name].shape
        assert record.stats[Scope.ALL].count == stats[Scope.ALL].count
        assert record.stats[Scope.ALL].std == pytest.approx(stats[Scope.ALL].std, rel=1e-5)
        assert last.sites[name].shape == (1, record.shape[1])
        assert np.array_equal(last.arrays[name], parts.arrays[name][-1:])
    assert "ubatch 5" in parts.engine.build


@pytest.mark.parametrize("numerics", ["q8-kvf16", "q8-kvf16-flash"])
def test_keys_and_values_in_float16_are_another_arithmetic(tiny: Any, numerics: str) -> None:
    model = tiny()

    exact = OracleEngine(model).trace(IDS, capture=EVERYTHING)
    theirs = engine_of(model, numerics).trace(IDS, capture=EVERYTHING)

    distances = worst(exact, theirs)
    # Before attention reads what it stored nothing differs; half precision is 2**-11.
    assert distances["layer.0.qkv"] < FLOAT32_NOISE
    assert FLOAT32_NOISE < distances["layer.0.attn_context"] < 10 * 2.0**-11
    assert theirs.engine.numerics == numerics


def test_the_build_is_in_the_trace(tiny: Any) -> None:
    build = engine_of(tiny(), "q8-kvf16", threads=1, ubatch_tokens=64).info.build

    for part in ("llama-cpp-python 0.", "ggml 0.", "backends CPU", "1 threads", "ubatch 64"):
        assert part in build
    assert "flash attention off, K and V f16" in build
    # With more threads than ggml has room for it writes past its arrays.
    assert "; 512 threads" in engine_of(tiny(), threads=1000).info.build


@pytest.mark.parametrize("kind", ["apr", "safetensors"])
def test_a_model_that_is_no_gguf_is_exported_first(tiny: Any, kind: str) -> None:
    model = tiny(TinyDecoder(), kind)
    gguf = open_language_model(write_tiny_gguf(model.file.path.with_suffix(".other.gguf")))

    theirs = engine_of(model).trace(IDS, capture=EVERYTHING)

    assert theirs.model.format == kind
    assert all(
        value < FLOAT32_NOISE
        for value in worst(OracleEngine(model).trace(IDS, capture=EVERYTHING), theirs).values()
    )
    same = engine_of(gguf).trace(IDS, capture=EVERYTHING)
    assert all(np.array_equal(same.arrays[n], a) for n, a in theirs.arrays.items())


def test_a_text_grows_past_the_first_room(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context of more tokens takes the cache over: logits are those of one pass."""
    model = tiny(TinyDecoder(context_length=1024))
    ids = [int(i) for i in np.random.default_rng(0).integers(0, 320, 600)]
    engine = engine_of(model)
    session = engine.start()

    for start in (0, 300, 511, 512, 513):
        stop = {0: 300, 300: 511, 513: 600}.get(start, start + 1)
        logits_V = session.append(ids[start:stop])

    once_TV = engine.trace(ids, capture=EVERYTHING).arrays["logits"]
    assert session.num_tokens == 600
    assert rel_l2(once_TV[-1:], logits_V[None]) < FLOAT32_NOISE
    with pytest.raises(ContextLengthError):
        session.append(ids)


def test_greedy_text_of_the_engine_is_that_of_its_traces(demo_model: Path) -> None:
    engine = engine_of(open_language_model(demo_model), "q8-kvf16")
    ids = [504, 3575, 282, 4649, 314]  # The capital of France is
    session = engine.start()

    logits_V, text = session.append(ids), list(ids)
    for _ in range(3):
        text.append(int(logits_V.argmax()))
        logits_V = session.append(text[-1:])

    logits_TV = engine.trace(text, capture=EVERYTHING).arrays["logits"]
    assert logits_TV[len(ids) - 1 : -1].argmax(axis=1).tolist() == text[len(ids) :]


PRODUCTS = {
    "q": ("attn_norm", "self_attn.q_proj"),
    "k": ("attn_norm", "self_attn.k_proj"),
    "v": ("attn_norm", "self_attn.v_proj"),
    "attn_out": ("attn_context", "self_attn.o_proj"),
    "ffn_gate": ("ffn_norm", "mlp.gate_proj"),
    "ffn_up": ("ffn_norm", "mlp.up_proj"),
    "ffn_out": ("ffn_swiglu_inner", "mlp.down_proj"),
}
MAX_PRODUCT_NMSE = 1e-12
"""The same codes, scales and integer dots; float32 sums of a row's blocks in another order:
(2**-24)**2 = 4e-15 a sum, times the cancellation within it. Measured: below 5e-13."""


def has_a_tie(inputs_TC: np.ndarray) -> np.ndarray:
    """Tokens in which a code of Q8_0 or Q8_1 depends on who rounds.

    ggml's reference multiplies by 1 / (amax / 127) and rounds halves away; its AVX2 code, which
    runs here, multiplies by 127 / amax and rounds halves to even.
    """
    blocks_TBW = inputs_TC.reshape(len(inputs_TC), -1, 32)
    amax_TB1 = np.abs(blocks_TBW).max(axis=2, keepdims=True)
    by_reference = blocks_TBW * (np.float32(1) / (amax_TB1 / np.float32(127)))
    ours = np.sign(by_reference) * np.floor(np.abs(by_reference) + np.float32(0.5))
    theirs = np.rint(blocks_TBW * (np.float32(127) / amax_TB1))
    found: np.ndarray = (ours != theirs).any(axis=(1, 2))
    return found


def half_split(model: LanguageModel, values_TW: np.ndarray) -> np.ndarray:
    """As captures of q and k are ordered."""
    rope, size = model.config.rope, model.config.head_dim
    if rope.pairing == "halves":
        return values_TW
    heads = values_TW.reshape(len(values_TW), -1, size)
    return np.concatenate([heads[..., 0::2], heads[..., 1::2]], axis=-1).reshape(
        len(values_TW), -1
    )


def test_each_product_of_llamacpp_is_ours_given_its_input(
    demo_model: Path, record_property: Callable[[str, object], None]
) -> None:
    """All 210 of SmolLM2, and the head: our kernel, fed what llama.cpp fed its own."""
    model = open_language_model(demo_model)
    ids = model.tokenizer.encode("The capital of France is a city known for")
    theirs = engine_of(model, "q8-kvf16").trace(ids, capture=EVERYTHING)

    nmse, num_ties = {}, 0
    for layer in range(model.config.num_layers):
        for slot, (source, part) in PRODUCTS.items():
            inputs_TC = theirs.arrays[f"layer.{layer}.{source}"]
            weight = model.weights[f"model.layers.{layer}.{part}.weight"]
            ours_TR = multiply_q8(weight, inputs_TC).astype(np.float64)
            if slot in {"q", "k"}:
                ours_TR = half_split(model, ours_TR)
            ties_T = has_a_tie(inputs_TC)
            num_ties += int(ties_T.sum())
            error_TR = (ours_TR - theirs.arrays[f"layer.{layer}.{slot}"])[~ties_T]
            nmse[layer, slot] = np.sum(error_TR**2) / np.sum(ours_TR[~ties_T] ** 2)
    normed_TD = theirs.arrays["final_norm"]
    logits_TV = theirs.arrays["logits"].astype(np.float64)
    error_TV = multiply_q8(model.weights.lm_head, normed_TD) - logits_TV
    nmse[-1, "logits"] = np.sum(error_TV[~has_a_tie(normed_TD)] ** 2) / np.sum(logits_TV**2)

    record_property("worst NMSE of a product", max(nmse.values()))
    record_property("rows of inputs with a tie", num_ties)
    assert len(nmse) == 7 * 30 + 1
    assert num_ties < 0.02 * 7 * 30 * len(ids)
    assert max(nmse.values()) < MAX_PRODUCT_NMSE


@pytest.mark.parametrize("ubatch", [3, 512])
def test_logits_after_each_token_are_those_of_the_trace(tiny: Any, ubatch: int) -> None:
    """By passes of a few tokens, after a step of one, and past the room of the beginning."""
    model = tiny(TinyDecoder(context_length=1024))
    ids = IDS * 50
    exact = OracleEngine(model).trace(IDS, capture=EVERYTHING).arrays["logits"]
    engine = engine_of(model, ubatch_tokens=ubatch)
    session = engine.start()

    first = session.append(IDS[:1])
    rows_TV = session.append_all(IDS[1:])
    more_TV = session.append_all(ids[12:])

    assert rel_l2(exact, np.vstack([first[None], rows_TV])) < FLOAT32_NOISE
    assert (session.num_tokens, more_TV.shape) == (600, (588, 320))
    assert rel_l2(engine.start().append(ids)[None], more_TV[-1:]) < FLOAT32_NOISE


def parity(reference: Path | str, candidate: Path | str, **changes: Any) -> Any:
    return run_parity(Request(reference=str(reference), candidate=str(candidate), **changes))


def test_llamacpp_against_itself_is_bit_identical(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    import_model(path, tmp_path / "tiny.apr")

    report = parity(f"llamacpp:{path}", f"llamacpp:{tmp_path / 'tiny.apr'}")

    assert (report.verdict, report.bit_identical) == (Verdict.PASS, True)


@pytest.mark.parametrize(
    "sides", [("llamacpp", "oracle"), ("native", "llamacpp+q8-kvf16-flash")]
)
def test_a_pair_with_llamacpp_is_judged(demo_model: Path, sides: tuple[str, str]) -> None:
    """Preconditions hold, the fused slot is left out and named, and gates are passed."""
    report = parity(*(f"{side}:{demo_model}" for side in sides))

    facts = report.as_json()
    assert all(p["holds"] for p in facts["preconditions"])
    assert report.verdict is Verdict.PASS
    one_sided = facts["only_in_reference"] + facts["only_in_candidate"]
    assert {name.rpartition(".")[2] for name in one_sided} == {"ffn_silu_gate"}
    assert len(one_sided) == 30


def test_a_fault_beside_llamacpp_is_found_where_it_is(demo_model: Path) -> None:
    """One weight of 210 starts a block late; what comes before it agrees."""
    report = parity(f"llamacpp:{demo_model}", f"native:{demo_model}", fault="block-shift@12")

    assert report.verdict is Verdict.FAIL
    assert report.first_divergence.site == "layer.12.ffn_out"


def test_a_file_that_llamacpp_refuses_says_why(tiny: Any) -> None:
    model = tiny()
    data = model.file.path.read_bytes()
    # What we need not read, it does: an architecture key of another name.
    model.file.path.write_bytes(data.replace(b"tokenizer.ggml.model", b"tokenizer.ggml.nodel"))

    with pytest.raises(EngineError) as caught:
        engine_of(model).start()

    assert caught.value.problem == "llama.cpp cannot load the model"
    assert "tokenizer" in caught.value.parts["found"]
    assert caught.value.exit_code == 3


def ggml_library() -> ctypes.CDLL:
    """ggml as the binding loads it; nothing is run with it."""
    import llama_cpp.llama_cpp as api

    library: ctypes.CDLL = api._lib
    mirror.declare_functions(library)
    return library


def test_the_mirror_fits_this_build() -> None:
    mirror.check_tensor_layout(ggml_library())


@pytest.mark.parametrize("field", ["type", "buffer", "ne", "op", "flags", "view_src", "data"])
def test_a_tensor_of_another_layout_is_refused(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Each field in turn is taken for one that came before it: all after it are elsewhere."""
    library = ggml_library()

    class Shifted(ctypes.Structure):
        pass

    fields: list[Any] = []
    for name, kind in mirror.Tensor._fields_:
        if name == field:
            fields.append(("inserted", ctypes.c_int64 * 2))
        pointer = ctypes.POINTER(Shifted)
        own = {"src": pointer * mirror.MAX_SOURCES, "view_src": pointer}
        fields.append((name, own.get(name, kind)))
    Shifted._fields_ = fields
    monkeypatch.setattr(mirror, "Tensor", Shifted)

    with pytest.raises(EngineBuildError) as caught:
        mirror.check_tensor_layout(library)

    assert caught.value.problem == "this build of llama.cpp cannot be read here"


def test_a_library_without_a_function_is_refused() -> None:
    with pytest.raises(EngineBuildError) as caught:
        mirror.declare_functions(ctypes.CDLL(None))

    assert caught.value.parts["expected"].startswith("a function ggml_")


@pytest.mark.qwen
def test_qwen_is_traced_whole(qwen_model: Path) -> None:
    model = open_language_model(qwen_model)
    ids = model.tokenizer.encode("What is 2+2?")

    theirs = engine_of(model, "q8-kvf16").trace(ids, capture=EVERYTHING)
    ours = NativeEngine(model, numerics="q8").trace(ids, capture=EVERYTHING)

    assert len(ours.sites) - len(theirs.sites) == 24
    assert json.dumps(theirs.config) == json.dumps(ours.config)
