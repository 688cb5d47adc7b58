"""Attention: scale, softcap, which keys are seen, which head reads which, K and V.

Scores, weights and the sum are recomputed for each suspect; continuous parameters (scale,
softcap) are fitted by a search over one number, and the map from query heads to key/value
heads is found head by head.

Shape letters: T tokens, Q queries that are looked at, N some of them, H heads, K key/value
heads, E head size, W = H * E.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import ROUNDINGS, UNIT
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.score_scales import scale_title
from cotejar.diagnosis.hypotheses.numbers import nice, search_number
from cotejar.diagnosis.observed import rounded_inputs
from cotejar.diagnosis.operations import Attend, Rotate, key_heads, vector
from cotejar.diagnosis.some_rows import rows_looked_at
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Case


@dataclass(frozen=True, kw_only=True, eq=False)
class _Attention:
    """One attention to explain; calling it changes what is named."""

    step: Attend
    q: Float64[np.ndarray, "T H E"]
    k: Float64[np.ndarray, "T K E"]
    v: Float64[np.ndarray, "T K E"]
    recorded: Float64[np.ndarray, "T W"]
    heads: tuple[int, ...]
    round_weights: Callable[[np.ndarray], np.ndarray]
    """As the numerics declares it."""

    limits: Float64[np.ndarray, "T"]
    """Of the local error, a token."""
    queries: Int[np.ndarray, "Q"]
    """Those that are looked at."""

    known: Float64[np.ndarray, "W R"] | None
    """Directions in which what was recorded is known; None for all."""

    @cached_property
    def sample(self) -> Int[np.ndarray, "N"]:
        """Queries that tell whether an alternative is worth all: the last, and some others."""
        queries = self.queries
        if len(queries) <= _SAMPLED_QUERIES:
            return queries
        half = _SAMPLED_QUERIES // 2
        spread = np.linspace(0, len(queries) - half - 1, half).astype(int)
        return np.concatenate([queries[spread], queries[-half:]])

    def __call__(self, *, screen: bool = True, **changes: Any) -> Float64[np.ndarray, "T W"]:
        """What comes out; NaN where a sample of a long prompt rules it out."""
        if screen and len(self.sample) < len(self.q):
            off_N = np.linalg.norm(self._off(changes), axis=1)
            size_N = np.linalg.norm(self.recorded[self.sample], axis=1)
            if not (off_N <= _WORTH * self.limits[self.sample] * size_N).all():
                return np.full(self.recorded.shape, np.nan)
        return self._attend(np.arange(len(self.q)), changes)

    def changed(self, arrays: dict[str, np.ndarray]) -> Float64[np.ndarray, "T W"]:
        """With other q, k or v, by name."""
        return self(**dict[str, Any](arrays))

    def distance(self, **changes: Any) -> float:
        """From what was recorded, over the sample."""
        off_NW = self._off(changes)
        return float(np.linalg.norm(off_NW if self.known is None else off_NW @ self.known))

    def _off(self, changes: dict[str, Any]) -> Float64[np.ndarray, "N W"]:
        off: np.ndarray = self.recorded[self.sample] - self._attend(self.sample, changes)
        return off

    def _attend(
        self, rows: Int[np.ndarray, "N"], changes: dict[str, Any]
    ) -> Float64[np.ndarray, "N W"]:
        settings: dict[str, Any] = {
            "scale": self.step.scale,
            "visible_TT": exact.visible_keys(len(self.q), self.step.window),
            "key_heads": self.heads,
            "softcap": self.step.softcap,
            "round_weights": self.round_weights,
        } | changes
        q, k, v = (settings.pop(name, getattr(self, name)) for name in "qkv")
        visible_TT = settings.pop("visible_TT")
        context = exact.attend(q[rows], k, v, visible_TT=visible_TT[rows], **settings)
        return exact.join_heads(context)


_SAMPLED_QUERIES = 32
_WORTH = 8.0
"""So many limits off, and a sample still does not rule an alternative out."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is the weighted sum of values."""
    step = case.operation.step
    if not isinstance(step, Attend):
        return
    given = rounded_inputs(step, case.inputs, case.observed.arithmetic)
    q, k, v = (exact.split_heads(a, step.head_dim) for a in given)
    attention = _Attention(
        step=step,
        q=q,
        k=k,
        v=v,
        recorded=case.recorded,
        heads=key_heads(step, q.shape[1]),
        round_weights=ROUNDINGS[case.observed.arithmetic.probabilities],
        limits=case.error.limits,
        queries=rows_looked_at(case),
        known=case.known,
    )
    yield from _masks(attention)
    yield from _scales(attention)
    yield from _head_maps(attention)
    yield from _layouts(attention)
    yield from _cache_rows(attention)
    yield from _mixed(attention, _stored_order(step))
    yield from _low_precision(case, attention)
    yield from _unturned(case, attention)


def _masks(attention: _Attention) -> Iterator[Alternative]:
    tokens, window = len(attention.q), attention.step.window
    seen = exact.visible_keys
    windows = dict.fromkeys((window, None))
    for size in windows:
        words = "" if size == window else ", and no window"
        later = seen(tokens, size) | ~seen(tokens)
        yield Alternative(
            id="mask-missing",
            output=attention(visible_TT=later),
            title=f"there is no causal mask: tokens see those after them{words}",
        )
        for ahead in (1, 2):
            yield Alternative(
                id="mask-off-by-one",
                title=f"a token sees {ahead} after itself{words}",
                output=attention(visible_TT=seen(tokens, size, ahead=ahead)),
            )
        # The window may move with the mask, or stay; the first token may see itself alone.
        for strict in (
            seen(tokens, size) & ~np.eye(tokens, dtype=bool),
            seen(tokens, None if size is None else size + 1) & ~np.eye(tokens, dtype=bool),
        ):
            first_sees = strict.copy()
            first_sees[0, 0] = True
            for mask in (strict, first_sees):
                yield Alternative(
                    id="mask-off-by-one",
                    title=f"a token does not see itself{words}",
                    output=attention(visible_TT=mask),
                )
    if window is not None and window < tokens:
        yield Alternative(
            id="window-missing",
            title=f"there is no window and ought to be one of {window}",
            output=attention(visible_TT=seen(tokens)),
        )
    for size in _window_sizes(tokens, window):
        if size != window:
            ought = "be none" if window is None else f"be {window}"
            near = window is not None and abs(size - window) == 1
            yield Alternative(
                id="window-off-by-one" if near else "window",
                title=f"a token sees a window of {size} and there ought to {ought}"
                if window is None
                else f"the window is {size} and ought to {ought}",
                output=attention(visible_TT=seen(tokens, size)),
                parameters=1,
            )
    for key in range(min(tokens - 1, 4)):
        mask = seen(tokens, window)
        mask[:, key] &= np.arange(tokens) == key
        yield Alternative(
            id="mask-key-hidden",
            title=f"later tokens do not see token {key}",
            output=attention(visible_TT=mask),
            parameters=1,
        )


_WHOLE = 1e-4
"""Relative distance of a fitted factor from a whole number, or one over one, that it is."""
_EVERY_WINDOW = 48
"""Prompts of at most so many tokens are tried with every window."""


def _window_sizes(tokens: int, window: int | None) -> list[int]:
    """All of a short prompt; of a long one, those near the right one and powers of 2."""
    if tokens <= _EVERY_WINDOW:
        return list(range(1, tokens))
    near = {2**n + d for n in range(tokens.bit_length()) for d in (-1, 0, 1)}
    near |= set() if window is None else {window + d for d in range(-4, 5)}
    near |= {2 * (window or 0), (window or 0) // 2, tokens // 2, tokens // 4}
    return sorted(size for size in near if 1 <= size < tokens)


def _scales(attention: _Attention) -> Iterator[Alternative]:
    right, e = attention.step.scale, attention.step.head_dim
    width = attention.q.shape[1] * e
    heads = attention.q.shape[1]
    listed = (
        1.0,
        1 / e,
        width**-0.5,
        heads**-0.5,
        right * np.sqrt(2),
        right / np.sqrt(2),
        right * right,
        e**0.5,
    )
    best = min(listed, key=lambda s: attention.distance(scale=s))
    fitted = search_number(lambda s: attention.distance(scale=s), right / 64, right * 64)
    whole = {right * max(round(fitted / right), 1), right / max(round(right / fitted), 1)}
    whole = {s for s in whole if abs(s / fitted - 1) < _WHOLE}
    for scale in dict.fromkeys((best, nice(fitted, 3), *whole, fitted)):
        yield Alternative(
            id="attention-scale",
            title=scale_title(scale, right),
            output=attention(scale=scale),
            parameters=1,
        )
    if attention.step.softcap is not None:
        yield Alternative(
            id="softcap-missing",
            title="the softcap of scores is left out",
            output=attention(softcap=None),
        )
    cap = search_number(lambda c: attention.distance(softcap=c), 0.5, 4096)
    for value in dict.fromkeys((nice(cap), nice(cap, 3), cap)):
        yield Alternative(
            id="softcap",
            title=f"scores are bounded by a softcap of {value:.4g}",
            output=attention(softcap=value),
            parameters=1,
        )
    yield from _bounded_to_one(attention)
    yield Alternative(
        id="attention-sink",
        title="the softmax has a 1 more below (a sink)",
        output=attention(sink=0.0),
    )


def _bounded_to_one(attention: _Attention) -> Iterator[Alternative]:
    """The hyperbolic tangent of a softcap, not times the cap: scores between -1 and 1."""
    right, own = attention.step.scale, attention.step.softcap

    def bounded(cap: float) -> dict[str, Any]:
        return {"scale": right / cap, "softcap": 1.0}

    cap = search_number(lambda c: attention.distance(**bounded(c)), 0.5, 256)
    for value in dict.fromkeys((own or nice(cap, 1), nice(cap), nice(cap, 3))):
        yield Alternative(
            id="softcap",
            title=f"scores are the tanh of a {value:.4g}th of themselves: a softcap of "
            f"{value:.4g} that does not multiply by the cap again",
            output=attention(**bounded(value)),
            parameters=1,
        )


def _head_maps(attention: _Attention) -> Iterator[Alternative]:
    heads, kv_heads = attention.q.shape[1], attention.k.shape[1]
    right = attention.heads
    many = f"{kv_heads} neighbours read one key/value head, not {heads // kv_heads}"
    named = {
        tuple(h % kv_heads for h in range(heads)): "heads take key/value heads in turn, "
        "not neighbours the same",
        tuple(kv_heads - 1 - h for h in right): "key/value heads are read in reverse",
        tuple((h + 1) % kv_heads for h in right): "every head reads the next key/value head",
        (0,) * heads: "every head reads key/value head 0",
        tuple(min(h // kv_heads, kv_heads - 1) for h in range(heads)): f"{many}, the rest "
        "the last",
        tuple(h // kv_heads % kv_heads for h in range(heads)): many,
    }
    for mapped, title in named.items():
        if mapped != right:
            yield Alternative(id="head-order", title=title, output=attention(key_heads=mapped))
            for one, other in ((mapped, right), (right, mapped)):
                which = "keys" if one is mapped else "values"
                yield Alternative(
                    id="head-order",
                    title=f"{title} (of {which} alone)",
                    output=attention(key_heads=one, value_heads=other),
                )
    if kv_heads > 1:
        found = _nearest_heads(attention)
        if found != right:
            differ = [h for h in range(heads) if found[h] != right[h]]
            yield Alternative(
                id="head-order",
                title=f"{len(differ)} of {heads} heads read another key/value head: head "
                f"{differ[0]} reads {found[differ[0]]}, not {right[differ[0]]}",
                output=attention(key_heads=found),
                parameters=len(differ),
            )


def _nearest_heads(attention: _Attention) -> tuple[int, ...]:
    recorded_THE = exact.split_heads(attention.recorded, attention.step.head_dim)
    heads, kv_heads = attention.q.shape[1], attention.k.shape[1]
    distances = np.empty((kv_heads, heads))
    for kv_head in range(kv_heads):
        output = exact.split_heads(
            attention(screen=False, key_heads=(kv_head,) * heads), attention.step.head_dim
        )
        off_THE = (recorded_THE - output)[attention.queries]
        distances[kv_head] = np.linalg.norm(off_THE, axis=(0, 2))
    return tuple(int(h) for h in distances.argmin(axis=0))


def _layouts(attention: _Attention) -> Iterator[Alternative]:
    """Heads laid out another way, and no attention at all."""
    q, v, tokens = attention.q, attention.v, len(attention.q)
    e = attention.step.head_dim
    right_THE = exact.split_heads(attention(screen=False), e)
    flat_q = exact.join_heads(q).reshape(tokens, e, -1).transpose(0, 2, 1)
    for id_, title, output in (
        (
            "head-layout",
            "heads are laid out values first (E x H, not H x E)",
            right_THE.transpose(0, 2, 1).reshape(tokens, -1),
        ),
        (
            "head-layout",
            "heads are laid out before tokens",
            right_THE.transpose(1, 0, 2).reshape(tokens, -1),
        ),
        ("head-layout", "q is split into heads values first", attention(q=flat_q)),
        (
            "value-only",
            "every token gets its own value: there is no attention",
            exact.join_heads(v[:, list(attention.heads)]),
        ),
        ("value-mean", "all keys weigh the same", attention(scale=0.0)),
    ):
        yield Alternative(id=id_, title=title, output=output)


def _stored_order(step: Attend) -> np.ndarray | None:
    """Of a head's values, where each half-split one is stored."""
    return None if step.key_order is None else np.array(step.key_order[: step.head_dim])


def _mixed(attention: _Attention, order: np.ndarray | None) -> Iterator[Alternative]:
    """Keys for values: which of them is in which order decides what comes out."""
    orders: list[np.ndarray | None] = [None]
    orders += [] if order is None else [np.argsort(order)]
    for back in orders:
        q, k, v = attention.q, attention.k, attention.v
        if back is not None:  # as they are stored, which is how values are read
            q, k = q[..., back], k[..., back]
        for id_, title, output in (
            ("key-value-swapped", "keys and values change places", attention(q=q, k=v, v=k)),
            ("key-for-value", "keys are summed in place of values", attention(v=k)),
            ("value-for-key", "values are scored in place of keys", attention(q=q, k=v)),
            (
                "query-for-key",
                "the first heads of q are scored in place of keys",
                attention(k=q[:, : k.shape[1]]),
            ),
        ):
            yield Alternative(id=id_, title=title, output=output)


_FEW_ROWS = 8
"""Tokens at each end of the prompt whose cache rows are suspected one by one."""


def _cache_rows(attention: _Attention) -> Iterator[Alternative]:
    """Rows of the cache shifted, stale, or never written."""
    k, v, tokens = attention.k, attention.v, len(attention.q)
    late = np.maximum(np.arange(tokens) - 1, 0)
    early = np.minimum(np.arange(tokens) + 1, tokens - 1)
    ends = sorted(
        {*range(1, min(tokens, _FEW_ROWS)), *range(max(1, tokens - _FEW_ROWS), tokens)}
    )
    for which in ("k", "v", "kv"):
        rows = {"k": k, "v": v}
        for words, index in (("before", late), ("after", early)):
            moved = {name: rows[name][index] for name in which}
            yield _cache(
                attention, which, "cache-shifted", f"are those of the token {words}", moved
            )
        for step in (1, -1):
            rolled = {name: np.roll(rows[name], step, axis=0) for name in which}
            yield _cache(
                attention, which, "cache-shifted", "are shifted by one, around", rolled
            )
        empty_first = {name: rows[name][late].copy() for name in which}
        for name in which:
            empty_first[name][0] = 0
        yield _cache(
            attention, which, "cache-shifted", "are one late, behind zeros", empty_first
        )
        for token in ends:
            stale = {name: rows[name].copy() for name in which}
            for name in which:
                stale[name][token] = rows[name][token - 1]
            yield _cache(
                attention,
                which,
                "cache-stale",
                f"of token {token} are those of the token before",
                stale,
            )
        for count in range(1, min(tokens, _FEW_ROWS + 1)):
            for where, words in ((slice(0, count), "first"), (slice(-count, None), "last")):
                zeroed = {name: rows[name].copy() for name in which}
                for name in which:
                    zeroed[name][where] = 0
                yield _cache(
                    attention,
                    which,
                    "cache-empty",
                    f"of the {words} {count} tokens are 0",
                    zeroed,
                )


def _low_precision(case: Case, attention: _Attention) -> Iterator[Alternative]:
    """Scores or weights of attention in a low precision."""
    for how in ("f16", "bf16"):
        rounded = ROUNDINGS[how]
        for title, stages in (
            ("scores are", {"round_scores": rounded}),
            ("the weights of attention are", {"round_weights": rounded}),
            (
                "scores and the weights of attention are",
                {"round_scores": rounded, "round_weights": rounded},
            ),
        ):
            output = case.but_for_ties(attention(screen=False, **stages), UNIT[how])
            yield Alternative(
                id=f"softmax-{how}", title=f"{title} rounded to {how}", output=output
            )
            last = case.but_for_ties(rounded(output), UNIT[how])
            yield Alternative(
                id=f"softmax-{how}",
                title=f"{title} rounded to {how}, the output too",
                output=last,
            )


def _cache(
    attention: _Attention,
    which: str,
    id_: str,
    words: str,
    moved: dict[str, np.ndarray],
) -> Alternative:
    name = {"k": "keys", "v": "values", "kv": "keys and values"}[which]
    return Alternative(id=id_, title=f"{name} {words}", output=attention.changed(moved))


def _unturned(case: Case, attention: _Attention) -> Iterator[Alternative]:
    """Q or k from before RoPE, or turned once more."""
    layer, e = case.operation.site.layer, attention.step.head_dim
    truth = case.observed.truth
    before: dict[str, list[np.ndarray]] = {}
    for name in "qk":
        array = case.recorded_at(Site(name, layer))
        step = truth.operations[str(Site(f"{name}_rope", layer))].step
        size = getattr(attention, name).size
        if array is None or array.size != size or not isinstance(step, Rotate):
            continue
        heads = exact.split_heads(array, e)
        before[name] = [heads]
        if step.norm is not None:
            weight_E = vector(truth.weights, step.norm.weight)
            before[name].append(exact.rms_norm(heads, weight_E, step.norm.eps))
    sets: Sequence[str] = ("q", "k", "qk")
    for names in sets:
        if not all(name in before for name in names):
            continue
        for index in range(min(len(before[name]) for name in names)):
            yield Alternative(
                id="rope-unused",
                title=f"attention takes {' and '.join(names)} from before RoPE",
                output=attention.changed({name: before[name][index] for name in names}),
            )
