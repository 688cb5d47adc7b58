"""The noise of `q8` over weights in floats, where no product is rounded to 8 bits.

Over weights in F16 ggml rounds activations to float16, over BF16 to bfloat16, and so does
`native`; over F32 to nothing. llama.cpp's keys and values in float16 are in its figures.

Measured as those in `gates` are, on the same models with their matrices rounded to the type:
`benchmarks/float_noise.py`.
"""

from __future__ import annotations

from math import nan

MEASURED = "benchmarks/results/float-noise.md"
COLUMNS = ("q8 over F16", "llama.cpp over F16", "q8 over BF16", "llama.cpp over BF16")
LABELS = frozenset({"F32", "F16", "BF16"})
"""Of the types of such weights."""
OF_Q8 = {"f32": "f32", "f16": COLUMNS[0], "bf16": COLUMNS[2]}
"""The column of `q8`, by what its products round activations to: over F32 it is `f32`."""
OF_LLAMACPP = {"f32": COLUMNS[1], "f16": COLUMNS[1], "bf16": COLUMNS[3]}
"""The same of llama.cpp, which over F32 rounds keys, values and queries to float16."""

FLOAT_NOISE: dict[str, tuple[float, ...]] = {
    "embed": (0, 0, 0, 0, 0, 0, 0, 0),
    "attn_norm": (0.0118, 0.0039, 0.023, 0.00641, 0.0577, 0.0437, 0.142, 0.114),
    "q": (0.0283, 0.00236, 0.0358, 0.00355, 0.134, 0.0264, 0.277, 0.0773),
    "k": (0.0189, 0.00286, 0.0237, 0.00483, 0.0902, 0.0325, 0.187, 0.105),
    "v": (0.0194, 0.00418, 0.0266, 0.00677, 0.0931, 0.0472, 0.199, 0.155),
    "qkv": (0.0236, 0.00247, 0.0298, 0.00377, 0.114, 0.0277, 0.234, 0.0828),
    "q_rope": (0.0283, 0.00236, 0.0358, 0.00355, 0.134, 0.0264, 0.277, 0.0773),
    "k_rope": (0.0189, 0.00286, 0.0237, 0.00483, 0.0902, 0.0325, 0.187, 0.105),
    "attn_context": (0.0146, 0.00279, 0.0374, 0.0175, 0.0842, 0.0235, 0.202, 0.0857),
    "attn_out": (0.0156, 0.00297, 0.0329, 0.0105, 0.0922, 0.0265, 0.215, 0.0861),
    "attn_residual": (0.0249, 0.00612, 0.0318, 0.0104, 0.119, 0.0707, 0.27, 0.255),
    "ffn_norm": (0.0262, 0.00273, 0.033, 0.00578, 0.124, 0.0193, 0.258, 0.0518),
    "ffn_gate": (0.0438, 0.00187, 0.0552, 0.00409, 0.21, 0.0239, 0.435, 0.0668),
    "ffn_up": (0.0302, 0.00213, 0.038, 0.00547, 0.143, 0.0222, 0.295, 0.0619),
    "ffn_silu_gate": (0.0419, 0.00183, nan, nan, 0.197, 0.0239, nan, nan),
    "ffn_swiglu_inner": (0.0585, 0.00441, 0.0736, 0.00749, 0.286, 0.0548, 0.605, 0.178),
    "ffn_out": (0.0595, 0.00459, 0.075, 0.00792, 0.284, 0.0569, 0.602, 0.183),
    "output": (0.0246, 0.00612, 0.0314, 0.0104, 0.119, 0.0707, 0.27, 0.255),
    "final_norm": (0.0183, 0.00199, 0.0256, 0.00531, 0.117, 0.0133, 0.291, 0.0528),
    "logits": (0.0546, 0.00258, 0.0719, 0.00424, 0.3, 0.0198, 0.711, 0.0228),
}
"""Per slot and column: relative L2 of the worst token and of the median token."""

FLOAT_FIRST_NORM = (9.12e-08, 1.12e-07, 8.45e-08, 1.17e-07)
"""At `layer.0.attn_norm`."""

FLOAT_LOGITS: dict[str, tuple[float, ...]] = {
    "kl_max": (0.00224, 0.0039, 0.0545, 0.228),
    "top1_flip_margin": (0.0404, 0.123, 0.196, 0.393),
}
"""Largest KL of a position in nats, and largest change of a lead in logits."""
