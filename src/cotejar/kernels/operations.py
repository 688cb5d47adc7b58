"""The operations between matrix products: RMSNorm, RoPE, attention, SiLU, in float32.

Like the products, they have the same bits on every machine and instruction set, for every
number of tokens run together and of threads. The compiled kernels do the work;
`numpy_operations` is the same arithmetic in numpy, which `COTEJAR_ISA=numpy` chooses and
the tests compare with. Every operation below rounds on its own; nothing is fused but what
is said to be.

**exp** is Cephes' `expf` (S. Moshier): x = n ln 2 + r with n = round(x / ln 2), ln 2 in two
parts; a polynomial of degree 7 in r; then 2 ** n in two steps. Within 2 ulp of e ** x.

**rms_norm** sums squares in float64, as ggml does, in 16 lanes: column c in lane c mod 16,
in column order, lanes folded by halves (l and l + 8, + 4, + 2, + 1). The scale
`1 / sqrt(mean + eps)` is rounded to float32; then `(x * scale) * weight`.

**rotate** is `a cos - b sin`, `a sin + b cos` for the pairs of every head.

**attend**: scores are float64 sums over E, in order, divided by sqrt(E). A large key bias
(Qwen2) adds the same large number to every score of a query, and float32 would round away
the small differences that softmax sees (measured on Qwen 0.5B, 40 tokens: worst error of a
site 5e-6 instead of 5e-5). The greatest is subtracted, the rest is float32: weights are the
exp of it, their sum and the weighted sum of values run in the order of the positions, and
are divided at the end.

**attend** `in_float32` is for the fastest prefill, where the products that it stands between
are rounded far more coarsely. A score is float32 too, from 0 a fused multiply-add for each
of E, in order: `score = fma(q[e], k[e], score)`, each rounded once; then it is divided by
sqrt(E) rounded to float32. Weights and their sum are those of above. The weighted sum of
values is fused likewise, `context = fma(weight, value, context)` in the order of the
positions, and divided at the end. A position that is hidden adds nothing to it.

Shape letters: T new tokens, S all tokens so far, H heads, K key/value heads, E head size,
P pairs, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import TensorShapeError
from cotejar.kernels import _compiled, numpy_operations
from cotejar.kernels.arrays import empty_array
from cotejar.kernels.instruction_set import NUMPY, chosen_isa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float32


def rms_norm(
    values: Float32[np.ndarray, "... W"],
    weight_W: Float32[np.ndarray, "W"],
    eps: float,
    *,
    isa: str | None = None,
) -> Float32[np.ndarray, "... W"]:
    """RMSNorm over the last axis, as ggml has it.

    Raises:
        TensorShapeError: the weight is not (W,).
    """
    if weight_W.shape != values.shape[-1:]:
        raise _misfit("rms_norm", f"a weight of {values.shape[-1:]}", str(weight_W.shape))
    values_TW = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
    if (isa := isa or chosen_isa()) == NUMPY:
        with np.errstate(all="ignore"):
            return numpy_operations.rms_norm(values_TW, weight_W, eps).reshape(values.shape)
    out = empty_array(values_TW.shape)
    _compiled.rms_norm(isa, values_TW, weight_W, eps, out)
    return out.reshape(values.shape)


def rotate(
    values_THE: Float32[np.ndarray, "T H E"],
    cos_TP: Float32[np.ndarray, "T P"],
    sin_TP: Float32[np.ndarray, "T P"],
    *,
    adjacent: bool,
    isa: str | None = None,
    out: Float32[np.ndarray, "T H E"] | None = None,
) -> Float32[np.ndarray, "T H E"]:
    """Turn the first P pairs of every head; what is beyond them stays.

    Args:
        values_THE: what is turned.
        cos_TP: of every angle.
        sin_TP: of every angle.
        adjacent: pairs are neighbours (2i, 2i + 1), not halves (i, i + P).
        isa: one of `runnable_isas()`; the chosen one if left out.
        out: where the compiled kernels put it, rows side by side; new memory if left out.

    Raises:
        TensorShapeError: the tables do not fit the values, or `out` has another shape.
    """
    if (isa := isa or chosen_isa()) == NUMPY:
        _check_rotation(values_THE, cos_TP, sin_TP)
        with np.errstate(all="ignore"):
            return numpy_operations.rotate(values_THE, cos_TP, sin_TP, adjacent=adjacent)
    into = {} if out is None else {0: out}
    turned, _ = rotate_together(
        [values_THE], cos_TP, sin_TP, adjacent=adjacent, isa=isa, into=into
    )
    return turned[0]


def rotate_together(
    arrays: Sequence[Float32[np.ndarray, "T H E"]],
    cos_TP: Float32[np.ndarray, "T P"],
    sin_TP: Float32[np.ndarray, "T P"],
    *,
    adjacent: bool,
    measured: bool = False,
    isa: str | None = None,
    into: Mapping[int, Float32[np.ndarray, "T H E"]] | None = None,
) -> tuple[list[Float32[np.ndarray, "T H E"]], bytes | None]:
    """What `rotate` gives of one or two arrays, by index `into` memory that is there.

    Compiled kernels alone do it.

    Returns:
        The turned arrays and, if `measured`, the moments of each as `measure_raw` gives them,
        a row a token.

    Raises:
        TensorShapeError: the tables, or what is in `into`, do not fit an array.
    """
    into = into or {}
    turned = []
    for index, values_THE in enumerate(arrays):
        _check_rotation(values_THE, cos_TP, sin_TP)
        out = into[index] if index in into else empty_array(values_THE.shape)
        if out.shape != values_THE.shape:
            raise _misfit("rotate", f"a result of {values_THE.shape}", str(out.shape))
        turned.append(out)
    moments = _compiled.rotate(
        isa or chosen_isa(),
        [np.ascontiguousarray(values_THE) for values_THE in arrays],
        cos_TP,
        sin_TP,
        adjacent,
        turned,
        measured,
    )
    return turned, moments


def _check_rotation(
    values_THE: Float32[np.ndarray, "T H E"],
    cos_TP: Float32[np.ndarray, "T P"],
    sin_TP: Float32[np.ndarray, "T P"],
) -> None:
    tokens, _, head_size = values_THE.shape
    if cos_TP.shape != sin_TP.shape or len(cos_TP) != tokens or 2 * cos_TP.shape[1] > head_size:
        raise _misfit(
            "rotate",
            f"tables of ({tokens}, at most {head_size // 2})",
            f"{cos_TP.shape} and {sin_TP.shape}",
        )


def attend(
    q_THE: Float32[np.ndarray, "T H E"],
    k_SKE: Float32[np.ndarray, "S K E"],
    v_SKE: Float32[np.ndarray, "S K E"],
    *,
    window: int | None = None,
    isa: str | None = None,
    in_float32: bool = False,
) -> Float32[np.ndarray, "T H E"]:
    """Causal attention of the last T of S positions, grouped queries.

    Args:
        q_THE: queries, after RoPE.
        k_SKE: keys, after RoPE.
        v_SKE: values.
        window: a token sees itself and the `window - 1` before it; None for all.
        isa: one of `runnable_isas()`; the chosen one if left out.
        in_float32: scores in float32 and fused multiply-adds; else scores in float64.

    Raises:
        TensorShapeError: the shapes do not fit each other.
    """
    contexts = [(len(q_THE), k_SKE, v_SKE)]
    return attend_each(q_THE, contexts, window=window, isa=isa, in_float32=in_float32)


def attend_each(
    q_THE: Float32[np.ndarray, "T H E"],
    contexts: Sequence[tuple[int, Float32[np.ndarray, "S K E"], Float32[np.ndarray, "S K E"]]],
    *,
    window: int | None = None,
    isa: str | None = None,
    in_float32: bool = False,
) -> Float32[np.ndarray, "T H E"]:
    """Attention of several contexts, whose queries stand one after the other.

    Args:
        q_THE: queries of all, after RoPE.
        contexts: how many of the queries are each one's, and its keys and values; each
            attends to its own alone.
        window: as in `attend`.
        isa: likewise.
        in_float32: likewise.

    Raises:
        TensorShapeError: the shapes do not fit each other.
    """
    if sum(tokens for tokens, _, _ in contexts) != len(q_THE):
        raise _misfit("attend", f"{len(q_THE)} queries", "another number in all contexts")
    for tokens, k_SKE, v_SKE in contexts:
        _check_attention((tokens, *q_THE.shape[1:]), k_SKE.shape, v_SKE.shape)
    if (isa := isa or chosen_isa()) == NUMPY:
        ends = np.cumsum([tokens for tokens, _, _ in contexts])[:-1]
        with np.errstate(all="ignore"):
            attended = [
                numpy_operations.attend(
                    own_THE, k_SKE, v_SKE, window=window, in_float32=in_float32
                )
                for own_THE, (_, k_SKE, v_SKE) in zip(
                    np.split(q_THE, ends), contexts, strict=True
                )
            ]
        return np.concatenate(attended)
    q_THE = np.ascontiguousarray(q_THE)
    out = empty_array(q_THE.shape)
    _compiled.attend(
        isa,
        q_THE,
        [tokens for tokens, _, _ in contexts],
        [np.ascontiguousarray(k_SKE) for _, k_SKE, _ in contexts],
        [np.ascontiguousarray(v_SKE) for _, _, v_SKE in contexts],
        window or 0,
        out,
        in_float32,
    )
    return out


def _check_attention(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], v_shape: tuple[int, ...]
) -> None:
    tokens, num_heads, head_size = q_shape
    total, num_kv_heads, _ = k_shape
    fits = k_shape == v_shape and k_shape[2] == head_size and tokens <= total
    if not fits or num_heads % num_kv_heads:
        raise _misfit(
            "attend",
            f"keys and values of (at least {tokens}, a divisor of {num_heads}, {head_size})",
            f"{k_shape} and {v_shape}",
        )


def silu(
    values: Float32[np.ndarray, "..."], *, isa: str | None = None
) -> Float32[np.ndarray, "..."]:
    """Compute x * sigmoid(x), as x / (1 + exp(-x))."""
    if (isa := isa or chosen_isa()) == NUMPY:
        with np.errstate(all="ignore"):
            return numpy_operations.silu(values)
    flat = np.ascontiguousarray(values).reshape(-1)
    out = empty_array(flat.shape)
    _compiled.silu(isa, flat, out)
    return out.reshape(values.shape)


def first_greatest(
    values_NV: Float32[np.ndarray, "N V"], *, isa: str | None = None
) -> list[int | None]:
    """Where the greatest of each row stands, the first of equal ones; V is 1 or more.

    None for a row that holds a NaN or an infinity.
    """
    if (isa := isa or chosen_isa()) == NUMPY:
        is_finite = np.isfinite(values_NV).all(axis=1)
        first = values_NV.argmax(axis=1)
        return [int(at) if fine else None for at, fine in zip(first, is_finite, strict=True)]
    found = _compiled.first_greatest(isa, np.ascontiguousarray(values_NV))
    return [at if at >= 0 else None for at in found]


def multiply_elements(
    a: Float32[np.ndarray, "..."], b: Float32[np.ndarray, "..."], *, isa: str | None = None
) -> Float32[np.ndarray, "..."]:
    """Compute a * b.

    Raises:
        TensorShapeError: the shapes differ.
    """
    if a.shape != b.shape:
        raise _misfit("multiply_elements", str(a.shape), str(b.shape))
    if (isa := isa or chosen_isa()) == NUMPY:
        with np.errstate(all="ignore"):
            product: np.ndarray = a * b
            return product
    flat_a, flat_b = (np.ascontiguousarray(x).reshape(-1) for x in (a, b))
    out = empty_array(flat_a.shape)
    _compiled.multiply(isa, flat_a, flat_b, out)
    return out.reshape(a.shape)


def swiglu(
    gate_TF: Float32[np.ndarray, "T F"],
    up_TF: Float32[np.ndarray, "T F"],
    *,
    isa: str | None = None,
) -> Float32[np.ndarray, "T F"]:
    """Compute silu(gate) * up in one pass, with the bits of the two.

    Raises:
        TensorShapeError: the shapes differ.
    """
    isa = isa or chosen_isa()
    if isa == NUMPY:
        return multiply_elements(silu(gate_TF, isa=isa), up_TF, isa=isa)
    return _on_two(_compiled.swiglu, isa, gate_TF, up_TF)


def add(
    a_TW: Float32[np.ndarray, "T W"],
    b_TW: Float32[np.ndarray, "T W"],
    *,
    isa: str | None = None,
) -> Float32[np.ndarray, "T W"]:
    """Compute a + b.

    Raises:
        TensorShapeError: the shapes differ.
    """
    isa = isa or chosen_isa()
    if isa == NUMPY:
        total_TW: np.ndarray = a_TW + b_TW
        return total_TW
    return _on_two(_compiled.add, isa, a_TW, b_TW)


def has_kernels() -> bool:
    """Are the operations here compiled ones, which take moments on the way?"""
    return chosen_isa() != NUMPY


def _on_two(
    operation: Callable[..., None],
    isa: str,
    a_TW: Float32[np.ndarray, "T W"],
    b_TW: Float32[np.ndarray, "T W"],
) -> Float32[np.ndarray, "T W"]:
    if a_TW.shape != b_TW.shape:
        raise _misfit(operation.__name__, str(a_TW.shape), str(b_TW.shape))
    out = empty_array(a_TW.shape)
    operation(isa, np.ascontiguousarray(a_TW), np.ascontiguousarray(b_TW), out)
    return out


def _misfit(where: str, expected: str, found: str) -> TensorShapeError:
    return TensorShapeError(
        "the arrays do not fit each other",
        where=where,
        expected=expected,
        found=found,
        hint="a shape in the model's configuration or tensor table is wrong",
    )
