"""A right run of twelve tokens, said to be fed in passes, and a layer whose cache is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.search import find_causes
from cotejar.trace.site import CONTRACT_SLOTS

from .conftest import first_wrong_case, observe, run
from .planted import attend, attention_inputs, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

    Arrays = dict[str, np.ndarray]
    Rows = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]

T, E = 12, 16
QUERY, KEY = np.arange(T)[:, None], np.arange(T)[None]
CAUSAL = KEY <= QUERY
FREQUENCIES = exact.frequencies(10_000.0, E)


def right_run(model: LanguageModel, *passes: int) -> tuple[ForwardTrace, Arrays]:
    trace = run(model, "f32")
    arrays = {name: np.asarray(a, np.float64) for name, a in trace.arrays.items()}
    return replace(trace, passes=passes), arrays


def first_wrong(
    model: LanguageModel, trace: ForwardTrace, arrays: Arrays, *, ten: bool = False
) -> tuple[str, str, str]:
    """Site, id and title of the first cause at the first site that is wrong."""
    kept = (*CONTRACT_SLOTS, "embed", "final_norm", "logits")
    shown = {
        n: a.astype(np.float32)
        for n, a in arrays.items()
        if not ten or n.split(".")[-1] in kept
    }
    case = first_wrong_case(observe(replace(trace, arrays=shown), model))
    return (case.error.site, *first(find_causes(case)))


def with_context(model: LanguageModel, arrays: Arrays, context: np.ndarray) -> Arrays:
    """Layer 1 with that context and its product, whatever comes behind it."""
    weight = weight_of(model, "model.layers.1.self_attn.o_proj.weight")
    out = context @ weight.T
    return {**arrays, "layer.1.attn_context": context, "layer.1.attn_out": out}


def turned(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    heads = exact.split_heads(values, E)
    return exact.join_heads(exact.turn(heads, np.outer(positions, FREQUENCIES)))


def read_so(
    arrays: Arrays, first_token: int, rows: Rows, seen: np.ndarray = CAUSAL
) -> np.ndarray:
    """The context, if each token from there on reads what `rows` makes of keys and values."""
    q, k, v = attention_inputs(arrays)
    context = attend(q, k, v, seen)
    for token in range(first_token, T):
        other_k, other_v = rows(k.copy(), v.copy(), token)
        context[token] = attend(q, other_k, other_v, seen)[token]
    return context
