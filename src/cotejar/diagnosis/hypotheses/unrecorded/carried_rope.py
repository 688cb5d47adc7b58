"""RoPE of which nobody recorded the result, told from what came out behind the attention.

Positions are found token by token, since a token sees no later one; frequencies and a gain by
least squares, the first queries first: their angles are small, so that no turn is missed.

Shape letters: T tokens, N candidates, H heads, E head size, P pairs, W width, C columns
(values of the context), R rows (outputs).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice
from cotejar.diagnosis.hypotheses.rotation.position_patterns import position_patterns
from cotejar.diagnosis.hypotheses.rotation.rope_angles import table_words
from cotejar.diagnosis.hypotheses.rotation.rope_ends import turned_in_part
from cotejar.diagnosis.hypotheses.rotation.turning import wrong_scalings
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend, Project, Rotate, compute
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.model.weights import Weights

    Carry = Callable[[Mapping[str, np.ndarray]], np.ndarray | None]

_MOST_TOKENS, _MOST_COLUMNS = 64, 2048
"""Of a longer text, or a wider context, the search would take too long."""
_FIRST_QUERIES = (4, 8, 16)
"""That are fitted before all."""
_STEPS = 8
"""Of least squares, each time."""
_PROMISING = 0.5
"""Share of the error that may be left of the first queries: else it is not RoPE."""
_LATER = 8
"""Positions beyond the text that are tried."""
_NEAREST = 3
"""Of all parts of heads that may turn, those that are computed whole."""
_MOST_PATTERNS = 32
"""Tokens of a text of which every pattern of positions is computed."""
_USUAL = 0.5
"""Standard deviation of what a frequency is of the right one, before anything is seen."""
_SURE = 4.0
"""Standard deviations from 1 at which a gain is one."""
_STILL = 1e-4
"""Relative change of a gain that counts as none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fused:
    """RoPE, attention and its output projection as one."""

    names: tuple[str, str]
    """Sites of queries and keys."""
    q: Float64[np.ndarray, "T H E"]
    k: Float64[np.ndarray, "T K E"]
    """Heads before they are turned, normed where the model norms them."""
    v: Float64[np.ndarray, "T W"]
    attend: Attend
    weights: Weights
    """Of the model."""
    frequencies: Float64[np.ndarray, "P"]
    theta: float
    weight: Float64[np.ndarray, "R C"]
    right: Float64[np.ndarray, "T C"]
    added: Float64[np.ndarray, "T R"]
    """What the projection gave more than it ought to, over the length of that."""
    size: Float64[np.ndarray, "T"]

    def turned(
        self, angles_TP: Float64[np.ndarray, "T P"], gain: float = 1.0
    ) -> tuple[Float64[np.ndarray, "T W"], Float64[np.ndarray, "T W"]]:
        """Queries and keys of the first tokens, as many as there are angles."""
        tokens = len(angles_TP)
        q, k = (gain * exact.turn(a[:tokens], angles_TP) for a in (self.q, self.k))
        return exact.join_heads(q), exact.join_heads(k)

    def off(
        self, angles_TP: Float64[np.ndarray, "T P"], gain: float = 1.0
    ) -> Float64[np.ndarray, "T R"]:
        """What these angles leave, over the length of what ought to come out."""
        tokens = len(angles_TP)
        given = (*self.turned(angles_TP, gain), self.v[:tokens])
        return self.off_context(compute(self.attend, given, self.weights), slice(tokens))

    def off_context(
        self, context_NC: Float64[np.ndarray, "N C"], rows: slice
    ) -> Float64[np.ndarray, "N R"]:
        """The same of contexts that are known."""
        moved_NR = (context_NC - self.right[rows]) @ self.weight.T
        left: np.ndarray = moved_NR / self.size[rows, None] - self.added[rows]
        return left


def alternatives(case: Case, layer: int, carry: Carry) -> Iterator[Alternative]:
    """Of an attention whose queries and keys were derived, behind its output projection.

    Args:
        case: what was recorded behind it.
        layer: of the attention.
        carry: what comes out at the recorded site if sites give these arrays.
    """
    fused = fuse(case, layer)
    if fused is None:
        return
    where = " and ".join(fused.names)
    for alternative, outputs in (*_scalings(fused), *_frequencies(fused)):
        output = carry(dict(zip(fused.names, outputs, strict=True)))
        if output is not None:
            title = f"{alternative.title}, in {where}"
            yield replace(alternative, title=title, output=output)
    for id_, found in (
        ("rope-partial", _ends(fused)),
        ("rope-positions", _named_positions(fused)),
    ):
        for title, given in found:
            output = carry(given)
            if output is not None:
                sites = " and ".join(given)
                yield Alternative(id=id_, title=f"{title}, in {sites}", output=output)


def _named_positions(fused: Fused) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Positions of queries or of keys alone that go wrong in a way that has a name."""
    tokens, rows = len(fused.q), slice(len(fused.q))
    if tokens > _MOST_PATTERNS:
        return []
    right = fused.turned(np.outer(np.arange(tokens), fused.frequencies))
    found: list[tuple[float, int, str, dict[str, np.ndarray]]] = []
    for words, positions_T in position_patterns(tokens):
        turned = fused.turned(np.outer(positions_T, fused.frequencies))
        for place, what in enumerate(("queries", "keys")):
            heads = [turned[i] if i == place else right[i] for i in range(2)]
            context = compute(fused.attend, (*heads, fused.v), fused.weights)
            left = float(np.linalg.norm(fused.off_context(context, rows)))
            title = f"positions of {what} are others: {words}"
            found.append((left, len(found), title, {fused.names[place]: turned[place]}))
    found.sort(key=lambda one: one[:2])
    return [(title, given) for _, _, title, given in found[:_NEAREST]]


def _ends(fused: Fused) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Parts of heads that turn and do not start where heads do, in both or in one of two.

    The nearest over the first queries.
    """
    names, frequencies_P = fused.names, fused.frequencies
    right = dict(
        zip(names, fused.turned(np.outer(np.arange(len(fused.q)), frequencies_P)), strict=True)
    )
    positions_T = np.arange(len(fused.q), dtype=np.float64)
    few = slice(min(len(fused.q), _FIRST_QUERIES[1]))
    found: list[tuple[float, int, str, dict[str, np.ndarray]]] = []
    for title, turn in turned_in_part(fused.attend.head_dim, frequencies_P):
        changed = {
            name: exact.join_heads(turn(heads, positions_T))
            for name, heads in zip(names, (fused.q, fused.k), strict=True)
        }
        for sites in (names, names[:1], names[1:]):
            given = {site: changed[site] for site in sites}
            heads = [(right | given)[site][few] for site in names]
            context = compute(fused.attend, (*heads, fused.v[few]), fused.weights)
            left = float(np.linalg.norm(fused.off_context(context, few)))
            found.append((left, len(found), title, given))
    found.sort(key=lambda one: one[:2])
    return [(title, given) for _, _, title, given in found[:_NEAREST]]


def fuse(case: Case, layer: int) -> Fused | None:
    """Of a layer whose queries, keys and context were derived; None where it cannot be."""
    operations = case.observed.truth.operations
    names = (str(Site("q_rope", layer)), str(Site("k_rope", layer)))
    context = operations.get(str(Site("attn_context", layer)))
    if context is None or not {*names, context.name} <= set(case.error.derived):
        return None
    if not isinstance(case.operation.step, Project) or case.operation.inputs != (context.site,):
        return None
    attend, observed = context.step, replace(case.observed, _derived={})
    inputs = observed.inputs(context)
    small = len(case.recorded) <= _MOST_TOKENS and case.matrix.columns <= _MOST_COLUMNS
    if not isinstance(attend, Attend) or inputs is None or not small:
        return None
    heads = []
    for name in names:
        step, given = operations[name].step, observed.inputs(operations[name])
        if not isinstance(step, Rotate) or given is None or len(given.arrays[0]) < 3:  # noqa: PLR2004 - nothing is told by two
            return None
        still = replace(step, frequencies=(0.0,) * len(step.frequencies))
        plain_TW = replay(replace(operations[name], step=still), given.arrays, observed)
        heads.append(exact.split_heads(plain_TW, step.head_dim))
        frequencies_P, theta = np.array(step.frequencies), step.theta
    bias_R = 0.0 if case.bias is None else case.bias
    size_T = np.maximum(case.error.output_norm, 1e-300)
    added_TR = case.recorded_rows - (case.products[-1] + bias_R)
    if len(added_TR) != len(heads[0]):
        return None
    return Fused(
        names=names,
        q=heads[0],
        k=heads[1],
        v=inputs.arrays[2],
        attend=attend,
        frequencies=frequencies_P,
        theta=theta,
        weight=case.matrix.decode_rows(0, case.matrix.rows).astype(np.float64),
        right=compute(attend, inputs.arrays, observed.truth.weights),
        weights=observed.truth.weights,
        added=added_TR / size_T[:, None],
        size=size_T,
    )


Found = tuple[Alternative, tuple[np.ndarray, np.ndarray]]
"""An alternative without its output, and queries and keys."""


def _scalings(fused: Fused) -> Iterator[Found]:
    """What the model declares, applied in other ways."""
    index_T = np.arange(len(fused.q))
    for title, frequencies_P in wrong_scalings(fused.frequencies, fused.theta):
        found = replace(_found("rope-scaling", title, 0), declared=True)
        yield found, fused.turned(np.outer(index_T, frequencies_P))


def _frequencies(fused: Fused) -> Iterator[Found]:
    """The frequencies, and the gain of queries and keys, that leave least."""
    tokens, right_P = len(fused.q), fused.frequencies
    numbers = np.ones(len(right_P) + 1)
    fit = _Fit(numbers=numbers, off=np.zeros_like(numbers), left=np.inf)
    for count in dict.fromkeys(min(n, tokens) for n in (*_FIRST_QUERIES, tokens)):
        before = float(np.linalg.norm(fused.added[:count]))
        fit = _least_squares(fused, count, fit.numbers)
        if not fit.left < _PROMISING * before:
            return
    used_P, gain = fit.numbers[:-1] * right_P, float(fit.numbers[-1])
    angles_TP = np.outer(np.arange(tokens), used_P)
    words = table_words(used_P, right_P, fit.off[:-1] * right_P)
    title = f"pairs turn by other frequencies{words}"
    if abs(gain - 1) < max(_STILL, _SURE * float(fit.off[-1])):
        yield _found("rope-frequencies", title, len(used_P)), fused.turned(angles_TP)
        return
    gain = nice(gain, 4) if abs(gain - nice(gain, 4)) < _STILL else gain
    by = f"values are multiplied by {factor_text(gain)}: an attention factor of YaRN?"
    yield (
        _found("rope-frequencies+rope-gain", f"{title}; and {by}", len(used_P) + 1),
        fused.turned(angles_TP, gain),
    )


def _found(id_: str, title: str, numbers: int) -> Alternative:
    return Alternative(id=id_, title=title, output=np.empty((0, 0)), parameters=numbers)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fit:
    """What least squares found."""

    numbers: np.ndarray
    """Each frequency over the right one, then the gain."""
    off: np.ndarray
    """Their standard deviations."""
    left: float


def _least_squares(fused: Fused, count: int, numbers: np.ndarray) -> _Fit:
    """Levenberg's and Marquardt's steps from there, over the first `count` queries.

    What the record does not tell is drawn to the right number, by as much as it is unknown.

    Source: Marquardt, 1963, "An algorithm for least-squares estimation of nonlinear
    parameters"; the derivatives are differences.
    """
    index_T, right = np.arange(count), np.ones(len(numbers))

    def off(numbers: np.ndarray) -> np.ndarray:
        angles_TP = np.outer(index_T, numbers[:-1] * fused.frequencies)
        return fused.off(angles_TP, float(numbers[-1])).reshape(-1)

    left, damping, step, draw = off(numbers), 1e-4, 1e-6, 0.0
    for _ in range(_STEPS):
        slopes = np.stack(
            [(off(numbers + step * one) - left) / step for one in np.eye(len(numbers))], axis=1
        )
        draw = float(left @ left) / len(left) / _USUAL**2
        normal = slopes.T @ slopes + draw * np.eye(len(numbers))
        sums = slopes.T @ left + draw * (numbers - right)
        least = 1e-12 * float(np.trace(normal)) + 1e-300

        def cost(numbers: np.ndarray, left: np.ndarray, draw: float = draw) -> float:
            return float(left @ left + draw * ((numbers - right) ** 2).sum())

        before = cost(numbers, left)
        for _ in range(_STEPS):
            held = np.diag(damping * np.diag(normal) + least)
            tried = numbers - np.linalg.solve(normal + held, sums)
            then = off(tried)
            if cost(tried, then) < before:
                numbers, left, damping = tried, then, damping / 8
                break
            damping *= 8
        if not cost(numbers, left) < (1 - 1e-3) * before:
            break
    variance = float(left @ left) / len(left)
    off_N = np.sqrt(variance * np.diag(np.linalg.pinv(normal)))
    return _Fit(numbers=numbers, off=off_N, left=float(np.linalg.norm(left)))
