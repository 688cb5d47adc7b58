"""Attention by another formula is named: masks that do not mask, other softmaxes and rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import attention_inputs, find_planted, first

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Models

SITE = "layer.1.attn_context"
CAUSAL = np.tril(np.ones((12, 12), bool))


def softmax(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def heads_of(right) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values of 6 heads of 16, as (heads, tokens, 16)."""
    q, k, v = (a.astype(np.float64).reshape(12, -1, 16) for a in attention_inputs(right))
    k, v = (np.repeat(a, 6 // a.shape[1], axis=1) for a in (k, v))
    return tuple(a.transpose(1, 0, 2) for a in (q, k, v))  # type: ignore[return-value]  # three


def weighed(weights_of: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """`weights_of` makes weights (heads, queries, keys) of scores."""

    def fault(right, _):
        q, k, v = heads_of(right)
        context = weights_of(q @ k.transpose(0, 2, 1) / 4) @ v
        return context.transpose(1, 0, 2).reshape(12, -1)

    return fault


def hidden(scores: np.ndarray) -> np.ndarray:
    return np.where(CAUSAL, scores, -np.inf)


def of_tiles(scores: np.ndarray) -> np.ndarray:
    """Of an online softmax over tiles of 4 keys, whose sum of values is not rescaled."""
    seen = hidden(scores)
    weights, total = np.zeros_like(seen), np.zeros((6, 12, 1))
    greatest = np.full((6, 12, 1), -np.inf)
    for start in range(0, 12, 4):
        tile = seen[..., start : start + 4]
        then = np.maximum(greatest, tile.max(axis=2, keepdims=True))
        weights[..., start : start + 4] = np.exp(tile - then)
        total = total * np.exp(greatest - then) + np.exp(tile - then).sum(axis=2, keepdims=True)
        greatest = then
    return weights / total


def strongest(scores: np.ndarray) -> np.ndarray:
    seen = hidden(scores)
    fourth = -np.sort(-seen, axis=2)[..., 3:4]
    return softmax(np.where(seen >= fourth, seen, -np.inf))


def gated(right, _):
    q, k, v = heads_of(right)
    context = softmax(hidden(q @ k.transpose(0, 2, 1) / 4)) @ v
    gate = 1 / (1 + np.exp(-right["layer.1.q_rope"].astype(np.float64)))
    return context.transpose(1, 0, 2).reshape(12, -1) * gate


def turned_values(right, _):
    q, k, v = heads_of(right)
    angles = np.outer(np.arange(12), 10_000.0 ** (-np.arange(8) / 8))
    a, b = v[..., :8], v[..., 8:]
    v = np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], 2
    )
    context = softmax(hidden(q @ k.transpose(0, 2, 1) / 4)) @ v
    return context.transpose(1, 0, 2).reshape(12, -1)


def unturned_keys_as_values(right, _):
    q, k, _ = heads_of(right)
    plain = right["layer.1.k"].astype(np.float64).reshape(12, -1, 16)
    plain = np.repeat(plain, 3, axis=1).transpose(1, 0, 2)
    context = softmax(hidden(q @ k.transpose(0, 2, 1) / 4)) @ plain
    return context.transpose(1, 0, 2).reshape(12, -1)


POSITION = 1 + 0.1 * np.log(1 + np.arange(12))[:, None]
CASES = {
    "additive": (weighed(lambda s: softmax(np.where(CAUSAL, s, s - 4))),
                 ("mask-too-weak", "the mask takes 4 from the scores of hidden keys, which "
                  "stay visible")),
    "zeroed": (weighed(lambda s: softmax(np.where(CAUSAL, s, 0.0))),
               ("mask-zeroed", "scores of hidden keys are set to 0, not to minus infinity")),
    "after the softmax": (weighed(lambda s: np.where(CAUSAL, softmax(s), 0.0)),
                          ("mask-after-softmax",
                           "the mask comes after the softmax: weights do not sum to 1")),
    "over heads": (weighed(lambda s: np.where(CAUSAL, softmax(s, axis=0), 0.0)),
                   ("softmax-form",
                    "the softmax is taken over the heads, not over the keys")),
    "of base 2": (weighed(lambda s: softmax(hidden(s * np.log(2)))),
                  ("softmax-form", "the softmax is of base 2, not of base e")),
    "tiles": (weighed(of_tiles),
              ("softmax-not-rescaled", "attention in tiles of 4 keys: the sum of values is not "
               "rescaled when a greater score comes")),
    "top 4": (weighed(strongest),
              ("attention-top-k", "only the 4 highest scores of a query are kept")),
    "temperature": (weighed(lambda s: softmax(hidden(s * POSITION))),
                    ("attention-temperature", "scores are scaled by a number of each token's "
                     "own, 1.069 to 1.248: a temperature by position")),
    "gate": (gated, ("attention-gated",
                     "the context is multiplied by the sigmoid of the query")),
    "values turned": (turned_values, ("rope-on-values", "values are turned as keys are")),
    "plain keys": (unturned_keys_as_values,
                   ("key-for-value", "keys from before RoPE are summed in place of values")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_another_formula_is_named(models: Models, name: str) -> None:
    fault, cause = CASES[name]

    found = find_planted(models("qwen2"), SITE, fault)

    assert first(found) == cause


def last_token_alone(right, _):
    """The last query finds the keys of all others as they were before RoPE."""
    q, k, v = heads_of(right)
    plain = right["layer.1.k"].astype(np.float64).reshape(12, -1, 16)
    plain = np.repeat(plain, 3, axis=1).transpose(1, 0, 2).copy()
    plain[:, 11] = k[:, 11]
    scores = hidden(q @ k.transpose(0, 2, 1) / 4)
    scores[:, 11] = (q[:, 11, None] @ plain.transpose(0, 2, 1) / 4)[:, 0]
    return (softmax(scores) @ v).transpose(1, 0, 2).reshape(12, -1)


def overwritten_at_the_end(right, _):
    """For the last query alone slot 6 holds the last token's rows."""
    q, k, v = heads_of(right)
    context = softmax(hidden(q @ k.transpose(0, 2, 1) / 4)) @ v
    k, v = k.copy(), v.copy()
    k[:, 6], v[:, 6] = k[:, 11], v[:, 11]
    last = softmax(q[:, 11:] @ k.transpose(0, 2, 1) / 4) @ v
    context[:, 11:] = last
    return context.transpose(1, 0, 2).reshape(12, -1)


@pytest.mark.parametrize(
    ("fault", "id_", "title"),
    [
        (
            last_token_alone,
            "rope-unused",
            "1 of 12 queries read the keys of tokens before them as they were before RoPE, "
            "the first 11",
        ),
        (
            overwritten_at_the_end,
            "cache-slot",
            "from token 11 on the slot of token 6 in the cache holds those of token 11 (keys "
            "and values) (a step: each token from 11 on)",
        ),
    ],
)
def test_what_the_last_token_alone_finds_is_named(
    models: Models, fault, id_: str, title: str
) -> None:
    """A trace that says nothing of a cache may be of a program that has one."""
    found = find_planted(models("qwen2"), SITE, fault)

    assert first(found) == (id_, title)
