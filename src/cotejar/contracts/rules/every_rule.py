"""Every rule of every verb, to be explained; and those of `pv lint` in order."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from cotejar.contracts.rules import (
    lint_audit,
    lint_code,
    lint_reverse,
    lint_run,
    lint_score,
    lint_shapes,
    lint_trend,
    lint_validate,
)
from cotejar.contracts.rules.audit import AUDIT_RULES
from cotejar.contracts.rules.catalogue import CONTRACT_RULES
from cotejar.contracts.rules.manifest import MANIFEST_RULES
from cotejar.contracts.rules.spec_pointers import SPEC_RULE
from cotejar.errors import UnknownRuleError

if TYPE_CHECKING:
    from cotejar.contracts.rules.lint_rule import LintRule
    from cotejar.contracts.rules.rule import AnyRule

LINT_RULES: tuple[LintRule, ...] = (
    lint_validate.SchemaBroken(),
    lint_validate.NoVersion(),
    lint_validate.NoCreated(),
    lint_validate.EmptyFormula(),
    lint_validate.EmptyProperty(),
    lint_validate.RepeatedFormal(),
    lint_validate.NoHarness(),
    lint_validate.NoTests(),
    lint_audit.FewHarnesses(),
    lint_audit.NoLean(),
    lint_audit.UntestedObligation(),
    lint_audit.NoPaper(),
    lint_audit.UnnamedObligation(),
    lint_audit.NoDomain(),
    lint_audit.NoTolerance(),
    lint_score.LowScore(),
    lint_score.NoBinding(),
    lint_score.HarnessesBelowHalf(),
    lint_score.NothingProvedInLean(),
    lint_code.GoneTest(),
    lint_code.ProseTest(),
    lint_code.NoConditions(),
    lint_code.NoTheorem(),
    lint_code.BelowLock(),
    lint_code.BelowLevel(),
)
"""The rules of `pv lint` on one contract, in the order of its gates."""

RUN_RULES: tuple[
    lint_reverse.ReverseRule
    | lint_shapes.CompositionRule
    | lint_trend.TrendRule
    | lint_run.RepeatedStem
    | lint_run.StaleSuppression,
    ...,
] = (
    *lint_reverse.REVERSE_RULES,
    lint_run.RepeatedStem(),
    *lint_shapes.COMPOSITION_RULES,
    *lint_trend.TREND_RULES,
    lint_run.StaleSuppression(),
)
"""The rules of `pv lint` on a run as a whole."""


def all_rules() -> tuple[AnyRule[Any], ...]:
    """Every rule there is, by verb: validate, audit, lint."""
    validate: tuple[AnyRule[Any], ...] = (*CONTRACT_RULES, *MANIFEST_RULES)
    audit: tuple[AnyRule[Any], ...] = (*AUDIT_RULES, SPEC_RULE)
    lint: tuple[AnyRule[Any], ...] = (*LINT_RULES, *RUN_RULES)
    return (*validate, *audit, *lint)


def gate_of(rule_id: str) -> str | None:
    """The gate of `pv lint` that a rule belongs to; None for a rule of another verb."""
    gates = {rule.id: rule.gate for rule in (*LINT_RULES, *RUN_RULES)}
    return gates.get(rule_id)


def find_rule(rule_id: str) -> AnyRule[Any]:
    """The rule of that id, in any case.

    Raises:
        UnknownRuleError: there is none.
    """
    wanted = rule_id.strip().upper()
    for rule in all_rules():
        if rule.id == wanted:
            return rule
    near = get_close_matches(wanted, [rule.id for rule in all_rules()], n=3, cutoff=0.5)
    raise UnknownRuleError(
        f"there is no rule {rule_id!r}",
        where="rule id",
        expected="an id such as SCHEMA-001, AUDIT-001 or PV-VAL-001",
        found=rule_id,
        hint=f"near it: {', '.join(near)}" if near else "`pv explain` lists every rule",
    )
