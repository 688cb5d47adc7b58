"""The three verdicts and the exit codes of both commands.

| exit | meaning                                                        |
| ---- | -------------------------------------------------------------- |
| 0    | PASS, or done                                                  |
| 1    | FAIL                                                           |
| 2    | bad usage or bad input: one clear error, nothing written       |
| 3    | INCOMPARABLE, or nothing was measured                          |
| 70   | a bug of our own                                               |
| 130  | interrupted; 129 and 143 where the terminal or the system did  |
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

EXIT_BAD_INPUT = 2
EXIT_OUR_BUG = 70


class Verdict(enum.Enum):
    """What a comparison says. INCOMPARABLE is no pass: nothing fair was measured."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INCOMPARABLE = "INCOMPARABLE"

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this verdict."""
        return {"PASS": 0, "FAIL": 1, "INCOMPARABLE": 3}[self.value]


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of all: FAIL over INCOMPARABLE over PASS; of none, INCOMPARABLE.

    FAIL outranks INCOMPARABLE here because this function judges parts that were each
    fair to measure. A broken precondition ends a comparison before any part is judged.
    """
    found = set(verdicts)
    for verdict in (Verdict.FAIL, Verdict.INCOMPARABLE, Verdict.PASS):
        if verdict in found:
            return verdict
    return Verdict.INCOMPARABLE
