"""What `apr bench` says on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotejar.engines.native.speed import Speed, Spread


def speed_lines(speed: Speed) -> list[str]:
    """One numerics: a line a figure, the median with the least and the greatest."""
    tokens, ms = "tokens/s", "ms"
    return [
        f"native+{speed.numerics}  {speed.isa}, {speed.threads} threads",
        _line(f"prefill {speed.prefill_tokens}", speed.prefill_tokens_per_s, tokens),
        _line("the same, traced", speed.traced_prefill_tokens_per_s, tokens),
        _line(f"decode {speed.decode_tokens}", speed.decode_tokens_per_s, tokens),
        _line("open", speed.open_ms, ms),
        _line("open and first token", speed.first_token_ms, ms),
        f"  {'peak memory':<22}{speed.peak_rss_bytes / 2**20:>10.1f} MiB",
    ]


def _line(label: str, spread: Spread, unit: str) -> str:
    ends = f"{spread.min:.1f}..{spread.max:.1f}"
    return f"  {label:<22}{spread.median:>10.1f} {unit:<9} ({ends})"
