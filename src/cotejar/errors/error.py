"""What every error is: a code, what, where, expected, found, and a next step."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.verdict import EXIT_BAD_INPUT

if TYPE_CHECKING:
    from collections.abc import Callable


def visible(text: str) -> str:
    r"""The text with everything that does not print shown as an escape: `\x1b`, `\n`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class CotejarError(Exception):
    """Base of all. Both commands turn it into one message and `exit_code`."""

    code: ClassVar[str]
    exit_code: ClassVar[int] = EXIT_BAD_INPUT

    def __init__(
        self, problem: str, *, where: str, expected: str, found: str, hint: str
    ) -> None:
        self.problem = problem
        self.parts = {"where": where, "expected": expected, "found": found, "try": hint}
        lines = [f"  {name:<9} {visible(text)}" for name, text in self.parts.items()]
        super().__init__("\n".join([f"error[{self.code}]: {visible(problem)}", *lines]))

    def as_json(self) -> dict[str, str]:
        """The same facts as the message, for `--json`."""
        return {"code": self.code, "problem": self.problem, **self.parts}

    def __reduce__(self) -> tuple[Callable[..., CotejarError], tuple[object, ...]]:
        """From a process to another; an exception's own way would pass the message alone."""
        return _made_again, (type(self), self.problem, *self.parts.values())


def _made_again(
    kind: type[CotejarError], problem: str, where: str, expected: str, found: str, hint: str
) -> CotejarError:
    return kind(problem, where=where, expected=expected, found=found, hint=hint)
