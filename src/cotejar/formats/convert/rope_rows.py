"""The order of q and k rows, and the divisors of RoPE's frequencies, as llama.cpp has them.

Within a head of E rows, Hugging Face pairs row i with row i + E/2. llama.cpp pairs 2i with
2i + 1 for architecture llama, so a GGUF of it holds the same rows in another order:

    row 2i of the GGUF     = row i of the head
    row 2i + 1 of the GGUF = row i + E/2 of the head

A row is a whole number of blocks, so its bytes move as they are. Source: `permute` in
llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import ConfigValueError, WeightShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float32, UInt8

    from cotejar.formats.model_file import TensorEntry


MAX_ROPE_DIM = 1 << 16
"""Far beyond any head; what a file says is checked before a table is made of it."""


def positive_number(value: object) -> float | None:
    """A positive finite number as a float; None of anything else, `true` included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has integers of hundreds of digits
        return None
    return number if 0 < number < math.inf else None


def is_permuted_name(name: str) -> bool:
    """Whether a tensor, by its Hugging Face name, has rows that RoPE turns."""
    parts = name.split(".")
    return parts[-2:-1] in (["q_proj"], ["k_proj"])


def permute_to_adjacent(
    raw: UInt8[np.ndarray, "num_bytes"], entry: TensorEntry, num_heads: int, *, where: str
) -> UInt8[np.ndarray, "num_bytes"]:
    """Reorder half-split rows to adjacent pairs; copies the tensor once.

    Args:
        raw: the bytes of q or k: a matrix, or a bias of one value a row.
        entry: its line in the tensor table.
        num_heads: heads that its rows belong to.
        where: the file, for an error.

    Raises:
        WeightShapeError: the rows are no whole number of pairs in every head.
    """
    rows = entry.shape[0]
    if num_heads < 1 or rows % (2 * num_heads):
        raise WeightShapeError(
            "the rows cannot be put in adjacent pairs",
            where=f"{where}, tensor {entry.name!r}",
            expected=f"an even number of rows for each of {num_heads} heads",
            found=f"{rows} rows",
            hint="the head counts in the metadata do not belong to these weights",
        )
    heads_H2PY = raw.reshape(num_heads, 2, rows // (2 * num_heads), raw.size // rows)
    return np.ascontiguousarray(heads_H2PY.swapaxes(1, 2)).reshape(-1)


def llama3_divisors(
    scaling: Mapping[str, object], *, theta: float, dim: int, where: str
) -> Float32[np.ndarray, "dim/2"]:
    """The divisors of Llama 3's `rope_scaling`, as a GGUF stores them in `rope_freqs`.

    A pair whose wave is shorter than the original context by `high_freq_factor` keeps its
    frequency, one longer than `low_freq_factor` allows is slowed by `factor`, between the
    two the frequency is blended. Source: Meta's `apply_scaling`, as in llama.cpp's
    `LlamaModel.generate_extra_tensors`.

    Raises:
        ConfigValueError: a figure is missing or cannot be.
    """
    names = (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    )
    factor, low, high, context = (_usable(scaling, name, where) for name in names)
    if dim > MAX_ROPE_DIM:
        raise ConfigValueError(
            "a head is too wide to be turned",
            where=where,
            expected=f"a head_dim of at most {MAX_ROPE_DIM}",
            found=str(dim),
            hint="the metadata do not belong to these weights",
        )
    pairs_P = np.arange(dim // 2, dtype=np.float64)
    turns_P = context / (2 * np.pi * theta ** (2 * pairs_P / dim))
    blend_P = np.clip((turns_P - low) / (high - low), 0.0, 1.0) if high > low else turns_P > low
    with np.errstate(over="ignore"):
        divisors_P = (1 / ((1 - blend_P) / factor + blend_P)).astype(np.float32)
    if not np.isfinite(divisors_P).all():
        raise _unusable("factor", scaling, where)
    return divisors_P


def _usable(scaling: Mapping[str, object], name: str, where: str) -> float:
    number = positive_number(scaling.get(name))
    if number is None:
        raise _unusable(name, scaling, where)
    return number


def _unusable(name: str, scaling: Mapping[str, object], where: str) -> ConfigValueError:
    return ConfigValueError(
        f"rope_scaling has no usable {name}",
        where=where,
        expected="a positive number",
        found=f"{scaling.get(name)!r:.60}",
        hint="take rope_scaling over from the model's config.json",
    )
