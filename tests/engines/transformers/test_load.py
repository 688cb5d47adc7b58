"""transformers' model of our weights: each held once, each in its place, or a refusal."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cotejar.errors import (
    ArchitectureError,
    ConfigValueError,
    CotejarError,
    LeftoverTensorError,
    MissingTensorError,
    WeightShapeError,
)
from cotejar.model.inventory import EMBEDDING, LM_HEAD
from cotejar.model.language_model import open_language_model
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.model.config import DecoderConfig

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from cotejar.engines.transformers.configuration import configuration_of  # noqa: E402
from cotejar.engines.transformers.load import build_model, load_model  # noqa: E402

SIZES = ("gguf", "apr", "safetensors")


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("numerics", ["f32", "f64", "bf16"])
def test_every_parameter_is_in_memory_in_the_type_of_the_run(
    kind: str, numerics: str, tiny: Any
) -> None:
    model = load_model(tiny(TinyDecoder(), kind), numerics)

    dtype = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16}[numerics]
    parameters = list(model.parameters())
    assert {(p.device.type, p.dtype, p.requires_grad) for p in parameters} == {
        ("cpu", dtype, False)
    }
    assert not model.training
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", SIZES)
def test_a_tied_head_stays_tied(kind: str, tiny: Any) -> None:
    model = load_model(tiny(TinyDecoder(tied_embeddings=True), kind), "f32")

    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("kind", SIZES)
def test_a_head_of_its_own_is_the_heads(kind: str, tiny: Any) -> None:
    source = tiny(TinyDecoder(), kind)

    model = load_model(source, "f32")

    for name, parameter in ((LM_HEAD, model.lm_head), (EMBEDDING, model.model.embed_tokens)):
        matrix = source.weights[name]
        values = matrix.decode_rows(0, matrix.rows)
        assert np.array_equal(parameter.weight.numpy(), values)


def test_loading_holds_the_weights_once_and_one_tensor(tmp_path: Path) -> None:
    decoder = TinyDecoder(num_layers=8, hidden_size=192, ffn_size=512, vocab_size=2048)
    model = open_language_model(write_tiny_gguf(tmp_path / "m.gguf", decoder))
    load_model(model, "f32")  # what is made once, such as modules, is not of the weights
    sizes = [4 * matrix.rows * matrix.columns for matrix in model.weights.values()]

    # What torch holds is not numpy's: each part is bounded by itself.
    tracemalloc.start()
    made = load_model(model, "f32")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    storages = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in made.parameters()}
    assert sum(storage.nbytes() for storage in storages.values()) == sum(sizes)
    # Decoded runs of rows, two threads' worth, and the objects of a model; no second copy.
    assert peak < max(sizes) + (2 << 20) < sum(sizes)


def test_a_model_that_was_altered_runs_as_altered_and_not_as_stored(tiny: Any) -> None:
    source = tiny(TinyDecoder(), "safetensors")
    gate, up = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up"))
    swapped = {gate: source.weights[up], up: source.weights[gate]}

    model = load_model(source.altered(weights=source.weights.replaced(swapped)), "f32")

    whole = load_model(source, "f32").model.layers[1].mlp
    assert torch.equal(model.model.layers[1].mlp.gate_proj.weight, whole.up_proj.weight)


def refusal(error: type[CotejarError], call: Any, *args: Any) -> dict[str, str]:
    with pytest.raises(error) as raised:
        call(*args)
    return {"problem": raised.value.problem, **raised.value.parts}


@pytest.mark.parametrize(
    ("decoder", "change", "what", "expected", "found"),
    [
        (
            TinyDecoder(),
            {"qkv_bias": True},
            "these biases in llama",
            "biases as its configuration can ask for them",
            "biases on q, k, v",
        ),
        (
            TinyDecoder(architecture="qwen2"),
            {"mlp_bias": True, "qkv_bias": False},
            "these biases in qwen2",
            "biases as its configuration can ask for them",
            "biases on the feed-forward",
        ),
        (TinyDecoder(), {"qk_norm": True}, "this qk_norm in llama", "False", "True"),
        (TinyDecoder(), {"post_norms": True}, "this post_norms in llama", "False", "True"),
        (
            TinyDecoder(architecture="qwen3"),
            {"activation": "gelu_tanh"},
            "this activation in qwen3",
            "silu",
            "gelu_tanh",
        ),
        (
            TinyDecoder(),
            {"embedding_scale": 2.0},
            "this embedding_scale in llama",
            "1.0",
            "2.0",
        ),
        (TinyDecoder(), {"final_softcap": 2.0}, "this final_softcap in llama", "None", "2.0"),
        (
            TinyDecoder(sliding_window=4),
            {"global_layers": (1,)},
            "this global_layers in mistral",
            "()",
            "(1,)",
        ),
        (
            TinyDecoder(),
            {"architecture": "mamba"},
            "the architecture mamba",
            "llama, mistral, qwen2, qwen3, gemma3",
            "mamba",
        ),
    ],
)
def test_what_transformers_has_no_place_for_is_refused(
    decoder: TinyDecoder, change: dict[str, Any], what: str, expected: str, found: str
) -> None:
    config: DecoderConfig = replace(decoder.config(pairing="halves"), **change)

    with pytest.raises(ArchitectureError) as raised:
        configuration_of(config, where="m.gguf")

    assert raised.value.problem == f"transformers has no place for {what}"
    assert raised.value.parts == {
        "where": "m.gguf",
        "expected": expected,
        "found": found,
        "try": "use another engine: oracle and native run this model",
    }


def test_heads_that_turn_in_part_are_refused() -> None:
    config = TinyDecoder().config(pairing="halves")
    partial = replace(config, rope=replace(config.rope, dim=8))

    with pytest.raises(ArchitectureError) as raised:
        configuration_of(partial, where="m.gguf")

    assert raised.value.problem == "transformers has no place for this rope dim in llama"
    assert (raised.value.parts["expected"], raised.value.parts["found"]) == ("16", "8")


def build(tensors: dict[str, Any]) -> Any:
    config = configuration_of(TinyDecoder(num_layers=1).config(pairing="halves"), where="m")
    return build_model(config, torch.float32, iter(tensors.items()), where="m")


def tiny_tensors(tmp_path: Path) -> dict[str, Any]:
    folder = write_tiny_hugging_face(tmp_path / "whole", TinyDecoder(num_layers=1))
    arrays = load_file(folder / "model.safetensors")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_a_parameter_without_a_tensor_is_refused(tmp_path: Path) -> None:
    tensors = tiny_tensors(tmp_path)
    tensors.pop("model.layers.0.mlp.up_proj.weight")

    assert refusal(MissingTensorError, build, tensors) == {
        "problem": "1 of 12 parameters have no tensor; the first is "
        "model.layers.0.mlp.up_proj.weight",
        "where": "m",
        "expected": "the 12 parameters of LlamaForCausalLM",
        "found": "11 of them",
        "try": "`apr tensors` lists what is there; fetch or convert the model again",
    }


def test_a_tensor_without_a_parameter_is_refused(tmp_path: Path) -> None:
    tensors = {"model.layers.0.mlp.side.weight": torch.ones(2), **tiny_tensors(tmp_path)}

    assert refusal(LeftoverTensorError, build, tensors) == {
        "problem": "transformers has no use for the tensor model.layers.0.mlp.side.weight",
        "where": "m",
        "expected": "the 12 parameters of LlamaForCausalLM",
        "found": "model.layers.0.mlp.side.weight",
        "try": "running without it would be another model",
    }


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    tensors = tiny_tensors(tmp_path)
    tensors["model.norm.weight"] = torch.ones(95)

    assert refusal(WeightShapeError, build, tensors) == {
        "problem": "tensor model.norm.weight has another shape than transformers' parameter",
        "where": "m",
        "expected": "(96,)",
        "found": "(95,)",
        "try": "does config.json belong to these weights?",
    }


def test_a_configuration_that_transformers_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny")
    path = folder / "config.json"
    # The padding token is no part of what we read, and torch refuses one that is no row.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": 4000}))
    model = open_language_model(folder)

    parts = refusal(ConfigValueError, load_model, model, "f32")

    assert parts["problem"] == "transformers cannot make a model of this configuration"
    assert parts["where"] == str(folder)
    assert parts["expected"] == "a configuration that its class takes"
    assert parts["found"].startswith("AssertionError: Padding_idx must be within")


def test_code_beside_the_weights_is_never_run(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny")
    path, planted = folder / "config.json", tmp_path / "planted"
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": names}))
    code = f"open({str(planted)!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    (folder / "code.py").write_text(code)

    model = load_model(open_language_model(folder), "f32")

    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    assert not planted.exists()


def test_a_model_in_several_files_is_read_whole(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny")
    whole = load_model(open_language_model(folder), "f32").state_dict()
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards: dict[str, dict[str, np.ndarray]] = {"a.safetensors": {}, "b.safetensors": {}}
    for index, (name, array) in enumerate(sorted(arrays.items())):
        shards["ab"[index % 2] + ".safetensors"][name] = array
    for name, part in shards.items():
        save_file(part, folder / name)
    index = {"weight_map": {t: name for name, part in shards.items() for t in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    state = load_model(open_language_model(folder), "f32").state_dict()

    assert set(state) == set(whole)
    assert all(torch.equal(state[name], whole[name]) for name in whole)


def test_weights_in_float64_are_the_numbers_of_the_file(tiny: Any) -> None:
    source = tiny(TinyDecoder(block_type=BlockType.Q4_1))
    matrix = source.weights["model.layers.0.mlp.up_proj.weight"]
    assert isinstance(matrix, BlockMatrix)

    model = load_model(source, "f64")

    values = matrix.decode_rows(0, matrix.rows).astype(np.float64)
    assert np.array_equal(model.model.layers[0].mlp.up_proj.weight.numpy(), values)
