"""The keys of a GGUF for an `.apr` that did not come from one.

Keys and types are those that llama.cpp's `convert_hf_to_gguf.py` writes. Mistral is
`llama` there. The vocabulary is padded to the rows of the embedding table, as llama.cpp
wants it, with unused tokens `[PADn]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.errors import ArchitectureError, ConfigValueError, MissingConfigError
from cotejar.formats.convert.from_gguf import (
    DEFAULT_ROPE_THETA,
    FILE_TYPE_KEY,
    TOKENIZER_NAMES,
    TOKENIZER_PREFIX,
    require_architecture,
)
from cotejar.formats.convert.gemma3 import build_gemma3_keys
from cotejar.formats.convert.rope_rows import positive_number
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.layer_windows import LAYER_TYPES_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.formats.apr.reader import AprFile

_ALIASES = {"mistral": "llama"}
# What `.apr` writers have called a key, beside its name; upstream reads all of them.
_OTHER_NAMES = {
    "hidden_size": ("hidden_dim", "d_model", "n_embd"),
    "num_layers": ("n_layers", "num_hidden_layers", "n_layer"),
    "num_heads": ("n_heads", "num_attention_heads", "n_head"),
    "num_kv_heads": ("n_kv_heads", "num_key_value_heads"),
    "vocab_size": ("n_vocab",),
    "intermediate_size": ("ffn_dim", "intermediate_dim", "n_inner"),
    "max_position_embeddings": ("max_seq_len", "context_length", "n_ctx"),
    "rms_norm_eps": ("layer_norm_eps", "norm_eps"),
}
_TOKENIZER_KINDS = {"gpt2": "gpt2", "bpe": "gpt2", "llama": "llama", "spm": "llama"}
_UNUSED_TOKEN = 5
_UNUSED_SCORE = -1000.0
_QUANTIZATION_VERSION = 2

_U32, _F32, _TEXT = ValueType.UINT32, ValueType.FLOAT32, ValueType.STRING


def architecture_of(metadata: Mapping[str, object], where: str) -> str:
    """The GGUF architecture of an `.apr`.

    Raises:
        ArchitectureError: none that is known.
    """
    name = metadata.get("architecture") or metadata.get("model_type")
    return require_architecture(_ALIASES.get(str(name), name), where)


def whole_number(metadata: Mapping[str, object], name: str, where: str) -> int:
    """A configuration value that must be there.

    Raises:
        MissingConfigError, ConfigValueError: it is not, or is no positive whole number.
    """
    value = _find(metadata, name)
    if value is None:
        raise MissingConfigError(
            f"the file does not say {name}",
            where=where,
            expected=" or ".join((name, *_OTHER_NAMES.get(name, ()))),
            found="none of these keys",
            hint="import the model again from its source",
        )
    if type(value) is not int or not 0 < value < 1 << 32:
        raise ConfigValueError(
            f"{name} cannot be",
            where=where,
            expected="a whole number of at least 1",
            found=f"{value!r:.60}",
            hint="import the model again from its source",
        )
    return value


def real_number(
    metadata: Mapping[str, object], name: str, where: str, *, default: float
) -> float:
    """A configuration value with a default.

    Raises:
        ConfigValueError: it is no positive finite number.
    """
    value = _find(metadata, name)
    if value is None:
        return default
    number = positive_number(value)
    if number is not None:
        return number
    raise ConfigValueError(
        f"{name} cannot be",
        where=where,
        expected="a positive finite number",
        found=f"{value!r:.60}",
        hint="import the model again from its source",
    )


def build_gguf_keys(file: AprFile, *, num_rows: int, file_type: int) -> dict[str, GgufValue]:
    """The keys of the GGUF.

    Args:
        file: the `.apr`.
        num_rows: of the embedding table.
        file_type: for `general.file_type`.

    Raises:
        ArchitectureError, MissingConfigError, ConfigValueError: the metadata do not
            describe a model that llama.cpp knows.
        MetadataError: a value of another type than its key has.
    """
    metadata, where = file.metadata, str(file.path)
    keys = {
        "general.architecture": GgufValue.encode(_TEXT, architecture_of(metadata, where)),
        "general.type": GgufValue.encode(_TEXT, "model"),
    }
    for name in ("name", "description", "author", "version", "license"):
        if isinstance(metadata.get(name), str):
            keys[f"general.{name}"] = GgufValue.encode(_TEXT, metadata[name])
    keys |= _architecture_keys(metadata, num_rows, where)
    keys[FILE_TYPE_KEY] = GgufValue.encode(_U32, file_type)
    keys["general.quantization_version"] = GgufValue.encode(_U32, _QUANTIZATION_VERSION)
    return keys | _tokenizer_keys(metadata, num_rows, where)


def _find(metadata: Mapping[str, object], name: str) -> object | None:
    for known in (name, *_OTHER_NAMES.get(name, ())):
        if metadata.get(known) is not None:
            return metadata[known]
    return None


def _architecture_keys(
    metadata: Mapping[str, object], num_rows: int, where: str
) -> dict[str, GgufValue]:
    prefix = architecture_of(metadata, where)

    def size(name: str) -> int:
        return whole_number(metadata, name, where)

    hidden, heads = size("hidden_size"), size("num_heads")
    has_head_dim = _find(metadata, "head_dim") is not None
    head_dim = size("head_dim") if has_head_dim else hidden // heads
    has_kv_heads = _find(metadata, "num_kv_heads") is not None
    sizes = {
        "block_count": size("num_layers"),
        "context_length": size("max_position_embeddings"),
        "embedding_length": hidden,
        "feed_forward_length": size("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": size("num_kv_heads") if has_kv_heads else heads,
        "vocab_size": num_rows,
        "rope.dimension_count": size("rope_dim") if "rope_dim" in metadata else head_dim,
    }
    if head_dim * heads != hidden:
        sizes |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if metadata.get("sliding_window") is not None:
        sizes["attention.sliding_window"] = size("sliding_window")
        _require_one_window(metadata, prefix, where)
    reals = {
        "rope.freq_base": real_number(
            metadata, "rope_theta", where, default=DEFAULT_ROPE_THETA
        ),
        "attention.layer_norm_rms_epsilon": real_number(
            metadata, "rms_norm_eps", where, default=1e-6
        ),
    }
    keys = {name: GgufValue.encode(_U32, value) for name, value in sizes.items()}
    keys |= {name: GgufValue.encode(_F32, value) for name, value in reals.items()}
    keys |= _scaling_keys(metadata.get("rope_scaling"), where)
    if prefix == "gemma3":
        keys |= build_gemma3_keys(
            metadata,
            num_layers=sizes["block_count"],
            hidden_size=hidden,
            num_heads=heads,
            head_dim=head_dim,
            where=where,
        )
    return {f"{prefix}.{name}": value for name, value in keys.items()}


def _require_one_window(metadata: Mapping[str, object], prefix: str, where: str) -> None:
    if prefix == "gemma3" or metadata.get(LAYER_TYPES_KEY) is None:
        return
    raise ConfigValueError(
        "GGUF has no words for layers that differ in their window",
        where=f"{where}, metadata key {LAYER_TYPES_KEY}",
        expected="the window in all layers or in none",
        found="layers of both kinds",
        hint="llama.cpp would run another model; the `.apr` itself runs here",
    )


def _scaling_keys(scaling: object, where: str) -> dict[str, GgufValue]:
    """Linear and YaRN scaling; Llama 3's becomes a tensor (`rope_rows`)."""
    if not isinstance(scaling, dict):
        return {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in ("none", "default", "llama3"):
        return {}
    if kind not in ("linear", "yarn"):
        raise ArchitectureError(
            "GGUF has no words for this scaling of RoPE",
            where=f"{where}, rope_scaling",
            expected="linear, yarn or llama3",
            found=f"{kind!r:.60}",
            hint="a wrong scaling would give fluent nonsense, so it is refused",
        )
    keys = {
        "rope.scaling.type": GgufValue.encode(_TEXT, kind),
        "rope.scaling.factor": GgufValue.encode(
            _F32, real_number(scaling, "factor", f"{where}, rope_scaling", default=1.0)
        ),
    }
    if "original_max_position_embeddings" in scaling:
        name = "original_max_position_embeddings"
        context = whole_number(scaling, name, f"{where}, rope_scaling")
        keys["rope.scaling.original_context_length"] = GgufValue.encode(_U32, context)
    return keys


def _tokenizer_keys(
    metadata: Mapping[str, object], num_rows: int, where: str
) -> dict[str, GgufValue]:
    tokens = metadata.get("tokenizer.vocabulary")
    if not isinstance(tokens, list):
        return {TOKENIZER_PREFIX + "model": GgufValue.encode(_TEXT, "none")}
    num_missing = num_rows - len(tokens)
    if num_missing < 0:
        raise ConfigValueError(
            "the vocabulary has more tokens than the embedding table has rows",
            where=where,
            expected=f"at most {num_rows} tokens",
            found=f"{len(tokens)}",
            hint="import the model again from its source",
        )
    keys = _vocabulary_keys(metadata, tokens, num_missing, where)
    for name in ("bos", "eos", "unknown", "padding", "eot"):
        value = metadata.get(f"tokenizer.{name}_token_id")
        if value is not None:
            keys[f"{name}_token_id"] = GgufValue.encode(_U32, value, where=f"{where}, {name}")
    for name in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        if isinstance(metadata.get(f"tokenizer.{name}"), bool):
            keys[name] = GgufValue.encode(ValueType.BOOL, metadata[f"tokenizer.{name}"])
    result = {TOKENIZER_PREFIX + name: value for name, value in keys.items()}
    if isinstance(metadata.get("chat_template"), str):
        template = GgufValue.encode(_TEXT, metadata["chat_template"])
        result["tokenizer.chat_template"] = template
    return result


def _vocabulary_keys(
    metadata: Mapping[str, object], tokens: list[object], num_missing: int, where: str
) -> dict[str, GgufValue]:
    """The kind, the pre-tokenizer and the tables, padded with unused tokens."""
    kind = str(metadata.get("tokenizer.model", metadata.get("tokenizer.model_type", "gpt2")))
    kind = _TOKENIZER_KINDS.get(kind.lower(), kind)
    keys = {"model": GgufValue.encode(_TEXT, kind)}
    if isinstance(metadata.get("tokenizer.pre_type"), str):
        keys["pre"] = GgufValue.encode(_TEXT, metadata["tokenizer.pre_type"])
    tables: tuple[tuple[str, ValueType, list[object]], ...] = (
        ("tokens", _TEXT, [f"[PAD{len(tokens) + i}]" for i in range(num_missing)]),
        ("scores", _F32, [_UNUSED_SCORE] * num_missing),
        ("token_type", ValueType.INT32, [_UNUSED_TOKEN] * num_missing),
        ("merges", _TEXT, []),
    )
    for name, element_type, unused in tables:
        values = metadata.get("tokenizer." + TOKENIZER_NAMES.get(name, name))
        if isinstance(values, list):
            keys[name] = GgufValue.encode_array(
                element_type, [*values, *unused], where=f"{where}, {name}"
            )
    return keys
