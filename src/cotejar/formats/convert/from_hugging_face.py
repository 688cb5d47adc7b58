"""What a Hugging Face folder says of its model, under the keys of `.apr`.

The names follow transformers' `LlamaConfig`, `MistralConfig`, `Qwen2Config`, `Qwen3Config`
and `Gemma3TextConfig`. Rows of q and k are in half-split order in every safetensors file, so
`rope_type` is 2 whatever the architecture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cotejar.errors import ArchitectureError, MissingConfigError
from cotejar.formats.convert.from_gguf import DEFAULT_ROPE_THETA
from cotejar.formats.convert.gemma3 import read_gemma3_config
from cotejar.formats.convert.hugging_face_tokenizer import read_tokenizer_keys
from cotejar.formats.layer_windows import LAYER_TYPES_KEY, list_layers, windowed_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.formats.safetensors.reader import SafetensorsFile

GEMMA3 = "gemma3_text"
"""`gemma3` is the model with a vision tower around it."""
_DEFAULT_THETAS = {GEMMA3: 1e6}
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", GEMMA3)
ROPE_TYPE_HALVES = 2

_PLAIN_ACTIVATIONS = ("silu", "swish")
_MAX_LAYERS = 4096


def read_hugging_face_metadata(file: SafetensorsFile) -> dict[str, object]:
    """The `.apr` metadata of a folder.

    Raises:
        MissingConfigError: there is no config.json.
        ArchitectureError: a model type, or an activation, that is not known.
        MetadataError: a file beside the weights is malformed.
    """
    config = file.metadata.get("config")
    if not isinstance(config, dict):
        raise MissingConfigError(
            "safetensors hold weights only, and there is no config.json beside them",
            where=str(file.path),
            expected="a config.json in the same folder",
            found="none",
            hint="give the folder that the model was saved to",
        )
    where = f"{file.path}, config.json"
    model_type = _require_known(config, where)
    tokenizer = read_tokenizer_keys(file.metadata)
    return {
        **_identity(file, config, model_type),
        **_special_tokens(file.metadata, tokenizer),
        "chat_template": _chat_template(file.metadata),
        **_architecture(config, model_type, where),
        **tokenizer,
        "source_metadata": file.metadata.get("__metadata__"),
    }


def _require_known(config: Mapping[str, object], where: str) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise ArchitectureError(
            "the architecture cannot be converted",
            where=where,
            expected=f"a model_type of {', '.join(MODEL_TYPES)}",
            found=f"{model_type!r:.60}",
            hint="`apr inspect` and `apr tensors` read any architecture",
        )
    if model_type == GEMMA3:
        return model_type  # `hidden_activation` is taken over
    activation = config.get("hidden_act", _PLAIN_ACTIVATIONS[0])
    if activation not in _PLAIN_ACTIVATIONS:
        raise ArchitectureError(
            "the feed-forward layers have another activation",
            where=where,
            expected="hidden_act silu",
            found=f"{activation!r:.60}",
            hint="`.apr` cannot say so, and an engine would compute another function",
        )
    return model_type


def _identity(
    file: SafetensorsFile, config: Mapping[str, object], model_type: str
) -> dict[str, object]:
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    name = config.get("_name_or_path")
    # A path on the disk of whoever saved the model is nobody's business.
    is_public = isinstance(name, str) and name != "" and not name.startswith(("/", ".", "~"))
    texts = file.metadata.get("__metadata__")
    return {
        "model_type": model_type,
        "name": name if is_public else None,
        "description": None,
        "author": None,
        "license": texts.get("license") if isinstance(texts, dict) else None,
        "data_source": None,
        "data_license": None,
        "version": None,
        "source": None,
        "original_format": "safetensors",
        "created_at": None,
        "hf_architecture": first,
        "hf_model_type": model_type,
    }


def _special_tokens(
    metadata: Mapping[str, object], tokenizer: Mapping[str, object]
) -> dict[str, object]:
    settings = metadata.get("tokenizer_config.json")
    settings = settings if isinstance(settings, dict) else {}
    vocabulary = tokenizer.get("tokenizer.vocabulary")
    vocabulary = vocabulary if isinstance(vocabulary, list) else []

    def text(name: str) -> str | None:
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        return token if isinstance(token, str) else None

    return {
        "special_tokens": {
            "bos_token": text("bos"),
            "eos_token": text("eos"),
            "unk_token": text("unk"),
            "pad_token": text("pad"),
            "im_start_token": "<|im_start|>" if "<|im_start|>" in vocabulary else None,
            "im_end_token": "<|im_end|>" if "<|im_end|>" in vocabulary else None,
        }
    }


def _chat_template(metadata: Mapping[str, object]) -> str | None:
    """A file of its own in newer folders; a string, or a list of named ones, in older."""
    file = metadata.get("chat_template.jinja")
    if isinstance(file, str):
        return file
    settings = metadata.get("tokenizer_config.json")
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    for named in template if isinstance(template, list) else []:
        match named:
            case {"name": "default", "template": str(text)}:
                return text
            case _:
                pass
    return template if isinstance(template, str) else None


def _architecture(
    config: Mapping[str, object], model_type: str, where: str
) -> dict[str, object]:
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    kv_heads, head_dim = config.get("num_key_value_heads"), config.get("head_dim")
    if head_dim is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        head_dim = hidden // heads
    # transformers 5 keeps theta and scaling together.
    parameters = config.get("rope_parameters")
    if model_type == GEMMA3 and isinstance(parameters, dict):
        parameters = parameters.get("full_attention")
    rope = parameters if isinstance(parameters, dict) else config
    theta = rope.get("rope_theta", config.get("rope_theta", _DEFAULT_THETAS.get(model_type)))
    facts: dict[str, object] = {
        "architecture": "gemma3" if model_type == GEMMA3 else model_type,
        "hidden_size": hidden,
        "num_layers": config.get("num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": heads if kv_heads is None else kv_heads,
        "vocab_size": config.get("vocab_size"),
        "intermediate_size": config.get("intermediate_size"),
        "max_position_embeddings": config.get("max_position_embeddings"),
        "rope_theta": DEFAULT_ROPE_THETA if theta is None else theta,
        "rope_type": ROPE_TYPE_HALVES,
        "rms_norm_eps": config.get("rms_norm_eps"),
        "head_dim": head_dim,
    }
    partial = config.get("partial_rotary_factor")
    if isinstance(partial, float) and math.isfinite(partial) and isinstance(head_dim, int):
        facts["rope_dim"] = int(head_dim * partial)
    facts |= _window(config, model_type, where)
    if model_type == GEMMA3:
        facts |= read_gemma3_config(config, where=where)
        facts["head_dim"] = 256 if config.get("head_dim") is None else config["head_dim"]
    scaling = parameters if isinstance(parameters, dict) else config.get("rope_scaling")
    if isinstance(scaling, dict):
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind not in (None, "default"):
            facts["rope_scaling"] = {k: v for k, v in scaling.items() if k != "rope_theta"}
    return facts


def _window(config: Mapping[str, object], model_type: str, where: str) -> dict[str, object]:
    """The window, and which layers have it unless all have."""
    window, num_layers = config.get("sliding_window"), config.get("num_hidden_layers")
    if window is None or type(num_layers) is not int or not 0 < num_layers <= _MAX_LAYERS:
        return {}
    windowed = windowed_layers(config, model_type, num_layers, where=where)
    if not windowed:
        return {}
    facts = {"sliding_window": window}
    if len(windowed) < num_layers:
        facts[LAYER_TYPES_KEY] = list_layers(windowed, num_layers)
    return facts
