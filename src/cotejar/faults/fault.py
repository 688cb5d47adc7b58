"""What a fault is: where it acts, how strongly, what it needs, and how it is put in.

A fault alters what an engine computes with and leaves the model's declared identity as it
is: a real bug does not announce itself in the file's metadata either. Each is the smallest
form of a mistake that real ports have made.

There are three ways to put one in, and a fault takes one of them:

- other weights: a `LanguageModel` that computes with altered bytes;
- another operation: a subclass of the native forward pass with exactly one of them wrong;
- other tokens: the ids are changed before the run, and the trace says so.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.engines.native.forward import Pass
from cotejar.errors import UsageError
from cotejar.trace.site import Site
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.engines.native.cache import KVCache
    from cotejar.engines.native.engine import MakePass
    from cotejar.engines.native.forward import Multiply
    from cotejar.faults.dose import Dose
    from cotejar.faults.needs import ModelNeed, PromptNeed
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import TraceRecorder


@dataclass(frozen=True, kw_only=True, slots=True)
class Strength:
    """What the number after the `*` means."""

    text: str
    """`factor on theta`."""
    default: float
    least: float
    most: float
    """Both ends are allowed."""
    is_whole: bool = False


class Extent(enum.Enum):
    """Which layers a fault acts in."""

    EVERY_LAYER = "every layer"
    """A mistake in the code, which every layer runs; with `@LAYER` in that layer alone."""
    ONE_LAYER = "one layer"
    """A mistake in one layer; the first where none is named."""
    OUTSIDE = "outside the layers"
    """In the embedding, the head or the tokens; no layer can be named."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Injection:
    """What runs in place of the sound model."""

    model: LanguageModel
    forward: MakePass | None = None
    """The native forward pass to run it with; None for an engine's own."""
    change_ids: Callable[[list[int]], list[int]] | None = None
    """What the run gets instead of the prompt's ids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One way to be wrong."""

    id: str
    title: str
    family: str
    """The module that holds it: `rope`, `norm`, ..."""
    slot: str
    """The first slot whose output is wrong; `tokens` for a fault before the first site."""
    find_slot: Callable[[LanguageModel, Dose], str] | None = None
    """Where the model decides which slot that is; `slot` is then the most likely one."""
    guilty: tuple[str, ...] = ()
    """Other slots that a right diagnosis may name: the wrong operation gives those too."""
    extent: Extent
    needs: tuple[ModelNeed, ...] = ()
    """What the model must have, or there is nothing to break."""
    prompt_needs: tuple[PromptNeed, ...] = ()
    """What the prompt must have, or the fault cannot show."""
    strength: Strength | None = None
    in_doubt: bool = False
    """Whether it shows depends on the values: on this model and prompt it may drown in the
    noise of honest arithmetic. A run decides."""
    only_decoding: bool = False
    """Does it act only on tokens that follow others in the KV cache? One pass over a prompt
    cannot show it."""
    is_of_bytes: bool = False
    """Does it alter weights, so that a file can hold it?"""
    verdict: Verdict = Verdict.FAIL
    """What a comparison that sees it must say."""
    inject: Callable[[LanguageModel, Dose], Injection]
    """The caller has checked the dose and the needs: see `catalogue.inject_fault`."""

    def as_json(self) -> dict[str, object]:
        """What `apr faults` says of it."""
        strength = self.strength
        return {
            "id": self.id,
            "title": self.title,
            "family": self.family,
            "slot": self.slot,
            "acts_in": self.extent.value,
            "needs": [need.text for need in self.needs],
            "prompt_needs": [need.text for need in self.prompt_needs],
            "strength": None
            if strength is None
            else {
                "means": strength.text,
                "default": strength.default,
                "least": strength.least,
                "most": strength.most,
            },
            "in_doubt": self.in_doubt,
            "only_decoding": self.only_decoding,
            "of_bytes": self.is_of_bytes,
            "verdict": self.verdict.name,
        }

    def site(self, model: LanguageModel, dose: Dose) -> str:
        """The first site whose output is wrong; `tokens` where that is before all sites."""
        if self.extent is Extent.OUTSIDE:
            return self.slot
        slot = self.find_slot(model, dose) if self.find_slot else self.slot
        return str(Site(slot, dose.layer or 0))

    def guilty_sites(self, model: LanguageModel, dose: Dose) -> tuple[str, ...]:
        """Every site that a right diagnosis may name, the first one first."""
        layer = dose.layer or 0
        others = (str(Site(slot, layer)) for slot in self.guilty)
        return (self.site(model, dose), *others)


class FaultyPass(Pass):
    """A forward pass that knows where, and how strongly, it is wrong."""

    def __init__(
        self,
        model: LanguageModel,
        multiply: Multiply,
        cache: KVCache,
        recorder: TraceRecorder | None,
        dose: Dose,
    ) -> None:
        super().__init__(model, multiply, cache, recorder)
        self.dose = dose


def in_the_pass(kind: type[FaultyPass]) -> Callable[[LanguageModel, Dose], Injection]:
    """An `inject` that runs the sound weights through a wrong forward pass."""

    def inject(model: LanguageModel, dose: Dose) -> Injection:
        def forward(
            model: LanguageModel,
            multiply: Multiply,
            cache: KVCache,
            recorder: TraceRecorder | None,
        ) -> Pass:
            return kind(model, multiply, cache, recorder, dose)

        return Injection(model=model, forward=forward)

    return inject


def nothing_to_break(fault_id: str, expected: str, found: str) -> UsageError:
    """The error of a fault that this model has no place for."""
    return UsageError(
        "this model has nothing that the fault could break",
        where=f"--fault {fault_id}",
        expected=expected,
        found=found,
        hint="choose another fault or another layer",
    )
