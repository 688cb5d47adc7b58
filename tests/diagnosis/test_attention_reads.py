"""What attention read in place of what it ought to is named: keys, heads, slots, layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import attend, attention_inputs, find_planted, first

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Models

QUERY, KEY = np.arange(12)[:, None], np.arange(12)[None, :]
CAUSAL = KEY <= QUERY


def masked(seen: np.ndarray) -> Callable[..., np.ndarray]:
    return lambda right, model: attend(*attention_inputs(right), seen)


def changed(change: Callable[..., tuple[np.ndarray, ...]]) -> Callable[..., np.ndarray]:
    """`change` gives q, k and v by head from the right ones."""

    def fault(right, model):
        by_head = (a.reshape(len(a), -1, 16) for a in attention_inputs(right))
        return attend(*(a.reshape(12, -1) for a in change(*by_head)), CAUSAL)

    return fault


def put(values: np.ndarray, slot: int, row: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[slot] = row
    return values


def head_two_sharper(q, k, v):
    q = q.astype(np.float64)
    q[:, 2] *= 1.25
    return q, k, v


CASES = {
    "chunks": (masked(CAUSAL & (QUERY // 5 == KEY // 5)),
               ("mask-chunks", "a token sees its own chunk of 5 tokens alone")),
    "prefix": (masked(CAUSAL | ((QUERY < 4) & (KEY < 4))),
               ("mask-prefix",
                "the first 4 tokens see each other, those after them too (a prefix)")),
    "aligned top left": (masked(np.where(QUERY >= 7, KEY <= QUERY - 7, CAUSAL)),
                         ("mask-top-left", "the mask of the tokens from 7 on starts at key 0: "
                          "it is aligned top left")),
    "sinks and a window": (masked(CAUSAL & ((QUERY - KEY < 3) | (KEY < 2))),
                           ("window-sinks",
                            "a token sees a window of 3 and the first 2 tokens")),
    "a chunk without its past": (masked(CAUSAL & ((QUERY < 3) | (KEY >= 3))),
                                 ("mask-no-past", "the tokens from 3 on do not see those "
                                  "before (a chunk without its past)")),
    "one key too many": (masked(CAUSAL | ((QUERY == 5) & (KEY == 6))),
                         ("mask-keys",
                          "a mask of some tokens is wrong: token 5 sees key 6 as well")),
    "a head's values": (changed(lambda q, k, v: (q, k, v * np.array([1, 0])[None, :, None])),
                        ("head-zero", "key/value head 1 gives 0: its values are 0")),
    "query heads exchanged": (changed(lambda q, k, v: (q[:, [0, 1, 2, 4, 3, 5]], k, v)),
                              ("head-order",
                               "2 of 6 heads read another: head 3 reads query head 4")),
    "one head sharper": (changed(head_two_sharper),
                         ("head-scaled", "scores of head 2 are multiplied by 1.25")),
    "slot overwritten": (changed(lambda q, k, v: (q, put(k, 3, k[9]), put(v, 3, v[9]))),
                         ("cache-slot", "the keys and values of token 3 in the cache are "
                          "those of token 9")),
    "slot of keys empty": (changed(lambda q, k, v: (q, put(k, 5, 0 * k[5]), v)),
                           ("cache-slot", "the keys of token 5 in the cache are 0")),
    "values laid out by head": (
        changed(lambda q, k, v: (q, k, v.transpose(1, 0, 2).reshape(v.shape))),
        ("cache-layout", "the values are written as heads x tokens x values and read as "
         "tokens x heads x values")),
    "cache of the layer before": (
        lambda right, model: attend(attention_inputs(right)[0],
                                    *attention_inputs(right, 0)[1:], CAUSAL),
        ("cache-other-layer", "the keys and values are those of layer 0")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_attention_read_is_named(models: Models, name: str) -> None:
    fault, cause = CASES[name]

    found = find_planted(models("qwen2"), "layer.1.attn_context", fault)

    assert first(found) == cause
    assert found.causes[0].residual_after <= 3 * found.causes[0].limit
