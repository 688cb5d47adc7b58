"""A right run with one recorded site replaced by what a fault would have left there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import Found, find_causes

from .conftest import observe, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cotejar.model.language_model import LanguageModel

    Fault = Callable[[Mapping[str, np.ndarray], LanguageModel], np.ndarray]


def find_planted(
    model: LanguageModel, site: str, fault: Fault, *, numerics: str = "f32", declared: str = ""
) -> Found:
    """What the search makes of the site, if `fault` gives its values from the right ones."""
    trace = run(model, numerics)
    right = {name: np.asarray(values) for name, values in trace.arrays.items()}
    planted = np.ascontiguousarray(fault(right, model), np.float32)
    engine = replace(trace.engine, numerics=declared or numerics)
    trace = replace(trace, arrays={**right, site: planted}, engine=engine)
    side = observe(trace, model)
    error = next(e for e in replay_sides([side]) if e.site == site)
    assert not error.explained
    operation = side.truth.operations[site]
    inputs = side.inputs(operation)
    recorded = side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None
    return find_causes(Case(operation, side, inputs.arrays, recorded, error))


def first(found: Found) -> tuple[str, str]:
    """Id and title of the first cause; of none, empty."""
    return (found.causes[0].id, found.causes[0].title) if found.causes else ("", "")


def weight_of(model: LanguageModel, name: str) -> np.ndarray:
    matrix = model.declared.weights[name]
    return matrix.decode_rows(0, matrix.rows).astype(np.float64)


def attend(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: np.ndarray, heads: int = 6
) -> np.ndarray:
    """Attention of 16 values a head, written for these tests alone."""
    q, k, v = (a.astype(np.float64).reshape(len(a), -1, 16) for a in (q, k, v))
    group = heads // k.shape[1]
    out = np.empty((len(q), heads, 16))
    for head in range(heads):
        scores = np.where(seen, q[:, head] @ k[:, head // group].T / 4, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, head // group]
    return out.reshape(len(q), -1)


def attention_inputs(
    right: Mapping[str, np.ndarray], layer: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(right[f"layer.{layer}.{slot}"] for slot in ("q_rope", "k_rope", "v"))  # type: ignore[return-value]  # of three
