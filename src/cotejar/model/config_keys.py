"""Under which names a file keeps the sizes of its model.

Of several names the first that is there counts. A GGUF puts its architecture before each:
`llama.block_count`. Hugging Face's `config.json` has one of the names of an `.apr` for each.
Sources: as in `read_config`.
"""

from __future__ import annotations

GGUF_KEYS: dict[str, tuple[str, ...]] = {
    "num_layers": ("block_count",),
    "hidden_size": ("embedding_length",),
    "num_heads": ("attention.head_count",),
    "num_kv_heads": ("attention.head_count_kv",),
    "head_dim": ("attention.key_length",),
    "ffn_size": ("feed_forward_length",),
    "vocab_size": ("vocab_size",),
    "context_length": ("context_length",),
    "rms_eps": ("attention.layer_norm_rms_epsilon",),
    "rope_theta": ("rope.freq_base",),
}
APR_KEYS: dict[str, tuple[str, ...]] = {
    "num_layers": ("num_layers", "n_layers", "num_hidden_layers", "n_layer"),
    "hidden_size": ("hidden_size", "hidden_dim", "d_model", "n_embd"),
    "num_heads": ("num_heads", "n_heads", "num_attention_heads", "n_head"),
    "num_kv_heads": ("num_kv_heads", "n_kv_heads", "num_key_value_heads"),
    "head_dim": ("head_dim",),
    "ffn_size": ("intermediate_size", "ffn_dim", "intermediate_dim", "n_inner"),
    "vocab_size": ("vocab_size", "n_vocab"),
    "context_length": ("max_position_embeddings", "max_seq_len", "context_length", "n_ctx"),
    "rms_eps": ("rms_norm_eps", "layer_norm_eps", "norm_eps"),
    "rope_theta": ("rope_theta",),
}
