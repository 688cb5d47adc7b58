"""A contract's equations as text or as LaTeX."""

# ruff: noqa: RUF001 - the table is of these very characters

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotejar.contracts.schema import Contract, Equation

SYMBOLS = {
    "∈": r"\in",
    "∉": r"\notin",
    "∀": r"\forall",
    "∃": r"\exists",
    "≤": r"\le",
    "≥": r"\ge",
    "≠": r"\ne",
    "≈": r"\approx",
    "≡": r"\equiv",
    "→": r"\to",
    "⇒": r"\Rightarrow",
    "⇔": r"\Leftrightarrow",
    "·": r"\cdot",
    "×": r"\times",
    "÷": r"\div",
    "±": r"\pm",
    "∞": r"\infty",
    "∑": r"\sum",
    "Σ": r"\Sigma",
    "∏": r"\prod",
    "√": r"\surd",
    "∂": r"\partial",
    "∇": r"\nabla",
    "∧": r"\land",
    "∨": r"\lor",
    "¬": r"\lnot",
    "⊂": r"\subset",
    "⊆": r"\subseteq",
    "∪": r"\cup",
    "∩": r"\cap",
    "∅": r"\emptyset",
    "⌊": r"\lfloor",
    "⌋": r"\rfloor",
    "⌈": r"\lceil",
    "⌉": r"\rceil",
    "‖": r"\|",
    "⊙": r"\odot",
    "ℝ": r"\mathbb{R}",
    "ℕ": r"\mathbb{N}",
    "ℤ": r"\mathbb{Z}",
    "ℂ": r"\mathbb{C}",
    "−": "-",
    "…": r"\ldots",
    "ε": r"\epsilon",
    "φ": r"\phi",
}
ASCII_OPERATORS = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", "=>": r"\Rightarrow", "->": r"\to"}
FUNCTIONS = frozenset(
    {"arg", "cos", "cosh", "det", "dim", "exp", "inf", "lim", "ln", "log"}
    | {"max", "min", "sin", "sinh", "sup", "tan", "tanh"}
)
GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"}
    | {"lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi"}
    | {"psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi"}
    | {"Omega"}
)
_ESCAPES = {c: "\\" + c for c in "#$%&{}_"} | {"~": r"\sim ", "\\": r"\backslash "}
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_GREEK_NAME = re.compile("GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)")
_UPRIGHT = r"\mathrm"
_OPENING = {"}": "{", ")": "("}
MAX_SCRIPT_DEPTH = 16
"""Deeper indices are written out as plain text."""


def equations_text(contract: Contract) -> str:
    """Each equation with its domain, codomain and invariants."""
    blocks = []
    for equation in contract.equations:
        lines = [f"{equation.name}:", f"  {_one_line(equation.formula) or '(no formula)'}"]
        if equation.domain is not None:
            lines.append(f"  domain: {_one_line(equation.domain)}")
        if equation.codomain is not None:
            lines.append(f"  codomain: {_one_line(equation.codomain)}")
        lines += [f"  invariant: {_one_line(text)}" for text in equation.invariants]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) or "(no equations)"


def equations_latex(contract: Contract) -> str:
    """One `equation` environment each, with its name as the label.

    A formula is free text: operators, Greek letters and indices are translated, words are
    set upright, and whatever is special to LaTeX is escaped.
    """
    blocks = [_latex_block(equation) for equation in contract.equations]
    return "\n\n".join(blocks) or "% no equations"


def equations_json(contract: Contract) -> dict[str, Any]:
    """The equations as data, for `--json`."""
    return {
        "file": contract.source.file,
        "equations": [
            {
                "name": equation.name,
                "formula": equation.formula,
                "domain": equation.domain,
                "codomain": equation.codomain,
                "invariants": list(equation.invariants),
                "latex": to_latex(equation.formula),
            }
            for equation in contract.equations
        ],
    }


def to_latex(formula: str) -> str:
    """A formula's text as LaTeX mathematics; braces always balance."""
    text = _one_line(formula)
    return _Formula(text, _closers(text)).latex(0, len(text), 0)


class _Formula:
    """A formula on one line, and where each of its brackets closes."""

    def __init__(self, text: str, closers: dict[int, int]) -> None:
        self._text = text
        self._closers = closers

    def latex(self, start: int, end: int, depth: int) -> str:
        """The LaTeX of one stretch of the text; each character is looked at once."""
        parts: list[str] = []
        position, last = start, ""
        while position < end:
            piece, position = self._next(position, end, depth)
            if piece.startswith(_UPRIGHT) and last.startswith(_UPRIGHT) and parts[-1] == " ":
                parts.append("~")  # mathematics sets no space between two words
            if piece[0] in "^_" and f"{piece[0]}{{" in last:
                parts.append("{}")  # a second index of the same base is an error of LaTeX's
            parts.append(piece)
            last = last if piece == " " else piece
        return " ".join("".join(parts).split())

    def _next(self, position: int, end: int, depth: int) -> tuple[str, int]:
        """The LaTeX of what starts at `position`, and where the next begins."""
        text = self._text
        word = _WORD.match(text, position, end)
        if word:
            return _latex_word(word[0]), word.end()
        pair = text[position : min(position + 2, end)]
        if pair in ASCII_OPERATORS:
            return f" {ASCII_OPERATORS[pair]} ", position + 2
        character = text[position]
        if character in "^_" and position + 1 < end:
            return self._script(position, end, depth)
        return _latex_character(character), position + 1

    def _script(self, position: int, end: int, depth: int) -> tuple[str, int]:
        """An exponent or index: a group in braces or brackets, a word, or a number."""
        text, sign, start = self._text, self._text[position], position + 1
        close = self._closers.get(start, end)
        if close < end and depth < MAX_SCRIPT_DEPTH:
            inner = (start + 1, close) if text[start] == "{" else (start, close + 1)
            return f"{sign}{{{self.latex(*inner, depth + 1)}}}", close + 1
        match = _WORD.match(text, start, end) or _NUMBER.match(text, start, end)
        if match and depth < MAX_SCRIPT_DEPTH:
            return f"{sign}{{{self.latex(start, match.end(), depth + 1)}}}", match.end()
        return _latex_character(sign), start


def _closers(text: str) -> dict[int, int]:
    """Where each brace and bracket that opens is closed; those left open are not there."""
    closers: dict[int, int] = {}
    open_at: dict[str, list[int]] = {"{": [], "(": []}
    for index, character in enumerate(text):
        if character in open_at:
            open_at[character].append(index)
        elif character in _OPENING and open_at[_OPENING[character]]:
            closers[open_at[_OPENING[character]].pop()] = index
    return closers


def _latex_block(equation: Equation) -> str:
    lines = [f"% {_one_line(equation.name)}", r"\begin{equation}"]
    lines.append("  " + (to_latex(equation.formula) or r"\text{(no formula)}"))
    if equation.domain is not None:
        lines.append(r"  \qquad " + to_latex(equation.domain))
    return "\n".join([*lines, r"\end{equation}"])


def _latex_word(word: str) -> str:
    """A letter as a variable, `x_i` with an index, a function or a Greek letter by its name,
    everything else upright.
    """  # noqa: D205 - one list
    base, _, index = word.partition("_")
    if index and (len(base) == 1 or base in GREEK):
        return f"{_latex_name(base)}_{{{_latex_name(index)}}}"
    return _latex_name(word)


def _latex_name(word: str) -> str:
    if len(word) == 1 or word.isdigit():
        return word
    if word in FUNCTIONS or word in GREEK:
        return f"\\{word} "
    return _UPRIGHT + "{" + word.replace("_", r"\_") + "}"


def _latex_character(character: str) -> str:
    if character in SYMBOLS:
        return f" {SYMBOLS[character]} "
    if character in _ESCAPES:
        return _ESCAPES[character]
    greek = _GREEK_NAME.match(unicodedata.name(character, ""))
    if greek:
        name = greek[2].lower()
        return f"\\{name.capitalize() if greek[1] == 'CAPITAL' else name} "
    kind, _, code = unicodedata.decomposition(character).partition(" ")
    if kind in {"<super>", "<sub>"} and " " not in code:
        sign = "^" if kind == "<super>" else "_"
        return f"{sign}{{{_latex_character(chr(int(code, 16)))}}}"
    return r"\wedge " if character == "^" else character


def _one_line(text: str) -> str:
    return " ".join(text.split())
