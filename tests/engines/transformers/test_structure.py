"""Which models have the structure that is known, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.errors import ArchitectureError
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.site import CAPTURE_POINTS

if TYPE_CHECKING:
    from collections.abc import Callable

torch = pytest.importorskip("torch")

from cotejar.engines.transformers.structure import find_taps  # noqa: E402 - only with torch

PARTS = (
    "model.embed_tokens, model.layers, model.norm and lm_head, and in a layer: "
    "input_layernorm, self_attn.q_proj, self_attn.k_proj, self_attn.v_proj, self_attn.o_proj, "
    "post_attention_layernorm, mlp.gate_proj, mlp.up_proj, mlp.act_fn, mlp.down_proj"
)


def refusal(model: Any) -> str:
    with pytest.raises(ArchitectureError) as raised:
        find_taps(model)
    return str(raised.value)


def message(cls: str, found: str) -> str:
    return (
        f"error[APR-M002]: the structure of {cls.rpartition('.')[2]} is not known\n"
        f"  where     {cls}\n"
        f"  expected  {PARTS}\n"
        f"  found     {found}\n"
        "  try       give a Llama, Mistral, Qwen2, Qwen3 or Gemma3 model for causal language "
        "modelling itself, not what wraps it"
    )


def test_the_document_says_where_every_slot_is_read() -> None:
    text = (Path(__file__).parents[3] / "docs" / "engines.md").read_text()
    rows = re.findall(
        r"^\| (`.*?) \| .* \|$", text.partition("## `transformers`")[2], re.MULTILINE
    )

    named = {slot for row in rows for slot in re.findall(r"`(\w+)`", row)}
    assert set(CAPTURE_POINTS) <= named


def test_what_has_no_layers_is_refused() -> None:
    model = torch.nn.Linear(2, 2)

    assert refusal(model) == message("torch.nn.modules.linear.Linear", "no model.embed_tokens")


def test_a_model_without_layers_is_refused(hold: Callable[..., Any]) -> None:
    model = hold()
    model.model.layers = torch.nn.ModuleList()

    assert refusal(model) == message(
        "transformers.models.llama.modeling_llama.LlamaForCausalLM", "model.layers is empty"
    )


@pytest.mark.parametrize(
    ("decoder", "module", "name"),
    [
        (TinyDecoder(), "mlp", "gate_proj"),
        (TinyDecoder(), "self_attn", "o_proj"),
        (TinyDecoder(), None, "post_attention_layernorm"),
        (
            TinyDecoder(architecture="gemma3", sliding_window=5, sliding_window_pattern=2),
            None,
            "post_feedforward_layernorm",
        ),
    ],
    ids=["mlp", "attention", "norm", "one norm of two"],
)
def test_one_part_that_is_missing_in_one_layer_is_named(
    decoder: TinyDecoder, module: str | None, name: str, hold: Callable[..., Any]
) -> None:
    model = hold(decoder)
    layer = model.model.layers[1]
    delattr(getattr(layer, module) if module else layer, name)

    path = f"{module}.{name}" if module else name
    assert f"\n  found     no model.layers.1.{path}\n" in refusal(model)


def test_without_norms_behind_the_norm_before_the_feed_forward_is_the_one_after_attention(
    hold: Callable[..., Any],
) -> None:
    layer = (model := hold()).model.layers[0]

    taps = {(t.slot, t.reads_input): t.module for t in find_taps(model) if t.layer == 0}

    assert taps["ffn_norm", False] is layer.post_attention_layernorm
    assert taps["attn_residual", True] is layer.post_attention_layernorm
    assert not any(slot.endswith("post_norm") for slot, _ in taps)


def test_norms_behind_move_what_the_norm_after_attention_means(
    hold: Callable[..., Any],
) -> None:
    decoder = TinyDecoder(architecture="gemma3", sliding_window=5, sliding_window_pattern=2)
    layer = (model := hold(decoder)).model.layers[0]

    taps = {(t.slot, t.reads_input): t.module for t in find_taps(model) if t.layer == 0}

    assert taps["attn_post_norm", False] is layer.post_attention_layernorm
    assert taps["ffn_norm", False] is layer.pre_feedforward_layernorm
    assert taps["attn_residual", True] is layer.pre_feedforward_layernorm
    assert taps["ffn_post_norm", False] is layer.post_feedforward_layernorm
