"""Which bump a change asks for, and whether the version gave it."""

import pytest

from cotejar.contracts.diff import Bump, check_problems, diff_contracts, diff_text, version_step
from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.example import fill_example

META = "metadata: {version: %s, description: d, references: [a]}\n"
EQUATIONS = "equations: {f: {formula: y, domain: R}}\n"
PARITY = """parity:
  reference: a
  preconditions: [token-ids, ddof]
  required_sites: [qkv]
  gates:
    - {metric: rel_l2_max, sites: all, limit: 1e-5, origin: rounding}
    - {metric: std_ratio, sites: ffn_out, band: [0.5, 2.0]}
"""


def contract(blocks: str):
    return parse_contract(fill_example(blocks))


def needed(old: str, new: str) -> str:
    return diff_contracts(contract(old), contract(new)).needed.name


@pytest.mark.parametrize(
    ("new", "bump"),
    [
        ("equations: {f: {formula: y, domain: R}}\n", "NONE"),
        ("equations: {f: {formula: z, domain: R}}\n", "MAJOR"),
        ("equations: {f: {formula: y, domain: N}}\n", "MAJOR"),
        ("equations: {f: {formula: y, domain: R, codomain: R}}\n", "MAJOR"),
        ("equations: {f: {formula: y, domain: R, invariants: [i]}}\n", "MAJOR"),
        ("equations: {g: {formula: y, domain: R}}\n", "MAJOR"),
        ("equations: {f: {formula: y, domain: R}, g: {formula: y}}\n", "MINOR"),
        ("equations: {f: {formula: y, domain: R, lean_theorem: t}}\n", "NONE"),
    ],
)
def test_an_equation(new: str, bump: str) -> None:
    assert needed(EQUATIONS, new) == bump


ONE_OBLIGATION = "proof_obligations: [{type: invariant, property: p}]\n"


@pytest.mark.parametrize(
    ("new", "bump"),
    [
        ("proof_obligations: [{property: p}]\n", "NONE"),
        ("proof_obligations: [{type: invariant, property: p, tolerance: 1}]\n", "NONE"),
        ("proof_obligations: [{type: bound, property: p}]\n", "MAJOR"),
        ("proof_obligations: [{type: invariant, property: q}]\n", "MAJOR"),
        ("proof_obligations: []\n", "MAJOR"),
        ("proof_obligations: [{property: p}, {property: q}]\n", "MINOR"),
    ],
)
def test_an_obligation(new: str, bump: str) -> None:
    assert needed(ONE_OBLIGATION, new) == bump


@pytest.mark.parametrize(
    ("old", "new", "bump"),
    [
        ("falsification_tests: []\n", "falsification_tests: [{id: a}]\n", "MINOR"),
        ("falsification_tests: [{id: a}]\n", "falsification_tests: []\n", "MINOR"),
        ("kani_harnesses: []\n", "kani_harnesses: [{id: a, obligation: b}]\n", "MINOR"),
        ("kani_harnesses: [{id: a, obligation: b}]\n", "kani_harnesses: []\n", "MINOR"),
        ("enforcement: {a: {description: d}}\n", "enforcement: {}\n", "MINOR"),
        ("enforcement: {}\n", "enforcement: {a: {description: d}}\n", "PATCH"),
        ("qa_gate: {id: a}\n", "qa_gate: {id: b}\n", "NONE"),
    ],
)
def test_the_other_sections(old: str, new: str, bump: str) -> None:
    assert needed(old, new) == bump


@pytest.mark.parametrize(
    ("before", "after", "bump"),
    [
        ("limit: 1e-5", "limit: 1e-4", "MAJOR"),
        ("limit: 1e-5", "limit: 1e-6", "MINOR"),
        ("limit: 1e-5", "limit: tiny", "MAJOR"),
        ("limit: 1e-5", "limit: .nan", "MAJOR"),
        ("[0.5, 2.0]", "[0.4, 2.0]", "MAJOR"),
        ("[0.5, 2.0]", "[0.5, 1.9]", "MINOR"),
        ("[0.5, 2.0]", "[0.6, 2.1]", "MAJOR"),
        ("preconditions: [token-ids, ddof]", "preconditions: [ddof]", "MAJOR"),
        ("preconditions: [token-ids, ddof]", "preconditions: [ddof, token-ids, a]", "MINOR"),
        ("required_sites: [qkv]", "required_sites: []", "MAJOR"),
        ("required_sites: [qkv]", "required_sites: [qkv, output]", "MINOR"),
        ("metric: std_ratio", "metric: cosine_distance", "MAJOR"),
        ("sites: ffn_out", "sites: ffn_up", "MAJOR"),
        ("origin: rounding", "origin: measured", "PATCH"),
        ("reference: a", "reference: b", "PATCH"),
        ("    - {metric: std_ratio, sites: ffn_out, band: [0.5, 2.0]}\n", "", "MAJOR"),
        ("  gates:\n", "  gates:\n    - {metric: nmse, limit: 1}\n", "MINOR"),
        (PARITY, "", "MAJOR"),
        ("reference: a", "reference: a", "NONE"),
    ],
)
def test_the_parity_block(before: str, after: str, bump: str) -> None:
    assert before in PARITY

    assert needed(PARITY, PARITY.replace(before, after) or "x: 1\n") == bump


def test_a_parity_block_that_is_new_lets_less_pass() -> None:
    assert needed("x: 1\n", PARITY) == "MINOR"


@pytest.mark.parametrize(
    ("old", "new", "step"),
    [
        ("1.0.0", "2.0.0", Bump.MAJOR),
        ("1.9", "1.10", Bump.MINOR),
        ("1.0.0", "v1.0.1", Bump.PATCH),
        ("1.0.0", "1.0.0", Bump.NONE),
        ("1.2.0", "1.1.9", None),
        ("1.0.0", "soon", None),
    ],
)
def test_the_step_of_a_version(old: str, new: str, step: Bump | None) -> None:
    assert version_step(old, new) is step


@pytest.mark.parametrize(
    ("old", "new", "enough"),
    [
        ("1.0.0", "2.0.0", True),
        ("1.0.0", "1.1.0", False),
        ("1.0.0", "1.0.0", False),
        ("2.0.0", "1.0.0", False),
        ("1.0.0", "next", False),
    ],
)
def test_a_major_change_needs_a_major_step(old: str, new: str, enough: bool) -> None:
    before = contract(META % old + "equations: {f: {formula: y}}\n")
    after = contract(META % new + "equations: {f: {formula: z}}\n")

    assert diff_contracts(before, after).is_bump_enough is enough


def test_no_change_needs_no_step_and_is_said_to_be_none() -> None:
    diff = diff_contracts(contract(EQUATIONS), contract(EQUATIONS))

    assert (diff.is_bump_enough, diff_text(diff)) == (True, "Contracts are identical.")


def test_a_new_version_number_alone_is_a_patch() -> None:
    diff = diff_contracts(contract(META % "1.0.0"), contract(META % "1.0.1"))

    assert (diff.needed, diff.suggested) == (Bump.NONE, Bump.PATCH)


def test_the_text_lists_each_section_with_its_signs() -> None:
    old = contract(META % "1.0.0" + "equations: {f: {formula: y}, g: {formula: y}}\n" + PARITY)
    new = contract(
        META % "1.1.0"
        + "equations: {f: {formula: z}, h: {formula: y}}\n"
        + PARITY.replace("1e-5", "1e-4")
    )

    assert diff_text(diff_contracts(old, new)) == (
        "Contract diff: 1.0.0 -> 1.1.0\n"
        "Suggested bump: major\n"
        "\n"
        "equations:\n"
        "  + h\n"
        "  - g\n"
        "  ~ f: formula changed\n"
        "\n"
        "parity:\n"
        "  ~ gate rel_l2_max at all: limit 1e-05 -> limit 0.0001 (lets more pass)\n"
        "\n"
        "What a gate means (not explained by five whys):\n"
        "  ! parity: ~ gate rel_l2_max at all: limit 1e-05 -> limit 0.0001 (lets more pass)\n"
        "  ! equations: ~ f: formula\n"
        "  ! equations: - g"
    )


# --- what a gate means -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "num_changes"),
    [
        ("limit: 1e-5", "limit: 1e-4", 1),
        ("limit: 1e-5", "limit: 1e-6", 1),
        ("[0.5, 2.0]", "[0.6, 2.1]", 1),
        ("preconditions: [token-ids, ddof]", "preconditions: [token-ids]", 1),
        ("preconditions: [token-ids, ddof]", "preconditions: [token-ids, ddof, finite]", 1),
        ("required_sites: [qkv]", "required_sites: []", 1),
        ("metric: std_ratio", "metric: cosine_distance", 1),  # one dropped, another new
        (PARITY, "x: 1\n", 1),
        ("  gates:\n", "  gates:\n    - {metric: nmse, limit: 1}\n", 0),
        ("origin: rounding", "origin: measured", 0),
        ("reference: a", "reference: b", 0),
    ],
)
def test_a_gate_that_judges_otherwise_is_a_change_of_meaning(
    before: str, after: str, num_changes: int
) -> None:
    assert before in PARITY
    diff = diff_contracts(contract(PARITY), contract(PARITY.replace(before, after)))

    assert len(diff.meaning_changes) == num_changes


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("x: 1\n", PARITY, ()),
        (
            "equations: {f: {formula: y}}\n",
            "equations: {f: {formula: z, domain: R}, g: {formula: y}}\n",
            ("equations: ~ f: formula, domain",),
        ),
        (
            "proof_obligations: [{id: PO-1, property: p, tolerance: 1e-5}]\n",
            "proof_obligations: [{id: PO-1, property: p, tolerance: 1e-3}]\n",
            ("proof_obligations: ~ PO-1: tolerance 1e-05 -> 0.001",),
        ),
        (
            "proof_obligations: [{property: p}]\n",
            "proof_obligations: [{property: p}, {property: q, tolerance: 1}]\n",
            (),
        ),
        (
            "proof_obligations: [{property: p}, {id: PO-2, property: q}]\n",
            "proof_obligations: [{property: p}]\n",
            ("proof_obligations: - PO-2: invariant 'q'",),
        ),
        (
            "kani_harnesses: [{id: a, obligation: b, bound: 280}]\n",
            "kani_harnesses: [{id: a, obligation: b, bound: 8}]\n",
            ("kani_harnesses: ~ a: bound 280 -> 8",),
        ),
    ],
)
def test_equations_obligations_and_bounds_are_gates_too(
    old: str, new: str, changes: tuple[str, ...]
) -> None:
    assert diff_contracts(contract(old), contract(new)).meaning_changes == changes


LOOSER = PARITY.replace("1e-5", "1e-4")
WHYS = "five_whys: [{why: Why wider?, because: %s}]"
FIRST = "  - {version: 1.0.0, changes: [first], %s}\n" % (WHYS % "It was new")


@pytest.mark.parametrize(
    ("changelog", "explained"),
    [
        ("", False),
        ("changelog: [{version: 2.0.0, changes: [wider]}]\n", False),
        (f"changelog:\n{FIRST}", False),  # an old explanation explains no new change
        ("changelog:\n  - {version: 2.0.0, %s}\n" % (WHYS % "It was new"), False),
        ("changelog:\n  - {version: 1.0.0, %s}\n" % (WHYS % "Added later"), False),
        ("changelog:\n  - {version: 2.0.0, five_whys: []}\n" + FIRST, False),
        ("changelog:\n  - {version: 2.0.0, %s}\n" % (WHYS % "Noise") + FIRST, True),
    ],
)
def test_only_five_whys_of_the_new_version_explain_its_change(
    changelog: str, explained: bool
) -> None:
    old = contract(META % "1.0.0" + LOOSER.replace("1e-4", "1e-5") + f"changelog:\n{FIRST}")
    new = contract(META % "2.0.0" + LOOSER + changelog)

    assert diff_contracts(old, new).is_explained is explained


def test_both_debts_of_a_version_are_named() -> None:
    diff = diff_contracts(contract(META % "1.0.0" + PARITY), contract(META % "1.0.1" + LOOSER))

    assert check_problems(diff) == [
        "the changes ask for a major bump, but 1.0.0 -> 1.0.1 is patch",
        "1 change(s) alter what a gate means, and the changelog of 1.0.1 has no five_whys for "
        "them: parity: ~ gate rel_l2_max at all: limit 1e-05 -> limit 0.0001 (lets more pass)",
    ]


def test_a_changed_tolerance_alone_is_no_identity() -> None:
    old = contract("proof_obligations: [{property: p, tolerance: 1}]\n")
    new = contract("proof_obligations: [{property: p, tolerance: 2}]\n")

    diff = diff_contracts(old, new)

    assert (diff.needed, diff.is_identical) == (Bump.NONE, False)
