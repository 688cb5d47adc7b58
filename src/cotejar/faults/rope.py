"""Rotary positions turned wrongly: other pairs, other angles, other positions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from cotejar.engines.native.rope import rope_tables
from cotejar.faults.fault import Extent, Fault, FaultyPass, Strength, in_the_pass
from cotejar.faults.needs import LOCAL_ROPE, SCALED_ROPE, SECOND_POSITION, TWO_PAIRS
from cotejar.kernels import operations
from cotejar.quant.floats import round_to_bfloat16

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    from cotejar.faults.needs import ModelNeed
    from cotejar.model.config import RopeConfig

    Values = Float32[np.ndarray, "T H E"]
    Tables = tuple[Float32[np.ndarray, "T P"], Float32[np.ndarray, "T P"]]


class _TurnedWrongly(FaultyPass):
    """Turns by another configuration, from another position, or after a change of tables."""

    turns: tuple[str, ...] = ("q", "k")
    """Which of the two are turned wrongly."""

    def config(self, rope: RopeConfig) -> RopeConfig:
        """The configuration that is used instead."""
        return rope

    def first_position(self, position: int) -> int:
        """Where the new tokens are taken to begin."""
        return position

    def change(self, tables: Tables) -> Tables:
        """Cosine and sine that are used instead."""
        return tables

    def rotate(self, layer: int, values_THE: Values, *, which: Literal["q", "k"]) -> Values:
        """RoPE, wrongly."""
        if which not in self.turns or not self.dose.covers(layer):
            return super().rotate(layer, values_THE, which=which)
        rope = self.config(self.model.config.rope_of(layer))
        start = self.first_position(self.cache.num_tokens)
        cos_TP, sin_TP = self.change(rope_tables(rope, start, len(values_THE)))
        adjacent = rope.pairing == "adjacent"
        return operations.rotate(values_THE, cos_TP, sin_TP, adjacent=adjacent)


class _OtherPairs(_TurnedWrongly):
    def config(self, rope: RopeConfig) -> RopeConfig:
        other: Literal["halves", "adjacent"]
        other = "halves" if rope.pairing == "adjacent" else "adjacent"
        return replace(rope, pairing=other)


class _OtherTheta(_TurnedWrongly):
    def config(self, rope: RopeConfig) -> RopeConfig:
        return replace(rope, theta=rope.theta * self.dose.strength)


class _ExtraScaling(_TurnedWrongly):
    def config(self, rope: RopeConfig) -> RopeConfig:
        divisors = rope.frequency_divisors or (1.0,) * (rope.dim // 2)
        stretched = tuple(divisor * self.dose.strength for divisor in divisors)
        return replace(rope, frequency_divisors=stretched)


class _SlowPairsStretched(_TurnedWrongly):
    """The slower half of the pairs turns more slowly still, as YaRN and llama3 have it."""

    def config(self, rope: RopeConfig) -> RopeConfig:
        divisors = rope.frequency_divisors or (1.0,) * (rope.dim // 2)
        half = len(divisors) // 2
        slower = tuple(divisor * self.dose.strength for divisor in divisors[half:])
        return replace(rope, frequency_divisors=divisors[:half] + slower)


class _Longer(_TurnedWrongly):
    """Cosine and sine are multiplied by one number: YaRN's attention factor."""

    def change(self, tables: Tables) -> Tables:
        cos_TP, sin_TP = tables
        factor = cos_TP.dtype.type(self.dose.strength)
        return cos_TP * factor, sin_TP * factor


class _NoScaling(_TurnedWrongly):
    def config(self, rope: RopeConfig) -> RopeConfig:
        return replace(rope, frequency_divisors=())


class _GlobalEverywhere(FaultyPass):
    """Layers with a window turn as those without."""

    def rotate(self, layer: int, values_THE: Values, *, which: Literal["q", "k"]) -> Values:
        """RoPE, by the model's and not by the layer's configuration."""
        if not self.dose.covers(layer):
            return super().rotate(layer, values_THE, which=which)
        rope = self.model.config.rope
        tables = rope_tables(rope, self.cache.num_tokens, len(values_THE))
        return operations.rotate(values_THE, *tables, adjacent=rope.pairing == "adjacent")


class _Partial(_TurnedWrongly):
    """As a model does whose configuration has `partial_rotary_factor`."""

    def config(self, rope: RopeConfig) -> RopeConfig:
        dim = max(2, 2 * int(rope.dim * self.dose.strength / 2))
        return replace(rope, dim=dim, frequency_divisors=rope.frequency_divisors[: dim // 2])


class _Offset(_TurnedWrongly):
    def first_position(self, position: int) -> int:
        return position + int(self.dose.strength)


class _QueryOffset(_Offset):
    turns = ("q",)


class _OtherWay(_TurnedWrongly):
    def change(self, tables: Tables) -> Tables:
        return tables[0], -tables[1]


class _RoundedTables(_TurnedWrongly):
    def change(self, tables: Tables) -> Tables:
        return round_to_bfloat16(tables[0]), round_to_bfloat16(tables[1])


class _NotTurned(FaultyPass):
    turns: tuple[str, ...] = ("q", "k")

    def rotate(self, layer: int, values_THE: Values, *, which: Literal["q", "k"]) -> Values:
        if which in self.turns and self.dose.covers(layer):
            return values_THE
        return super().rotate(layer, values_THE, which=which)


class _KeysNotTurned(_NotTurned):
    turns = ("k",)


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    *,
    slot: str = "q_rope",
    needs: tuple[ModelNeed, ...] = (),
    strength: Strength | None = None,
    from_position_0: bool = False,
    in_doubt: bool = False,
) -> Fault:
    """One of this family; all but an offset leave position 0 as it is."""
    return Fault(
        id=id_,
        title=title,
        family="rope",
        slot=slot,
        guilty=() if slot == "k_rope" else ("k_rope",),
        extent=Extent.EVERY_LAYER,
        needs=needs,
        prompt_needs=() if from_position_0 else (SECOND_POSITION,),
        strength=strength,
        in_doubt=in_doubt,
        inject=in_the_pass(kind),
    )


THETA = Strength(text="factor on theta", default=0.1, least=1e-6, most=1e6)
STRETCH = Strength(text="what frequencies are divided by", default=4, least=0.01, most=1e4)
PART = Strength(text="part of a head that turns", default=0.5, least=0, most=0.99)
POSITIONS = Strength(text="positions", default=1, least=-1e6, most=1e6, is_whole=True)

ROPE_FAULTS = (
    _fault("rope-pairing", "RoPE turns the wrong pairs", _OtherPairs),
    _fault("rope-theta", "RoPE's theta is a tenth", _OtherTheta, strength=THETA),
    _fault(
        "rope-scaling", "RoPE is stretched where it is not", _ExtraScaling, strength=STRETCH
    ),
    _fault(
        "rope-frequencies",
        "RoPE's slow pairs are stretched",
        _SlowPairsStretched,
        needs=(TWO_PAIRS,),
        strength=STRETCH,
        in_doubt=True,
    ),
    _fault(
        "rope-gain",
        "what is turned is made longer",
        _Longer,
        strength=Strength(
            text="factor of cosine and sine", default=1.125, least=0.01, most=100
        ),
        from_position_0=True,
    ),
    _fault(
        "rope-scaling-missing", "RoPE's scaling is not read", _NoScaling, needs=(SCALED_ROPE,)
    ),
    _fault(
        "rope-local-missing",
        "all layers turn alike",
        _GlobalEverywhere,
        needs=(LOCAL_ROPE,),
    ),
    _fault(
        "rope-partial",
        "only half of each head turns",
        _Partial,
        needs=(TWO_PAIRS,),
        strength=PART,
    ),
    _fault(
        "rope-offset",
        "positions start at 1",
        _Offset,
        strength=POSITIONS,
        from_position_0=True,
    ),
    _fault(
        "rope-query-offset",
        "queries stand one position after their keys",
        _QueryOffset,
        strength=POSITIONS,
        from_position_0=True,
    ),
    _fault("rope-direction", "RoPE turns the other way", _OtherWay),
    _fault("rope-missing", "q and k are not turned", _NotTurned),
    _fault("rope-keys-missing", "keys are not turned", _KeysNotTurned, slot="k_rope"),
    _fault("rope-bf16", "cosine and sine are rounded to bf16", _RoundedTables, in_doubt=True),
)
