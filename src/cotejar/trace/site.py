"""Sites: the places of a forward pass that a trace records, by name.

A site is `embed`, `final_norm`, `logits`, or `layer.3.ffn_gate`, whose last part is a
slot. Slots come in the order in which data flows through a layer.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from cotejar.errors import UnknownSiteError

CONTRACT_SLOTS = (
    "attn_norm",
    "qkv",
    "attn_out",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_silu_gate",
    "ffn_swiglu_inner",
    "ffn_out",
    "output",
)
"""The ten slots of a layer that contracts speak of."""

CAPTURE_POINTS = {
    "embed": "rows of the embedding table, one a token, times the model's scale if it has one",
    "attn_norm": "after the RMSNorm before attention, times its weight",
    "q": "query projection, after bias, before RoPE; half-split head order",
    "k": "key projection, after bias, before RoPE; half-split head order",
    "v": "value projection, after bias",
    "qkv": "q, k and v side by side, after bias, before RoPE; half-split head order",
    "q_rope": "queries as attention uses them: after RoPE; half-split head order",
    "k_rope": "keys as attention uses them: after RoPE; half-split head order",
    "attn_context": "softmax-weighted values, all heads, before the output projection",
    "attn_out": "after the output projection and its bias, before a norm and the residual",
    "attn_post_norm": "after the RMSNorm behind attention, times its weight",
    "attn_residual": "after attention's residual addition",
    "ffn_norm": "after the RMSNorm before the feed-forward, times its weight",
    "ffn_gate": "gate projection, after bias, before the activation",
    "ffn_up": "up projection, after bias",
    "ffn_silu_gate": "activation of the gate projection: SiLU, or what the model has",
    "ffn_swiglu_inner": "activation of the gate times up, before the down projection",
    "ffn_out": "after the down projection and its bias, before a norm and the residual",
    "ffn_post_norm": "after the RMSNorm behind the feed-forward, times its weight",
    "output": "after the feed-forward's residual addition",
    "final_norm": "after the last RMSNorm, times its weight",
    "logits": "LM head, every position",
}
"""Exactly where each slot is read. Part of a trace, so that two can be compared."""

FORMER_CAPTURE_POINTS = {
    "rows of the embedding table, one a token": "embed",
    "after the output projection and its bias, before the residual": "attn_out",
    "gate projection, after bias, before SiLU": "ffn_gate",
    "SiLU of the gate projection": "ffn_silu_gate",
    "SiLU of the gate times up, before the down projection": "ffn_swiglu_inner",
    "after the down projection and its bias, before the residual": "ffn_out",
}
"""Texts of traces from before other activations, scaled embeddings and norms behind a
projection were known. Of the models there were, they mean the same place as today's."""

SLOTS = tuple(slot for slot in CAPTURE_POINTS if slot not in {"embed", "final_norm", "logits"})
"""A layer's slots in the order in which data flows."""

OPTIONAL_SLOTS = frozenset({"attn_post_norm", "ffn_post_norm"})
"""Slots that only some architectures have: gemma3."""

SLOT_ALIASES = {"ffn_swigl": "ffn_swiglu_inner", "ffn_silu": "ffn_silu_gate"}
"""Upstream's shorter names: read, never written."""

_LAYER_SITE = re.compile(r"layer\.(0|[1-9][0-9]{0,5})\.([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the forward pass. `str(site)` is its name."""

    slot: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.slot if self.layer is None else f"layer.{self.layer}.{self.slot}"

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: the order in which a forward pass reaches the sites."""
        if self.layer is not None:
            return (self.layer, SLOTS.index(self.slot))
        return {"embed": (-1, 0), "final_norm": (1 << 30, 0), "logits": (1 << 30, 1)}[self.slot]


def current_capture_point(text: str) -> str:
    """The text of today for one of `FORMER_CAPTURE_POINTS`; any other as it is."""
    slot = FORMER_CAPTURE_POINTS.get(text)
    return text if slot is None else CAPTURE_POINTS[slot]


@functools.lru_cache(maxsize=1 << 16)
def known_site(slot: str, layer: int | None) -> Site:
    """The site, made once: a forward pass asks for hundreds of them."""
    return Site(slot, layer)


def parse_site(text: str) -> Site:
    """Read a site's name; aliases of slots are understood.

    Raises:
        UnknownSiteError: no such site or slot.
    """
    if text in {"embed", "final_norm", "logits"}:
        return Site(text)
    match = _LAYER_SITE.fullmatch(text)
    if match:
        return Site(parse_slot(match[2]), int(match[1]))
    raise UnknownSiteError(
        f"{text!r} names no site",
        where="site name",
        expected="embed, layer.N.SLOT, final_norm or logits",
        found=text,
        hint=f"slots: {' '.join(SLOTS)}",
    )


def parse_slot(text: str) -> str:
    """Read a slot's name, or an alias of one.

    Raises:
        UnknownSiteError: no such slot.
    """
    slot = SLOT_ALIASES.get(text, text)
    if slot in SLOTS:
        return slot
    raise UnknownSiteError(
        f"{text!r} names no slot",
        where="slot name",
        expected=" ".join(SLOTS),
        found=text,
        hint="a slot is the last part of a layer's site: layer.3.ffn_gate",
    )
