"""Harnesses: small functions that state, in Python, what must hold for every input.

    @harness(
        "KH-EXAMPLE-001",
        obligation="PO-EXAMPLE-001",
        bound=8,
        strategy=Strategy.SYMBOLIC,
        claim="soundness",
        side=Side.SOUNDNESS,
        targets=(judge,),
    )
    def judge_is_sound(inputs: Inputs) -> None:
        counts = inputs.integers("counts", inputs.bound)
        verdict = judge(counts)
        inputs.cover("some counts pass", verdict is Verdict.PASS)
        if verdict is Verdict.PASS:
            assert all(count > 0 for count in counts)

A harness that returns says yes; a failed `assert` or any exception that escapes says no.
One id may have several claims, each its own function. A claim that a gate never says too
much (soundness) is kept by a gate that never says anything, so an id with such a claim must
have one of the other side (completeness) too.
"""

from __future__ import annotations

import enum
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FunctionType

    from cotejar.contracts.prove.inputs import Inputs

    Body = Callable[[Inputs], None]


class Strategy(enum.StrEnum):
    """How a claim is decided, from the strongest."""

    EXHAUSTIVE = "exhaustive"
    """CPython runs the harness on every value of a finite domain."""
    SYMBOLIC = "symbolic"
    """The functions' own syntax trees, over symbols, decided by SMT solvers."""
    CROSSHAIR = "crosshair"
    """CPython runs the harness on CrossHair's stand-ins: every path of a leaf of integers."""
    SAMPLED = "sampled"
    """CPython runs the harness on random values: it can refute and never prove."""


class Side(enum.StrEnum):
    """Which way of being wrong a claim excludes."""

    SOUNDNESS = "soundness"
    """Saying yes where the answer is no."""
    COMPLETENESS = "completeness"
    """Saying no where the answer is yes."""
    BOTH = "both"
    """An equivalence or a symmetry."""


class _Register(Protocol):
    def __call__(self, body: Body) -> Body: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One registered function."""

    harness_id: str
    name: str
    obligation: str
    bound: int
    """Largest input length, as in a contract's `kani_harnesses`."""
    strategy: Strategy
    side: Side
    targets: tuple[FunctionType, ...]
    """Functions of production that the claim is about; mutants are made of them."""
    assumes: tuple[str, ...]
    """What the claim takes for granted, in words."""
    body: Body

    @property
    def label(self) -> str:
        """Id and name, unique in a registry."""
        return f"{self.harness_id}/{self.name}"


class Registry:
    """Claims by harness id."""

    def __init__(self) -> None:
        self._claims: dict[str, dict[str, Claim]] = {}
        self._ignores = False

    def add(self, claim: Claim) -> None:
        """Add a claim.

        Raises:
            ValueError: the id has another claim of that name.
        """
        if self._ignores:
            return
        claims = self._claims.setdefault(claim.harness_id, {})
        if claim.name in claims:
            raise ValueError(f"{claim.label} is registered twice")
        claims[claim.name] = claim

    @contextmanager
    def ignoring(self) -> Iterator[None]:
        """Register nothing: what is imported meanwhile is a changed copy."""
        self._ignores = True
        try:
            yield
        finally:
            self._ignores = False

    def claims_of(self, harness_id: str) -> tuple[Claim, ...]:
        """Every claim of an id, in order of registration; empty where nobody registered any."""
        return tuple(self._claims.get(harness_id, {}).values())

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id that has a claim."""
        return tuple(self._claims)

    def harness(
        self,
        harness_id: str,
        *,
        obligation: str,
        bound: int,
        strategy: Strategy,
        claim: str | None = None,
        side: Side = Side.BOTH,
        targets: tuple[Callable[..., object], ...] = (),
        assumes: tuple[str, ...] = (),
    ) -> _Register:
        """Register the decorated function; see the module's docstring."""

        def register(body: Body) -> Body:
            self.add(
                Claim(
                    harness_id=harness_id,
                    name=claim or body.__name__,
                    obligation=obligation,
                    bound=bound,
                    strategy=strategy,
                    side=side,
                    targets=tuple(targets),  # type: ignore[arg-type]
                    assumes=assumes,
                    body=body,
                )
            )
            return body

        return register


HARNESSES = Registry()
"""What `@harness` registers: our own claims, and those of files that `pv prove` was given."""

harness = HARNESSES.harness
