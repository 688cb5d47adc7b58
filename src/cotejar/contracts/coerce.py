"""Read the keys of one mapping as types, as serde's derived structs do.

What a field accepts, and what becomes a `ContractSchemaError`:

    text      any scalar, its raw text kept: `version: 1.0` is "1.0", a bare `version:` is ""
    optional  absent, or a plain `~`, `null` or nothing -> None
    list      a sequence, or nothing after the colon -> empty; an explicit `null` is an error
    number    a plain scalar only: a quoted number is text
    word      one of a closed list, case and all
    struct    a mapping; a known key twice, or with its alias, is an error

`by_value` is the mode inside `equations`, which upstream reads as generic values first:
there a number is no text, and an explicit null is an empty list.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NoReturn, TypeVar

from cotejar.contracts.scalars import NULLS, parse_bool, parse_float, parse_integer
from cotejar.contracts.source import ALIASES, Path, path_text, scalar_value
from cotejar.contracts.yaml_nodes import MappingNode, Node, ScalarNode, SequenceNode
from cotejar.errors import ContractSchemaError

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Iterator

    from cotejar.contracts.source import Source

W = TypeVar("W", bound="enum.StrEnum")
T = TypeVar("T")

U8_MAX = 2**8 - 1
U32_MAX = 2**32 - 1
_MAX_SHOWN = 60
I64_MIN, I64_MAX = -(2**63), 2**63 - 1


class Fields:
    """The keys of one mapping, each of which may be there once."""

    def __init__(
        self,
        node: Node,
        source: Source,
        path: Path,
        known: tuple[str, ...],
        *,
        by_value: bool = False,
        aliased: bool = False,
    ) -> None:
        """Index the `known` keys of `node`, by either spelling if `aliased`; ignore others."""
        self._source = source
        self._path = path
        self._node = node
        self._by_value = by_value
        self._values: dict[str, Node] = {}
        canonical = {name: name for name in known}
        if aliased:
            canonical |= {ALIASES[name]: name for name in known if name in ALIASES}
        for key, value in mapping_entries(node, source, path):
            if not isinstance(key, ScalarNode):
                fail(key, source, path, "a scalar key", _kind(key))
            name = canonical.get(key.text)
            if name is None:
                continue
            if name in self._values:
                what = f"duplicate field `{name}`"
                fail(key, source, (*path, name), "each key once", "it again here", what)
            self._values[name] = value

    def text(self, name: str, default: str | None = None) -> str:
        """A text; without a default it must be there."""
        node = self._values.get(name)
        if node is None:
            if default is None:
                self._missing(name)
            return default
        return self._text(node, (*self._path, name))

    def optional_text(self, name: str) -> str | None:
        """A text or None."""
        node = self._present(name)
        return None if node is None else self._text(node, (*self._path, name))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self._text(item, path) for item, path in self._items(name))

    def number(self, name: str) -> float | None:
        """A float or None; an integer counts."""
        node = self._present(name)
        if node is None:
            return None
        plain = isinstance(node, ScalarNode) and node.plain
        found = parse_float(node.text) if plain and isinstance(node, ScalarNode) else None
        return self._fail(node, name, "a number") if found is None else found

    def integer(
        self, name: str, low: int, high: int, *, default: int | None = None
    ) -> int | None:
        """An integer in [low, high], or `default` if the key is not there."""
        node = self._values.get(name)
        if node is None or (default is None and _is_null(node)):
            return default
        plain = isinstance(node, ScalarNode) and node.plain
        found = parse_integer(node.text) if plain and isinstance(node, ScalarNode) else None
        if found is None or not low <= found <= high:
            self._fail(node, name, f"an integer in {low}..{high}")
        return found

    def required_integer(self, name: str, low: int, high: int) -> int:
        """An integer in [low, high] that must be there."""
        if name not in self._values:
            self._missing(name)
        return self.integer(name, low, high, default=0) or 0

    def boolean(self, name: str) -> bool | None:
        """True, false, or None if the key is not there; a null is an error."""
        node = self._values.get(name)
        if node is None:
            return None
        plain = isinstance(node, ScalarNode) and node.plain
        found = parse_bool(node.text) if plain and isinstance(node, ScalarNode) else None
        return self._fail(node, name, "true or false") if found is None else found

    def optional_boolean(self, name: str) -> bool | None:
        """True, false or None; a null is None."""
        return None if self._present(name) is None else self.boolean(name)

    def word(self, name: str, words: type[W], *, null_is_absent: bool = True) -> W | None:
        """One of `words`, or None if the key is not there."""
        node = self._present(name) if null_is_absent else self._values.get(name)
        if node is None:
            return None
        if isinstance(node, ScalarNode) and node.text in tuple(words):
            return words(node.text)
        return self._fail(node, name, "one of: " + ", ".join(words))

    def structs(self, name: str, read: Callable[[Node, Source, Path], T]) -> tuple[T, ...]:
        """A list of mappings, each read by `read(node, source, path)`."""
        return tuple(read(item, self._source, path) for item, path in self._items(name))

    def struct(self, name: str, read: Callable[[Node, Source, Path], T]) -> T | None:
        """A mapping read by `read`, or None."""
        node = self._present(name)
        return None if node is None else read(node, self._source, (*self._path, name))

    def entries(self, name: str) -> Iterator[tuple[str, Node, Path]]:
        """The entries of a mapping with text keys; of a repeated key the last one."""
        node = self._values.get(name)
        if node is not None:
            yield from text_entries(node, self._source, (*self._path, name))

    def node(self, name: str) -> Node | None:
        """The value as it is; None if the key is not there."""
        return self._values.get(name)

    def _present(self, name: str) -> Node | None:
        node = self._values.get(name)
        return None if node is None or _is_null(node) else node

    def _text(self, node: Node, path: Path) -> str:
        return text_of(node, self._source, path, by_value=self._by_value)

    def _items(self, name: str) -> Iterator[tuple[Node, Path]]:
        node = self._values.get(name)
        if node is None or _is_nothing(node) or (self._by_value and _is_null(node)):
            return
        if not isinstance(node, SequenceNode):
            self._fail(node, name, "a list")
        for index, item in enumerate(node.items):
            yield item, (*self._path, name, index)

    def _missing(self, name: str) -> NoReturn:
        fail(
            self._node,
            self._source,
            self._path,
            f"a key `{name}`",
            "none",
            f"missing field `{name}`",
        )

    def _fail(self, node: Node, name: str, expected: str) -> NoReturn:
        fail(node, self._source, (*self._path, name), expected, _kind(node))


def text_of(node: Node, source: Source, path: Path, *, by_value: bool = False) -> str:
    """The raw text of a scalar; `by_value`, of one that means text."""
    if isinstance(node, ScalarNode) and (not by_value or isinstance(scalar_value(node), str)):
        return node.text
    return fail(node, source, path, "text", _kind(node))


def mapping_entries(node: Node, source: Source, path: Path) -> list[tuple[Node, Node]]:
    """The entries of a mapping; of nothing after the colon, none."""
    if isinstance(node, MappingNode):
        return node.entries
    if _is_nothing(node):
        return []
    return fail(node, source, path, "a mapping", _kind(node))


def text_entries(node: Node, source: Source, path: Path) -> Iterator[tuple[str, Node, Path]]:
    """The entries of a mapping with text keys; of a repeated key the last one."""
    entries: dict[str, Node] = {}
    for key, value in mapping_entries(node, source, path):
        if not isinstance(key, ScalarNode):
            fail(key, source, path, "a scalar key", _kind(key))
        entries[key.text] = value
    for text, value in entries.items():
        yield text, value, (*path, text)


def fail(
    node: Node, source: Source, path: Path, expected: str, found: str, what: str = ""
) -> NoReturn:
    """Raise the one error of this module."""
    subject = path_text(path) or "the document"
    raise ContractSchemaError(
        f"Failed to parse YAML: {subject}: {what or 'wrong type or value'}",
        where=f"{source.file}:{node.place.line}:{node.place.column}",
        expected=expected,
        found=found,
        hint="the schema of a contract is in docs/spec.md section 5",
    )


def _is_nothing(node: Node) -> bool:
    """Nothing after the colon, not even `~`."""
    return isinstance(node, ScalarNode) and node.plain and not node.text


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.plain and node.text in NULLS


def _kind(node: Node) -> str:
    """What is there, in a few words."""
    if isinstance(node, SequenceNode):
        return f"a list of {len(node.items)}"
    if isinstance(node, MappingNode):
        return f"a mapping of {len(node.entries)} keys"
    shown = textwrap.shorten(node.text, _MAX_SHOWN, placeholder=" ...")
    value = scalar_value(node)
    if value is None:
        return "null" if node.text else "nothing"
    return f"the {'text' if isinstance(value, str) else type(value).__name__} {shown!r}"
