"""Tables, heads and places taken for others, and numbers that are parts of the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.hypotheses.numbers import whole_or_part

from .conftest import TOKENS
from .planted import attention_inputs, find_planted, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cotejar.model.language_model import LanguageModel

    from .conftest import Models

    Arrays = Mapping[str, np.ndarray]

CAUSAL = np.tril(np.ones((12, 12), bool))


def weights_of_attention(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    scores = np.where(CAUSAL, q @ k.T / 4, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return result


def attended(
    right: Arrays,
    key_head: Callable[[int], int],
    rounded: Callable[[np.ndarray], np.ndarray] = lambda weights: weights,
) -> np.ndarray:
    """Heads of 16 values; the key/value head that a query's head reads is given."""
    q, k, v = (
        a.astype(np.float64).reshape(12, -1, 16).swapaxes(0, 1) for a in attention_inputs(right)
    )
    heads = [
        rounded(weights_of_attention(q[h], k[key_head(h)])) @ v[key_head(h)]
        for h in range(len(q))
    ]
    return np.stack(heads, axis=1).reshape(12, -1)


@pytest.mark.parametrize(
    ("rounded", "cause"),
    [
        (lambda w: np.rint(w * 127) / 127, ("softmax-int8", "steps of 1/127 (int8)")),
        (lambda w: np.rint(w * 15) / 15, ("softmax-int4", "steps of 1/15 (int4)")),
        (
            lambda w: np.rint(w / w.max(1, keepdims=True) * 127)
            * w.max(1, keepdims=True)
            / 127,
            ("softmax-int8", "steps of 1/127 of the greatest of each row (int8)"),
        ),
    ],
)
def test_weights_of_attention_in_integers_are_named(
    models: Models, rounded: Callable[[np.ndarray], np.ndarray], cause: tuple[str, str]
) -> None:
    found = find_planted(
        models("llama"),
        "layer.1.attn_context",
        lambda right, _: attended(right, lambda h: h // 3, rounded),
    )

    id_, words = cause
    assert first(found) == (id_, f"the weights of attention are rounded to {words}")


@pytest.mark.parametrize(
    ("key_head", "title"),
    [
        (lambda h: h // 2 % 2, "2 neighbours read one key/value head, not 3"),
        (
            lambda h: min(h // 2, 1),
            "2 neighbours read one key/value head, not 3, the rest the last",
        ),
    ],
)
def test_the_group_s_size_and_the_number_of_heads_exchanged_are_named(
    models: Models, key_head: Callable[[int], int], title: str
) -> None:
    found = find_planted(
        models("llama"), "layer.1.attn_context", lambda right, _: attended(right, key_head)
    )

    assert first(found) == ("head-order", title)


def test_the_head_s_table_in_place_of_the_embedding_s_is_named(models: Models) -> None:
    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        return weight_of(model, "lm_head.weight")[list(TOKENS)]

    found = find_planted(models("llama"), "embed", fault)

    title = "tokens are looked up in lm_head.weight, not in model.embed_tokens.weight"
    assert first(found) == ("embedding-table", title)


@pytest.mark.parametrize(
    ("slot", "branch", "stream", "norm"),
    [
        ("attn_post_norm", "attn_out", "layer.0.output", "post_attention_layernorm"),
        ("ffn_post_norm", "ffn_out", "layer.1.attn_residual", "post_feedforward_layernorm"),
    ],
)
def test_a_norm_behind_the_sum_is_named(
    models: Models, slot: str, branch: str, stream: str, norm: str
) -> None:
    model = models("gemma3")

    def fault(right: Arrays, model: LanguageModel) -> np.ndarray:
        total = right[f"layer.1.{branch}"].astype(np.float64) + right[stream]
        root = np.sqrt(np.square(total).mean(1, keepdims=True) + model.declared.config.rms_eps)
        return total / root * weight_of(model, f"model.layers.1.{norm}.weight")[0]

    found = find_planted(model, f"layer.1.{slot}", fault)

    title = f"the norm comes after the sum with {stream}, not before it"
    assert first(found) == ("norm-after-sum", title)


def test_what_was_solved_for_in_f16_is_not_said_to_be_tf32(models: Models) -> None:
    """As many bits: a few values that fell to the other side, all known but to a rounding."""

    def fault(right: Arrays, _: LanguageModel) -> np.ndarray:
        up = right["layer.1.ffn_up"].astype(np.float64)
        waves = np.sin(np.arange(up.size)).reshape(up.shape)
        nudged = up + 5e-7 * np.sqrt(np.square(up).mean(1, keepdims=True)) * waves
        return nudged.astype(np.float16).astype(np.float64) * (1 + 1e-7 * waves)

    found = find_planted(models("qwen2"), "layer.1.ffn_up", fault)

    assert first(found) == ("output-rounded", "the output is rounded to f16")


@pytest.mark.parametrize(
    ("value", "nearest"),
    [(0.3334, 1 / 3), (2.9, 3.0), (0.9, 1 / 2), (1.2, 2.0), (0.0, 0.0), (5e-324, 5e-324)],
)
def test_a_factor_s_nearest_whole_number_or_part(value: float, nearest: float) -> None:
    assert whole_or_part(value) == nearest
