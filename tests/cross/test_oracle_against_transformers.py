"""The oracle against Hugging Face transformers in float64: the same weights, every site.

The reference shares no code with us. Weights of a GGUF are decoded by the `gguf` package,
and their q and k rows are brought back to Hugging Face's order here, as the inverse of what
llama.cpp's converter does; weights of a folder are loaded by the safetensors library.

transformers computes RMSNorm, the softmax and the rotary tables in float32 whatever the
model's type. Its modules spell that as `torch.float32` and `torch.float`, so here they see
a `torch` in which those two names mean float64; no line of their arithmetic is replaced.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cotejar.engines.oracle import OracleEngine
from cotejar.model.language_model import open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.trace.site import CAPTURE_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.cross

TIGHT = 1e-11
"""Largest relative L2 error of a token at a site.

Both sides round to 53 bits: a sum of n terms errs by at most n u of its terms' sizes, u =
1.1e-16, so the longest here (n = 4864) by 6e-13; cancellation and 30 layers get the rest.
Measured: 2.1e-14 on SmolLM2, 2.6e-14 on Qwen, 4e-15 on the tiny models. One rounding to
float32 anywhere, 6e-8, is far outside.
"""
PROMPT = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 2]
TINY_PROMPT = [5, 77, 300, 12, 9, 9, 250, 31, 4, 199, 2, 64]


class Float64Torch:
    """`torch`, but its float32 is float64."""

    def __getattr__(self, name: str) -> object:
        return torch.float64 if name in {"float32", "float"} else getattr(torch, name)


@contextlib.contextmanager
def everything_in_float64(model_type: str) -> Iterator[None]:
    names = [f"transformers.models.{model_type}.modeling_{model_type}"]
    modules = [importlib.import_module(n) for n in [*names, "transformers.modeling_rope_utils"]]
    default = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "torch", Float64Torch())
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def build(config: Any, weights: dict[str, np.ndarray]) -> Any:
    """transformers' own model of these weights, in float64, with every one of them used."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float64, attn_implementation="eager"
        )
    state = {n: torch.from_numpy(w.astype(np.float64)) for n, w in weights.items()}
    if config.tie_word_embeddings:
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def observe(model: Any, token_ids: list[int]) -> dict[str, np.ndarray]:
    """Run the tokens; every site by our names, float64 (tokens, width)."""
    seen: dict[str, np.ndarray] = {}
    hooks = []

    def keep(name: str, value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value
        seen[name] = value.detach().reshape(len(token_ids), -1).numpy().copy()

    def output_of(module: Any, name: str) -> None:
        hooks.append(module.register_forward_hook(lambda _m, _i, out: keep(name, out)))

    def input_of(module: Any, name: str) -> None:
        hooks.append(module.register_forward_pre_hook(lambda _m, inputs: keep(name, inputs[0])))

    inner = model.model
    output_of(inner.embed_tokens, "embed")
    for index, layer in enumerate(inner.layers):
        at = f"layer.{index}.".__add__
        output_of(layer.input_layernorm, at("attn_norm"))
        for letter in "qkv":
            output_of(getattr(layer.self_attn, f"{letter}_proj"), at(letter))
        input_of(layer.self_attn.o_proj, at("attn_context"))
        output_of(layer.self_attn.o_proj, at("attn_out"))
        input_of(layer.post_attention_layernorm, at("attn_residual"))
        output_of(layer.post_attention_layernorm, at("ffn_norm"))
        output_of(layer.mlp.gate_proj, at("ffn_gate"))
        output_of(layer.mlp.up_proj, at("ffn_up"))
        output_of(layer.mlp.act_fn, at("ffn_silu_gate"))
        input_of(layer.mlp.down_proj, at("ffn_swiglu_inner"))
        output_of(layer.mlp.down_proj, at("ffn_out"))
        output_of(layer, at("output"))
    output_of(inner.norm, "final_norm")
    output_of(model.lm_head, "logits")

    modeling = importlib.import_module(type(model).__module__)
    rotate, calls = modeling.apply_rotary_pos_emb, []

    def watched(*inputs: Any, **named: Any) -> Any:
        turned = rotate(*inputs, **named)
        for slot, value in zip(("q_rope", "k_rope"), turned, strict=True):
            keep(f"layer.{len(calls)}.{slot}", value[0].transpose(0, 1))
        calls.append(1)
        return turned

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(modeling, "apply_rotary_pos_emb", watched)
        model(torch.tensor([token_ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    for index in range(len(inner.layers)):
        parts = [seen[f"layer.{index}.{letter}"] for letter in "qkv"]
        seen[f"layer.{index}.qkv"] = np.concatenate(parts, axis=1)
    return seen


def oracle_arrays(path: Path | str, token_ids: list[int]) -> dict[str, np.ndarray]:
    model = open_language_model(path)
    return dict(
        OracleEngine(model).trace(token_ids, capture=Capture(array_slots=EVERY_ARRAY)).arrays
    )


def distances(
    reference: dict[str, np.ndarray], ours: dict[str, np.ndarray]
) -> dict[str, float]:
    """Relative L2 error by site, of the worst token."""
    assert set(reference) == set(ours)
    assert all(reference[n].shape == ours[n].shape for n in reference)
    return {
        name: float(
            np.max(np.linalg.norm(ours[name] - array, axis=1) / np.linalg.norm(array, axis=1))
        )
        for name, array in reference.items()
    }


def require_close(reference: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> None:
    found = distances(reference, ours)
    far = {name: value for name, value in found.items() if not value <= TIGHT}
    assert not far, (
        f"{len(far)} of {len(found)} sites, the worst {max(far.values()):.3g}: {far}"
    )


def reference_of(folder: Path, token_ids: list[int]) -> dict[str, np.ndarray]:
    """transformers in float64 on a folder, as it reads the folder itself."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with everything_in_float64(config.model_type):
        return observe(build(config, load_file(folder / "model.safetensors")), token_ids)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""With 64 positions, the 8 pairs fall on both sides of the blend and into it."""
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
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_folder_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny", DECODERS[name])

    require_close(reference_of(folder, TINY_PROMPT), oracle_arrays(folder, TINY_PROMPT))


@pytest.mark.parametrize("name", [n for n in DECODERS if n != "llama, llama3 scaling"])
@pytest.mark.parametrize("block_type", [BlockType.F32, BlockType.Q4_1], ids=lambda t: t.label)
def test_a_gguf_gives_what_transformers_gives_of_the_same_weights(
    name: str, block_type: BlockType, tmp_path: Path
) -> None:
    decoder = replace(DECODERS[name], block_type=block_type)
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", decoder)
    folder = write_tiny_hugging_face(tmp_path / "tiny", decoder)

    require_close(reference_of(folder, TINY_PROMPT), oracle_arrays(gguf, TINY_PROMPT))


def test_a_gguf_with_stored_divisors_gives_what_transformers_computes(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny", TinyDecoder(rope_scaling=LLAMA3))
    config = transformers.AutoConfig.from_pretrained(folder)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    with everything_in_float64("llama"):
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    divisors = tuple(float(v) for v in plain / scaled.numpy())
    assert min(divisors) == 1.0
    assert max(divisors) == pytest.approx(8.0)
    assert any(1.01 < v < 7.99 for v in divisors)
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", TinyDecoder(rope_divisors=divisors))

    found = distances(reference_of(folder, TINY_PROMPT), oracle_arrays(gguf, TINY_PROMPT))

    # A GGUF stores divisors in float32: an angle of at most 11 positions is off by 11 x 6e-8
    # of its pair's size, and what follows grows that by less than 10. Measured: 2e-8.
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize(
    ("change", "first_wrong"),
    [
        ({"rope_theta": 10001.0}, "layer.0.q_rope"),
        ({"rms_norm_eps": 2.0**-10 * (1 + 2.0**-20)}, "layer.0.attn_norm"),
        ({"sliding_window": 6}, "layer.0.attn_context"),
        (
            {"head_dim": 32, "num_attention_heads": 3, "num_key_value_heads": 1},
            "layer.0.q_rope",
        ),
    ],
    ids=["theta", "eps", "window", "heads"],
)
def test_a_reference_of_another_configuration_is_seen(
    change: dict[str, object], first_wrong: str, tmp_path: Path
) -> None:
    """The limit sees the smallest such defects, and the first wrong site is the right one."""
    decoder = TinyDecoder(architecture="mistral", sliding_window=5)
    folder = write_tiny_hugging_face(tmp_path / "tiny", decoder)
    config = transformers.AutoConfig.from_pretrained(folder)
    for key, value in change.items():
        if key == "rope_theta":
            config.rope_parameters["rope_theta"] = value
        else:
            setattr(config, key, value)

    with everything_in_float64("mistral"):
        reference = observe(build(config, load_file(folder / "model.safetensors")), TINY_PROMPT)
    ours = oracle_arrays(folder, TINY_PROMPT)

    found = distances(reference, ours)
    wrong = [name for name in ours if not found[name] <= TIGHT]
    assert wrong[0] == first_wrong
    assert "logits" in wrong


def test_one_step_in_float32_is_seen(tmp_path: Path) -> None:
    """transformers as it is, softmax, norms and tables in float32, is outside the limit."""
    folder = write_tiny_hugging_face(tmp_path / "tiny", TinyDecoder())
    config = transformers.AutoConfig.from_pretrained(folder)

    reference = observe(build(config, load_file(folder / "model.safetensors")), TINY_PROMPT)

    found = distances(reference, oracle_arrays(folder, TINY_PROMPT))
    assert found["embed"] == 0.0
    assert all(value > TIGHT for name, value in found.items() if name != "embed")
    # 24 bits keep 7 digits: the two models are still the same. Measured: 4e-7.
    assert max(found.values()) < 1e-5


def gguf_weights(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fields and decoded weights of a GGUF, by the `gguf` package."""
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {
        name: field.contents() for name, field in reader.fields.items() if "token" not in name
    }
    weights = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in reader.tensors
    }
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
) -> tuple[Any, dict[str, np.ndarray]]:
    """The configuration and the state dict of a GGUF, the q and k rows of llama unpermuted."""
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
    config_class = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[arch]
    config = config_class(
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=heads["attn_q"],
        num_key_value_heads=heads["attn_k"],
        vocab_size=len(state["model.embed_tokens.weight"]),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=float(get("attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": float(get("rope.freq_base"))},
        tie_word_embeddings="lm_head.weight" not in state,
    )
    return config, state


def judge_real_model(path: Path, token_ids: list[int]) -> None:
    config, state = in_huggingface_form(*gguf_weights(path))
    with everything_in_float64(config.model_type):
        reference = observe(build(config, state), token_ids)
    del state

    ours = oracle_arrays(path, token_ids)

    assert len(ours) == config.num_hidden_layers * (len(CAPTURE_POINTS) - 3) + 3
    assert all(len(array) == len(token_ids) for array in ours.values())
    require_close(reference, ours)


def test_the_demo_model_gives_what_transformers_gives_at_every_site(demo_model: Path) -> None:
    judge_real_model(demo_model, PROMPT)


@pytest.mark.qwen
def test_qwen_gives_what_transformers_gives_at_every_site(qwen_model: Path) -> None:
    judge_real_model(qwen_model, [3838, 374, 220, 17, 10, 17, 30])
