"""What a GGUF says of its model, under the keys of `.apr`.

Two sets of keys come out. The first is upstream's: identity, architecture, tokenizer.
`tokenizer.ggml.X` becomes `tokenizer.X`, but `tokens` becomes `vocabulary` and `pre`
becomes `pre_type`; a key that the GGUF lacks stays null, except where llama.cpp has a
default. The second, `gguf.metadata`, is every key of the GGUF with its type, for an exact
export; see `typed_keys`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.errors import ArchitectureError
from cotejar.formats.convert.gemma3 import read_gemma3_keys
from cotejar.formats.convert.typed_keys import (
    KEYS_KEY,
    TENSORS_KEY,
    encode_keys,
    has_number_for_all,
)
from cotejar.formats.gguf.value import GgufValue, ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.formats.gguf.reader import GgufFile

ROPE_TYPES = {"llama": 0, "qwen2": 2, "qwen3": 2, "gemma3": 2}
"""ggml's rope type by architecture: 0 pairs neighbours, 2 pairs the halves of a head. A
GGUF does not say it; llama.cpp's `llama_model_rope_type` does. Rows of q and k are stored
to suit: permuted for 0."""

TOKENIZER_PREFIX = "tokenizer.ggml."
TOKENIZER_NAMES = {"tokens": "vocabulary", "pre": "pre_type"}
"""GGUF's names in `tokenizer.ggml.` that `.apr` spells otherwise."""
DEFAULT_ROPE_THETA = 10000.0
FILE_TYPE_KEY = "general.file_type"

_CHAT_TEMPLATE = "tokenizer.chat_template"


def read_gguf_metadata(file: GgufFile, *, file_type: int | None) -> dict[str, object]:
    """The `.apr` metadata of a GGUF.

    Args:
        file: the GGUF.
        file_type: what an export shall say in `general.file_type` if the weights are
            re-encoded; None to keep it.

    Raises:
        ArchitectureError: an architecture whose RoPE is not known.
        MetadataError: a key that is not UTF-8.
    """
    keys = file.metadata
    architecture = require_architecture(keys.get("general.architecture"), str(file.path))
    names = _tokenizer_names(file)
    tokenizer = {name: keys[key] for key, name in names.items()}
    shared = {
        key: name
        for key, name in names.items()
        if isinstance(keys[key], list) or key == _CHAT_TEMPLATE
    }
    typed = {
        key: value
        for key, value in file.typed_metadata.items()
        if not key.startswith("split.")  # of the parts of a GGUF; the `.apr` is whole
    }
    if file_type is not None and FILE_TYPE_KEY in typed:
        typed[FILE_TYPE_KEY] = GgufValue.encode(ValueType.UINT32, file_type)
    return {
        **_identity(keys, architecture),
        **_architecture(file, architecture),
        **tokenizer,
        KEYS_KEY: encode_keys(typed, shared, where=str(file.path)),
        TENSORS_KEY: list(file.tensors),
    }


def require_architecture(name: object, where: str) -> str:
    """Return the architecture's name if its RoPE is known.

    Raises:
        ArchitectureError: it is not: a wrong pairing would give fluent nonsense.
    """
    if isinstance(name, str) and name in ROPE_TYPES:
        return name
    raise ArchitectureError(
        "the architecture cannot be converted",
        where=where,
        expected=", ".join(ROPE_TYPES),
        found="none" if name is None else f"{name!r:.60}",
        hint="`apr inspect` and `apr tensors` read any architecture",
    )


def _tokenizer_names(file: GgufFile) -> dict[str, str]:
    """For every key of the tokenizer, its name in the `.apr`."""
    names = {}
    typed = file.typed_metadata
    for key in file.metadata:
        if key == _CHAT_TEMPLATE:
            names[key] = "chat_template"
        elif key.startswith(TOKENIZER_PREFIX) and has_number_for_all(typed[key]):
            name = key.removeprefix(TOKENIZER_PREFIX)
            names[key] = "tokenizer." + TOKENIZER_NAMES.get(name, name)
    return names


def _identity(keys: Mapping[str, object], architecture: str) -> dict[str, object]:
    return {
        "model_type": architecture,
        "name": keys.get("general.name"),
        "description": keys.get("general.description"),
        "author": keys.get("general.author", keys.get("general.organization")),
        "license": keys.get("general.license"),
        "data_source": None,
        "data_license": None,
        "version": keys.get("general.version"),
        "source": keys.get("general.source.url", keys.get("general.url")),
        "original_format": "gguf",
        "created_at": None,
        "special_tokens": _special_tokens(keys),
    }


def _special_tokens(keys: Mapping[str, object]) -> dict[str, str | None]:
    tokens = keys.get(TOKENIZER_PREFIX + "tokens")
    tokens = tokens if isinstance(tokens, list) else []

    def token(name: str) -> str | None:
        token_id = keys.get(f"{TOKENIZER_PREFIX}{name}_token_id")
        if isinstance(token_id, int) and 0 <= token_id < len(tokens):
            return str(tokens[token_id])
        return None

    return {
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding"),
        "im_start_token": "<|im_start|>" if "<|im_start|>" in tokens else None,
        "im_end_token": "<|im_end|>" if "<|im_end|>" in tokens else None,
    }


def _architecture(file: GgufFile, architecture: str) -> dict[str, object]:
    keys = file.metadata

    def own(name: str) -> object:
        return keys.get(f"{architecture}.{name}")

    hidden, heads = own("embedding_length"), own("attention.head_count")
    kv_heads = own("attention.head_count_kv")
    theta = own("rope.freq_base")
    head_dim = own("attention.key_length")
    if head_dim is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        head_dim = hidden // heads
    facts: dict[str, object] = {
        "architecture": architecture,
        "hidden_size": hidden,
        "num_layers": own("block_count"),
        "num_heads": heads,
        "num_kv_heads": heads if kv_heads is None else kv_heads,
        "vocab_size": _vocab_size(file, architecture),
        "intermediate_size": own("feed_forward_length"),
        "max_position_embeddings": own("context_length"),
        "rope_theta": DEFAULT_ROPE_THETA if theta is None else theta,
        "rope_type": ROPE_TYPES[architecture],
        "rms_norm_eps": own("attention.layer_norm_rms_epsilon"),
        "head_dim": head_dim,
    }
    rope_dim = own("rope.dimension_count")
    if rope_dim not in (None, head_dim):
        facts["rope_dim"] = rope_dim
    if own("attention.sliding_window") is not None:
        facts["sliding_window"] = own("attention.sliding_window")
    scaling = _rope_scaling(keys, architecture)
    if scaling is not None:
        facts["rope_scaling"] = scaling
    return (
        facts | read_gemma3_keys(keys, where=str(file.path))
        if architecture == "gemma3"
        else facts
    )


def _vocab_size(file: GgufFile, architecture: str) -> object:
    """The rows of the embedding table: what the logits have, whatever a key says."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None:
        return embedding.shape[0]
    return file.metadata.get(f"{architecture}.vocab_size")


def _rope_scaling(keys: Mapping[str, object], architecture: str) -> dict[str, object] | None:
    """GGUF's keys in the words of Hugging Face's `rope_scaling`."""
    prefix = f"{architecture}.rope.scaling."
    kind = keys.get(prefix + "type")
    factor = keys.get(prefix + "factor", keys.get(f"{architecture}.rope.scale_linear"))
    if kind == "none" or (kind is None and factor in (None, 0.0, 1.0)):
        return None
    scaling: dict[str, object] = {"rope_type": "linear" if kind is None else kind}
    if factor is not None:
        scaling["factor"] = factor
    for name, theirs in (
        ("original_context_length", "original_max_position_embeddings"),
        ("attn_factor", "attention_factor"),
        ("yarn_beta_fast", "beta_fast"),
        ("yarn_beta_slow", "beta_slow"),
    ):
        if prefix + name in keys:
            scaling[theirs] = keys[prefix + name]
    return scaling
