"""The oracle against Hugging Face transformers: the same weights, every site, every token.

The reference is the `transformers:` engine: transformers' own modules, which share no code
with us, read by hooks. Of a folder it takes the weights from the safetensors library. Of a
GGUF it takes what our codecs decode; that those are the weights, in the order of rows that
Hugging Face has, is held against the `gguf` package here, whose row order is undone as the
inverse of what llama.cpp's converter does.
"""

from __future__ import annotations

import functools
import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import cotejar
from cotejar.engines.oracle import OracleEngine
from cotejar.model.language_model import open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_apr, write_tiny_gguf, write_tiny_hugging_face
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope
from cotejar.trace.site import CONTRACT_SLOTS, OPTIONAL_SLOTS, SLOTS, Site

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from cotejar.engines.transformers import observation  # noqa: E402 - only with torch
from cotejar.engines.transformers.engine import TransformersEngine  # noqa: E402
from cotejar.engines.transformers.load import load_model  # noqa: E402

pytestmark = pytest.mark.cross

TIGHT = 1e-11
"""Largest relative L2 error of a token at a site, both sides in float64.

Both sides round to 53 bits: a sum of n terms errs by at most n u of its terms' sizes, u =
1.1e-16, so the longest here (n = 4864) by 6e-13; cancellation and 30 layers get the rest.
Measured: 1.5e-14 on SmolLM2, 3e-14 on Qwen, 4e-15 on the tiny models. One rounding to
float32 anywhere, 6e-8, is far outside.
"""
FLOAT32 = 2e-5
"""The same for transformers in float32: a unit of 6e-8, the errors of 24 to 30 layers added
as they come, and in SmolLM2 and Qwen activations a thousand times their neighbours, beside
which a token's other values lose three of seven digits. Measured at most: 6e-6 on SmolLM2,
1.3e-5 on Qwen, 8e-7 on the tiny models."""
CAPTURE = Capture(scopes=(Scope.ALL,), array_slots=EVERY_ARRAY)
PROMPT = (1, 9690, 198, 2683, 359, 253, 5356, 5646, 2)
TINY_PROMPT = [5, 77, 300, 12, 9, 9, 250, 31, 4, 199, 2, 64]


def oracle_trace(model: LanguageModel, token_ids: list[int]) -> ForwardTrace:
    return OracleEngine(model).trace(token_ids, capture=CAPTURE)


def reference_trace(
    model: LanguageModel, token_ids: list[int], numerics: str = "f64"
) -> ForwardTrace:
    return TransformersEngine(model, numerics=numerics).trace(token_ids, capture=CAPTURE)


def as_decoded_here(model: LanguageModel) -> LanguageModel:
    """A folder whose configuration and weights transformers gets from us, as of a GGUF."""
    return model.altered(weights=model.weights.replaced({}))


def distances(reference: ForwardTrace, ours: ForwardTrace) -> dict[str, float]:
    """Relative L2 error by site, of the worst token."""
    assert set(reference.arrays) == set(ours.arrays) == set(ours.sites)
    found = {}
    for name in ours.sites:
        ours_TW, reference_TW = ours.arrays[name], reference.arrays[name].astype(np.float64)
        assert ours_TW.shape == reference_TW.shape
        error_T = np.linalg.norm(ours_TW - reference_TW, axis=1)
        found[name] = float(np.max(error_T / np.linalg.norm(reference_TW, axis=1)))
    return found


def require_close(
    reference: ForwardTrace, ours: ForwardTrace, limit: float = TIGHT
) -> dict[str, float]:
    found = distances(reference, ours)
    far = {name: value for name, value in found.items() if not value <= limit}
    assert not far, (
        f"{len(far)} of {len(found)} sites, the worst {max(far.values()):.3g}: {far}"
    )
    return found


def require_every_site(trace: ForwardTrace, *, num_layers: int, is_gemma: bool = False) -> None:
    """Every slot of every layer, each over all tokens; nothing counted as not observed."""
    slots = [slot for slot in SLOTS if is_gemma or slot not in OPTIONAL_SLOTS]
    assert set(CONTRACT_SLOTS) <= set(slots)
    inside = {str(Site(slot, layer)) for slot in slots for layer in range(num_layers)}
    assert set(trace.sites) == {"embed", "final_norm", "logits"} | inside
    assert trace.not_observed == frozenset()
    assert {record.shape[0] for record in trace.sites.values()} == {len(trace.token_ids)}


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""With 64 positions, the 8 pairs fall on both sides of the blend and into it."""
GEMMA: dict[str, Any] = {"sliding_window": 5, "sliding_window_pattern": 2}
"""Of two layers the first has a window and a RoPE of its own."""
DECODERS = {
    "llama": TinyDecoder(),
    "llama, tied": TinyDecoder(tied_embeddings=True),
    "llama, biases": TinyDecoder(attention_bias=True, mlp_bias=True),
    "llama, theta": TinyDecoder(rope_theta=500000.0),
    "llama, linear scaling": TinyDecoder(rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama, llama3 scaling": TinyDecoder(rope_scaling=LLAMA3),
    "mistral, window": TinyDecoder(architecture="mistral", sliding_window=5),
    "mistral": TinyDecoder(architecture="mistral", head_dim=32),
    "qwen2": TinyDecoder(architecture="qwen2", tied_embeddings=True),
    "qwen2, window": TinyDecoder(architecture="qwen2", sliding_window=4),
    "qwen3": TinyDecoder(architecture="qwen3"),
    "qwen3, biases": TinyDecoder(architecture="qwen3", attention_bias=True),
    "gemma3": TinyDecoder(architecture="gemma3", **GEMMA),
    "gemma3, tied": TinyDecoder(architecture="gemma3", tied_embeddings=True, **GEMMA),
    "gemma3, scaled and capped": TinyDecoder(
        architecture="gemma3",
        rope_theta=1e6,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        final_softcap=3.0,
        **GEMMA,
    ),
}


GEMMA3 = TinyDecoder(architecture="gemma3", **GEMMA)
IN_WORDS = {
    "gemma3, a scalar": replace(GEMMA3, query_scalar=20),
    "gemma3, local theta": replace(GEMMA3, rope_local_theta=500.0),
    "gemma3, all local": replace(GEMMA3, sliding_window_pattern=6),
    "gemma3, all global": replace(GEMMA3, sliding_window_pattern=1),
    "gemma3, biases": replace(GEMMA3, attention_bias=True),
    "gemma3, small heads": replace(GEMMA3, head_dim=16),
}
"""What a GGUF has no keys for, or another test has no need of."""


@pytest.mark.parametrize("name", [*DECODERS, *IN_WORDS])
def test_a_folder_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    decoder = (DECODERS | IN_WORDS)[name]
    model = open_language_model(write_tiny_hugging_face(tmp_path / "tiny", decoder))

    reference = reference_trace(model, TINY_PROMPT)

    require_every_site(reference, num_layers=2, is_gemma=name.startswith("gemma3"))
    assert {record.dtype for record in reference.sites.values()} == {"float64"}
    ours = oracle_trace(model, TINY_PROMPT)
    require_close(reference, ours)
    require_close(reference_trace(model, TINY_PROMPT, "f32"), ours, FLOAT32)
    decoded = reference_trace(as_decoded_here(model), TINY_PROMPT)
    assert "weights decoded by cotejar" in decoded.engine.build
    require_close(decoded, ours)


@pytest.mark.parametrize("name", [n for n in DECODERS if n != "llama, llama3 scaling"])
@pytest.mark.parametrize("block_type", [BlockType.F32, BlockType.Q4_1], ids=lambda t: t.label)
def test_a_gguf_and_an_apr_give_what_transformers_gives_of_the_same_weights(
    name: str, block_type: BlockType, tmp_path: Path
) -> None:
    """And transformers gives the same bits of all three, whoever read the weights."""
    decoder = replace(DECODERS[name], block_type=block_type)
    gguf = open_language_model(write_tiny_gguf(tmp_path / "tiny.gguf", decoder))
    apr = open_language_model(write_tiny_apr(tmp_path / "a.apr", decoder, pairing="adjacent"))
    folder = open_language_model(write_tiny_hugging_face(tmp_path / "tiny", decoder))

    reference = reference_trace(folder, TINY_PROMPT)

    require_close(reference, oracle_trace(gguf, TINY_PROMPT))
    for model in (gguf, apr):
        matched = reference_trace(model, TINY_PROMPT)
        assert matched.engine.build.endswith(
            f"weights decoded by cotejar {cotejar.__version__}; "
            "what its code has in float32 is float64"
        )
        for site, array in reference.arrays.items():
            assert np.array_equal(matched.arrays[site], array), site


def test_a_gguf_with_stored_divisors_gives_what_transformers_computes(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny", TinyDecoder(rope_scaling=LLAMA3))
    config = transformers.AutoConfig.from_pretrained(folder)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    divisors = tuple(float(v) for v in plain / scaled.double().numpy())
    assert min(divisors) == pytest.approx(1.0)
    assert max(divisors) == pytest.approx(8.0)
    assert any(1.01 < v < 7.99 for v in divisors)
    gguf = open_language_model(
        write_tiny_gguf(tmp_path / "tiny.gguf", TinyDecoder(rope_divisors=divisors))
    )
    ours = oracle_trace(gguf, TINY_PROMPT)

    found = distances(reference_trace(open_language_model(folder), TINY_PROMPT), ours)

    # A GGUF stores divisors in float32: an angle of at most 11 positions is off by 11 x 6e-8
    # of its pair's size, and what follows grows that by less than 10. Measured: 2e-7.
    assert max(found.values()) < 1e-5
    # Given the divisors themselves, transformers' table is ours to the last bits.
    require_close(reference_trace(gguf, TINY_PROMPT), ours)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize(
    "words",
    [{"layer_types": ["full_attention", "sliding_attention"]}, {"max_window_layers": 1}],
    ids=["of today", "of older releases"],
)
def test_a_window_in_some_layers_alone_is_transformers(
    architecture: Any, words: dict[str, object], tmp_path: Path
) -> None:
    decoder = TinyDecoder(architecture=architecture, sliding_window=4)
    folder = write_tiny_hugging_face(tmp_path / "tiny", decoder)
    in_all_layers = oracle_trace(open_language_model(folder), TINY_PROMPT)
    change_config(folder, words)
    model = open_language_model(folder)
    assert model.config.global_layers == (0,)
    ours = oracle_trace(model, TINY_PROMPT)

    require_close(reference_trace(model, TINY_PROMPT), ours)
    require_close(reference_trace(as_decoded_here(model), TINY_PROMPT), ours)
    assert distances(in_all_layers, ours)["logits"] > TIGHT


def change_config(folder: Path, changes: dict[str, object]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


MISTRAL = TinyDecoder(architecture="mistral", sliding_window=5)
TWO_THETAS = TinyDecoder(architecture="gemma3", rope_theta=1e6, **GEMMA)
"""Layer 0 with a window and theta 10000, layer 1 global with theta 1000000."""


@pytest.mark.parametrize(
    ("decoder", "change", "first_wrong"),
    [
        (MISTRAL, {"rope_theta": 10001.0}, "layer.0.q_rope"),
        (MISTRAL, {"rms_norm_eps": 2.0**-10 * (1 + 2.0**-20)}, "layer.0.attn_norm"),
        (MISTRAL, {"sliding_window": 6}, "layer.0.attn_context"),
        (
            MISTRAL,
            {"head_dim": 32, "num_attention_heads": 3, "num_key_value_heads": 1},
            "layer.0.q_rope",
        ),
        (TWO_THETAS, {"rope_local_base_freq": 10000.1}, "layer.0.q_rope"),
        (TWO_THETAS, {"rope_theta": 1000001.0}, "layer.1.q_rope"),
        (
            TWO_THETAS,
            {"rope_scaling": {"rope_type": "linear", "factor": 1.000001}},
            "layer.1.q_rope",
        ),
        (TWO_THETAS, {"layer_types": ["sliding_attention"] * 2}, "layer.1.q_rope"),
        (TWO_THETAS, {"sliding_window": 6}, "layer.0.attn_context"),
        (TWO_THETAS, {"query_pre_attn_scalar": 33}, "layer.0.attn_context"),
        (TWO_THETAS, {"rms_norm_eps": 2.0**-10 * (1 + 2.0**-20)}, "layer.0.attn_norm"),
        (TWO_THETAS, {"final_logit_softcapping": 1000.0}, "logits"),
    ],
    ids=lambda value: (
        "-".join(value) if isinstance(value, dict) else getattr(value, "architecture", "")
    ),
)
def test_a_reference_of_another_configuration_is_seen(
    decoder: TinyDecoder, change: dict[str, object], first_wrong: str, tmp_path: Path
) -> None:
    """The limit sees the smallest such defects, and the first wrong site is the right one."""
    folder = write_tiny_hugging_face(tmp_path / "tiny", decoder)
    ours = oracle_trace(open_language_model(folder), TINY_PROMPT)
    change_config(folder, change)

    reference = reference_trace(open_language_model(folder), TINY_PROMPT)

    found = distances(reference, ours)
    wrong = [name for name in ours.sites if not found[name] <= TIGHT]
    assert wrong[0] == first_wrong
    assert "logits" in wrong


def test_transformers_as_it_is_keeps_some_steps_in_float32_and_they_are_seen(
    tmp_path: Path,
) -> None:
    """In a float64 model held by its caller nothing is widened: norms, softmax, tables."""
    folder = write_tiny_hugging_face(tmp_path / "tiny", TinyDecoder())
    held = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)

    reference = cotejar.trace(held, TINY_PROMPT)

    assert reference.engine.build.endswith("; norms and rotary tables in float32")
    found = distances(reference, oracle_trace(open_language_model(folder), TINY_PROMPT))
    assert found["embed"] == 0.0
    assert all(value > TIGHT for name, value in found.items() if name != "embed")
    # A few roundings of 6e-8 a layer, two layers. Measured: 4e-7.
    assert max(found.values()) <= 1e-6


def test_one_rounding_to_float32_in_a_hook_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = open_language_model(write_tiny_hugging_face(tmp_path / "tiny"))
    exact = observation.to_array
    monkeypatch.setattr(
        observation, "to_array", lambda tensor: exact(tensor).astype(np.float32)
    )

    reference = reference_trace(model, TINY_PROMPT)

    assert {record.dtype for record in reference.sites.values()} == {"float32"}
    found = distances(reference, oracle_trace(model, TINY_PROMPT))
    assert all(value > TIGHT for name, value in found.items() if name != "embed")


def open_without_vocabulary(path: Path) -> Any:
    """The `gguf` package's reader, which passes over arrays.

    It makes an object of each of a vocabulary's words and merges, and that takes it 9 s.
    """
    import gguf

    class Reader(gguf.GGUFReader):  # type: ignore[misc]  # it is not typed
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != gguf.GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            data = memoryview(self.data)
            item, count = struct.unpack_from("<IQ", data, orig_offs)
            end = orig_offs + 12
            if item == gguf.GGUFValueType.STRING:
                for _ in range(count):
                    end += 8 + struct.unpack_from("<Q", data, end)[0]
            else:
                end += count * np.dtype(self.gguf_scalar_to_np[item]).itemsize
            return end - orig_offs, [], [], [gguf.GGUFValueType.ARRAY]

    return Reader(path)


def gguf_weights(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fields of a GGUF and weights of it, by the `gguf` package, which takes its time.

    Of the layers the first and the last, and of what is outside them the first 512 rows.
    """
    import gguf

    reader = open_without_vocabulary(path)
    fields = {
        name: field.contents() for name, field in reader.fields.items() if "token" not in name
    }
    last = fields[f"{fields['general.architecture']}.block_count"] - 1
    outer = ("blk.0.", f"blk.{last}.")
    weights = {}
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and not tensor.name.startswith(outer):
            continue
        data = tensor.data if tensor.name.startswith("blk.") else tensor.data[:512]
        weights[tensor.name] = gguf.quants.dequantize(data, tensor.tensor_type)
    return fields, weights


NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def in_huggingface_form(
    fields: dict[str, Any], weights: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The state dict of a GGUF, the q and k rows of llama unpermuted."""
    arch = fields["general.architecture"]
    get = {k.removeprefix(f"{arch}."): v for k, v in fields.items()}.__getitem__
    heads = {"attn_q": get("attention.head_count"), "attn_k": get("attention.head_count_kv")}
    state = {}
    for name, values in weights.items():
        if not name.startswith("blk."):
            outside = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
            stem, _, kind = name.rpartition(".")
            state[f"{outside.get(stem, 'lm_head')}.{kind}"] = values
            continue
        _, layer, part, kind = name.split(".")
        if arch == "llama" and part in heads:
            # Stored as (head, pair, 2); Hugging Face has (head, 2, pair).
            pairs = values.reshape(heads[part], -1, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)  # noqa: PLW2901
        state[f"model.layers.{layer}.{NAMES[part]}.{kind}"] = values
    return state


def require_the_weights_of_the_file(path: Path) -> None:
    """The parameters are what the `gguf` package decodes, bit for bit."""
    expected = in_huggingface_form(*gguf_weights(path))
    parameters = dict(load_model(open_language_model(path), "f32").named_parameters())
    assert len(expected) > 2 * len(NAMES)
    for name, values in expected.items():
        assert np.array_equal(parameters[name][: len(values)].numpy(), values), name


@functools.cache
def real_oracle_trace(path: Path, token_ids: tuple[int, ...]) -> ForwardTrace:
    """Computed once for every numerics that is held against it."""
    model = open_language_model(path)
    ours = oracle_trace(model, [*token_ids])
    require_every_site(ours, num_layers=model.config.num_layers)
    return ours


def judge_real_model(path: Path, token_ids: tuple[int, ...], numerics: str) -> None:
    reference = reference_trace(open_language_model(path), [*token_ids], numerics)

    limit = {"f64": TIGHT, "f32": FLOAT32}[numerics]
    require_close(reference, real_oracle_trace(path, token_ids), limit)


def test_the_demo_model_in_transformers_has_the_weights_of_the_file(demo_model: Path) -> None:
    require_the_weights_of_the_file(demo_model)


@pytest.mark.parametrize("numerics", ["f64", "f32"])
def test_the_demo_model_gives_what_transformers_gives_at_every_site(
    numerics: str, demo_model: Path
) -> None:
    judge_real_model(demo_model, PROMPT, numerics)


@pytest.mark.qwen
def test_qwen_in_transformers_has_the_weights_of_the_file(qwen_model: Path) -> None:
    require_the_weights_of_the_file(qwen_model)


@pytest.mark.qwen
@pytest.mark.parametrize("numerics", ["f64", "f32"])
def test_qwen_gives_what_transformers_gives_at_every_site(
    numerics: str, qwen_model: Path
) -> None:
    judge_real_model(qwen_model, (3838, 374, 220, 17, 10, 17, 30), numerics)
