"""What it is called when one tensor is read for another."""

from __future__ import annotations

import re

from cotejar.model.inventory import EMBEDDING, LM_HEAD

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_SWAPPED = {
    frozenset({"mlp.gate_proj", "mlp.up_proj"}): ("gate-up-swapped", "gate and up"),
    frozenset({"self_attn.k_proj", "self_attn.v_proj"}): ("key-value-swapped", "k and v"),
    frozenset({"self_attn.q_proj", "self_attn.o_proj"}): ("projection-swapped", "q and o"),
    frozenset({"self_attn.q_norm", "self_attn.k_norm"}): (
        "norms-swapped",
        "the norms of q and k",
    ),
}


def name_swap(right: str, used: str) -> tuple[str, str]:
    """Id and title of a cause: `used` is read where `right` ought to be."""
    title = f"the weight is {used} and ought to be {right}"
    a, b = _LAYER.fullmatch(right), _LAYER.fullmatch(used)
    if {right, used} == {LM_HEAD, EMBEDDING}:
        tied = "is tied to the embedding" if used == EMBEDDING else "is not tied"
        return "head-tied", f"the LM head {tied} and ought to be otherwise: {title}"
    if a is not None and b is not None and a[1] == b[1]:
        pair = frozenset(name.removesuffix(".weight") for name in (a[2], b[2]))
        if pair in _SWAPPED:
            id_, names = _SWAPPED[pair]
            return id_, f"{names} change places: {title}"
        if all(name.endswith("layernorm") for name in pair):
            return "norms-swapped", f"two norms of the layer change places: {title}"
    elif a is not None and b is not None and a[2] == b[2]:
        return "other-layer", f"layer {a[1]} takes the weight of layer {b[1]}: {title}"
    return "other-weight", title
