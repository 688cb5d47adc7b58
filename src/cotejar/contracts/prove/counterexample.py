"""Write a counterexample down: as JSON, and as a plain pytest that needs no solver."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.errors import WriteError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.contracts.prove.harness import Body, Claim


def drawn_as_json(drawn: Mapping[str, object]) -> dict[str, object]:
    """Plain JSON in which every value survives.

    A float is a text, `float.hex` or `nan`, so that every bit and every NaN is kept; a text is
    `{"text": ...}` in ASCII with Python's escapes, as half a surrogate pair has no UTF-8.
    """
    return {name: _as_json(value) for name, value in drawn.items()}


def drawn_from_json(shown: Mapping[str, object]) -> dict[str, object]:
    """The inverse."""
    return {name: _from_json(value) for name, value in shown.items()}


def counterexample_test(
    claim: Claim, bound: int, drawn: Mapping[str, object], failure: str
) -> str:
    """The text of a test that replays the values and fails until the code is right."""
    values = "".join(f"    {name!r}: {_literal(value)},\n" for name, value in drawn.items())
    imports, body = _import_of(claim.body)
    needs_math = "import math\n\n" if "math." in values else ""
    name = re.sub(r"\W+", "_", claim.label).lower()
    return f'''"""A counterexample to {claim.label}, found by `pv prove`.

On these values the harness ends with {failure or "an exception"}.
Values that are not listed do not matter and have plain defaults. The test fails until the
code, or the claim, is right.
"""

{needs_math}from cotejar.contracts.prove.replay import replay
{imports}

DRAWN = {{
{values}}}


def test_{name}() -> None:
    replay({body}, DRAWN, bound={bound})
'''


def save_counterexample(folder: str, claim: Claim, text: str) -> str:
    """Write the test as `test_ID_CLAIM.py`; a newer one replaces it.

    Raises:
        WriteError: the system refuses.
    """
    name = re.sub(r"\W+", "_", claim.label).lower()
    path = Path(folder) / f"test_{name}.py"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(
            "a counterexample could not be saved",
            where=str(path),
            expected="a folder that this user may write to",
            found=error.strerror or str(error),
            hint="name another folder with --counterexamples",
        ) from None
    return str(path)


def _import_of(body: Body) -> tuple[str, str]:
    module = body.__module__
    if module.startswith("cotejar_harnesses_"):
        file = body.__code__.co_filename
        lines = (
            "from cotejar.contracts.prove.resolve import load_harness_file\n\n"
            f"HARNESSES = load_harness_file({file!r})"
        )
        return lines, f"HARNESSES.{body.__name__}"
    return f"from {module} import {body.__name__}", body.__name__


def _as_json(value: object) -> object:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, str):
        return {"text": value.encode("unicode_escape").decode("ascii")}
    return value


def _from_json(shown: object) -> object:
    if isinstance(shown, dict):
        return shown["text"].encode("ascii").decode("unicode_escape")
    return float.fromhex(shown) if isinstance(shown, str) else shown


def _literal(value: object) -> str:
    if not isinstance(value, float):
        return ascii(value)
    if math.isnan(value):
        return "math.nan"
    if math.isinf(value):
        return "math.inf" if value > 0 else "-math.inf"
    if repr(value) == f"{value:g}":
        return repr(value)
    exact = f'float.fromhex("{value.hex()}")'
    return repr(value) if value == round(value, 3) else f"{exact}"
