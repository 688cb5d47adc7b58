"""Typed look-ups in a file's metadata, with one clear error for each way to be wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from cotejar.errors import ConfigValueError, MissingConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_INTEGER_LIMIT = 1 << 63


@dataclass(frozen=True, slots=True)
class Keys:
    """A file's metadata under the names that the file uses.

    Every look-up takes alternative names; the first that is present and not null counts.
    """

    values: Mapping[str, object]
    where: str

    def find(self, *names: str) -> object | None:
        """The value, or None where no name is present."""
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return value
        return None

    def integer(self, *names: str, default: int | None = None) -> int:
        """An integer; a float with no fraction counts as one."""
        value = self.find(*names)
        if value is None:
            if default is None:
                self._missing(names)
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(names, "a whole number", value)
        if abs(value) >= _INTEGER_LIMIT:  # JSON has integers of any length
            self._wrong(names, "a whole number of at most 63 bits", value)
        return value

    def real(self, *names: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.find(*names)
        if value is None:
            if default is None:
                self._missing(names)
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._wrong(names, "a number", value)
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        if not math.isfinite(number):
            self._wrong(names, "a finite number", value)
        return number

    def text(self, *names: str, default: str | None = None) -> str:
        """A string."""
        value = self.find(*names)
        if value is None:
            if default is None:
                self._missing(names)
            return default
        if not isinstance(value, str):
            self._wrong(names, "a string", value)
        return value

    def flag(self, *names: str, default: bool) -> bool:
        """A boolean."""
        value = self.find(*names)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._wrong(names, "true or false", value)
        return value

    def _missing(self, names: tuple[str, ...]) -> NoReturn:
        raise MissingConfigError(
            f"the file does not say {names[0]}",
            where=self.where,
            expected=" or ".join(names),
            found=f"{len(self.values)} keys, none of these",
            hint="`apr inspect` lists the keys; the converter left this one out",
        )

    def _wrong(self, names: tuple[str, ...], expected: str, value: object) -> NoReturn:
        raise ConfigValueError(
            f"{names[0]} cannot be used",
            where=self.where,
            expected=expected,
            found=f"{value!r:.60}",
            hint="`apr inspect` shows the file's own keys; convert the model again",
        )
