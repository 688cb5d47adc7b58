"""Every fault by its id, and how one is named: `ID[@LAYER][*STRENGTH]`.

| name | means |
| --- | --- |
| `rope-theta` | in every layer, in its usual strength |
| `rope-theta@3` | in layer 3 alone |
| `rope-theta@3*0.5` | there, with half of theta |
| `block-shift` | a fault of one layer: in layer 0 |

An id is never given another meaning.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cotejar.errors import UsageError
from cotejar.faults.activation import ACTIVATION_FAULTS
from cotejar.faults.attention import ATTENTION_FAULTS
from cotejar.faults.cache import CACHE_FAULTS
from cotejar.faults.decoding import DECODING_FAULTS
from cotejar.faults.dose import Dose
from cotejar.faults.fault import Extent, Fault, Injection, nothing_to_break
from cotejar.faults.head import HEAD_FAULTS
from cotejar.faults.norm import NORM_FAULTS
from cotejar.faults.projection import PROJECTION_FAULTS
from cotejar.faults.residual import RESIDUAL_FAULTS
from cotejar.faults.rope import ROPE_FAULTS
from cotejar.faults.rounding import ROUNDING_FAULTS
from cotejar.faults.tokens import TOKEN_FAULTS
from cotejar.faults.weights import WEIGHT_FAULTS

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel

FAULTS = {
    fault.id: fault
    for fault in (
        *TOKEN_FAULTS,
        *HEAD_FAULTS,
        *NORM_FAULTS,
        *PROJECTION_FAULTS,
        *ROPE_FAULTS,
        *CACHE_FAULTS,
        *DECODING_FAULTS,
        *ATTENTION_FAULTS,
        *ACTIVATION_FAULTS,
        *RESIDUAL_FAULTS,
        *WEIGHT_FAULTS,
        *ROUNDING_FAULTS,
    )
}
"""Every fault by its id, family by family."""

_NAME = re.compile(r"(?P<id>[^@*]*)(@(?P<layer>[0-9]{1,6}))?(\*(?P<strength>[^@*]{1,24}))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultName:
    """A fault as it was asked for."""

    fault: Fault
    dose: Dose

    @property
    def is_usual(self) -> bool:
        """Has it the usual strength, in as many layers as it usually has?"""
        meaning = self.fault.strength
        is_everywhere = self.dose.layer is None or self.fault.extent is Extent.ONE_LAYER
        return is_everywhere and (meaning is None or self.dose.strength == meaning.default)

    def __str__(self) -> str:
        """`ID[@LAYER][*STRENGTH]`, the strength only where it is not the usual one."""
        layer = "" if self.dose.layer is None else f"@{self.dose.layer}"
        meaning = self.fault.strength
        usual = meaning is None or self.dose.strength == meaning.default
        return f"{self.fault.id}{layer}" + ("" if usual else f"*{self.dose.strength:g}")


def parse_fault(text: str) -> FaultName:
    """Read `ID[@LAYER][*STRENGTH]`.

    Raises:
        UsageError: no such fault; a layer of a fault outside the layers; a strength of a
            fault that has none, or one outside its range.
    """
    match = _NAME.fullmatch(text)
    fault = FAULTS.get(match["id"]) if match else None
    if match is None or fault is None:
        raise _unknown(text)
    layer = None if match["layer"] is None else int(match["layer"])
    if layer is not None and fault.extent is Extent.OUTSIDE:
        raise UsageError(
            f"{fault.id} acts in no layer",
            where=f"--fault {text}",
            expected=f"{fault.id}, which acts at {fault.slot}",
            found=f"@{layer}",
            hint="leave the layer out",
        )
    if layer is None and fault.extent is Extent.ONE_LAYER:
        layer = 0
    return FaultName(
        fault=fault, dose=Dose(layer=layer, strength=_strength(fault, match["strength"], text))
    )


def _strength(fault: Fault, text: str | None, whole: str) -> float:
    meaning = fault.strength
    if text is None:
        return 1.0 if meaning is None else meaning.default
    if meaning is None:
        raise UsageError(
            f"{fault.id} has no strength",
            where=f"--fault {whole}",
            expected=f"{fault.id}, with @LAYER or without",
            found=f"*{text}",
            hint="`apr faults` says which faults have one, and what it means",
        )
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    fits = meaning.least <= value <= meaning.most
    if not fits or (meaning.is_whole and not value.is_integer()):
        kind = "a whole number" if meaning.is_whole else "a number"
        raise UsageError(
            f"{fault.id} cannot be so strong",
            where=f"--fault {whole}",
            expected=f"{kind} in {meaning.least:g}..{meaning.most:g}: {meaning.text}",
            found=text,
            hint=f"without a strength it is {meaning.default:g}",
        )
    return value


def _unknown(text: str) -> UsageError:
    asked = text[:80]
    close = difflib.get_close_matches(asked.partition("@")[0].partition("*")[0], FAULTS, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return UsageError(
        f"there is no fault {asked!r}",
        where="--fault",
        expected=f"ID[@LAYER][*STRENGTH], with one of {len(FAULTS)} ids",
        found=asked,
        hint=f"{meant}`apr faults` lists them; for example nibble-order@3",
    )


def find_place(model: LanguageModel, name: FaultName) -> FaultName | None:
    """The fault where the model has something to break; None where no layer has.

    That is where it was asked for, or else the first layer after it, around the end.
    """
    num_layers = model.config.num_layers
    doses = [name.dose]
    if name.fault.extent is not Extent.OUTSIDE:
        first = name.dose.layer or 0
        layers = [*range(first, num_layers), *range(min(first, num_layers))]
        doses += [replace(name.dose, layer=layer) for layer in layers]
    for dose in doses:
        is_there = dose.layer is None or dose.layer < num_layers
        if is_there and all(need.lacks(model, dose) is None for need in name.fault.needs):
            return FaultName(fault=name.fault, dose=dose)
    return None


def inject_fault(model: LanguageModel, text: str) -> Injection:
    """What runs in place of the model, with the fault `ID[@LAYER][*STRENGTH]` in it.

    Raises:
        UsageError: no such fault, layer or strength, or the model has nothing to break.
    """
    name = parse_fault(text)
    layer = name.dose.layer
    if layer is not None and layer >= model.config.num_layers:
        raise UsageError(
            f"there is no layer {layer}",
            where=f"--fault {text}",
            expected=f"0..{model.config.num_layers - 1}",
            found=str(layer),
            hint="layers count from 0",
        )
    for need in name.fault.needs:
        lacking = need.lacks(model, name.dose)
        if lacking is not None:
            raise nothing_to_break(text, need.text, lacking)
    return name.fault.inject(model, name.dose)
