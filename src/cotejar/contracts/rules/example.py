"""The contract that a rule's Bad and Good are put into: it breaks no rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.source import Source
from cotejar.contracts.yaml_nodes import compose

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE_BLOCKS = {
    "metadata": """\
metadata:
  version: 1.0.0
  description: An example
  references: [A source]
""",
    "equations": """\
equations:
  identity: {formula: y = x}
""",
    "proof_obligations": """\
proof_obligations:
  - {type: invariant, property: y is finite}
""",
    "falsification_tests": """\
falsification_tests:
  - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow}
""",
    "kani_harnesses": """\
kani_harnesses:
  - {id: KANI-1, obligation: y is finite, bound: 8, strategy: exhaustive}
""",
    "qa_gate": """\
qa_gate: {id: F-EX-001, name: Example gate}
""",
}


LINT_BLOCKS = BASE_BLOCKS | {
    "metadata": """\
metadata:
  {version: 1.0.0, created: 2026-01-01, description: An example, references: [Doe (2024)]}
""",
    "equations": """\
equations:
  identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
             lean_theorem: t}
""",
    "proof_obligations": """\
proof_obligations:
  - {type: invariant, property: y is finite, lean: {theorem: t, status: proved}}
""",
    "falsification_tests": """\
falsification_tests:
  - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow,
     test: "pytest tests/test_example.py::test_it"}
""",
}
"""As `BASE_BLOCKS`, and no rule of `pv lint` has anything to say of it either."""


def fill_example(blocks: str, base: Mapping[str, str] = BASE_BLOCKS) -> str:
    """A whole contract with the given top-level blocks in place of the base ones."""
    given = Source(file="example", root=compose(blocks, where="example")).top_level_keys()
    kept = [text for name, text in base.items() if name not in given]
    return "".join(kept) + blocks.rstrip("\n") + "\n"
