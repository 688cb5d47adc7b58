"""Attention computed wrongly: scores, mask, window, heads.

Faults of the scores and of the mask run through `attend_plainly`, float64 numpy with one
option a fault; the others hand something else to the engine's own attention.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cotejar.faults.fault import Extent, Fault, FaultyPass, Strength, in_the_pass
from cotejar.faults.needs import (
    BEYOND_MOVED_WINDOW,
    BEYOND_STRENGTH,
    BEYOND_WINDOW,
    EARLIER_TOKEN,
    GROUPED_HEADS,
    NO_WINDOW,
    SECOND_KEY,
    SEVERAL_KV_HEADS,
    WINDOW,
)
from cotejar.quant.floats import round_to_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float32, Float64

    from cotejar.faults.needs import ModelNeed, PromptNeed

    Queries = Float32[np.ndarray, "T H E"]
    Keys = Float32[np.ndarray, "S K E"]
    Scores = Float64[np.ndarray, "T S"]
    Change = Callable[[Scores], Scores]


def attend_plainly(
    q_THE: Queries,
    k_SKE: Keys,
    v_SKE: Keys,
    *,
    divisor: float,
    visible_TS: Bool[np.ndarray, "T S"],
    change_scores: Change,
    softmax: Change,
) -> Queries:
    """Attention of one query head after another, in float64.

    Args:
        q_THE: queries of the last T of S positions, after RoPE.
        k_SKE: keys, after RoPE.
        v_SKE: values.
        divisor: of the scores; sqrt(E), but for a model that says otherwise.
        visible_TS: which positions each query sees; at least one.
        change_scores: of the scores, already divided.
        softmax: scores, hidden ones -inf, to weights.
    """
    context_THE = np.empty_like(q_THE)
    queries_a_head = q_THE.shape[1] // k_SKE.shape[1]
    for head in range(q_THE.shape[1]):
        keys_SE = k_SKE[:, head // queries_a_head].astype(np.float64)
        values_SE = v_SKE[:, head // queries_a_head].astype(np.float64)
        scores_TS = q_THE[:, head].astype(np.float64) @ keys_SE.T / divisor
        scores_TS = np.where(visible_TS, change_scores(scores_TS), -np.inf)
        context_THE[:, head] = softmax(scores_TS) @ values_SE
    return context_THE


def plain_softmax(scores_TS: Scores) -> Scores:
    """Weights that sum to 1 in each row."""
    weights_TS = np.exp(scores_TS - scores_TS.max(axis=1, keepdims=True))
    total: Scores = weights_TS / weights_TS.sum(axis=1, keepdims=True)
    return total


class _OtherAttention(FaultyPass):
    """Attention of the layers that the dose covers is another function."""

    def attend(self, layer: int, q_THE: Queries, k_SKE: Keys, v_SKE: Keys) -> Queries:
        """The wrong attention where the dose says so, else the right one."""
        attend = self.wrong if self.dose.covers(layer) else self.right
        return attend(layer, q_THE, k_SKE, v_SKE)

    def right(self, layer: int, q_THE: Queries, k_SKE: Keys, v_SKE: Keys) -> Queries:
        """The engine's own."""
        return super().attend(layer, q_THE, k_SKE, v_SKE)

    def wrong(self, layer: int, q_THE: Queries, k_SKE: Keys, v_SKE: Keys) -> Queries:
        """What is computed instead."""
        raise NotImplementedError


class _PlainAttention(_OtherAttention):
    """The engine's attention in float64, with a step to get wrong."""

    def wrong(self, layer: int, q_THE: Queries, k_SKE: Keys, v_SKE: Keys) -> Queries:
        """Score, mask, weigh."""
        total = len(k_SKE)
        query_T1 = np.arange(total - len(q_THE), total)[:, None]
        key_1S = np.arange(total)[None, :]
        visible_TS = self.sees(query_T1, key_1S)
        window = self.window(layer)
        if window is not None:
            visible_TS &= query_T1 - key_1S < window
        return attend_plainly(
            q_THE,
            k_SKE,
            v_SKE,
            divisor=self.divisor,
            visible_TS=visible_TS,
            change_scores=self.change_scores,
            softmax=self.softmax,
        )

    @property
    def divisor(self) -> float:
        """What the model divides its scores by."""
        config = self.model.config
        return math.sqrt(config.query_scalar or config.head_dim)

    def sees(self, query_T1: np.ndarray, key_1S: np.ndarray) -> Bool[np.ndarray, "T S"]:
        """Which key a query sees, by position, the window aside."""
        return key_1S <= query_T1

    def window(self, layer: int) -> int | None:
        """How many positions a query sees, itself among them."""
        return self.model.config.window_of(layer)

    def change_scores(self, scores_TS: Scores) -> Scores:
        """What becomes of the scores."""
        return scores_TS

    def softmax(self, scores_TS: Scores) -> Scores:
        """Scores to weights."""
        return plain_softmax(scores_TS)


class _Scaled(_PlainAttention):
    def change_scores(self, scores_TS: Scores) -> Scores:
        return scores_TS * self.dose.strength


class _Unscaled(_PlainAttention):
    def change_scores(self, scores_TS: Scores) -> Scores:
        return scores_TS * self.divisor


class _ScaledTwice(_PlainAttention):
    def change_scores(self, scores_TS: Scores) -> Scores:
        return scores_TS / self.divisor


class _Capped(_PlainAttention):
    def change_scores(self, scores_TS: Scores) -> Scores:
        capped: Scores = self.dose.strength * np.tanh(scores_TS / self.dose.strength)
        return capped


class _RoundedWeights(_PlainAttention):
    def softmax(self, scores_TS: Scores) -> Scores:
        weights = plain_softmax(scores_TS).astype(np.float32)
        return round_to_bfloat16(weights).astype(np.float64)


class _DropsWeights(_PlainAttention):
    """Some weights are 0 and the others make up for them: a model left in training."""

    num_drawn = 0

    def softmax(self, scores_TS: Scores) -> Scores:
        share = self.dose.strength
        rng = np.random.default_rng(self.num_drawn)
        self.num_drawn += 1
        kept_TS = rng.random(scores_TS.shape) >= share
        dropped: Scores = plain_softmax(scores_TS) * kept_TS / (1 - share)
        return dropped


class _BiasedByDistance(_PlainAttention):
    """A score falls with the distance of its key: ALiBi of one slope."""

    def change_scores(self, scores_TS: Scores) -> Scores:
        tokens, keys = scores_TS.shape
        query_T1 = np.arange(keys - tokens, keys)[:, None]
        distance_TS = query_T1 - np.arange(keys)[None, :]
        biased: Scores = scores_TS - self.dose.strength * distance_TS
        return biased


class _MaskTransposed(_PlainAttention):
    def sees(self, query_T1: np.ndarray, key_1S: np.ndarray) -> Bool[np.ndarray, "T S"]:
        visible: np.ndarray = key_1S >= query_T1
        return visible


class _SoftmaxPlusOne(_PlainAttention):
    """`exp(x) / (1 + sum exp(x))`: as if one more key had the score 0."""

    def softmax(self, scores_TS: Scores) -> Scores:
        most_T1 = np.maximum(scores_TS.max(axis=1, keepdims=True), 0)
        weights_TS = np.exp(scores_TS - most_T1)
        total: Scores = weights_TS / (np.exp(-most_T1) + weights_TS.sum(axis=1, keepdims=True))
        return total


class _SeesNext(_PlainAttention):
    def sees(self, query_T1: np.ndarray, key_1S: np.ndarray) -> Bool[np.ndarray, "T S"]:
        visible: np.ndarray = key_1S <= query_T1 + 1
        return visible


class _SeesAll(_PlainAttention):
    def sees(self, query_T1: np.ndarray, key_1S: np.ndarray) -> Bool[np.ndarray, "T S"]:
        return np.ones((len(query_T1), key_1S.shape[1]), bool)


class _SeesNotItself(_PlainAttention):
    """The first token, which has nothing before it, still sees itself."""

    def sees(self, query_T1: np.ndarray, key_1S: np.ndarray) -> Bool[np.ndarray, "T S"]:
        visible: np.ndarray = key_1S < np.maximum(query_T1, 1)
        return visible


class _OtherWindow(_PlainAttention):
    def window(self, layer: int) -> int | None:
        own = super().window(layer)
        return None if own is None else max(1, own + int(self.dose.strength))


class _WindowMissing(_PlainAttention):
    def window(self, layer: int) -> int | None:
        del layer
        return None


class _WindowExtra(_PlainAttention):
    def window(self, layer: int) -> int | None:
        return super().window(layer) or int(self.dose.strength)


class _InterleavedGroups(_OtherAttention):
    """Query head h reads key/value head h mod K, where it should read h // (H / K)."""

    def wrong(self, layer: int, q_THE: Queries, k_SKE: Keys, v_SKE: Keys) -> Queries:
        kv_heads = np.arange(q_THE.shape[1]) % k_SKE.shape[1]
        return self.right(layer, q_THE, k_SKE[:, kv_heads], v_SKE[:, kv_heads])


class _ReversedGroups(_OtherAttention):
    def wrong(self, layer: int, q_THE: Queries, k_SKE: Keys, v_SKE: Keys) -> Queries:
        return self.right(layer, q_THE, k_SKE[:, ::-1], v_SKE[:, ::-1])


class _HeadsTransposed(_OtherAttention):
    """Each token's H x E values are written as E x H."""

    def wrong(self, layer: int, q_THE: Queries, k_SKE: Keys, v_SKE: Keys) -> Queries:
        context_THE = self.right(layer, q_THE, k_SKE, v_SKE)
        return np.ascontiguousarray(context_THE.swapaxes(1, 2)).reshape(context_THE.shape)


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    *,
    needs: tuple[ModelNeed, ...] = (),
    prompt_needs: tuple[PromptNeed, ...] = (SECOND_KEY,),
    strength: Strength | None = None,
    in_doubt: bool = False,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="attention",
        slot="attn_context",
        extent=Extent.EVERY_LAYER,
        needs=needs,
        prompt_needs=prompt_needs,
        strength=strength,
        in_doubt=in_doubt,
        inject=in_the_pass(kind),
    )


FACTOR = Strength(text="factor on the scores", default=1.25, least=0, most=1e6)
CAP = Strength(text="where scores are capped", default=50, least=1e-3, most=1e6)
MOVED = Strength(text="positions", default=1, least=-1e6, most=1e6, is_whole=True)
WIDTH = Strength(text="the window", default=4, least=1, most=1e6, is_whole=True)

ATTENTION_FAULTS = (
    _fault("attention-scale", "scores are too large", _Scaled, strength=FACTOR, in_doubt=True),
    _fault("attention-scale-missing", "scores are not divided by sqrt(E)", _Unscaled),
    _fault("attention-scale-twice", "scores are divided by E", _ScaledTwice),
    _fault(
        "attention-softcap",
        "scores are capped where they are not",
        _Capped,
        strength=CAP,
        in_doubt=True,
    ),
    _fault(
        "softmax-plus-one",
        "softmax adds 1 to its sum",
        _SoftmaxPlusOne,
        prompt_needs=(),
        in_doubt=True,
    ),
    _fault(
        "attention-dropout",
        "some weights of attention are dropped",
        _DropsWeights,
        prompt_needs=(SECOND_KEY,),
        strength=Strength(text="share", default=0.25, least=0, most=0.9),
        in_doubt=True,
    ),
    _fault(
        "position-bias",
        "scores fall with the distance",
        _BiasedByDistance,
        strength=Strength(text="a position", default=0.5, least=-100, most=100),
        in_doubt=True,
    ),
    _fault(
        "softmax-bf16",
        "the weights of attention are rounded to bfloat16",
        _RoundedWeights,
        in_doubt=True,
    ),
    _fault(
        "gqa-head-order",
        "query heads take key/value heads in turn",
        _InterleavedGroups,
        needs=(GROUPED_HEADS,),
        prompt_needs=(),
    ),
    _fault(
        "gqa-head-reversed",
        "key/value heads are read in reverse",
        _ReversedGroups,
        needs=(SEVERAL_KV_HEADS,),
        prompt_needs=(),
    ),
    _fault(
        "heads-transposed",
        "heads and their values change places",
        _HeadsTransposed,
        prompt_needs=(),
    ),
    _fault(
        "window-off-by-one",
        "the window is one wider",
        _OtherWindow,
        needs=(WINDOW,),
        prompt_needs=(BEYOND_MOVED_WINDOW,),
        strength=MOVED,
        in_doubt=True,
    ),
    _fault(
        "window-missing",
        "the window is not read",
        _WindowMissing,
        needs=(WINDOW,),
        prompt_needs=(BEYOND_WINDOW,),
        in_doubt=True,
    ),
    _fault(
        "window-extra",
        "a window where there is none",
        _WindowExtra,
        needs=(NO_WINDOW,),
        prompt_needs=(BEYOND_STRENGTH,),
        strength=WIDTH,
    ),
    _fault(
        "mask-off-by-one",
        "a token sees the next one",
        _SeesNext,
        prompt_needs=(EARLIER_TOKEN,),
    ),
    _fault("mask-transposed", "a token sees itself and those after it", _MaskTransposed),
    _fault("mask-missing", "a token sees all", _SeesAll, prompt_needs=(EARLIER_TOKEN,)),
    _fault(
        "mask-strict",
        "a token does not see itself",
        _SeesNotItself,
        prompt_needs=(EARLIER_TOKEN,),
    ),
)
