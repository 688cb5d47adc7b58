"""Equations as text and as LaTeX, of whatever text a formula is."""

# ruff: noqa: RUF001 - formulas hold these very characters

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.contracts.equations import (
    equations_json,
    equations_latex,
    equations_text,
    to_latex,
)
from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.example import fill_example

EQUATIONS = """equations:
  silu:
    formula: SiLU(x) = x * σ(x)
    domain: x ∈ ℝ
    codomain: "[-0.28, ∞)"
    invariants: [SiLU(0) = 0]
  empty: {domain: R}
"""


@pytest.mark.parametrize(
    ("formula", "latex"),
    [
        ("y = x", "y = x"),
        ("x ∈ ℝ^n", r"x \in \mathbb{R} ^{n}"),
        ("x_i^2 + x_{i+1}", "x_{i}^{2} + x_{i+1}"),
        ("2^(-8h/H)", "2^{(-8h/H)}"),
        ("exp(-x) <= 1", r"\exp (-x) \le 1"),
        ("token_embed[t]", r"\mathrm{token\_embed}[t]"),
        ("theta_t", r"\theta _{t}"),
        ("for all t", r"\mathrm{for} ~\mathrm{all} t"),
        ("x³ + xᵀ", "x^{3} + x^{T}"),
        ("y_hat_{t+1}", r"y_{\mathrm{hat}}{}_{t+1}"),
        ("Σ_i σ(x)", r"\Sigma _{i} \sigma (x)"),
        ("50% of {a} & b_ ^", r"50\% \mathrm{of} \{a\} \& b\_ \wedge"),
        ("a\\b ~ $c #d", r"a\backslash b \sim \$c \#d"),
        ("x_{open", r"x\_\{\mathrm{open}"),
        ("  a \n b  ", "a b"),
        ("", ""),
    ],
)
def test_a_formula_as_latex(formula: str, latex: str) -> None:
    assert to_latex(formula) == latex


@given(st.text(max_size=60))
def test_any_text_gives_balanced_braces_and_no_bare_special(formula: str) -> None:
    latex = to_latex(formula)

    bare = re.sub(r"\\.", "", latex)
    assert bare.count("{") == bare.count("}")
    assert not set("#$%&") & set(bare)


def test_the_text_has_each_part_on_its_line() -> None:
    contract = parse_contract(fill_example(EQUATIONS))

    assert equations_text(contract) == (
        "silu:\n"
        "  SiLU(x) = x * σ(x)\n"
        "  domain: x ∈ ℝ\n"
        "  codomain: [-0.28, ∞)\n"
        "  invariant: SiLU(0) = 0\n"
        "\n"
        "empty:\n"
        "  (no formula)\n"
        "  domain: R"
    )


def test_latex_has_an_environment_an_equation() -> None:
    contract = parse_contract(fill_example(EQUATIONS))

    assert equations_latex(contract) == (
        "% silu\n"
        "\\begin{equation}\n"
        "  \\mathrm{SiLU}(x) = x * \\sigma (x)\n"
        "  \\qquad x \\in \\mathbb{R}\n"
        "\\end{equation}\n"
        "\n"
        "% empty\n"
        "\\begin{equation}\n"
        "  \\text{(no formula)}\n"
        "  \\qquad R\n"
        "\\end{equation}"
    )
    assert [e["name"] for e in equations_json(contract)["equations"]] == ["silu", "empty"]


def test_a_contract_without_equations_says_so() -> None:
    contract = parse_contract(fill_example("equations: {}\n"))

    assert (equations_text(contract), equations_latex(contract)) == (
        "(no equations)",
        "% no equations",
    )
