"""The noise of `native+w8a8`: both factors in integers of 8 bits, 64 under one scale.

It is coarser than `q8`, whose weights stay as they are. Measured as those in `gates` are, by
`benchmarks/gate_noise.py`; and over weights in F16 and in BF16, which become groups too, by
`benchmarks/float_noise.py --engine native+w8a8`, the larger of the two.
"""

from __future__ import annotations

ENGINE = ("native", "w8a8")
COLUMNS = ("w8a8", "w8a8 over floats")

GROUP_NOISE: dict[str, tuple[float, ...]] = {
    "embed": (0, 0, 0, 0),
    "attn_norm": (0.289, 0.0788, 0.32, 0.084),
    "q": (0.71, 0.0805, 0.594, 0.0848),
    "k": (0.458, 0.146, 0.388, 0.137),
    "v": (0.473, 0.44, 0.539, 0.385),
    "qkv": (0.587, 0.0646, 0.501, 0.0737),
    "q_rope": (0.71, 0.0805, 0.594, 0.0848),
    "k_rope": (0.458, 0.146, 0.388, 0.137),
    "attn_context": (0.44, 0.44, 0.697, 0.385),
    "attn_out": (0.514, 0.514, 0.674, 0.411),
    "attn_residual": (1.2, 0.0854, 0.823, 0.191),
    "ffn_norm": (0.66, 0.0813, 0.551, 0.077),
    "ffn_gate": (1.1, 0.0622, 0.924, 0.0693),
    "ffn_up": (0.763, 0.0771, 0.636, 0.0723),
    "ffn_silu_gate": (1.13, 0.0813, 0.942, 0.0833),
    "ffn_swiglu_inner": (1.81, 0.112, 1.42, 0.151),
    "ffn_out": (2.07, 0.145, 1.58, 0.152),
    "output": (1.19, 0.0928, 0.812, 0.191),
    "final_norm": (0.228, 0.0769, 0.218, 0.0863),
    "logits": (0.403, 0.0932, 0.528, 0.0931),
}
"""Per slot and column: relative L2 of the worst token and of the median token. What is above 1
in the first is of the ids 1, 2, 3 in SmolLM2, which make no text; of texts it is at most 1.0,
in `ffn_swiglu_inner`."""

GROUP_FIRST_NORM = (8.44e-08, 9.12e-08)
"""At `layer.0.attn_norm`."""

GROUP_LOGITS: dict[str, tuple[float, ...]] = {
    "kl_max": (0.201, 0.34),
    "top1_flip_margin": (1.05, 1.09),
}
"""Largest KL of a position in nats, and largest change of a lead in logits."""
