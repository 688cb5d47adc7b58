"""What a rule is, and how its docstring becomes its help.

A rule's docstring is its documentation and its test:

    '''SCHEMA-001: no reference is cited.

    Why:
        One sentence or more.
    Bad:
        top-level YAML blocks that break the rule
    Good:
        the same blocks, mended
    '''

The blocks replace those of the same name in a contract that breaks no rule
(`example.py`); a test runs every rule on its own Bad and Good.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.source import path_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.schema import Contract
    from cotejar.contracts.source import Source

S = TypeVar("S")
_SECTION = re.compile(r"^(Why|Bad|Good):\n((?:    .*\n|\n)+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleHelp:
    """What `pv explain` prints."""

    id: str
    title: str
    severity: Severity
    why: str
    bad: str
    good: str


class AnyRule(ABC, Generic[S]):
    """One rule over subjects of one type."""

    severity: ClassVar[Severity] = Severity.ERROR
    kernel_only: ClassVar[bool] = False
    """Judged only where the contract's kind is kernel."""

    @abstractmethod
    def check(self, subject: S) -> Iterator[Finding]:
        """Every violation, in the file's order."""

    @property
    def id(self) -> str:
        """The id that the docstring starts with."""
        return self._first_line()[0]

    def help(self) -> RuleHelp:
        """The docstring in its parts."""
        rule_id, title = self._first_line()
        text = inspect.cleandoc(type(self).__doc__ or "") + "\n"
        parts = {name: dedent(body).strip("\n") for name, body in _SECTION.findall(text)}
        return RuleHelp(
            id=rule_id,
            title=title,
            severity=self.severity,
            why=" ".join(parts["Why"].split()),
            bad=parts["Bad"],
            good=parts["Good"],
        )

    def at(self, source: Source, message: str, *path: str | int) -> Finding:
        """A finding of this rule where `path` is written."""
        place = source.place_of(path)
        return Finding(
            rule=self.id,
            severity=self.severity,
            message=message,
            file=source.file,
            line=place.line,
            column=place.column,
            path=path_text(path),
        )

    @classmethod
    def _first_line(cls) -> tuple[str, str]:
        rule_id, _, title = (cls.__doc__ or "").partition("\n")[0].partition(": ")
        return rule_id, title.rstrip(".")


class Rule(AnyRule["Contract"]):
    """A rule over a contract."""

    def finding(self, contract: Contract, message: str, *path: str | int) -> Finding:
        """A finding where `path` is written in the contract."""
        return self.at(contract.source, message, *path)


def blank(text: str | None) -> bool:
    """Nothing, or nothing but blanks."""
    return text is None or not text.strip()
