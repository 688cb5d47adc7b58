"""Python test skeletons from a contract: one a falsification test, obligation and harness.

Each fails until somebody writes it, and says what it was to show. The text is a module that
compiles whatever the contract's own text holds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cotejar.contracts.traceability import pytest_nodes

if TYPE_CHECKING:
    from cotejar.contracts.schema import Contract, FalsificationTest

_NOT_A_NAME = re.compile(r"[^a-z0-9]+")
MAX_NAME = 80


def scaffold_tests(contract: Contract) -> str:
    """The source of a pytest module with one failing test a claim."""
    names: dict[str, int] = {}
    blocks = []
    for test in contract.tests:
        name = _unique(_test_name(test), names)
        facts = [f"Rule: {test.rule}", f"Prediction: {test.prediction}"]
        blocks.append(_function(name, test.id, [*facts, f"If it fails: {test.if_fails}"]))
    for index, obligation in enumerate(contract.obligations):
        label = obligation.id or f"proof_obligations[{index}]"
        name = _unique(f"test_obligation_{obligation.id or obligation.property}", names)
        facts = [f"{obligation.type.value}: {obligation.property}"]
        if obligation.formal is not None:
            facts.append(f"Formally: {obligation.formal}")
        if obligation.tolerance is not None:
            facts.append(f"Tolerance: {obligation.tolerance!r}")
        blocks.append(_function(name, label, facts))
    for harness in contract.harnesses:
        name = _unique(f"test_harness_{harness.harness or harness.id}", names)
        facts = [f"Discharges: {harness.obligation}"]
        if harness.property is not None:
            facts.append(f"Shows: {harness.property}")
        facts.append(f"Bound: {harness.bound}, strategy: {harness.strategy or 'any'}")
        blocks.append(_function(name, harness.id, facts))
    head = f'"""{_escape(contract.metadata.description)}"""\n\nimport pytest\n'
    return (
        "\n\n".join([head, *blocks]) if blocks else head + "\n# The contract claims nothing.\n"
    )


def _function(name: str, label: str, facts: list[str]) -> str:
    lines = [f"def {name}() -> None:", f'    """{_escape(label)}.', ""]
    lines += [f"    {_escape(fact)}" for fact in facts]
    reason = f"{label} is not written yet"
    return "\n".join([*lines, '    """', f"    pytest.fail({_quote(reason)})", ""])


def _test_name(test: FalsificationTest) -> str:
    """The function that the test's own command names, or one made of its id."""
    nodes = pytest_nodes(test.test or "")
    named = next((function for _, function in nodes if function), None)
    return named or f"test_{test.id}"


def _unique(text: str, taken: dict[str, int]) -> str:
    """A function name that pytest collects and nobody has yet; counts in `taken`."""
    base = _NOT_A_NAME.sub("_", text.lower()).strip("_")[:MAX_NAME].rstrip("_")
    base = base if base.startswith("test_") else f"test_{base}"
    if base in {"test_", "test_test"}:
        base = "test_unnamed"
    name = base
    while name in taken:
        taken[base] += 1
        name = f"{base}_{taken[base]}"
    taken[name] = 1
    return name


def _escape(text: str) -> str:
    """One line that can stand in a docstring."""
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return shown.replace("\\", "\\\\").replace('"', '\\"')


def _quote(text: str) -> str:
    return f'"{_escape(text)}"'
