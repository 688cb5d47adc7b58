"""Positions by which RoPE turned, of which nobody recorded the result.

A token sees no later one, so they are found token by token: of queries and keys alike, of
queries alone, and of keys alone.

Shape letters: T tokens, N candidates, H heads, E head size, P pairs, C columns (values of
the context).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import weigh
from cotejar.diagnosis.hypotheses.rotation.position_patterns import pattern_words
from cotejar.diagnosis.hypotheses.rotation.positions_said import position_words
from cotejar.diagnosis.hypotheses.unrecorded.carried_rope import fuse
from cotejar.diagnosis.observed import cap
from cotejar.diagnosis.operations import key_heads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Int

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.hypotheses.unrecorded.carried_rope import Carry, Fused

_LATER = 16
"""Positions beyond the text that are tried."""


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
    tokens = len(fused.q)
    right_P = np.outer(np.arange(tokens), fused.frequencies)
    right = dict(zip(fused.names, fused.turned(right_P), strict=True))
    for turned in ("qk", "q", "k"):
        found_T = _found(fused, turned)
        moved = np.flatnonzero(found_T != np.arange(tokens))
        if not len(moved):
            continue
        changed = fused.turned(np.outer(found_T, fused.frequencies))
        wrong = [place for place, name in enumerate("qk") if name in turned]
        given = right | {fused.names[i]: changed[i] for i in wrong}
        output = carry(given)
        if output is None:
            continue
        where = " and ".join(fused.names[i] for i in wrong)
        passes = case.observed.trace.passes
        words = position_words(found_T.tolist(), passes)
        if words.endswith(("earlier", "later")) and turned == "qk":
            words += " against those before"
        if words:
            yield Alternative(
                id="decode-position",
                title=f"{words}, in {where}",
                output=output,
                parameters=1,
            )
        if turned != "qk":
            continue  # of one alone those that have a name are asked for: `carried_rope`
        yield Alternative(
            id="rope-positions",
            title=f"{len(moved)} of {tokens} positions are others; token {moved[0]} is turned "
            f"as if at {found_T[moved[0]]}{pattern_words(found_T)}, in {where}",
            output=output,
            parameters=2,
        )


def _found(fused: Fused, turned: str) -> Int[np.ndarray, "T"]:
    """The whole position at which each token fits best, the first one's being 0."""
    tokens, scale = len(fused.q), fused.attend.scale
    heads = list(key_heads(fused.attend, fused.q.shape[1]))
    values = exact.split_heads(fused.v, fused.attend.head_dim)[:, heads]
    visible = exact.visible_keys(tokens, fused.attend.window)
    tried_N = np.arange(tokens + _LATER)
    angles_NP = np.outer(tried_N, fused.frequencies)
    found_T = np.zeros(tokens, int)
    keys = exact.turn(fused.k[:1], np.zeros((1, len(fused.frequencies))))[:, heads]
    for token in range(1, tokens):
        queries = np.repeat(fused.q[token][None], len(tried_N), 0)
        own = np.repeat(fused.k[token][None], len(tried_N), 0)
        there_NP = np.tile(angles_NP[token], (len(tried_N), 1))
        q_NHE = exact.turn(queries, angles_NP if "q" in turned else there_NP)
        k_NHE = exact.turn(own, angles_NP if "k" in turned else there_NP)[:, heads]
        scores = np.empty((len(tried_N), len(heads), token + 1))
        scores[..., :token] = np.einsum("nhe,she->nhs", q_NHE, keys)
        scores[..., token] = (q_NHE * k_NHE).sum(axis=2)
        scores = cap(scores * scale, fused.attend.softcap)
        weights = weigh(np.where(visible[token, : token + 1], scores, -np.inf))
        context = np.einsum("nhs,she->nhe", weights, values[: token + 1])
        left_N = np.linalg.norm(
            fused.off_context(context.reshape(len(tried_N), -1), slice(token, token + 1)),
            axis=1,
        )
        found_T[token] = int(tried_N[left_N.argmin()])
        keys = np.concatenate([keys, k_NHE[found_T[token]][None]])
    return found_T
