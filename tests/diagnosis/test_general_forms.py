"""Tables, other layouts of a weight, head norms of any kind, and differences without a form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.quant.floats import round_to_bfloat16

from .conftest import TOKENS
from .planted import attend, attention_inputs, find_planted, first, weight_of

if TYPE_CHECKING:
    from .conftest import Models

CAUSAL = np.tril(np.ones((12, 12), bool))
UP = "model.layers.1.mlp.up_proj.weight"


def to_bf16(values: np.ndarray) -> np.ndarray:
    return round_to_bfloat16(np.ascontiguousarray(values, np.float32)).astype(np.float64)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


# --- the feed-forward -------------------------------------------------------------------


def by_table(right, _):
    gate = right["layer.1.ffn_gate"].astype(np.float64)
    return silu(np.clip(np.rint(gate / 0.0625) * 0.0625, -4, 4))


def by_table_half_up(right, _):
    """Inputs in the middle of two steps fall to the upper one, and not to the even one."""
    gate = np.rint(right["layer.1.ffn_gate"].astype(np.float64) * 32) / 32
    right["layer.1.ffn_gate"][:] = gate
    return silu(np.clip(np.floor(gate / 0.0625 + 0.5) * 0.0625, -4, 4))


def other_cubic(right, _):
    x = right["layer.1.ffn_gate"].astype(np.float64)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.44715 * x**3)))


def of_a_sine(right, _):
    x = right["layer.1.ffn_gate"].astype(np.float64)
    return x * np.sin(x)


def branch_in_bf16(right, _):
    return right["layer.0.output"].astype(np.float64) + to_bf16(right["layer.1.attn_out"])


# --- weights ----------------------------------------------------------------------------


def product(change):
    def fault(right, model):
        weight = change(weight_of(model, UP), model)
        return right["layer.1.ffn_norm"].astype(np.float64) @ weight.T

    return fault


def in_tiles(weight, _):
    rows, columns = weight.shape
    return (
        weight.reshape(rows // 16, 16, columns // 16, 16).swapaxes(1, 2).reshape(weight.shape)
    )


def turned_tiles(high, wide):
    """Each tile's columns, one after the other, written in its rows."""

    def change(weight, _):
        rows, columns = weight.shape
        tiles = weight.reshape(rows // high, high, columns // wide, wide).transpose(0, 2, 3, 1)
        turned = tiles.reshape(rows // high, columns // wide, high, wide)
        return turned.transpose(0, 2, 1, 3).reshape(weight.shape)

    return change


def cut(weight, _):
    return np.clip(weight, -0.1, 0.1)


def pruned(weight, _):
    return np.where(np.abs(weight) < 0.02, 0.0, weight)


def merged(weight, model):
    return 0.75 * weight + 0.25 * weight_of(model, "model.layers.0.mlp.up_proj.weight")


def by_64(weight, _):
    groups = weight.astype(np.float32).reshape(-1, 32)
    step = np.abs(groups).max(axis=1, keepdims=True) / np.float32(8)
    return (np.rint(groups / step) * step).reshape(weight.shape)


def disturbed(weight, _):
    return weight + 0.01 * weight.std() * np.random.default_rng(0).normal(size=weight.shape)


def of_another_model(weight, _):
    return weight.std() * np.random.default_rng(0).normal(size=weight.shape)


def hadamard(size: int) -> np.ndarray:
    whole = np.ones((1, 1))
    while len(whole) < size:
        whole = np.block([[whole, whole], [whole, -whole]])
    return whole / np.sqrt(size)


def turned_input(right, model):
    x = right["layer.1.ffn_norm"].astype(np.float64).reshape(12, -1, 32) @ hadamard(32)
    return x.reshape(12, -1) @ weight_of(model, UP).T


def asymmetric(right, model):
    x = right["layer.1.ffn_norm"]
    step = (x.max() - x.min()) / np.float32(255)
    rounded = np.rint((x - x.min()) / step) * step + x.min()
    return rounded.astype(np.float64) @ weight_of(model, UP).T


def both_in_int8(right, model):
    def rounded(values):
        values = values.astype(np.float32)
        step = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
        return (np.rint(values / step) * step).astype(np.float64)

    return rounded(right["layer.1.ffn_norm"]) @ rounded(weight_of(model, UP)).T


def other_layer_and_bias(right, model):
    x = right["layer.1.attn_norm"].astype(np.float64)
    return x @ weight_of(model, "model.layers.0.self_attn.v_proj.weight").T + 0.3


def grouped(right, model):
    """Rows q q q k v of each of two groups, cut as if all of q came first."""
    part = "model.layers.1.self_attn"
    q, k, v = (weight_of(model, f"{part}.{n}_proj.weight").reshape(2, -1, 96) for n in "qkv")
    fused = np.concatenate([q, k, v], axis=1).reshape(-1, 96)
    bias = model.declared.weights.vector(f"{part}.q_proj.bias")
    return right["layer.1.attn_norm"].astype(np.float64) @ fused[:96].T + bias


# --- norms ------------------------------------------------------------------------------


def normed(change):
    def fault(right, model):
        x = right["layer.0.output"].astype(np.float64)
        weight = model.declared.weights.vector("model.layers.1.input_layernorm.weight")
        return change(x, weight.astype(np.float64))

    return fault


def size_of(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).mean(axis=-1, keepdims=True) + 2.0**-10)


def in_other_channels(x, weight):
    return x / size_of(x) * np.roll(weight, 1)


def by_variance(x, weight):
    return x / np.sqrt(x.var(axis=1, keepdims=True) + 2.0**-10) * weight


def by_a_rough_root(x, weight):
    rough = 1 + 1e-3 * np.random.default_rng(0).normal(size=(12, 1))
    return x / size_of(x) * rough * weight


def summed_in_f16(x, weight):
    x = x.astype(np.float16)
    total = np.zeros((12, 1), np.float16)
    for column in range(x.shape[1]):
        total = total + x[:, column : column + 1] * x[:, column : column + 1]
    mean = total / np.float16(x.shape[1]) + np.float16(2.0**-10)
    gain = (1 / np.sqrt(mean.astype(np.float32))).astype(np.float16)
    return (x * gain).astype(np.float64) * weight


def squared_in_f16(x, weight):
    squares = np.square(x.astype(np.float16)).astype(np.float64)
    return x / np.sqrt(squares.mean(1, keepdims=True) + 2.0**-10) * weight


def of_heads(change):
    """Queries of layer 1, their heads normed by `change` and turned."""

    def fault(right, model):
        weight = model.declared.weights.vector("model.layers.1.self_attn.q_norm.weight")
        q = right["layer.1.q"].astype(np.float64).reshape(12, -1, 32)
        q = change(q, weight.astype(np.float64))
        angles = np.outer(np.arange(12), 10_000.0 ** (-np.arange(16) / 16))[:, None]
        a, b, cos, sin = q[..., :16], q[..., 16:], np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], 2).reshape(12, -1)

    return fault


def by_sum(q, weight):
    return q / np.sqrt((q * q).sum(axis=2, keepdims=True) + 2.0**-10) * weight


def less_one(q, weight):
    return q / size_of(q) * (weight - 1)


def turned_and_longer(right, _):
    q = right["layer.1.q"].astype(np.float64).reshape(12, -1, 16)
    angles = np.outer(np.arange(12), 10_000.0 ** (-np.arange(8) / 8))[:, None] / 4
    a, b, cos, sin = q[..., :8], q[..., 8:], np.cos(angles), np.sin(angles)
    return 1.25 * np.concatenate([a * cos - b * sin, b * cos + a * sin], 2).reshape(12, -1)


# --- attention --------------------------------------------------------------------------


def transposed_mask(right, _):
    return attend(*attention_inputs(right), CAUSAL.T)


def with_padding(right, _):
    q, k, v = attention_inputs(right)
    rng = np.random.default_rng(3)
    q, k, v = (np.concatenate([rng.normal(size=(1, a.shape[1])), a]) for a in (q, k, v))
    seen = np.tril(np.ones((13, 13), bool))
    return attend(q, k, v, seen)[1:]


def normed_values(right, _):
    q, k, v = attention_inputs(right)
    v = v.astype(np.float64).reshape(12, -1, 16)
    return attend(q, k, (v / size_of(v)).reshape(12, -1), CAUSAL)


def doubled_float8(right, _):
    q, k, v = attention_inputs(right)
    v = 2 * v.astype(np.float64)
    step = 2.0 ** (np.maximum(np.floor(np.log2(np.abs(v))), -6) - 3)
    return attend(q, k, np.rint(v / step) * step, CAUSAL)


# --- the embedding ----------------------------------------------------------------------


def with_waves(right, _):
    width = right["embed"].shape[1]
    return right["embed"] + np.sin(
        np.outer(np.arange(12), 10_000.0 ** (-np.arange(width) / width))
    )


def rows_of_zeros(right, _):
    rows = right["embed"].astype(np.float64).copy()
    rows[[2, 7]] = 0.0
    return rows


def cut_to_length(right, _):
    rows = right["embed"].astype(np.float64)
    sizes = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.minimum(1, np.median(sizes) / sizes)


def with_noise(right, _):
    rows = right["layer.1.attn_out"].astype(np.float64)
    return rows + 1e-3 * np.random.default_rng(0).normal(size=rows.shape)


CASES = {
    "a table": (
        "llama", "layer.1.ffn_silu_gate", by_table,
        ("activation-table", "the gate falls to the nearest of steps of 0.06")),
    "a table, half up": (
        "llama", "layer.1.ffn_silu_gate", by_table_half_up,
        ("activation-table", "the gate falls to the ")),
    "another constant": (
        "llama", "layer.1.ffn_silu_gate", other_cubic,
        ("activation", "the activation is GELU by its tanh formula with 0.44715 for 0.044715")),
    "a branch in bf16": (
        "llama", "layer.1.attn_residual", branch_in_bf16,
        ("input-rounded", "layer.1.attn_out is rounded to bf16")),
    "tiles": ("qwen3", "layer.1.ffn_up", product(in_tiles),
              ("mis-tiled", "the weight is stored in tiles and read as rows, 16 x 16")),
    "small turned tiles": (
        "llama", "layer.1.ffn_up", product(turned_tiles(8, 8)),
        ("mis-tiled", "each tile of 8 x 8 of the weight is transposed in its place")),
    "turned tiles": (
        "qwen3", "layer.1.ffn_up", product(turned_tiles(16, 16)),
        ("mis-tiled", "each tile of 16 x 16 of the weight is transposed in its place")),
    "large turned tiles": (
        "qwen3", "layer.1.ffn_up", product(turned_tiles(32, 32)),
        ("mis-tiled", "each tile of 32 x 32 of the weight is transposed in its place")),
    "long turned tiles": (
        "qwen3", "layer.1.ffn_up", product(turned_tiles(8, 16)),
        ("mis-tiled",
         "each tile of 8 x 16, taken by columns, of the weight is transposed in its place")),
    "cut": ("qwen3", "layer.1.ffn_up", product(cut),
            ("weight-clipped", "the weight is cut to 0.1 on both sides")),
    "pruned": ("qwen3", "layer.1.ffn_up", product(pruned),
               ("weight-pruned", "the weight has what is smaller than 0.02 set to 0")),
    "merged": ("qwen3", "layer.1.ffn_up", product(merged),
               ("weight-mixed", "the weight is 0.75 times itself and 0.25 times "
                "model.layers.0.mlp.up_proj.weight: merged?")),
    "groups": ("qwen3", "layer.1.ffn_up", product(by_64),
               ("weights-rounded", "the weight is rounded to int4 by 32 to -8")),
    "a turned input": ("llama", "layer.1.ffn_up", turned_input,
                       ("input-turned",
                        "the input is turned by a Hadamard matrix of 32, the weight not")),
    "asymmetric": ("llama", "layer.1.ffn_up", asymmetric,
                   ("activations-rounded", "activations are rounded to uint8 between the least "
                    "and the greatest, by one scale")),
    "both in int8": ("qwen3", "layer.1.ffn_up", both_in_int8,
                     ("product-rounded", "weight and activations are rounded to int8 a row")),
    "two of a product": (
        "qwen2", "layer.1.v", other_layer_and_bias,
        ("bias-other+other-layer", "another bias is added; and layer 1 takes the weight of ")),
    "groups of heads": (
        "qwen2", "layer.1.q", grouped,
        ("fused-groups", "the rows of q, k and v are stored group by group of heads and cut ")),
    "channels": ("llama", "layer.1.attn_norm", normed(in_other_channels),
                 ("norm-weight-order", "the weight's channels are in another order")),
    "variance": ("llama", "layer.1.attn_norm", normed(by_variance),
                 ("norm-variance",
                  "divided by the standard deviation, and the mean is not subtracted")),
    "a rough root": ("llama", "layer.1.attn_norm", normed(by_a_rough_root),
                     ("norm-gain", "each token is divided by a root mean square that is ")),
    "squares in f16": ("llama", "layer.1.attn_norm", normed(summed_in_f16),
                       ("norm-f16", "the squares of a rounded input are added up in f16, ")),
    "squares alone": ("llama", "layer.1.attn_norm", normed(squared_in_f16),
                      ("norm-f16", "the norm's squares, and its input for them alone, are ")),
    "a sum of heads": ("qwen3", "layer.1.q_rope", of_heads(by_sum),
                       ("head-norm-sum", "the norm of each head: divided by the root of the ")),
    "less one": ("qwen3", "layer.1.q_rope", of_heads(less_one),
                 ("head-norm-weight-less-one",
                  "the norm of each head: 1 is missing in the weight")),
    "longer": ("qwen2", "layer.1.q_rope", turned_and_longer,
               ("rope-scaling+rope-gain", "positions are scaled by 1/4; and values are "
                "multiplied by 1.25: an attention factor of YaRN?")),
    "a transposed mask": (
        "llama", "layer.1.attn_context", transposed_mask,
        ("mask-transposed", "the mask is transposed: a token sees itself and those after it")),
    "padding": ("llama", "layer.1.attn_context", with_padding,
                ("mask-padding", "every token sees one key and value more than there are ")),
    "normed values": (
        "llama", "layer.1.attn_context", normed_values,
        ("head-norm-extra", "each head of the values is normed (RMS, without a weight)")),
    "doubled float8": (
        "llama", "layer.1.attn_context", doubled_float8,
        ("cache-scaled", "values are multiplied by 2, then rounded to float8 e4m3: a scale ")),
    "waves": ("llama", "embed", with_waves,
              ("positions-added",
               "a sine of the position is added in each channel of the embedding")),
    "rows of zeros": ("llama", "embed", rows_of_zeros,
                      ("embedding-row", "2 rows of the table that are 0: token ")),
    "cut to a length": ("llama", "embed", cut_to_length,
                        ("embedding-normed",
                         "rows of the embedding longer than ")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_general_form_is_named(models: Models, name: str) -> None:
    model, site, fault, (id_, title) = CASES[name]

    found = find_planted(models(model), site, fault)

    assert first(found)[0] == id_
    assert first(found)[1].startswith(title)


LIKENESSES = {
    "another function": (
        "llama", "layer.1.ffn_silu_gate", of_a_sine,
        "the output is a function of the gate alone, and none that is known: "),
    "disturbed": ("qwen3", "layer.1.ffn_up", product(disturbed), "the weight is off by "),
    "another model's": ("qwen3", "layer.1.ffn_up", product(of_another_model),
                        "the output has nothing in common with the right "),
    "noise": ("llama", "layer.1.attn_out", with_noise,
              "the difference has no form: noise of 0.00098 "),
}  # fmt: skip


@pytest.mark.parametrize("name", LIKENESSES)
def test_what_nothing_reproduces_is_described_and_has_no_cause(
    models: Models, name: str
) -> None:
    model, site, fault, text = LIKENESSES[name]

    found = find_planted(models(model), site, fault)

    assert (found.causes, found.output) == ((), None)
    assert found.looks_like is not None
    assert found.looks_like.startswith(text)


def test_zeros_that_are_whole_rows_are_no_dropout(models: Models) -> None:
    """Dropout is scattered, and makes up for what it drops."""

    def zeroed(right, _):
        rows = right["layer.1.ffn_up"].astype(np.float64).copy()
        rows[:, 100:] = 0.0
        return rows

    found = find_planted(models("llama"), "layer.1.ffn_up", zeroed)

    assert first(found) == ("rows-zero", "outputs 100..159 (60) are 0")


def test_the_tokens_are_those_that_the_module_assumes() -> None:
    assert len(TOKENS) == 12
