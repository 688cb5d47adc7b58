"""Wrong in decoding alone: what one pass over a prompt cannot show.

Each acts on passes over tokens that follow others in the KV cache, and leaves the first pass
as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.engines.native.rope import rope_tables
from cotejar.faults.fault import Extent, Fault, FaultyPass, Strength, in_the_pass
from cotejar.faults.needs import BEYOND_MOVED_WINDOW, EARLIER_TOKEN, WINDOW, bias_on
from cotejar.kernels import operations
from cotejar.quant.floats import round_to_float16

if TYPE_CHECKING:
    from jaxtyping import Float32

    from cotejar.faults.needs import ModelNeed, PromptNeed

    Rows = Float32[np.ndarray, "T K E"]
    Queries = Float32[np.ndarray, "T H E"]


class _Decodes(FaultyPass):
    """Is wrong where `acts` says so."""

    prompt_length = 0
    """Tokens of the first pass, once it is over."""

    def acts(self, layer: int) -> bool:
        """Does the fault act in that layer of this pass?"""
        if not self.prompt_length:
            self.prompt_length = self.cache.num_tokens
        return bool(self.cache.num_tokens) and self.dose.covers(layer)


class _TurnedElsewhere(_Decodes):
    """What follows the prompt is turned for another position."""

    def rotate(self, layer: int, values_THE: Queries, *, which: Literal["q", "k"]) -> Queries:
        if not self.acts(layer):
            return super().rotate(layer, values_THE, which=which)
        rope = self.model.config.rope_of(layer)
        tables = rope_tables(rope, self.position(), len(values_THE))
        return operations.rotate(values_THE, *tables, adjacent=rope.pairing == "adjacent")

    def position(self) -> int:
        """The position for which the first of the new tokens is turned."""
        raise NotImplementedError


class _Late(_TurnedElsewhere):
    def position(self) -> int:
        return self.cache.num_tokens + int(self.dose.strength)


class _FromTheStart(_TurnedElsewhere):
    """The counter begins again behind the prompt."""

    def position(self) -> int:
        return self.cache.num_tokens - self.prompt_length


class _ReadsOtherRows(_Decodes):
    """What a step reads is another array than what was kept."""

    def extend_cache(self, layer: int, k_TKE: Rows, v_TKE: Rows) -> tuple[Rows, Rows]:
        """Keep the rows rightly, and read them wrongly in decoding."""
        k_SKE, v_SKE = super().extend_cache(layer, k_TKE, v_TKE)
        if not self.acts(layer):
            return k_SKE, v_SKE
        return self.wrong(k_SKE), self.wrong(v_SKE)

    def wrong(self, rows_SKE: Rows) -> Rows:
        """What is read in place of all keys, or of all values."""
        raise NotImplementedError


class _Stale(_ReadsOtherRows):
    def wrong(self, rows_SKE: Rows) -> Rows:
        return np.concatenate([rows_SKE[:-1], rows_SKE[-2:-1]])


class _PromptLost(_ReadsOtherRows):
    def wrong(self, rows_SKE: Rows) -> Rows:
        return rows_SKE[-self._num_new_tokens :]


class _WrittenEarly(_ReadsOtherRows):
    """Slot by slot, one early: the last prompt token's rows are overwritten."""

    def wrong(self, rows_SKE: Rows) -> Rows:
        # Of a window, only what is kept can be lost.
        lost = len(rows_SKE) - 1 - (self.cache.num_tokens - self.prompt_length + 1)
        return np.delete(rows_SKE, lost, axis=0) if lost >= 0 else rows_SKE


class _SlotEmpty(_ReadsOtherRows):
    """A slot too many is read, which nobody has written."""

    def wrong(self, rows_SKE: Rows) -> Rows:
        return np.concatenate([rows_SKE, np.zeros_like(rows_SKE[:1])])


class _ShortRing(_Decodes):
    """The ring of a window keeps fewer rows than the window reads."""

    def extend_cache(self, layer: int, k_TKE: Rows, v_TKE: Rows) -> tuple[Rows, Rows]:
        """All that is kept, and of that the last rows."""
        k_SKE, v_SKE = super().extend_cache(layer, k_TKE, v_TKE)
        window = self.model.config.window_of(layer)
        if window is None or not self.acts(layer):
            return k_SKE, v_SKE
        size = max(1, window + int(self.dose.strength))
        return k_SKE[-size:], v_SKE[-size:]


class _RoundedRows(_ReadsOtherRows):
    def wrong(self, rows_SKE: Rows) -> Rows:
        return round_to_float16(rows_SKE)


class _SharperScores(_Decodes):
    """The kernel for one token scales its scores by another number."""

    def attend(self, layer: int, q_THE: Queries, k_SKE: Rows, v_SKE: Rows) -> Queries:
        factor = np.float32(self.dose.strength if self.acts(layer) else 1)
        return super().attend(layer, q_THE * factor, k_SKE, v_SKE)


class _NoBias(_Decodes):
    """The kernel for one token forgets the bias of queries."""

    def linear(
        self, layer: int, part: str, inputs_TC: Float32[np.ndarray, "T C"]
    ) -> Float32[np.ndarray, "T R"]:
        outputs_TR = super().linear(layer, part, inputs_TC)
        bias_R = self._layers[layer].linears[part][1]
        if part == "q" and bias_R is not None and self.acts(layer):
            outputs_TR = outputs_TR - bias_R
        return outputs_TR


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    *,
    slot: str = "attn_context",
    guilty: tuple[str, ...] = (),
    needs: tuple[ModelNeed, ...] = (),
    prompt_needs: tuple[PromptNeed, ...] = (EARLIER_TOKEN,),
    strength: Strength | None = None,
    in_doubt: bool = False,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="decoding",
        slot=slot,
        guilty=guilty,
        extent=Extent.EVERY_LAYER,
        only_decoding=True,
        needs=needs,
        prompt_needs=prompt_needs,
        strength=strength,
        in_doubt=in_doubt,
        inject=in_the_pass(kind),
    )


DECODING_FAULTS = (
    _fault(
        "decode-position",
        "what follows the prompt stands one position late",
        _Late,
        slot="q_rope",
        strength=Strength(text="positions", default=1, least=-1e6, most=1e6, is_whole=True),
    ),
    _fault(
        "decode-position-restart",
        "positions begin at 0 again behind the prompt",
        _FromTheStart,
        slot="q_rope",
    ),
    _fault("decode-stale", "in decoding the newest key and value are not written", _Stale),
    _fault("decode-prompt-lost", "what follows the prompt does not see it", _PromptLost),
    _fault(
        "decode-written-early",
        "in decoding keys and values are written one slot early",
        _WrittenEarly,
    ),
    _fault("decode-slot-empty", "in decoding a slot too many is read", _SlotEmpty),
    _fault(
        "decode-ring",
        "in decoding the ring of a window is one row short",
        _ShortRing,
        needs=(WINDOW,),
        prompt_needs=(BEYOND_MOVED_WINDOW,),
        strength=Strength(text="rows", default=-1, least=-1e6, most=-1, is_whole=True),
    ),
    _fault(
        "decode-kv-f16",
        "in decoding keys and values are read in float16",
        _RoundedRows,
        in_doubt=True,
    ),
    _fault(
        "decode-attention-scale",
        "in decoding scores are too large",
        _SharperScores,
        strength=Strength(text="factor on the scores", default=1.5, least=0, most=1e4),
        in_doubt=True,
    ),
    _fault(
        "decode-bias-missing",
        "in decoding the bias of queries is left out",
        _NoBias,
        slot="q",
        guilty=("qkv",),
        needs=(bias_on("self_attn.q_proj"),),
    ),
)
