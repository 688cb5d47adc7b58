"""Divisors of RoPE's frequencies from the words of a configuration: none, linear, llama3."""

from __future__ import annotations

import math

from cotejar.errors import ArchitectureError, ConfigValueError
from cotejar.model.config import MAX_HEAD_DIM
from cotejar.model.keys import Keys


def scaling_divisors(keys: Keys, theta: float, rope_dim: int) -> tuple[float, ...]:
    """Divisors from `rope_scaling` (or the newer `rope_parameters`); empty for none.

    Raises:
        ArchitectureError: another scaling.
        MissingConfigError, ConfigValueError: a figure is missing or cannot be.
    """
    scaling = keys.find("rope_scaling", "rope_parameters")
    if not isinstance(scaling, dict):
        return ()
    inner = Keys(scaling, f"{keys.where}, rope_scaling")
    kind = inner.text("rope_type", "type", default="default")
    if kind == "llama3":
        factor = inner.real("factor")
        low, high = inner.real("low_freq_factor"), inner.real("high_freq_factor")
        if not (factor > 0 and low < high):
            raise ConfigValueError(
                "the figures of llama3's RoPE scaling cannot be",
                where=inner.where,
                expected="a positive factor, and low_freq_factor below high_freq_factor",
                found=f"factor {factor:g}, low {low:g}, high {high:g}",
                hint="compare with the model's original config.json",
            )
        if not theta > 0 or rope_dim > MAX_HEAD_DIM:
            return ()  # `check_config` refuses both
        context = inner.integer("original_max_position_embeddings")
        return _llama3_divisors(
            theta, rope_dim, factor=factor, low=low, high=high, original_context=context
        )
    return linear_divisors(kind, inner.real("factor", default=1.0), rope_dim, inner.where)


def linear_divisors(kind: str, factor: float, dim: int, where: str) -> tuple[float, ...]:
    """Divisors of a scaling that divides all frequencies alike.

    Raises:
        ArchitectureError: `kind` is neither `linear` nor a word for none.
    """
    if kind in {"none", "default"}:
        return ()
    if kind == "linear":
        # A size out of range is refused by `check_config`, and no table made of it before.
        return () if factor == 1.0 or dim > MAX_HEAD_DIM else (factor,) * (dim // 2)
    raise ArchitectureError(
        f"no engine here knows the RoPE scaling {kind!r}",
        where=where,
        expected="none, linear or llama3",
        found=kind,
        hint="a wrong scaling would give fluent nonsense, so it is refused",
    )


def _llama3_divisors(
    theta: float, dim: int, *, factor: float, low: float, high: float, original_context: int
) -> tuple[float, ...]:
    """Llama 3.1's scaling: long waves are slowed by `factor`, short ones are left alone.

    Between the two wave lengths the frequency is blended linearly; source: Meta's
    reference `apply_scaling`, as transformers' `_compute_llama3_parameters` has it.
    """
    divisors = []
    for pair in range(dim // 2):
        wave_length = 2 * math.pi * theta ** (2 * pair / dim)
        turns = original_context / wave_length
        if turns < low:
            divisors.append(factor)
        elif turns > high:
            divisors.append(1.0)
        else:
            blend = (turns - low) / (high - low)
            divisors.append(1 / ((1 - blend) / factor + blend))
    return tuple(divisors)
