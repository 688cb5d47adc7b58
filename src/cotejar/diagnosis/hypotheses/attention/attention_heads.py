"""Head by head: what each head read, by what it gave; and other places of keys and values.

Each head's output alone tells which query, key and value head it was made of, whether it is
0, and how its scores and its values were scaled. What the wrong heads have in common is the
cause's name.

Shape letters: T tokens, N sampled queries, H heads, K key/value heads, E head size.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import Attended, weigh
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice
from cotejar.diagnosis.observed import replay
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Case

_NONE = -1
"""A head that gives 0."""
_WRONG = 1e-4
"""Relative distance of one head beyond that of the best one's: it is wrong."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is the weighted sum of values."""
    attended = Attended.of(case)
    if attended is None:
        return
    yield from _maps(attended)
    yield from _head_scales(attended)
    yield from _other_layers(case, attended)
    yield from _layouts(attended)
    yield from _softmax(attended)


def _maps(attended: Attended) -> Iterator[Alternative]:
    """Query, key and value head that each head is nearest to."""
    heads = len(attended.heads)
    found = np.array([_nearest(attended, head) for head in range(heads)])
    right = np.array([(h, k, k) for h, k in enumerate(attended.heads)])
    wrong = np.flatnonzero((found != right).any(axis=1))
    if not len(wrong):
        return
    zero = found[:, 0] == _NONE
    read = np.where(zero[:, None], right, found)
    output = attended.output(
        q=attended.q[:, read[:, 0]],
        key_heads=tuple(read[:, 1].tolist()),
        value_heads=tuple(read[:, 2].tolist()),
    )
    by_head = exact.split_heads(output, attended.step.head_dim).copy()
    by_head[:, zero] = 0.0
    id_, title, numbers = _name_map(attended, found, right, wrong)
    yield Alternative(id=id_, title=title, output=exact.join_heads(by_head), parameters=numbers)


def _nearest(attended: Attended, head: int) -> tuple[int, int, int]:
    """Of every (query, key, value) head that is likely, and of zeros."""
    own, kv_heads = attended.heads[head], attended.k.shape[1]
    visible = attended.visible[attended.sample]
    pairs = [(head, kv_head) for kv_head in range(kv_heads)]
    for other, kv_head in enumerate(attended.heads):
        pairs += [(other, own), (other, kv_head)]
    wanted = attended.recorded[attended.sample, head]
    best, least = (_NONE, _NONE, _NONE), float(np.linalg.norm(wanted))
    for query_head, key_head in dict.fromkeys([(head, own), *pairs]):
        scores = attended.scores(
            attended.q[attended.sample, query_head], attended.k[:, key_head]
        )
        weights = weigh(np.where(visible, scores, -np.inf))
        context_NKE = np.einsum("nt,tke->nke", weights, attended.v)
        off_K = np.linalg.norm(wanted[:, None] - context_NKE, axis=(0, 2))
        value_head = own if off_K[own] <= off_K.min() * (1 + 1e-9) else int(off_K.argmin())
        if off_K[value_head] < least * (1 - 1e-9):
            best, least = (query_head, key_head, value_head), float(off_K[value_head])
    return best


def _name_map(
    attended: Attended,
    found: Int[np.ndarray, "H 3"],
    right: Int[np.ndarray, "H 3"],
    wrong: Int[np.ndarray, "n"],
) -> tuple[str, str, int]:
    first = int(wrong[0])
    heads, kv_heads = len(found), attended.k.shape[1]
    if (found[wrong] == _NONE).all():
        groups = {attended.heads[int(h)] for h in wrong}
        whole = [h for h in range(heads) if attended.heads[h] in groups] == wrong.tolist()
        if whole and len(groups) == 1:
            return "head-zero", f"key/value head {groups.pop()} gives 0: its values are 0", 1
        shown = " ".join(str(h) for h in wrong[:8])
        return "head-zero", f"heads {shown} of {heads} give 0", 1
    differ = [name for i, name in enumerate("qkv") if (found[:, i] != right[:, i]).any()]
    names = {"q": "query", "k": "key", "v": "value"}
    column = "qkv".index(differ[0])
    size = heads if differ == ["q"] else kv_heads
    steps = (found[:, column] - right[:, column]) % size
    if len(differ) == 1 and (steps == steps[0]).all():
        step = int(steps[0])
        where = f"{step} on" if 2 * step <= size else f"{size - step} before"
        title = f"every head reads the {names[differ[0]]} head {where} (of {size})"
        return "head-order", title, 1
    read = " and ".join(
        f"{names[name]} head {found[first, 'qkv'.index(name)]}" for name in differ
    )
    title = f"{len(wrong)} of {heads} heads read another: head {first} reads {read}"
    pair = len(wrong) == 2 and differ[0] == "q"  # noqa: PLR2004 - two that change places
    return "head-order", title, 2 if pair else len(wrong)


def _head_scales(attended: Attended) -> Iterator[Alternative]:
    """Scores of a head, or its values, times a number of its own."""
    heads = len(attended.heads)
    visible = attended.visible[attended.sample]
    wanted = attended.recorded[attended.sample].swapaxes(0, 1)
    scores = np.where(visible, attended.sampled_scores, -np.inf)
    plain = weigh(scores) @ attended.sampled_values
    off_H = np.linalg.norm(wanted - plain, axis=(1, 2)) / np.linalg.norm(wanted, axis=(1, 2))
    wrong = np.flatnonzero(off_H > _WRONG * 0.1 + 8 * np.sort(off_H)[0])
    if not 0 < len(wrong) < heads:
        return
    scale_H, gain_H = np.ones(heads), np.ones(heads)
    for head in wrong.tolist():
        scale_H[head] = _fit_scale(attended, head, wanted[head])
        gain_H[head] = float((wanted[head] * plain[head]).sum() / (plain[head] ** 2).sum())
    shown = " ".join(str(h) for h in wrong[:8])
    for what, factor_H in (("scores", scale_H), ("values", gain_H)):
        near = nice(float(factor_H[wrong[0]]), 4)
        rounded_H = np.where(factor_H == 1, 1.0, near)
        for used_H in (rounded_H, factor_H):
            changed = attended.q * used_H[:, None] if what == "scores" else attended.q
            output = exact.split_heads(attended.output(q=changed), attended.step.head_dim)
            output = output * used_H[:, None] if what == "values" else output
            yield Alternative(
                id="head-scaled",
                title=f"{what} of head {shown} are multiplied by "
                f"{factor_text(float(used_H[wrong[0]]))}",
                output=exact.join_heads(output),
                parameters=2 if used_H is rounded_H else 1 + len(wrong),
            )


def _fit_scale(attended: Attended, head: int, wanted: Float64[np.ndarray, "N E"]) -> float:
    """Newton steps on one number; the derivative by a small difference."""
    visible = attended.visible[attended.sample]
    scores, values = attended.sampled_scores[head], attended.sampled_values[head]

    def context(scale: float) -> np.ndarray:
        result: np.ndarray = weigh(np.where(visible, scores * scale, -np.inf)) @ values
        return result

    scale = 1.0
    for _ in range(12):
        at = context(scale)
        slope = (context(scale + 1e-6) - at) / 1e-6
        square = float((slope**2).sum())
        if square == 0:
            break
        scale = float(np.clip(scale + ((wanted - at) * slope).sum() / square, 1 / 64, 64))
    return scale


def _other_layers(case: Case, attended: Attended) -> Iterator[Alternative]:
    """Keys, values or both of another layer: a cache with a wrong layer index."""
    for other, rows in rows_of_layers(case, attended):
        for which in ("k", "v", "kv"):
            if all(name in rows for name in which):
                names = " and ".join("keys" if n == "k" else "values" for n in which)
                yield Alternative(
                    id="cache-other-layer",
                    title=f"the {names} are those of layer {other}",
                    output=attended.output(**{name: rows[name] for name in which}),
                )


def rows_of_layers(
    case: Case, attended: Attended
) -> Iterator[tuple[int, dict[str, Float64[np.ndarray, "T K E"]]]]:
    """Of the layers beside this one, the first and the last: the keys and values they have."""
    layer, e = case.operation.site.layer, attended.step.head_dim
    if layer is None:
        return
    last = case.observed.truth.config.num_layers - 1
    for other in dict.fromkeys((layer - 1, layer + 1, 0, last)):
        if other == layer or not 0 <= other <= last:
            continue
        rows: dict[str, np.ndarray] = {}
        for name, slot in (("k", "k_rope"), ("v", "v")):
            array = _at_layer(case, Site(slot, other))
            if array is not None and array.size == getattr(attended, name).size:
                rows[name] = exact.split_heads(array, e)
        yield other, rows


def _at_layer(case: Case, site: Site) -> Float64[np.ndarray, "T W"] | None:
    """Of another layer: recorded, or made of what that layer recorded."""
    recorded = case.recorded_at(site)
    operation = case.observed.truth.operations.get(str(site))
    if recorded is not None or operation is None:
        return recorded
    inputs = replace(case.observed, _derived={}).inputs(operation)
    return None if inputs is None else replay(operation, inputs.arrays, case.observed)


def _layouts(attended: Attended) -> Iterator[Alternative]:
    """The buffer of keys or values, written in one order of axes and read in another."""
    orders = [p for p in permutations(range(3)) if p != (0, 1, 2)]
    words = ("tokens", "heads", "values")
    for name, label in (("k", "keys"), ("v", "values")):
        array = getattr(attended, name)
        for order in orders:
            written = np.ascontiguousarray(array.transpose(order))
            said = " x ".join(words[axis] for axis in order)
            yield Alternative(
                id="cache-layout",
                title=f"the {label} are written as {said} and read as {' x '.join(words)}",
                output=attended.output(**{name: written.reshape(array.shape)}),
            )
            shape = tuple(array.shape[axis] for axis in order)
            back = array.reshape(shape).transpose(np.argsort(order))
            yield Alternative(
                id="cache-layout",
                title=f"the {label} are written as {' x '.join(words)} and read as {said}",
                output=attended.output(**{name: np.ascontiguousarray(back)}),
            )


def _softmax(attended: Attended) -> Iterator[Alternative]:
    """Weights over the greatest of them, not over their sum; and biases by distance."""
    by_greatest = attended.output(
        round_weights=lambda w: w / np.maximum(w.max(axis=1, keepdims=True), 1e-300)
    )
    yield Alternative(
        id="softmax-sum-missing",
        title="the softmax is divided by its greatest term, not by the sum",
        output=by_greatest,
    )
    yield from distance_biases(attended)


def distance_biases(attended: Attended) -> Iterator[Alternative]:
    """Scores that fall with the distance, by the slopes that programs have for each head.

    Source of the first: Press et al., 2021 (arXiv:2108.12409), section 3.
    """
    heads = len(attended.heads)
    index = np.arange(len(attended.q))
    for words, slopes in (
        ("ALiBi", 2.0 ** (-8 * (np.arange(heads) + 1) / heads)),
        ("one of halving slopes", 2.0 ** -(np.arange(heads) + 1.0)),
    ):
        # A score plus slope * (key - query): one more value of every query and key.
        q = np.concatenate(
            [attended.q, np.broadcast_to(slopes[:, None], (*attended.q.shape[:2], 1))], axis=2
        )
        place = index[:, None, None] / attended.step.scale
        k = np.concatenate(
            [attended.k, np.broadcast_to(place, (*attended.k.shape[:2], 1))], axis=2
        )
        yield Alternative(
            id="position-bias",
            title=f"scores have a bias by distance, {words}",
            output=_with_wider_keys(attended, q, k),
        )


def _with_wider_keys(
    attended: Attended, q: Float64[np.ndarray, "T H F"], k: Float64[np.ndarray, "T K F"]
) -> Float64[np.ndarray, "T W"]:
    """`exact.attend` gives contexts of the queries' size: the added value is cut off."""
    v = np.concatenate([attended.v, np.zeros((*attended.v.shape[:2], 1))], axis=2)
    whole = exact.split_heads(attended.output(q=q, k=k, v=v), q.shape[2])
    return exact.join_heads(np.ascontiguousarray(whole[..., :-1]))
