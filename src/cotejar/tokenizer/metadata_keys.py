"""Typed look-ups in a model file's metadata, under the keys that its format uses.

A key that is not there is None, or empty; a value of another type than the key's is a
`TokenizerDataError` that names the key and both types.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cotejar.errors import TokenizerDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

HINT = "convert the model again, or give token ids instead of text"


class MetadataKeys:
    """Metadata, and for each field the keys that may hold it, the preferred one first."""

    def __init__(
        self, metadata: Mapping[str, object], keys: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._metadata = metadata
        self._keys = keys

    def name_of(self, field: str) -> str:
        """The key under which the field was found, or the one it should have."""
        present = (key for key in self._keys[field] if key in self._metadata)
        return next(present, self._keys[field][0])

    def get(self, field: str) -> object:
        """The field's value, or None. JSON's null is None as well."""
        return self._metadata.get(self.name_of(field))

    def text(self, field: str) -> str | None:
        """A string."""
        value = self.get(field)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(field, "a string", value)

    def flag(self, field: str, *, default: bool) -> bool:
        """A boolean."""
        value = self.get(field)
        if value is None:
            return default
        if value is True or value is False:
            return value
        raise self._wrong(field, "true or false", value)

    def token_id(self, field: str, num_tokens: int) -> int | None:
        """The id of a token that the vocabulary has."""
        value = self.get(field)
        if value is None:
            return None
        token_id = _as_int(value)
        if token_id is None or not 0 <= token_id < num_tokens:
            raise self._wrong(field, f"a token id, 0..{num_tokens - 1}", value)
        return token_id

    def strings(self, field: str) -> tuple[str, ...]:
        """A list of strings; none is the same as an empty list."""
        values = self._list(field)
        # By type, because there may be hundreds of thousands.
        for wrong in set(map(type, values)) - {str}:
            index = next(i for i, value in enumerate(values) if type(value) is wrong)
            raise self._wrong(field, f"a string at index {index}", values[index])
        return values  # type: ignore[return-value] # every one was just seen to be a str

    def numbers(self, field: str, count: int) -> tuple[float, ...]:
        """A list of finite numbers, one a token; none is the same as an empty list."""
        values = self._list(field)
        self._require_count(field, values, count)
        try:
            numbers = tuple(map(float, values))  # type: ignore[arg-type] # checked by float()
        except (TypeError, ValueError):
            raise self._wrong(field, f"{count} numbers", "something else among them") from None
        for index, number in enumerate(numbers):
            if not abs(number) < float("inf"):
                raise self._wrong(field, f"a finite number at index {index}", number)
        return numbers

    def integers(self, field: str, count: int) -> tuple[int, ...]:
        """A list of integers, one a token; none is the same as an empty list."""
        values = self._list(field)
        self._require_count(field, values, count)
        try:
            return tuple(map(operator.index, values))  # type: ignore[arg-type] # checked by index()
        except TypeError:
            raise self._wrong(field, f"{count} integers", "something else among them") from None

    def _list(self, field: str) -> tuple[object, ...]:
        value = self.get(field)
        if value is None:
            return ()
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise self._wrong(field, "a list", value)
        return tuple(value)

    def _require_count(self, field: str, values: tuple[object, ...], count: int) -> None:
        if values and len(values) != count:
            raise TokenizerDataError(
                "two tables of the tokenizer differ in length",
                where=self.name_of(field),
                expected=f"{count} entries, one a token",
                found=f"{len(values)} entries",
                hint=HINT,
            )

    def _wrong(self, field: str, expected: str, value: object) -> TokenizerDataError:
        shown = repr(value)
        return TokenizerDataError(
            "the tokenizer's metadata are malformed",
            where=self.name_of(field),
            expected=expected,
            found=shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}...",
            hint=HINT,
        )


_SHOWN_CHARS = 80


def _as_int(value: object) -> int | None:
    try:
        return operator.index(value)  # type: ignore[arg-type] # TypeError is the question
    except TypeError:
        return None
