"""What must be so for a fault to show: of the model, and of the prompt.

A model need says what is there instead where it is not met; a prompt need says how many
tokens it takes, and why. Both are computed, never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import NoTokenizerError, UnsupportedTokenizerError
from cotejar.model.inventory import LINEAR_PARTS, LM_HEAD, layer_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from cotejar.faults.dose import Dose
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_type import BlockType
    from cotejar.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelNeed:
    """Something that a model must have."""

    id: str
    text: str
    """`a bias on q`."""
    lacks: Callable[[LanguageModel, Dose], str | None]
    """What the model has instead; None where the need is met."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptNeed:
    """How long a prompt must be, and what its ids must be like."""

    id: str
    text: str
    """`a second token`."""
    why: str
    """Why a shorter one shows nothing."""
    min_tokens: Callable[[LanguageModel, Dose], int]
    lacks: Callable[[LanguageModel, Sequence[int]], str | None] = lambda _model, _ids: None
    """What ids that are long enough have instead; None where they serve."""


# --- of the model -------------------------------------------------------------------


def bias_on(part: str) -> ModelNeed:
    """A bias of one product: `self_attn.q_proj`."""

    def lacks(model: LanguageModel, dose: Dose) -> str | None:
        name = layer_tensor(dose.layer or 0, f"{part}.bias")
        return None if name in model.weights else "no such tensor"

    return ModelNeed(id=f"{part}.bias", text=f"a tensor {part}.bias", lacks=lacks)


def _has_divisors(model: LanguageModel, _: Dose) -> str | None:
    return None if model.config.rope.frequency_divisors else "none"


def _has_several_kv_heads(model: LanguageModel, _: Dose) -> str | None:
    num_kv_heads = model.config.num_kv_heads
    return None if num_kv_heads > 1 else f"{num_kv_heads}"


def _has_groups(model: LanguageModel, _: Dose) -> str | None:
    heads, kv_heads = model.config.num_heads, model.config.num_kv_heads
    return None if 1 < kv_heads < heads else f"{kv_heads} for {heads} query heads"


def _window(model: LanguageModel, dose: Dose) -> int | None:
    """Of the first layer that the fault acts in."""
    return model.config.window_of(dose.layer or 0)


def _has_window(model: LanguageModel, dose: Dose) -> str | None:
    return "none" if _window(model, dose) is None else None


def _has_no_window(model: LanguageModel, dose: Dose) -> str | None:
    window = _window(model, dose)
    return None if window is None else f"a window of {window}"


def _has_local_rope(model: LanguageModel, dose: Dose) -> str | None:
    config = model.config
    return "none" if config.rope_of(dose.layer or 0) == config.rope else None


def _has_post_norms(model: LanguageModel, _: Dose) -> str | None:
    return None if model.config.post_norms else "none"


def _has_embedding_scale(model: LanguageModel, _: Dose) -> str | None:
    return "none" if model.config.embedding_scale == 1 else None


def _has_no_embedding_scale(model: LanguageModel, _: Dose) -> str | None:
    scale = model.config.embedding_scale
    return None if scale == 1 else f"a scale of {scale:g}"


def _has_softcap(model: LanguageModel, _: Dose) -> str | None:
    return "none" if model.config.final_softcap is None else None


def _activates_with(activation: str) -> Callable[[LanguageModel, Dose], str | None]:
    def lacks(model: LanguageModel, _: Dose) -> str | None:
        return None if model.config.activation == activation else model.config.activation

    return lacks


def _has_qk_norm(model: LanguageModel, _: Dose) -> str | None:
    return None if model.config.qk_norm else "none"


def _has_next_layer(model: LanguageModel, dose: Dose) -> str | None:
    last = model.config.num_layers - 1
    return None if (dose.layer or 0) < last else f"layer {last} is the last"


def _has_own_head(model: LanguageModel, _: Dose) -> str | None:
    return None if LM_HEAD in model.weights else "a head that is the embedding table"


def _has_wide_rope(model: LanguageModel, _: Dose) -> str | None:
    dim = model.config.rope.dim
    return None if dim >= 4 else f"{dim}"  # noqa: PLR2004 - two pairs


def _tokenizer_lacks(has: Callable[[Tokenizer], bool]) -> Callable[..., str | None]:
    def lacks(model: LanguageModel, _: Dose) -> str | None:
        try:
            return None if has(model.tokenizer) else "none"
        except (NoTokenizerError, UnsupportedTokenizerError) as error:
            return error.problem

    return lacks


SCALED_ROPE = ModelNeed(id="scaled-rope", text="RoPE frequency divisors", lacks=_has_divisors)
TWO_PAIRS = ModelNeed(
    id="two-pairs", text="at least 4 turning values a head", lacks=_has_wide_rope
)
SEVERAL_KV_HEADS = ModelNeed(
    id="several-kv-heads", text="more than one key/value head", lacks=_has_several_kv_heads
)
GROUPED_HEADS = ModelNeed(
    id="grouped-heads",
    text="more than one key/value head, and fewer than query heads",
    lacks=_has_groups,
)
WINDOW = ModelNeed(id="window", text="a sliding window in the layer", lacks=_has_window)
NO_WINDOW = ModelNeed(
    id="no-window", text="no sliding window in the layer", lacks=_has_no_window
)
LOCAL_ROPE = ModelNeed(id="local-rope", text="a RoPE of the layer's own", lacks=_has_local_rope)
POST_NORMS = ModelNeed(id="post-norms", text="norms before the residual", lacks=_has_post_norms)
EMBEDDING_SCALE = ModelNeed(
    id="embedding-scale", text="an embedding scale", lacks=_has_embedding_scale
)
NO_EMBEDDING_SCALE = ModelNeed(
    id="no-embedding-scale", text="no embedding scale", lacks=_has_no_embedding_scale
)
SOFTCAP = ModelNeed(id="softcap", text="capped logits", lacks=_has_softcap)
SILU = ModelNeed(id="silu", text="SiLU as activation", lacks=_activates_with("silu"))
GELU = ModelNeed(
    id="gelu", text="GELU (tanh) as activation", lacks=_activates_with("gelu_tanh")
)
QK_NORM = ModelNeed(id="qk-norm", text="a norm on q and k", lacks=_has_qk_norm)
NEXT_LAYER = ModelNeed(id="next-layer", text="a layer after it", lacks=_has_next_layer)
OWN_HEAD = ModelNeed(id="own-head", text="an LM head of its own", lacks=_has_own_head)
BOS = ModelNeed(
    id="bos",
    text="a tokenizer with a BOS",
    lacks=_tokenizer_lacks(lambda tokenizer: tokenizer.bos_id is not None),
)
ADDED_BOS = ModelNeed(
    id="added-bos",
    text="a tokenizer that begins a text with BOS",
    lacks=_tokenizer_lacks(lambda t: t.spec.add_bos and t.bos_id is not None),
)
TEMPLATE = ModelNeed(
    id="template",
    text="a chat template",
    lacks=_tokenizer_lacks(lambda tokenizer: bool(tokenizer.spec.chat_template)),
)


# The feed-forward first: its weights are the largest.
_PARTS_BY_SIZE = ("ffn_gate", "ffn_up", "ffn_out", "q", "k", "v", "attn_out")


def first_of_type(
    model: LanguageModel, layer: int, types: Collection[BlockType]
) -> tuple[str, str] | None:
    """The first weight of a layer that has one of the types: its slot, and its name."""
    for slot in _PARTS_BY_SIZE:
        name = layer_tensor(layer, f"{LINEAR_PARTS[slot]}.weight")
        if model.weights[name].block_type in types:
            return slot, name
    return None


def weight_of(need_id: str, text: str, types: Collection[BlockType]) -> ModelNeed:
    """A weight of some block type in the fault's layer."""

    def lacks(model: LanguageModel, dose: Dose) -> str | None:
        layer = dose.layer or 0
        if first_of_type(model, layer, types):
            return None
        names = (layer_tensor(layer, f"{part}.weight") for part in LINEAR_PARTS.values())
        return ", ".join(sorted({model.weights[name].block_type.label for name in names}))

    return ModelNeed(id=need_id, text=f"a weight in the layer {text}", lacks=lacks)


# --- of the prompt ------------------------------------------------------------------

SECOND_POSITION = PromptNeed(
    id="second-position",
    text="a second position",
    why="position 0 is not turned",
    min_tokens=lambda _model, _dose: 2,
)
SECOND_KEY = PromptNeed(
    id="second-key",
    text="a second token",
    why="over one key the softmax is 1, whatever the score",
    min_tokens=lambda _model, _dose: 2,
)
EARLIER_TOKEN = PromptNeed(
    id="earlier-token",
    text="a second token",
    why="the first token has none before it",
    min_tokens=lambda _model, _dose: 2,
)


def _begins_otherwise(model: LanguageModel, ids: Sequence[int]) -> str | None:
    return None if ids[0] == model.tokenizer.bos_id else f"token {ids[0]} first"


LEADING_BOS = PromptNeed(
    id="leading-bos",
    text="a BOS before the text",
    why="there is no BOS to leave out",
    min_tokens=lambda _model, _dose: 2,
    lacks=_begins_otherwise,
)


def _beyond_window(model: LanguageModel, dose: Dose) -> int:
    return 1 + (_window(model, dose) or 0)


def _beyond_moved_window(model: LanguageModel, dose: Dose) -> int:
    """A window that moves by STRENGTH first differs where the narrower of the two ends."""
    window = _window(model, dose) or 0
    return 1 + max(1, min(window, window + int(dose.strength)))


BEYOND_WINDOW = PromptNeed(
    id="beyond-window",
    text="more tokens than the window",
    why="a shorter text lies within the window",
    min_tokens=_beyond_window,
)
BEYOND_MOVED_WINDOW = PromptNeed(
    id="beyond-moved-window",
    text="more tokens than the narrower window",
    why="a shorter text lies within both windows",
    min_tokens=_beyond_moved_window,
)
BEYOND_STRENGTH = PromptNeed(
    id="beyond-strength",
    text="more tokens than the window that it adds",
    why="a shorter text lies within the window that the fault adds",
    min_tokens=lambda _model, dose: 1 + int(dose.strength),
)
