"""A cache that is laid out, copied, reused or written too late; biases that steps leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.hypotheses.attention.attended import weigh

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
from .conftest import TOKENS, run
from .planted import attend, attention_inputs

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel

    from .by_pass import Rows
    from .conftest import Models

TEN = pytest.mark.parametrize("ten", [False, True], ids=["all slots", "ten slots"])


def named(
    models: Models,
    passes: tuple[int, ...],
    rows: Rows,
    *,
    ten: bool = False,
    model: str = "llama",
    seen: np.ndarray = CAUSAL,
) -> tuple[str, str]:
    """Id and title, if every token behind the first pass reads what `rows` makes."""
    opened = models(model)
    trace, arrays = right_run(opened, *passes)
    context = read_so(arrays, passes[0], rows, seen)
    site, id_, title = first_wrong(
        opened, trace, with_context(opened, arrays, context), ten=ten
    )
    assert site == ("layer.1.attn_out" if ten else "layer.1.attn_context")
    return id_, title.removesuffix(", in layer.1.attn_context")


# --- read before it is written ------------------------------------------------------------

PASSES = (4, 3, 3, 1, 1)
START = np.repeat(np.cumsum((0, *PASSES[:-1])), PASSES)


@TEN
def test_passes_read_before_they_write(models: Models, ten: bool) -> None:
    """Chunks as well as steps; what a pass has stored is there for those behind it."""

    def too_soon(k, v, token):
        k[START[token] :] = v[START[token] :] = 0
        return k, v

    title = (
        "each pass after the first reads the keys and values in the cache before its own are "
        "written: their slots hold zeros"
    )
    assert named(models, PASSES, too_soon, ten=ten) == ("cache-stale", title)


def test_chunks_alone_read_before_they_write(models: Models) -> None:
    def too_soon(k, v, token):
        if token < 10:
            v[START[token] :] = 0
        return k, v

    title = (
        "each later chunk of the prompt reads the values in the cache before its own are "
        "written: their slots hold zeros"
    )
    assert named(models, PASSES, too_soon) == ("cache-stale", title)


def test_a_pass_that_never_writes_is_none_that_reads_too_soon(models: Models) -> None:
    def never(k, v, _):
        v[4:10] = 0
        return k, v

    title = (
        "the values of each later chunk of the prompt are written nowhere, whose own slots "
        "hold zeros"
    )
    assert named(models, PASSES, never) == ("cache-written-elsewhere", title)


def test_a_query_that_finds_no_row_weighs_none() -> None:
    """A chunk that is longer than the window would find none without its own rows."""
    context = weigh(np.empty((2, 0))) @ np.empty((0, 3))

    assert context.tolist() == [[0.0] * 3] * 2


# --- layouts ------------------------------------------------------------------------------


def rows_to_heads(rows: np.ndarray, slots: int) -> np.ndarray:
    """Written position by position, read head by head, in so many slots."""
    heads = rows.shape[1] // E
    flat = np.zeros((slots * heads, E))
    flat[: rows.size // E] = rows.reshape(-1, E)
    return flat.reshape(heads, slots, E).swapaxes(0, 1).reshape(slots, -1)[: len(rows)]


def heads_to_rows(rows: np.ndarray, slots: int) -> np.ndarray:
    """Written head by head, read position by position."""
    heads = rows.shape[1] // E
    buffer = np.zeros((heads, slots, E))
    buffer[:, : len(rows)] = rows.reshape(len(rows), -1, E).swapaxes(0, 1)
    return buffer.reshape(slots, -1)[: len(rows)]


RIGHT, BY_HEAD = "tokens x heads x values", "heads x tokens x values"
READ_BY_HEAD = f"are written as {RIGHT} and read as {BY_HEAD}"
WRITTEN_BY_HEAD = f"are written as {BY_HEAD} and read as {RIGHT}"
GROWS = "in a buffer as long as the cache is then"
LAYOUTS = {
    "read by head": (rows_to_heads, None, f"{READ_BY_HEAD}, {GROWS}"),
    "written by head": (heads_to_rows, None, f"{WRITTEN_BY_HEAD}, {GROWS}"),
    "read by head, 16 slots": (rows_to_heads, 16, f"{READ_BY_HEAD}, in a buffer of 16 slots"),
    "written by head, 12 slots": (
        heads_to_rows,
        12,
        f"{WRITTEN_BY_HEAD}, in a buffer of 12 slots",
    ),
}


@TEN
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_cache_is_read_in_another_order(models: Models, name: str, ten: bool) -> None:
    """At every step in a buffer of another length, if that grows."""
    mixed, slots, words = LAYOUTS[name]

    def rows(k, v, token):
        n = token + 1
        k[:n], v[:n] = (mixed(a[:n], slots or n) for a in (k, v))
        return k, v

    found = named(models, (8, 1, 1, 1, 1), rows, ten=ten)

    assert found == ("cache-layout", f"the keys and values that steps read {words}")


def test_a_steps_own_values_are_beside_a_cache_in_another_order(models: Models) -> None:
    def rows(k, v, token):
        v[:token] = rows_to_heads(v[: token + 1], token + 1)[:token]
        return k, v

    found = named(models, (8, 1, 1, 1, 1), rows)

    title = f"the values that steps read {READ_BY_HEAD}, {GROWS}, but for a step's own"
    assert found == ("cache-layout", title)


# --- prefixes -----------------------------------------------------------------------------


def int8(values: np.ndarray) -> np.ndarray:
    step = np.abs(values).max(axis=1, keepdims=True) / 127
    return np.rint(values / step) * step


def three_moved(k, v, _):
    k[:3] = turned(k, np.full(T, 5))[:3]
    return k, v


def first_pass_moved(k, v, _):
    k[:6] = turned(k, np.full(T, -7))[:6]
    return k, v


def all_moved(k, v, token):
    k[:token] = turned(k, np.full(T, 1))[:token]
    return k, v


def four_rounded(k, v, _):
    v[:4] = int8(v)[:4]
    return k, v


def four_empty(k, v, _):
    k[:4] = v[:4] = 0
    return k, v


PREFIXES: dict[str, tuple[Rows, tuple[str, str]]] = {
    "three moved": (
        three_moved,
        (
            "rope-positions",
            "the keys of the first 3 tokens, to steps, are turned as if 5 positions later",
        ),
    ),
    "the first pass moved": (
        first_pass_moved,
        (
            "rope-positions",
            "the keys of the first pass, to those behind, are turned as if 7 positions earlier",
        ),
    ),
    "all but its own moved": (
        all_moved,
        (
            "rope-positions",
            "the keys that steps read, but for a step's own, are turned as if 1 position later",
        ),
    ),
    "four rounded": (
        four_rounded,
        (
            "cache-rounded",
            "the values of the first 4 tokens, to steps, are rounded to int8 a row",
        ),
    ),
    "four empty": (
        four_empty,
        (
            "cache-slots-unwritten",
            "the keys and values of the first 4 tokens are zeros to steps",
        ),
    ),
}


@TEN
@pytest.mark.parametrize("name", PREFIXES)
def test_a_prefix_in_another_form_is_named(models: Models, name: str, ten: bool) -> None:
    rows, cause = PREFIXES[name]

    assert named(models, (6, 1, 1, 1, 1, 1, 1), rows, ten=ten) == cause


def test_a_prefix_is_read_by_chunks_too(models: Models) -> None:
    found = named(models, (5, 3, 2, 1, 1), three_moved)

    title = (
        "the keys of the first 3 tokens, to the passes behind, are turned as if 5 positions "
        "later"
    )
    assert found == ("rope-positions", title)


def of_another_prompt(model: LanguageModel, layer: int) -> Rows:
    """The first four rows are of a prompt that begins with other tokens."""
    other = run(model, "f32", tokens=(7, 212, 90, 51, *TOKENS[4:])).arrays

    def rows(k, v, _):
        k[:4], v[:4] = (other[f"layer.{layer}.{slot}"][:4] for slot in ("k_rope", "v"))
        return k, v

    return rows


def test_a_prefix_of_another_prompt_is_named_by_its_tokens(models: Models) -> None:
    """In the first layer a row is a function of its token and its place."""
    model = models("qwen2")
    trace, arrays = right_run(model, 6, 3, 1, 1, 1)
    below = {f"layer.1.{n}": arrays[f"layer.0.{n}"] for n in ("q_rope", "k_rope", "v")}
    context = read_so(below, 6, of_another_prompt(model, 0))
    arrays["layer.0.attn_context"] = context

    found = first_wrong(model, trace, arrays)

    title = (
        "the keys and values of the first 4 tokens, to the passes behind, are those of the ids "
        "7, 212, 90, 51: another prompt's?"
    )
    assert found == ("layer.0.attn_context", "cache-foreign", title)


def test_a_prefix_of_another_prompt_is_not_guessed_in_a_later_layer(models: Models) -> None:
    """There a row is made of all before it: no token's name is put on it."""
    model = models("qwen2")
    trace, arrays = right_run(model, 6, 3, 1, 1, 1)
    context = read_so(arrays, 6, of_another_prompt(model, 1))

    site, _, title = first_wrong(model, trace, with_context(model, arrays, context))

    assert site == "layer.1.attn_context"
    assert "ids" not in title


# --- a ring -------------------------------------------------------------------------------


def ring_of(held: dict[int, int]) -> Rows:
    """Slot by slot a ring of 5; steps write to their position modulo 5 and read all."""

    def rows(k, v, token):
        now = dict(held)
        for step in range(7, token + 1):
            now[step % 5] = step
        for array in (k, v):
            array[token - 4 : token + 1] = array[sorted(now.values())].copy()
        return k, v

    return rows


def test_a_prompt_is_copied_to_a_ring_from_slot_0_on(models: Models) -> None:
    """Rows 2 to 6 stand in slots 0 to 4, and step 7 writes to slot 2."""
    seen = CAUSAL & (QUERY - KEY < 5)
    rows = ring_of({slot: 2 + slot for slot in range(5)})

    found = named(models, (7, 1, 1, 1, 1, 1), rows, model="mistral", seen=seen)

    title = (
        "the prompt's last 5 keys and values stand in slots 0 to 4 of the ring, and a step "
        "writes its own to its position modulo 5: those of token 4 go first, those of 2 to 3 "
        "stay"
    )
    assert found == ("cache-ring", title)


def test_a_ring_that_starts_again_is_none_that_the_prompt_was_copied_to(
    models: Models,
) -> None:
    seen = CAUSAL & (QUERY - KEY < 5)

    def again(k, v, token):
        held = {p % 5: p for p in range(7)} | {(p - 7) % 5: p for p in range(7, token + 1)}
        for array in (k, v):
            array[token - 4 : token + 1] = array[sorted(held.values())].copy()
        return k, v

    found = named(models, (7, 1, 1, 1, 1, 1), again, model="mistral", seen=seen)

    title = "a ring of 5 slots, and steps write their keys and values from slot 0 on again"
    assert found == ("cache-ring", title)


# --- biases -------------------------------------------------------------------------------


def biases_of(model: LanguageModel) -> dict[str, np.ndarray]:
    names = {n: f"model.layers.1.self_attn.{n}_proj.bias" for n in "qkv"}
    weights = model.declared.weights
    return {n: weights.vector(name).astype(np.float64) for n, name in names.items()}


@pytest.mark.parametrize("ten", [False, True], ids=["all slots", "ten slots"])
def test_steps_leave_out_their_biases(models: Models, ten: bool) -> None:
    """Nobody need have recorded what is turned: the search looks behind the turning."""
    model = models("qwen2")
    trace, arrays = right_run(model, 6, 1, 1, 1, 1, 1, 1)
    biases = biases_of(model)
    for name, bias in biases.items():
        arrays[f"layer.1.{name}"][6:] -= bias
    arrays["layer.1.qkv"] = np.concatenate([arrays[f"layer.1.{n}"] for n in "qkv"], axis=1)
    for name in "qk":
        arrays[f"layer.1.{name}_rope"] = turned(arrays[f"layer.1.{name}"], np.arange(T))
    context = attend(*attention_inputs(arrays), CAUSAL)

    found = first_wrong(model, trace, with_context(model, arrays, context), ten=ten)

    title = (
        "the bias model.layers.1.self_attn.q_proj.bias is left out, in the tokens fed one at a "
        "time"
    )
    assert found == ("layer.1.q", "bias-missing", title)


@pytest.mark.parametrize("ten", [False, True], ids=["all slots", "ten slots"])
def test_steps_add_a_bias_behind_the_turning(models: Models, ten: bool) -> None:
    """The neighbour: the same at the product, and the bias is there behind it."""
    model = models("qwen2")
    trace, arrays = right_run(model, 6, 1, 1, 1, 1, 1, 1)
    bias = biases_of(model)["k"]
    arrays["layer.1.k"][6:] -= bias
    arrays["layer.1.qkv"] = np.concatenate([arrays[f"layer.1.{n}"] for n in "qkv"], axis=1)
    arrays["layer.1.k_rope"] = turned(arrays["layer.1.k"], np.arange(T))
    arrays["layer.1.k_rope"][6:] += bias
    context = attend(*attention_inputs(arrays), CAUSAL)

    found = first_wrong(model, trace, with_context(model, arrays, context), ten=ten)

    title = (
        "the bias model.layers.1.self_attn.k_proj.bias is added after RoPE, and ought to be "
        "before, in the tokens fed one at a time"
    )
    assert found == ("layer.1.k", "bias-after-rope", title)
