"""Explain a rule: why it is there, what breaks it, what does not."""

from __future__ import annotations

from textwrap import fill, indent
from typing import TYPE_CHECKING, Any

from cotejar.contracts.rules.every_rule import all_rules, find_rule

if TYPE_CHECKING:
    from cotejar.contracts.rules.rule import RuleHelp

WIDTH = 88


def explain_rule(rule_id: str) -> RuleHelp:
    """The help of one rule.

    Raises:
        UnknownRuleError: no rule has that id.
    """
    return find_rule(rule_id).help()


def list_rules() -> list[RuleHelp]:
    """The help of every rule, by verb."""
    return [rule.help() for rule in all_rules()]


def rule_text(rule: RuleHelp) -> str:
    """One rule, for a terminal."""
    why = fill(rule.why, WIDTH, initial_indent="  ", subsequent_indent="  ")
    parts = [f"{rule.id} [{rule.severity.label}]: {rule.title}", why]
    parts += [f"Bad:\n{indent(rule.bad, '  ')}", f"Good:\n{indent(rule.good, '  ')}"]
    return "\n\n".join(parts)


def rule_lines(rules: list[RuleHelp]) -> str:
    """One line a rule."""
    return "\n".join(f"{r.id:<16} {r.severity.label:<5}  {r.title}" for r in rules)


def rule_json(rule: RuleHelp) -> dict[str, Any]:
    """One rule, for `--json`."""
    return {
        "id": rule.id,
        "title": rule.title,
        "severity": rule.severity.value,
        "why": rule.why,
        "bad": rule.bad,
        "good": rule.good,
    }
