"""The noise of `native+q8-kvf16`: keys and values in float16, beside activations in 8 bits.

What is read back from the cache falls into other 8-bit blocks than what was written, so it is
a noise of its own and not that of `q8`, though of its size. Over quantised weights alone;
measured as those in `gates` are, by `benchmarks/gate_noise.py`.
"""

from __future__ import annotations

ENGINE = ("native", "q8-kvf16")
COLUMN = "q8-kvf16"

CACHE_NOISE: dict[str, tuple[float, ...]] = {
    "embed": (0, 0),
    "attn_norm": (0.112, 0.0443),
    "q": (0.103, 0.0451),
    "k": (0.156, 0.125),
    "v": (0.221, 0.221),
    "qkv": (0.0721, 0.0368),
    "q_rope": (0.103, 0.0451),
    "k_rope": (0.156, 0.125),
    "attn_context": (0.221, 0.221),
    "attn_out": (0.269, 0.269),
    "attn_residual": (0.113, 0.0426),
    "ffn_norm": (0.108, 0.043),
    "ffn_gate": (0.0912, 0.0362),
    "ffn_up": (0.11, 0.0475),
    "ffn_silu_gate": (0.0993, 0.0414),
    "ffn_swiglu_inner": (0.381, 0.0611),
    "ffn_out": (0.429, 0.0714),
    "output": (0.121, 0.0471),
    "final_norm": (0.0864, 0.0446),
    "logits": (0.178, 0.0585),
}
"""Per slot: relative L2 of the worst token and of the median token."""

CACHE_FIRST_NORM = 8.44e-08
"""At `layer.0.attn_norm`."""

CACHE_LOGITS = {"kl_max": 0.0681, "top1_flip_margin": 0.295}
"""Largest KL of a position in nats, and largest margin of a flipped top-1 in logits."""
