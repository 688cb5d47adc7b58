"""How far an engine may lie from itself: what honest ones were measured to do.

Cutting a text in another way changes the order of float sums, and a last bit may turn the
rounding of an activation or of a cached key. `apr check` on real models says how much
comes of it; `benchmarks/generation.py --part check` measures it again.
"""

from __future__ import annotations

MEASURED = "benchmarks/results/generation.md"
FACTOR = 3.0
"""Limit over measured noise, as `apr parity` has it for a worst token."""

SELF_NOISE = {
    "llamacpp": {"q8-kvf16": 0.0732, "q8-kvf16-flash": 0.12, "q8": 0.0921},
    "transformers": {"f32": 6.61e-6, "f64": 6.65e-15, "bf16": 0.0622},
}
"""By engine and numerics: the worst position's relative L2 of logits, of every row of `apr
check` on its own text, on SmolLM2-135M-Instruct Q4_1, and each engine's default numerics on
Qwen2.5-Coder-0.5B-Instruct Q4_K_M, which lies nearer to itself."""


def self_limit(engine: str, numerics: str) -> tuple[float | None, str]:
    """The limit on a position's relative L2 against one pass, and where it comes from.

    None where nobody has measured it; 0 for `native`, in every numerics.
    """
    if engine == "native":
        return 0.0, "every product and sum has one order: nothing may differ"
    noise = SELF_NOISE.get(engine, {}).get(numerics)
    if noise is None:
        return None, f"nobody has measured the noise of {engine}+{numerics}; give --limit"
    return (
        FACTOR * noise,
        f"{FACTOR:g} x {noise:.3g}, how far {engine}+{numerics} was measured to lie from "
        f"itself in {MEASURED}",
    )
