"""Every rule that `pv validate` judges contracts by, in the order of its output.

Metadata, top-level keys, what a kernel states, obligations, tests, harnesses, the gate,
counts, the rules of single kinds, and the one on our own block. Ids are never reused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.rules import (
    beat,
    claims,
    crux,
    evidence,
    kaizen,
    metadata,
    obligations,
    parity,
)

if TYPE_CHECKING:
    from cotejar.contracts.rules.rule import Rule

CONTRACT_RULES: tuple[Rule, ...] = (
    metadata.NoReferences(),
    metadata.NoVersion(),
    metadata.DuplicateKeys(),
    metadata.TopLevelKind(),
    metadata.NearMissKey(),
    claims.NoEquations(),
    claims.EmptyFormula(),
    claims.NotProvable(),
    obligations.EmptyProperty(),
    obligations.RepeatedFormal(),
    obligations.MisplacedRequires(),
    obligations.MisplacedPhase(),
    obligations.MisplacedParent(),
    obligations.UndeclaredParent(),
    obligations.MissingReason(),
    obligations.MissingOwner(),
    obligations.DanglingJustification(),
    evidence.RepeatedTestId(),
    evidence.NoPrediction(),
    evidence.NoDiagnosis(),
    evidence.RepeatedHarnessId(),
    evidence.NoObligation(),
    evidence.NoBound(),
    claims.NoQaGate(),
    claims.WrongTotal(),
    beat.NoBeatBlock(),
    beat.UnknownIncumbent(),
    beat.NoMetric(),
    beat.UnknownDirection(),
    beat.NoThreshold(),
    beat.NoGateName(),
    beat.UnknownCompute(),
    kaizen.NoRecordId(),
    kaizen.UnknownStatus(),
    kaizen.NothingFalsifiable(),
    kaizen.IncomparableTarget(),
    kaizen.NothingMoves(),
    kaizen.EveryCostRises(),
    crux.DemandScore(),
    crux.UnknownCompetitor(),
    parity.UnusableParityBlock(),
)
