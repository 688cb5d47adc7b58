"""A node graph -> a typed contract: one builder a struct of the schema.

Order, defaults and aliases are upstream's (serde derive). The first thing that is not of
the schema ends the read with one `ContractSchemaError`, as it does upstream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.coerce import (
    I64_MAX,
    I64_MIN,
    U8_MAX,
    U32_MAX,
    Fields,
    fail,
    mapping_entries,
    text_entries,
    text_of,
)
from cotejar.contracts.schema import (
    Beat,
    Contract,
    ContractKind,
    EnforcementLevel,
    EnforcementRule,
    Equation,
    FalsificationTest,
    Harness,
    HarnessStrategy,
    IntakeStatus,
    KaizenRecord,
    KernelPhase,
    LeanProof,
    LeanStatus,
    Metadata,
    Obligation,
    ObligationType,
    QaGate,
    Shape,
    ShapeContract,
    Story,
    TypeInvariant,
    VerificationSummary,
)
from cotejar.contracts.source import Path, Source, plain_value, scalar_value
from cotejar.contracts.yaml_nodes import Node, ScalarNode, SequenceNode

if TYPE_CHECKING:
    from typing import Any


def build_contract(source: Source) -> Contract:
    """Type the document of `source`.

    Raises:
        ContractSchemaError: a required key is missing, a type is wrong, a word unknown.
    """
    top = Fields(source.root, source, (), _BLOCKS)
    metadata_node = top.node("metadata")
    if metadata_node is None:
        fail(source.root, source, (), "a key `metadata`", "none", "missing field `metadata`")
    metadata = _metadata(metadata_node, source, ("metadata",))
    kaizen = metadata.kind is ContractKind.KAIZEN
    _check_coq(top)
    return Contract(
        source=source,
        metadata=metadata,
        equations=_equations(top.node("equations"), source),
        obligations=top.structs("proof_obligations", _obligation),
        tests=top.structs("falsification_tests", _test),
        harnesses=top.structs("kani_harnesses", _harness),
        qa_gate=top.struct("qa_gate", _qa_gate),
        phases=top.struct("kernel_structure", _phases),
        simd_dispatch=_simd_dispatch(top, source),
        enforcement=tuple(
            _enforcement(name, node, source, path)
            for name, node, path in top.entries("enforcement")
        ),
        verification_summary=top.struct("verification_summary", _summary),
        type_invariants=top.structs("type_invariants", _type_invariant),
        beat=top.struct("beat", _beat),
        stories=top.structs("stories", _story),
        kaizen=_kaizen(source) if kaizen else None,
    )


_BLOCKS = (
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
)
"""The blocks that are read as types."""


def _metadata(node: Node, source: Source, path: Path) -> Metadata:
    fields = Fields(node, source, path, tuple(Metadata.__dataclass_fields__))
    competitor = fields.optional_text("competitor")
    return Metadata(
        version=fields.text("version"),
        description=fields.text("description"),
        created=fields.optional_text("created"),
        author=fields.optional_text("author"),
        references=fields.texts("references"),
        depends_on=fields.texts("depends_on"),
        registry=fields.boolean("registry") or False,
        kind=fields.word("kind", ContractKind, null_is_absent=False),
        enforcement_level=fields.word("enforcement_level", EnforcementLevel),
        locked_level=fields.optional_text("locked_level"),
        competitor=None if competitor is None else competitor.strip(),
        demand_score=fields.integer("demand_score", I64_MIN, I64_MAX),
        intake_status=fields.word("intake_status", IntakeStatus),
    )


def _equations(node: Node | None, source: Source) -> tuple[Equation, ...]:
    """A mapping of equations, or a list whose items' `id` is the name."""
    if node is None or (isinstance(node, ScalarNode) and scalar_value(node) is None):
        return ()
    if not isinstance(node, SequenceNode):
        return tuple(
            _equation(name, item, source, path)
            for name, item, path in text_entries(node, source, ("equations",))
        )
    equations: dict[str, Equation] = {}
    for index, item in enumerate(node.items):
        name = f"equation_{index}"
        for key, value in mapping_entries(item, source, ("equations", index)):
            if (
                isinstance(key, ScalarNode)
                and key.text == "id"
                and isinstance(value, ScalarNode)
                and isinstance(scalar_value(value), str)
            ):
                name = value.text
        equations[name] = _equation(name, item, source, ("equations", index))
    return tuple(equations.values())


def _equation(name: str, node: Node, source: Source, path: Path) -> Equation:
    known = tuple(Equation.__dataclass_fields__)[1:]
    fields = Fields(node, source, path, known, by_value=True)
    return Equation(
        name=name,
        formula=fields.text("formula", ""),
        domain=fields.optional_text("domain"),
        codomain=fields.optional_text("codomain"),
        invariants=fields.texts("invariants"),
        preconditions=fields.texts("preconditions"),
        postconditions=fields.texts("postconditions"),
        lean_theorem=fields.optional_text("lean_theorem"),
        float_tolerance=fields.number("float_tolerance"),
        assumes=fields.struct("assumes", _shape_contract),
        guarantees=fields.struct("guarantees", _shape_contract),
    )


def _shape_contract(node: Node, source: Source, path: Path) -> ShapeContract:
    known = tuple(ShapeContract.__dataclass_fields__)
    fields = Fields(node, source, path, known, by_value=True)
    return ShapeContract(
        shapes={
            name: _shape(item, source, place) for name, item, place in fields.entries("shapes")
        },
        constraints=fields.texts("constraints"),
        from_contract=fields.optional_text("from_contract"),
        from_equation=fields.optional_text("from_equation"),
    )


def _shape(node: Node, source: Source, path: Path) -> Shape:
    fields = Fields(node, source, path, tuple(Shape.__dataclass_fields__), by_value=True)
    if fields.node("dims") is None:
        fail(node, source, path, "a key `dims`", "none", "missing field `dims`")
    return Shape(dims=fields.texts("dims"), dtype=fields.optional_text("dtype"))


def _obligation(node: Node, source: Source, path: Path) -> Obligation:
    fields = Fields(node, source, path, tuple(Obligation.__dataclass_fields__), aliased=True)
    obligation_type = fields.word("type", ObligationType, null_is_absent=False)
    return Obligation(
        id=fields.optional_text("id"),
        type=obligation_type or ObligationType.INVARIANT,
        property=fields.text("property", ""),
        formal=fields.optional_text("formal"),
        tolerance=fields.number("tolerance"),
        applies_to=fields.optional_text("applies_to"),
        lean=fields.struct("lean", _lean),
        requires=fields.optional_text("requires"),
        applies_to_phase=fields.optional_text("applies_to_phase"),
        parent_contract=fields.optional_text("parent_contract"),
        na_reason=fields.optional_text("na_reason"),
        na_owner=fields.optional_text("na_owner"),
    )


def _lean(node: Node, source: Source, path: Path) -> LeanProof:
    fields = Fields(node, source, path, tuple(LeanProof.__dataclass_fields__))
    return LeanProof(
        theorem=fields.text("theorem"),
        module=fields.optional_text("module"),
        status=fields.word("status", LeanStatus, null_is_absent=False) or LeanStatus.SORRY,
        depends_on=fields.texts("depends_on"),
        mathlib_imports=fields.texts("mathlib_imports"),
        notes=fields.optional_text("notes"),
    )


def _test(node: Node, source: Source, path: Path) -> FalsificationTest:
    fields = Fields(
        node, source, path, tuple(FalsificationTest.__dataclass_fields__), aliased=True
    )
    return FalsificationTest(
        id=fields.text("id"),
        rule=fields.text("rule", ""),
        prediction=fields.text("prediction", ""),
        test=fields.optional_text("test"),
        test_harness=fields.optional_text("test_harness"),
        name=fields.optional_text("name"),
        if_fails=fields.text("if_fails", ""),
    )


def _harness(node: Node, source: Source, path: Path) -> Harness:
    fields = Fields(node, source, path, tuple(Harness.__dataclass_fields__))
    return Harness(
        id=fields.text("id"),
        obligation=fields.text("obligation"),
        property=fields.optional_text("property"),
        bound=fields.integer("bound", 0, U32_MAX),
        strategy=fields.word("strategy", HarnessStrategy),
        solver=fields.optional_text("solver"),
        harness=fields.optional_text("harness"),
        actually_verified=fields.optional_boolean("actually_verified"),
    )


def _qa_gate(node: Node, source: Source, path: Path) -> QaGate:
    fields = Fields(node, source, path, tuple(QaGate.__dataclass_fields__))
    return QaGate(
        id=fields.text("id", ""),
        name=fields.text("name", ""),
        description=fields.optional_text("description"),
        checks=fields.texts("checks"),
        pass_criteria=fields.optional_text("pass_criteria"),
        falsification=fields.optional_text("falsification"),
    )


def _phases(node: Node, source: Source, path: Path) -> tuple[KernelPhase, ...]:
    fields = Fields(node, source, path, ("phases",))
    if fields.node("phases") is None:
        fail(node, source, path, "a key `phases`", "none", "missing field `phases`")
    return fields.structs("phases", _phase)


def _phase(node: Node, source: Source, path: Path) -> KernelPhase:
    fields = Fields(node, source, path, ("name", "description", "invariant"))
    return KernelPhase(
        name=fields.text("name"),
        description=fields.text("description"),
        invariant=fields.optional_text("invariant"),
    )


def _simd_dispatch(top: Fields, source: Source) -> dict[str, dict[str, str]]:
    return {
        operation: {
            isa: text_of(value, source, value_path)
            for isa, value, value_path in text_entries(node, source, path)
        }
        for operation, node, path in top.entries("simd_dispatch")
    }


def _enforcement(name: str, node: Node, source: Source, path: Path) -> EnforcementRule:
    fields = Fields(node, source, path, ("description", "check", "severity", "reference"))
    return EnforcementRule(
        name=name,
        description=fields.text("description"),
        check=fields.optional_text("check"),
        severity=fields.optional_text("severity"),
        reference=fields.optional_text("reference"),
    )


def _summary(node: Node, source: Source, path: Path) -> VerificationSummary:
    fields = Fields(node, source, path, tuple(VerificationSummary.__dataclass_fields__))

    def optional_count(name: str) -> int:
        return fields.integer(name, 0, U32_MAX, default=0) or 0

    return VerificationSummary(
        total_obligations=fields.required_integer("total_obligations", 0, U32_MAX),
        l2_property_tested=optional_count("l2_property_tested"),
        l3_kani_proved=optional_count("l3_kani_proved"),
        l4_lean_proved=optional_count("l4_lean_proved"),
        l4_sorry_count=optional_count("l4_sorry_count"),
        l4_not_applicable=optional_count("l4_not_applicable"),
    )


def _type_invariant(node: Node, source: Source, path: Path) -> TypeInvariant:
    fields = Fields(node, source, path, ("name", "type", "predicate", "description"))
    return TypeInvariant(
        name=fields.text("name"),
        type=fields.text("type"),
        predicate=fields.text("predicate"),
        description=fields.optional_text("description"),
    )


def _beat(node: Node, source: Source, path: Path) -> Beat:
    texts = ("incumbent_pinned", "canonical_task", "baseline_sourced_date", "approved_compute")
    numbers = ("baseline_value", "baseline_floor", "beat_threshold")
    required = ("incumbent", "metric", "direction", "ci_gate_name")
    fields = Fields(node, source, path, ("pillar", *required, *texts, *numbers))
    fields.integer("pillar", 0, U8_MAX)
    optional_texts = {name: fields.optional_text(name) for name in texts}
    optional_numbers = {name: fields.number(name) for name in numbers}
    return Beat(
        incumbent=fields.text("incumbent", ""),
        metric=fields.text("metric", ""),
        direction=fields.text("direction", ""),
        beat_threshold=optional_numbers["beat_threshold"],
        ci_gate_name=fields.text("ci_gate_name", ""),
        approved_compute=optional_texts["approved_compute"],
    )


def _story(node: Node, source: Source, path: Path) -> Story:
    fields = Fields(node, source, path, ("id", "competitor", "demand_score", "status"))
    competitor = fields.optional_text("competitor")
    return Story(
        id=fields.text("id", ""),
        competitor=None if competitor is None else competitor.strip(),
        demand_score=fields.integer("demand_score", I64_MIN, I64_MAX),
        status=fields.word("status", IntakeStatus),
    )


def _kaizen(source: Source) -> KaizenRecord:
    texts = ("contract", "title", "parent", "status")
    free = ("baseline", "target", "invariants")
    fields = Fields(source.root, source, (), (*texts, *free))
    read = {name: fields.optional_text(name) for name in texts}

    def block(name: str) -> Any:
        node = fields.node(name)
        return None if node is None else plain_value(node)

    return KaizenRecord(
        contract=read["contract"],
        status=read["status"],
        baseline=block("baseline"),
        target=block("target"),
        invariants=block("invariants"),
    )


def _check_coq(top: Fields) -> None:
    """`coq_spec` is read for its types only: no rule of ours uses its content."""
    top.struct("coq_spec", _coq)


def _coq(node: Node, source: Source, path: Path) -> None:
    fields = Fields(node, source, path, ("module", "imports", "definitions", "obligations"))
    fields.text("module")
    fields.texts("imports")
    fields.structs("definitions", _coq_definition)
    fields.structs("obligations", _coq_obligation)


def _coq_definition(node: Node, source: Source, path: Path) -> None:
    fields = Fields(node, source, path, ("name", "statement"))
    fields.text("name")
    fields.text("statement")


def _coq_obligation(node: Node, source: Source, path: Path) -> None:
    fields = Fields(node, source, path, ("links_to", "coq_lemma", "status"))
    fields.text("links_to")
    fields.text("coq_lemma")
    fields.text("status", "stub")
