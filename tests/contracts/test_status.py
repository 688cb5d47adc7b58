"""What `pv status` says, and the five whys behind a change."""

from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.example import fill_example
from cotejar.contracts.status import contract_status, status_text

CHANGELOG = """changelog:
  - version: 1.0.0
    date: 2026-11-26
    changes: [a wider band]
    five_whys:
      - {why: Why wider?, because: It failed}
      - {why: Why did it fail?, because: The samples differed}
  - {version: 0.9.0, changes: [first]}
"""


def status(blocks: str):
    return contract_status(parse_contract(fill_example(blocks)))


def test_the_counts_and_the_gate() -> None:
    assert status_text(status(CHANGELOG)) == (
        "Contract: An example\n"
        "Version: 1.0.0\n"
        "Kind: kernel\n"
        "\n"
        "Equations: 1\n"
        "Proof obligations: 1\n"
        "Falsification tests: 1\n"
        "Kani harnesses: 1\n"
        "Kernel phases: 0\n"
        "QA gate: Example gate (F-EX-001)\n"
        "Declared proof level: L3 (by its own lists; nothing was run)"
    )


def test_without_a_gate_it_says_so() -> None:
    assert "QA gate: not defined" in status_text(status("qa_gate:\n"))


def test_the_last_why_is_the_root_cause() -> None:
    assert status_text(status(CHANGELOG), why=True).splitlines()[-6:] == [
        "Why 1.0.0 (2026-11-26)",
        "  - a wider band",
        "  1. Why wider?",
        "     It failed",
        "  2. Why did it fail?",
        "     Root cause: The samples differed",
    ]


def test_a_contract_that_explains_nothing_says_so() -> None:
    text = status_text(status("x: 1\n"), why=True)

    assert text.endswith("\n\nNo change of this contract is explained by five whys.")


def test_the_same_facts_as_json() -> None:
    facts = status(CHANGELOG).as_json()

    assert (facts["version"], facts["kani_harnesses"]) == ("1.0.0", 1)
    assert facts["changelog"][0]["five_whys"][1] == {
        "why": "Why did it fail?",
        "because": "The samples differed",
    }
