"""A contract as typed data: upstream's schema, newest form.

Keys that upstream does not know are ignored, as upstream ignores them; our own `parity:`
block is one. Text fields are never None where upstream has a default of "".
Field-by-field facts, defaults and aliases are in `docs/spec.md section 5`.
"""

from __future__ import annotations

import builtins
import enum
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.contracts.source import Source

TOP_LEVEL_BLOCKS = (
    "metadata",
    "equations",
    "proof_obligations",
    "falsification_tests",
    "kani_harnesses",
    "qa_gate",
    "kernel_structure",
    "simd_dispatch",
    "enforcement",
    "verification_summary",
    "type_invariants",
    "coq_spec",
    "beat",
    "stories",
    "falsification",
)
"""Every block name of the schema; other top-level keys belong to whoever wrote them."""


class ContractKind(enum.StrEnum):
    """What a contract is about; only a kernel must carry proofs."""

    KERNEL = "kernel"
    REGISTRY = "registry"
    MODEL_FAMILY = "model-family"
    MODEL_FAMILY_VARIANT = "model-family-variant"
    TOKENIZER = "tokenizer"
    TRAINING_LOOP = "training-loop"
    PRETRAINING_CORPUS = "pretraining-corpus"
    TRAINING_PRECONDITION_GATE = "training-precondition-gate"
    CORPUS_ASSEMBLY = "corpus-assembly"
    PATTERN = "pattern"
    SCHEMA = "schema"
    BEAT_BENCHMARK = "beat-benchmark"
    KAIZEN = "kaizen"


class EnforcementLevel(enum.StrEnum):
    """How much a contract asks of itself, from least to most."""

    BASIC = "basic"
    STANDARD = "standard"
    STRICT = "strict"
    PROVEN = "proven"


class IntakeStatus(enum.StrEnum):
    """How far a competitor's feature is covered."""

    MISSING = "missing"
    PARTIAL = "partial"
    SUPPORTED = "supported"
    UNCLEAR = "unclear"


class ObligationType(enum.StrEnum):
    """What sort of statement an obligation makes; the last seven are design by contract."""

    INVARIANT = "invariant"
    EQUIVALENCE = "equivalence"
    BOUND = "bound"
    MONOTONICITY = "monotonicity"
    IDEMPOTENCY = "idempotency"
    LINEARITY = "linearity"
    SYMMETRY = "symmetry"
    ASSOCIATIVITY = "associativity"
    CONSERVATION = "conservation"
    ORDERING = "ordering"
    COMPLETENESS = "completeness"
    SOUNDNESS = "soundness"
    INVOLUTION = "involution"
    DETERMINISM = "determinism"
    ROUNDTRIP = "roundtrip"
    STATE_MACHINE = "state_machine"
    CLASSIFICATION = "classification"
    INDEPENDENCE = "independence"
    TERMINATION = "termination"
    SAFETY = "safety"
    LIVENESS = "liveness"
    PRECONDITION = "precondition"
    POSTCONDITION = "postcondition"
    FRAME = "frame"
    LOOP_INVARIANT = "loop_invariant"
    LOOP_VARIANT = "loop_variant"
    OLD_STATE = "old_state"
    SUBCONTRACT = "subcontract"


class HarnessStrategy(enum.StrEnum):
    """How a harness covers its input space."""

    EXHAUSTIVE = "exhaustive"
    STUB_FLOAT = "stub_float"
    COMPOSITIONAL = "compositional"
    BOUNDED_INT = "bounded_int"


class LeanStatus(enum.StrEnum):
    """How far a Lean proof is."""

    PROVED = "proved"
    SORRY = "sorry"
    WIP = "wip"
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """The block every contract has."""

    version: str
    description: str
    created: str | None
    author: str | None
    references: tuple[str, ...]
    depends_on: tuple[str, ...]
    """Stems of other contracts."""
    registry: bool
    kind: ContractKind | None
    """None if the file does not say; then it is judged as a kernel."""
    enforcement_level: EnforcementLevel | None
    locked_level: str | None
    competitor: str | None
    """Blanks around it are dropped."""
    demand_score: int | None
    intake_status: IntakeStatus | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The shape of an array, by names."""

    dims: tuple[str, ...]
    """From the outermost: `batch`, `seq`, `config.num_heads * config.head_dim`."""
    dtype: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeContract:
    """What an equation takes for granted of another's arrays, or grants of its own."""

    shapes: Mapping[str, Shape]
    constraints: tuple[str, ...]
    from_contract: str | None
    """The stem of the contract that must guarantee it."""
    from_equation: str | None
    """Which of its equations; None: any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Equation:
    """What is claimed, as a formula."""

    name: str
    formula: str
    domain: str | None
    codomain: str | None
    invariants: tuple[str, ...]
    preconditions: tuple[str, ...]
    postconditions: tuple[str, ...]
    lean_theorem: str | None
    float_tolerance: float | None
    assumes: ShapeContract | None
    guarantees: ShapeContract | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LeanProof:
    """The Lean side of an obligation."""

    theorem: str
    module: str | None
    status: LeanStatus
    depends_on: tuple[str, ...]
    mathlib_imports: tuple[str, ...]
    notes: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Obligation:
    """A statement that must be shown."""

    id: str | None
    type: ObligationType
    property: str
    formal: str | None
    tolerance: float | None
    applies_to: str | None
    lean: LeanProof | None
    requires: str | None
    applies_to_phase: str | None
    parent_contract: str | None
    na_reason: str | None
    na_owner: str | None

    @builtins.property  # the field above took the plain name
    def is_not_applicable(self) -> bool:
        """Declared to be no property of code."""
        return self.applies_to in {"not_applicable", "N/A"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FalsificationTest:
    """A prediction that a run can contradict."""

    id: str
    rule: str
    prediction: str
    test: str | None
    """The command."""
    test_harness: str | None
    name: str | None
    if_fails: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Harness:
    """A bounded proof of an obligation."""

    id: str
    obligation: str
    """An obligation's id, its property text, or an equation's name."""
    property: str | None
    bound: int | None
    """Largest input length, in elements."""
    strategy: HarnessStrategy | None
    solver: str | None
    harness: str | None
    actually_verified: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class QaGate:
    """When the whole contract counts as met."""

    id: str
    name: str
    description: str | None
    checks: tuple[str, ...]
    pass_criteria: str | None
    falsification: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelPhase:
    """One step of a kernel."""

    name: str
    description: str
    invariant: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EnforcementRule:
    """How a rule of the contract is enforced."""

    name: str
    description: str
    check: str | None
    severity: str | None
    reference: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationSummary:
    """Counts that the contract states of itself."""

    total_obligations: int
    l2_property_tested: int
    l3_kani_proved: int
    l4_lean_proved: int
    l4_sorry_count: int
    l4_not_applicable: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TypeInvariant:
    """What holds of every value of a type."""

    name: str
    type: str
    predicate: str
    description: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """A claim to be at least as good as an incumbent, with its pinned threshold."""

    incumbent: str
    metric: str
    direction: str
    beat_threshold: float | None
    ci_gate_name: str
    approved_compute: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One row of a competitive-research registry."""

    id: str
    competitor: str | None
    demand_score: int | None
    status: IntakeStatus | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KaizenRecord:
    """The top-level keys of an improvement record; the free-form ones as plain data."""

    contract: str | None
    status: str | None
    baseline: Any
    target: Any
    invariants: Any


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contract:
    """One contract, and where each of its parts is written."""

    source: Source
    metadata: Metadata
    equations: tuple[Equation, ...]
    obligations: tuple[Obligation, ...]
    tests: tuple[FalsificationTest, ...]
    harnesses: tuple[Harness, ...]
    qa_gate: QaGate | None
    phases: tuple[KernelPhase, ...] | None
    """Of `kernel_structure`; None if there is none."""
    simd_dispatch: Mapping[str, Mapping[str, str]]
    enforcement: tuple[EnforcementRule, ...]
    verification_summary: VerificationSummary | None
    type_invariants: tuple[TypeInvariant, ...]
    beat: Beat | None
    stories: tuple[Story, ...]
    kaizen: KaizenRecord | None
    """Read only where `kind` is kaizen: other contracts use the same keys otherwise."""

    @property
    def stem(self) -> str:
        """The file's name without its ending; other contracts refer to it so."""
        return PurePath(self.source.file).stem

    @property
    def kind(self) -> ContractKind:
        """The kind it is judged by: `registry: true` counts unless a kind says otherwise."""
        declared = self.metadata.kind or ContractKind.KERNEL
        if self.metadata.registry and declared is ContractKind.KERNEL:
            return ContractKind.REGISTRY
        return declared

    @property
    def is_kernel(self) -> bool:
        """Must it carry equations, obligations, tests and harnesses?"""
        return self.kind is ContractKind.KERNEL
