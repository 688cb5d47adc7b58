"""What a harness draws from: recorded values, every value of a small domain, or random ones.

A harness is written once, against `Inputs`. The engine runs it over symbols
(`symbolic.py`); this module holds the contexts in which CPython itself runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from cotejar.contracts.prove.terms import Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

Drawn = dict[str, object]
"""Name -> value of everything that one run of a harness drew."""

DEFAULT_INT = 1
DEFAULT_FLOAT = 1.0
DEFAULT_TEXT = ""


class Rejected(Exception):  # noqa: N818 - no failure: the drawn values are outside the claim
    """An assumption does not hold for the drawn values."""


class Inputs(Protocol):
    """What a harness is given."""

    bound: int
    """The largest length that the claim is about."""

    def integer(self, name: str, low: int | None = None, high: int | None = None) -> int:
        """Any integer, or any of `low` to `high`, both included."""

    def double(self, name: str) -> float:
        """Any binary64: NaN, infinities, zeros of both signs and subnormals too."""

    def integers(self, name: str, count: int) -> list[int]:
        """`count` unrelated integers."""

    def doubles(self, name: str, count: int) -> list[float]:
        """`count` unrelated floats."""

    def text(self, name: str, max_length: int) -> str:
        """Any text of at most so many characters, of which half a surrogate pair is one."""

    def choose(self, name: str, options: Sequence[T]) -> T:
        """Each of the options in turn; the way to vary a length."""

    def assume(self, condition: object) -> None:
        """Leave out values that do not satisfy this; it becomes part of the claim."""

    def cover(self, label: str, condition: object = True) -> None:  # noqa: FBT002 - a condition
        """Something that must be reachable: a claim about nothing is not proved."""


class ConcreteInputs:
    """Plain Python values; a subclass says where they come from."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.drawn: Drawn = {}
        self.covered: set[str] = set()

    def integer(self, name: str, low: int | None = None, high: int | None = None) -> int:
        """Draw an integer."""
        value = self._keep(name, self._draw_int(name, low, high))
        if (low is not None and value < low) or (high is not None and value > high):
            raise Rejected
        return value

    def double(self, name: str) -> float:
        """Draw a float."""
        return self._keep(name, self._draw_float(name))

    def integers(self, name: str, count: int) -> list[int]:
        """Draw `count` integers, named `name[0]` and so on."""
        return [self.integer(f"{name}[{i}]") for i in range(count)]

    def doubles(self, name: str, count: int) -> list[float]:
        """Draw `count` floats."""
        return [self.double(f"{name}[{i}]") for i in range(count)]

    def text(self, name: str, max_length: int) -> str:
        """Draw a text."""
        value = self._keep(name, self._draw_text(name))
        if len(value) > max_length:
            raise Rejected
        return value

    def choose(self, name: str, options: Sequence[T]) -> T:
        """Draw one of the options; its index is what is recorded."""
        return options[self._keep(name, self._draw_index(name, len(options)))]

    def assume(self, condition: object) -> None:
        """Give this run up if the condition is false."""
        if not condition:
            raise Rejected

    def cover(self, label: str, condition: object = True) -> None:  # noqa: FBT002 - a condition
        """Note that the label was reached."""
        if condition:
            self.covered.add(label)

    def _keep(self, name: str, value: T) -> T:
        if name in self.drawn:
            raise Unsupported(f"{name!r} is drawn twice")
        self.drawn[name] = value
        return value

    def _draw_int(self, name: str, low: int | None, high: int | None) -> int:
        raise NotImplementedError

    def _draw_float(self, name: str) -> float:
        raise NotImplementedError

    def _draw_text(self, name: str) -> str:
        raise NotImplementedError

    def _draw_index(self, name: str, count: int) -> int:
        raise NotImplementedError


class RecordedInputs(ConcreteInputs):
    """Values of an earlier run; whatever it did not record has a plain default."""

    def __init__(self, bound: int, recorded: Mapping[str, object]) -> None:
        super().__init__(bound)
        self.recorded = recorded

    def _draw_int(self, name: str, low: int | None, high: int | None) -> int:
        default = DEFAULT_INT if low is None else low
        if high is not None:
            default = min(default, high)
        value = self.recorded.get(name, default)
        return value if isinstance(value, int) else default

    def _draw_float(self, name: str) -> float:
        value = self.recorded.get(name, DEFAULT_FLOAT)
        return value if isinstance(value, float) else DEFAULT_FLOAT

    def _draw_text(self, name: str) -> str:
        value = self.recorded.get(name, DEFAULT_TEXT)
        return value if isinstance(value, str) else DEFAULT_TEXT

    def _draw_index(self, name: str, count: int) -> int:
        value = self.recorded.get(name, 0)
        return value if isinstance(value, int) and 0 <= value < count else 0


class EnumeratedInputs(ConcreteInputs):
    """One point of a finite domain: `path` says which option each draw takes.

    `widths` collects how many options each draw had, so that the caller can count on to the
    next path.
    """

    def __init__(self, bound: int, path: Sequence[int]) -> None:
        super().__init__(bound)
        self.path = list(path)
        self.widths: list[int] = []

    def _draw_int(self, name: str, low: int | None, high: int | None) -> int:
        if low is None or high is None:
            raise Unsupported(f"{name!r} has no range, so it cannot be enumerated")
        if low > high:
            raise Rejected
        return low + self._next(high - low + 1)

    def _draw_float(self, name: str) -> float:
        raise Unsupported(f"{name!r} is any float, too many to enumerate")

    def _draw_text(self, name: str) -> str:
        raise Unsupported(f"{name!r} is any text, too many to enumerate")

    def _draw_index(self, name: str, count: int) -> int:
        del name
        if count == 0:
            raise Rejected
        return self._next(count)

    def _next(self, width: int) -> int:
        at = len(self.widths)
        self.widths.append(width)
        if at == len(self.path):
            self.path.append(0)
        return self.path[at]


def next_path(path: Sequence[int], widths: Sequence[int]) -> list[int] | None:
    """The path after this one, in the order of an odometer; None after the last."""
    for at in reversed(range(len(widths))):
        if path[at] + 1 < widths[at]:
            return [*path[:at], path[at] + 1]
    return None
