"""Which tensors `--filter` asks for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cotejar.errors import NothingMeasuredError
from cotejar.formats.tensor_names import to_gguf, to_hugging_face

if TYPE_CHECKING:
    from collections.abc import Collection

_GLOB_LETTERS = frozenset("*?[")


class NameFilter:
    """A text that a name contains, or a glob (`*`, `?`, `[...]`) that it matches whole.

    A name is tried as it is and in the other spelling, GGUF's or Hugging Face's.
    """

    def __init__(self, pattern: str | None) -> None:
        """None lets every name through."""
        self.pattern = pattern

    def matches(self, name: str) -> bool:
        """Is the tensor one of those asked for?"""
        if self.pattern is None:
            return True
        spellings = [name, to_gguf(name), to_hugging_face(name)]
        return any(spelling and self._fits(spelling) for spelling in spellings)

    def require(
        self, matched: Collection[object], names: Collection[str], *, where: str
    ) -> None:
        """Refuse to go on with nothing.

        Raises:
            NothingMeasuredError: nothing matched.
        """
        if matched:
            return
        if not names:
            raise NothingMeasuredError(
                "the file holds no tensors",
                where=where,
                expected="tensors",
                found="0",
                hint="a GGUF of a vocabulary alone has none; `apr inspect` shows its keys",
            )
        first = next(iter(names))
        raise NothingMeasuredError(
            "the filter matches no tensor",
            where=where,
            expected=f"names like {first!r}",
            found=f"{self.pattern!r}, which none of {len(names)} has",
            hint="a text is looked for anywhere in a name, case and all; with `*` in it, "
            "it is a glob for the whole name",
        )

    def _fits(self, name: str) -> bool:
        assert self.pattern is not None
        if _GLOB_LETTERS & set(self.pattern):
            return fnmatchcase(name, self.pattern)
        return self.pattern in name
