"""Rows of a cache that some passes write, read or mask wrongly; and their neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis import exact
from cotejar.diagnosis.hypotheses.rotation.positions_said import position_words

from .by_pass import (
    CAUSAL,
    KEY,
    QUERY,
    E,
    T,
    first_wrong,
    read_so,
    right_run,
    turned,
    with_context,
)
from .planted import attend, attention_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from .by_pass import Arrays, Rows
    from .conftest import Models

# --- rows in another form -----------------------------------------------------------------


def swapped(k, v, _):
    k[8:], v[8:] = v[8:].copy(), k[8:].copy()
    return k, v


def keys_for_values(k, v, _):
    v[8:] = k[8:]
    return k, v


def head_0_everywhere(k, v, _):
    heads = v.reshape(T, -1, E)
    heads[8:] = heads[8:, :1]
    return k, heads.reshape(v.shape)


def head_of_zeros(k, v, _):
    k.reshape(T, -1, E)[8:, 1] = 0
    return k, v


def turned_by_the_query(k, v, token):
    k[:token] = turned(k, token - np.arange(T))[:token]
    return k, v


def scaled_prompt(k, v, _):
    v[:8] *= 0.5
    return k, v


def int8(values: np.ndarray) -> np.ndarray:
    step = np.abs(values).max(axis=1, keepdims=True) / 127
    return np.rint(values / step) * step


def rounded_steps(k, v, _):
    k[8:] = int8(k[8:])
    return k, v


def rounded_prompt(k, v, _):
    v[:8] = int8(v[:8])
    return k, v


def rounded_but_own(k, v, token):
    k[:token], v[:token] = int8(k)[:token], int8(v)[:token]
    return k, v


FORMS: dict[str, tuple[Rows, tuple[str, str]]] = {
    "swapped": (swapped, ("key-value-swapped", "the keys and values of steps change places")),
    "keys for values": (
        keys_for_values,
        ("key-for-value", "the values of steps are the keys: those are in both"),
    ),
    "head 0 everywhere": (
        head_0_everywhere,
        ("cache-head", "the values of steps are those of head 0 in every head"),
    ),
    "a head of zeros": (head_of_zeros, ("cache-head", "the keys of steps of head 1 are zeros")),
    "turned by the query": (
        turned_by_the_query,
        (
            "rope-unused",
            "the keys that steps read are turned by the position of the query that reads "
            "them, not by their own",
        ),
    ),
    "the prompt scaled": (
        scaled_prompt,
        ("cache-scaled", "the prompt's values, to steps, are multiplied by 1/2"),
    ),
    "steps rounded": (
        rounded_steps,
        ("cache-rounded", "the keys of steps are rounded to int8 a row"),
    ),
    "the prompt rounded": (
        rounded_prompt,
        ("cache-rounded", "the prompt's values, to steps, are rounded to int8 a row"),
    ),
    "rounded but for its own": (
        rounded_but_own,
        (
            "cache-rounded",
            "keys and values that steps read are rounded to int8 a row, but for a step's own",
        ),
    ),
}


@pytest.mark.parametrize("ten", [False, True], ids=["all slots", "ten slots"])
@pytest.mark.parametrize("name", FORMS)
def test_rows_in_another_form_are_named(models: Models, name: str, ten: bool) -> None:
    model = models("llama")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    rows, (id_, title) = FORMS[name]
    context = read_so(arrays, 8, rows)

    found = first_wrong(model, trace, with_context(model, arrays, context), ten=ten)

    where = ("layer.1.attn_out", f"{title}, in layer.1.attn_context")
    assert found == ((where[0], id_, where[1]) if ten else ("layer.1.attn_context", id_, title))


# --- chunks -------------------------------------------------------------------------------


def chunk_of(start: int, end: int, change: Callable[[np.ndarray], None], *, own: bool) -> Rows:
    """Values of a chunk as the cache holds them; the chunk itself may read its own."""

    def rows(k, v, token):
        if token >= end or not own:
            change(v[start:end])
        return k, v

    return rows


def lose_all_but_the_last(values: np.ndarray) -> None:
    values[:-1] = 0


def one_over_the_other(values: np.ndarray) -> None:
    values[:1], values[1:] = values[-1:].copy(), 0


@pytest.mark.parametrize(
    ("change", "id_", "words"),
    [
        (
            lose_all_but_the_last,
            "cache-slots-unwritten",
            "are not written but for its last token's, whose own slots hold zeros",
        ),
        (
            one_over_the_other,
            "cache-written-elsewhere",
            "are written to its first slot, one over the other, whose own slots hold zeros",
        ),
    ],
)
def test_the_fifth_of_many_chunks_is_written_wrongly(
    models: Models, change: Callable[[np.ndarray], None], id_: str, words: str
) -> None:
    """Passes of 2 to token 10: however many there are, the one that is wrong is tried."""
    model = models("llama")
    trace, arrays = right_run(model, 1, 1, 2, 2, 1, 3, 1, 1)
    context = read_so(arrays, 10, chunk_of(7, 10, change, own=True))

    found = first_wrong(model, trace, with_context(model, arrays, context))

    title = f"the values of the chunk of tokens 7 to 9 {words}; it reads its own as they are"
    assert found == ("layer.1.attn_context", id_, title)


CHUNK = np.repeat([0, 1, 2, 3], [4, 3, 4, 1])
START = np.searchsorted(CHUNK, CHUNK)[:, None]
LATER = ((CHUNK > 0) & (CHUNK < 3))[:, None]
SAME = CHUNK[:, None] == CHUNK[None]
WHO = "a later chunk of the prompt"
MASKS = {
    "mask-prefix": (
        CAUSAL | (SAME & LATER),
        f"{WHO} is not masked: its tokens see those behind them in the same chunk too",
    ),
    "mask-no-past": (
        CAUSAL & (SAME | ~LATER),
        f"{WHO} sees itself alone, not the tokens before it",
    ),
    "mask-top-left": (
        np.where(LATER, KEY <= QUERY - START, CAUSAL),
        f"the mask of {WHO} leaves out where it starts: its token i sees keys 0 to i",
    ),
    "mask-off-by-one": (
        CAUSAL & ~(LATER & (KEY == START - 1)),
        f"{WHO} does not see the last token before it",
    ),
}


@pytest.mark.parametrize("id_", MASKS)
def test_a_mask_of_later_chunks_is_named(models: Models, id_: str) -> None:
    model = models("llama")
    trace, arrays = right_run(model, 4, 3, 4, 1)
    seen, title = MASKS[id_]
    context = attend(*attention_inputs(arrays), seen)

    found = first_wrong(model, trace, with_context(model, arrays, context))

    assert found == ("layer.1.attn_context", id_, title)


def test_a_mask_of_one_chunk_alone_is_no_mask_of_all(models: Models) -> None:
    model = models("llama")
    trace, arrays = right_run(model, 4, 3, 4, 1)
    seen = CAUSAL & ~((CHUNK == 2)[:, None] & (KEY == 6))
    context = attend(*attention_inputs(arrays), seen)

    site, _, title = first_wrong(model, trace, with_context(model, arrays, context))

    assert site == "layer.1.attn_context"
    assert title == "the chunk of tokens 7 to 10 does not see the last token before it"


# --- slots --------------------------------------------------------------------------------


def late_keys(k, v, token):
    k[8 : token + 1] = k[7:token]
    return k, v


def over_token_0(k, v, token):
    v[0] = v[token]
    return k, v


def over_the_one_before(k, v, token):
    v[7:token] = v[8 : token + 1]
    return k, v


def every_second(k, v, _):
    k[[8, 10]] = v[[8, 10]] = 0
    return k, v


def in_reverse(k, v, token):
    k[: token + 1] = k[: token + 1][::-1].copy()
    return k, v


def a_page_for_another(k, v, _):
    v[4:8] = v[:4]
    return k, v


SLOTS: dict[str, tuple[Rows, tuple[str, str]]] = {
    "late": (
        late_keys,
        ("cache-stale", "steps write the keys of the token before: they come one step late"),
    ),
    "over token 0": (
        over_token_0,
        (
            "cache-written-elsewhere",
            "a step's values are written over those of token 0 too",
        ),
    ),
    "over the one before": (
        over_the_one_before,
        (
            "cache-written-elsewhere",
            "a step's values are written over those of the token before too",
        ),
    ),
    "every second step": (
        every_second,
        (
            "cache-slots",
            "slots of the cache hold other rows: the keys and values of token 8 are zeros, "
            "the keys and values of token 10 are zeros",
        ),
    ),
    "in reverse": (
        in_reverse,
        ("cache-shifted", "steps read the keys in reverse order against the values"),
    ),
    "pages": (
        a_page_for_another,
        (
            "cache-slot",
            "a table of pages of 4 tokens: the values of page 0 are read in the place of "
            "page 1",
        ),
    ),
}


@pytest.mark.parametrize("name", SLOTS)
def test_slots_that_hold_other_rows_are_named(models: Models, name: str) -> None:
    model = models("llama")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    rows, cause = SLOTS[name]
    context = read_so(arrays, 8, rows)

    found = first_wrong(model, trace, with_context(model, arrays, context))

    assert found == ("layer.1.attn_context", *cause)


def test_steps_write_one_slot_late_within_a_window(models: Models) -> None:
    model = models("mistral")
    trace, arrays = right_run(model, 7, 1, 1, 1, 1, 1)

    def late(k, v, token):
        k[8 : token + 1] = k[7:token]
        k[7] = 0
        return k, v

    context = read_so(arrays, 7, late, CAUSAL & (QUERY - KEY < 5))

    found = first_wrong(model, trace, with_context(model, arrays, context))

    title = "the keys of steps are written one slot late, whose own slots hold zeros"
    assert found == ("layer.1.attn_context", "cache-written-elsewhere", title)


# --- rows that are counted ----------------------------------------------------------------


def seen_so(arrays: Arrays, first_token: int, counts: Callable[[int], list[int]]) -> np.ndarray:
    """The context, if a step finds these tokens' rows, however many; -1 for zeros."""
    q, k, v = attention_inputs(arrays)
    context = attend(q, k, v, CAUSAL)
    for token in range(first_token, T):
        rows = counts(token)
        some = [np.concatenate([a, np.zeros_like(a[:1])])[rows] for a in (k, v)]
        alone = np.repeat(q[token : token + 1], len(rows), axis=0)
        context[token] = attend(alone, *some, np.ones((len(rows), len(rows)), bool))[0]
    return context


COUNTED: dict[str, tuple[Callable[[int], list[int]], tuple[str, str]]] = {
    "evicted": (
        lambda t: [s for s in range(t + 1) if s not in (1, 4, 5)],
        ("cache-rows", "steps do not read the keys and values of tokens 1 and 4 to 5"),
    ),
    "one is there twice": (
        lambda t: [*range(t + 1), 3],
        ("cache-rows-twice", "the keys and values of token 3 are written twice"),
    ),
    "some are there twice": (
        lambda t: [*range(t + 1), 2, 3],
        ("cache-rows", "steps read the keys and values of tokens 2 to 3 twice"),
    ),
    "whole blocks": (
        lambda t: [s for s in range(t + 1) if s < (t + 1) // 4 * 4 or s == t],
        (
            "mask-blocks",
            "a step sees whole blocks of 4 slots alone, not the last that is not full, but for "
            "itself",
        ),
    ),
    "up to a multiple": (
        lambda t: [*range(t + 1), *[-1] * (-(t + 1) % 8)],
        (
            "cache-slots-unwritten",
            "steps read keys and values of all slots up to the next multiple of 8: behind "
            "their own those hold zeros",
        ),
    ),
}


@pytest.mark.parametrize("ten", [False, True], ids=["all slots", "ten slots"])
@pytest.mark.parametrize("name", COUNTED)
def test_rows_that_steps_see_are_counted(models: Models, name: str, ten: bool) -> None:
    model = models("llama")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    counts, (id_, title) = COUNTED[name]
    context = seen_so(arrays, 8, counts)

    found = first_wrong(model, trace, with_context(model, arrays, context), ten=ten)

    behind = ("layer.1.attn_out", id_, f"{title}, in layer.1.attn_context")
    assert found == (behind if ten else ("layer.1.attn_context", id_, title))


def test_a_row_that_is_no_tokens_is_told_from_one_that_is_lost(models: Models) -> None:
    model = models("llama")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    noise = np.random.default_rng(7)
    stranger = [noise.normal(0, a.std(), a.shape[1]) for a in attention_inputs(arrays)[1:]]

    def left_there(k, v, _):
        k[5], v[5] = stranger
        return k, v

    context = read_so(arrays, 8, left_there)

    site, id_, title = first_wrong(model, trace, with_context(model, arrays, context))

    assert (site, id_) == ("layer.1.attn_context", "cache-foreign")
    assert title.startswith("steps read a row that is no token's in the slot of token 5:")


def test_splits_of_the_cache_are_averaged(models: Models) -> None:
    model = models("llama")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    q, k, v = attention_inputs(arrays)
    context = attend(q, k, v, CAUSAL)
    masks = [np.where(4 * n > QUERY, KEY == QUERY, CAUSAL & (n == KEY // 4)) for n in range(3)]
    parts = [attend(q, k, v, seen) for seen in masks]
    for token in range(8, T):
        context[token] = np.mean([part[token] for part in parts[: token // 4 + 1]], axis=0)

    found = first_wrong(model, trace, with_context(model, arrays, context))

    title = (
        "steps read the cache in splits of 4 slots and take the plain mean of what those give, "
        "not one weighed by the sums of their softmax"
    )
    assert found == ("layer.1.attn_context", "softmax-not-rescaled", title)


def test_later_chunks_turn_their_keys_wrongly_and_steps_read_them(models: Models) -> None:
    """Nobody recorded the keys; those of the first pass and of steps are right."""
    model = models("llama")
    trace, arrays = right_run(model, 4, 3, 3, 1, 1)
    k = arrays["layer.1.k_rope"].copy()
    other = np.outer(np.arange(T), 500_000.0 ** (-np.arange(8) / 8))
    again = exact.join_heads(exact.turn(exact.split_heads(arrays["layer.1.k"], E), other))
    k[4:10] = again[4:10]
    context = attend(*attention_inputs({**arrays, "layer.1.k_rope": k}), CAUSAL)

    site, id_, title = first_wrong(model, trace, with_context(model, arrays, context), ten=True)

    assert (site, id_) == ("layer.1.attn_out", "rope-theta")
    assert title == (
        "theta is 500,000 and ought to be 10,000, in layer.1.k_rope, in later chunks of the "
        "prompt"
    )


# --- the embedding ------------------------------------------------------------------------


def test_steps_leave_out_the_embeddings_scale(models: Models) -> None:
    model = models("gemma3")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    scale = model.declared.config.embedding_scale
    assert scale is not None
    arrays["embed"][8:] /= scale

    found = first_wrong(model, trace, arrays)

    title = "the embedding's scale of 9.798 is left out, in the tokens fed one at a time"
    assert found == ("embed", "embedding-scale", title)


def test_logits_of_steps_have_a_temperature(models: Models) -> None:
    """Behind a softcap, where a scale before it would not be the same."""
    model = models("gemma3")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    arrays["logits"][8:] /= 1.25

    found = first_wrong(model, trace, arrays)

    title = "the logits are multiplied by 0.8, in the tokens fed one at a time"
    assert found == ("logits", "product-scaled", title)


def test_steps_use_the_queries_of_the_token_before(models: Models) -> None:
    model = models("llama")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    q, k, v = attention_inputs(arrays)
    late = np.concatenate([q[:8], q[7:-1]])
    context = attend(late, k, v, CAUSAL)

    found = first_wrong(model, trace, with_context(model, arrays, context))

    title = (
        "the keys that steps read are met by the queries of the token before: those come one "
        "step late"
    )
    assert found == ("layer.1.attn_context", "token-shifted", title)


# --- positions ----------------------------------------------------------------------------


def positions(*pieces: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.arange(start, start + count) for start, count in pieces])


@pytest.mark.parametrize("which", ["q", "k"])
def test_positions_of_steps_are_told_behind_the_projection(models: Models, which: str) -> None:
    """Queries or keys alone: nobody recorded either."""
    model = models("llama")
    trace, arrays = right_run(model, 8, 1, 1, 1, 1)
    slot = f"layer.1.{which}"
    again = turned(arrays[slot], positions((0, 8), (0, 4)))
    context = attend(*attention_inputs({**arrays, f"{slot}_rope": again}), CAUSAL)

    found = first_wrong(model, trace, with_context(model, arrays, context), ten=True)

    title = (
        "the tokens fed one at a time are turned as if from 0 on: the counter begins again, "
        f"in {slot}_rope"
    )
    assert found == ("layer.1.attn_out", "decode-position", title)


STEPS = "the tokens fed one at a time are turned as if"
CHUNKS = "each later chunk of the prompt is turned as if"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (positions((0, 10), (11, 2)), f"{STEPS} 1 position later"),
        (positions((0, 10), (8, 2)), f"{STEPS} 2 positions earlier"),
        (positions((0, 10), (10, 1), (10, 1)), f"{STEPS} all at 10: the counter does not move"),
        (
            np.array([*range(10), -10, -11]),
            "the tokens fed one at a time are turned the other way",
        ),
        (
            positions((0, 4), (0, 3), (0, 3), (10, 2)),
            f"{CHUNKS} from 0 on: positions begin again",
        ),
        (positions((0, 4), (5, 3), (8, 3), (10, 2)), f"{CHUNKS} 1 position later"),
        (
            positions((0, 4), (0, 3), (4, 3), (10, 2)),
            f"{CHUNKS} it began where the one before began",
        ),
        (
            positions((0, 4), (5, 3), (7, 3), (10, 2)),
            "the chunk of tokens 4 to 6 is turned as if 1 position later",
        ),
        (
            positions((0, 4), (6, 3), (9, 3), (12, 2)),
            "each pass after the first is turned as if 2 positions later",
        ),
        (positions((3, 4), (4, 8)), "the first pass is turned as if 3 positions later"),
        (positions((3, 10), (10, 2)), "the prompt is turned as if 3 positions later"),
        (positions((1, 12)), ""),
        (np.array([0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10, 11]), ""),
    ],
)
def test_what_wrong_positions_have_in_common(found: np.ndarray, words: str) -> None:
    assert position_words(found.tolist(), (4, 3, 3, 1, 1)) == words
