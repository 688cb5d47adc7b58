"""What a tiny decoder's file says about itself: the keys of each format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.layer_windows import DEFAULT_PATTERN, list_layers
from cotejar.model.read_gemma3 import DEFAULT_LOCAL_THETA
from cotejar.testing.tiny_tokenizer import (
    CHAT_TEMPLATE,
    END_OF_TEXT,
    SPECIAL_TOKENS,
    TURN_END,
    TinyVocabulary,
    make_vocabulary,
)
from cotejar.tokenizer.spec import TokenType

if TYPE_CHECKING:
    from cotejar.model.config import DecoderConfig, RopePairing
    from cotejar.testing.tiny_decoder import TinyDecoder

_ROPE_TYPES: dict[RopePairing, int] = {"adjacent": 0, "halves": 2}


def gguf_metadata(decoder: TinyDecoder, config: DecoderConfig) -> dict[str, GgufValue]:
    """Keys as llama.cpp's converter writes them."""
    metadata = _gguf_config(decoder, config)
    if decoder.tokenizer:
        metadata |= _gguf_tokenizer(make_vocabulary(decoder.vocab_size))
    return metadata


def apr_metadata(decoder: TinyDecoder, config: DecoderConfig) -> dict[str, object]:
    """Keys as upstream's converter writes them, and the pairing as ggml's rope type."""
    metadata = _apr_config(decoder, config)
    metadata["rope_type"] = _ROPE_TYPES[config.rope.pairing]
    if decoder.tokenizer:
        metadata |= _apr_tokenizer(make_vocabulary(decoder.vocab_size))
    return metadata


def _gguf_config(decoder: TinyDecoder, config: DecoderConfig) -> dict[str, GgufValue]:
    prefix = config.architecture
    integers = {
        "block_count": config.num_layers,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.rope.dim,
        "vocab_size": config.vocab_size,
    }
    if config.sliding_window is not None:
        integers["attention.sliding_window"] = config.sliding_window
    reals = {
        "rope.freq_base": config.rope.theta,
        "attention.layer_norm_rms_epsilon": config.rms_eps,
    }
    values = {
        "general.architecture": _text(prefix),
        "general.name": _text(f"tiny {decoder.architecture}"),
    }
    if decoder.sliding_window_pattern != DEFAULT_PATTERN:
        integers["attention.sliding_window_pattern"] = decoder.sliding_window_pattern
    if decoder.rope_local_theta != DEFAULT_LOCAL_THETA:
        reals["rope.freq_base_swa"] = decoder.rope_local_theta
    if config.final_softcap is not None:
        reals["final_logit_softcapping"] = config.final_softcap
    scaling = decoder.rope_scaling or {}
    if scaling.get("rope_type") == "linear":
        values[f"{prefix}.rope.scaling.type"] = _text("linear")
        reals["rope.scaling.factor"] = float(str(scaling["factor"]))
    for key, integer in integers.items():
        values[f"{prefix}.{key}"] = GgufValue.encode(ValueType.UINT32, integer)
    for key, real in reals.items():
        values[f"{prefix}.{key}"] = GgufValue.encode(ValueType.FLOAT32, real)
    return values


def _gguf_tokenizer(vocabulary: TinyVocabulary) -> dict[str, GgufValue]:
    tokens, types = list(vocabulary.tokens), _token_types(vocabulary)
    ids = {"bos": END_OF_TEXT, "eos": TURN_END, "unknown": END_OF_TEXT}
    return {
        "tokenizer.ggml.model": _text("gpt2"),
        "tokenizer.ggml.pre": _text("gpt-2"),
        "tokenizer.ggml.tokens": GgufValue.encode_array(ValueType.STRING, [*tokens]),
        "tokenizer.ggml.token_type": GgufValue.encode_array(ValueType.INT32, [*types]),
        "tokenizer.ggml.merges": GgufValue.encode_array(ValueType.STRING, [*vocabulary.merges]),
        "tokenizer.ggml.add_bos_token": GgufValue.encode(ValueType.BOOL, value=False),
        "tokenizer.chat_template": _text(CHAT_TEMPLATE),
        **{
            f"tokenizer.ggml.{name}_token_id": GgufValue.encode(
                ValueType.UINT32, tokens.index(token)
            )
            for name, token in ids.items()
        },
    }


def _text(value: str) -> GgufValue:
    return GgufValue.encode(ValueType.STRING, value)


def _token_types(vocabulary: TinyVocabulary) -> list[int]:
    num_normal = len(vocabulary.tokens) - len(SPECIAL_TOKENS) - vocabulary.num_unused
    return (
        [int(TokenType.CONTROL)] * len(SPECIAL_TOKENS)
        + [int(TokenType.NORMAL)] * num_normal
        + [int(TokenType.UNUSED)] * vocabulary.num_unused
    )


def _apr_config(decoder: TinyDecoder, config: DecoderConfig) -> dict[str, object]:
    values: dict[str, object] = {
        "architecture": config.architecture,
        "name": f"tiny {decoder.architecture}",
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope.theta,
    }
    if config.sliding_window is not None:
        values["sliding_window"] = config.sliding_window
    if decoder.rope_scaling is not None:
        values["rope_scaling"] = dict(decoder.rope_scaling)
    if decoder.architecture == "gemma3":
        windowed = frozenset(range(config.num_layers)) - set(config.global_layers)
        values |= _gemma3_words(decoder, config)
        values["layer_types"] = list_layers(windowed, config.num_layers)
    return values


def _gemma3_words(decoder: TinyDecoder, config: DecoderConfig) -> dict[str, object]:
    scalar = config.query_scalar
    return {
        "rope_local_base_freq": decoder.rope_local_theta,
        "query_pre_attn_scalar": config.head_dim if scalar is None else scalar,
        "final_logit_softcapping": config.final_softcap,
    }


def _apr_tokenizer(vocabulary: TinyVocabulary) -> dict[str, object]:
    return {
        "tokenizer.model": "gpt2",
        "tokenizer.pre_type": "gpt-2",
        "tokenizer.vocabulary": list(vocabulary.tokens),
        "tokenizer.token_type": _token_types(vocabulary),
        "tokenizer.merges": list(vocabulary.merges),
        "tokenizer.add_bos_token": False,
        "tokenizer.bos_token_id": vocabulary.tokens.index(END_OF_TEXT),
        "tokenizer.eos_token_id": vocabulary.tokens.index(TURN_END),
        "chat_template": CHAT_TEMPLATE,
    }


_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}


def hugging_face_config(decoder: TinyDecoder, config: DecoderConfig) -> dict[str, object]:
    """The object of a `config.json`."""
    values: dict[str, object] = {
        "architectures": [_CLASSES[decoder.architecture]],
        "model_type": decoder.architecture,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope.theta,
        "hidden_act": "silu",
        "attention_bias": decoder.attention_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": decoder.tied_embeddings,
        "sliding_window": config.sliding_window,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    if decoder.architecture == "gemma3":
        values |= _gemma3_words(decoder, config) | {
            "model_type": "gemma3_text",
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": decoder.sliding_window,
            "sliding_window_pattern": decoder.sliding_window_pattern,
        }
        values.pop("hidden_act")
    if decoder.architecture.startswith("qwen"):
        values["use_sliding_window"] = config.sliding_window is not None
        values["max_window_layers"] = 0
    if decoder.rope_scaling is not None:
        values["rope_scaling"] = dict(decoder.rope_scaling)
    return values
