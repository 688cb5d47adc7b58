"""The contract that a rule's Bad and Good are put into: it breaks no rule."""

from __future__ import annotations

from cotejar.contracts.source import Source
from cotejar.contracts.yaml_nodes import compose

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


def fill_example(blocks: str) -> str:
    """A whole contract with the given top-level blocks in place of the base ones."""
    given = Source(file="example", root=compose(blocks, where="example")).top_level_keys()
    base = [text for name, text in BASE_BLOCKS.items() if name not in given]
    return "".join(base) + blocks.rstrip("\n") + "\n"
