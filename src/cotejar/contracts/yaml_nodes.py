"""YAML text -> a graph of nodes that know their line and column, in bounded memory.

Neither the safe loader nor the safe resolver of PyYAML is used: what a scalar *means*
depends on the field that reads it (`scalars.py`, `coerce.py`), as in upstream's serde_yaml.
Here a scalar is its text and whether it was plain. The graph is built from the parser's
events, without recursion, so that depth, size and alias expansion are known before they
cost anything:

    size       2 MiB of text: the longest upstream contract is far below
    depth      128 levels, serde_yaml's own limit
    nodes      250,000, after following every alias

An alias is the anchored node itself, so the graph is a DAG; an anchor that contains itself
is refused. `<<` is an ordinary key, as in serde_yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from cotejar.errors import (
    ContractDocumentsError,
    ContractError,
    ContractLimitError,
    ContractSyntaxError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 2 * 1024 * 1024
MAX_DEPTH = 128
MAX_EXPANDED_NODES = 250_000

LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML was built with it; the pure one reads the same text."""


class Place(NamedTuple):
    """Where in a file, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScalarNode:
    """One scalar: its text after unfolding and unescaping, not yet a value."""

    text: str
    plain: bool
    """Neither quoted nor a block scalar: only a plain scalar can be a number or null."""
    tag: str | None
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SequenceNode:
    """A list."""

    items: list[Node] = field(default_factory=list)
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MappingNode:
    """A mapping, in the file's order; a key may be there twice."""

    entries: list[tuple[Node, Node]] = field(default_factory=list)
    place: Place


Node = ScalarNode | SequenceNode | MappingNode


def compose(text: str, *, where: str, loader: type = LOADER) -> Node:
    """Compose the one document in `text`; `where` names the file in errors.

    Raises:
        ContractSyntaxError: no YAML, or an alias without an anchor before it.
        ContractDocumentsError: no document, or several.
        ContractLimitError: too long, too deep, or aliases that expand too far.
    """
    if len(text) > MAX_BYTES:
        raise too_large(f"more than {MAX_BYTES} characters", where=where)
    builder = _Builder(where)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.add(event)
    except yaml.YAMLError as error:
        raise _parser_error(error, text, where=where) from None
    return builder.root()


def too_large(found: str, *, where: str) -> ContractLimitError:
    """The error for a file above `MAX_BYTES`."""
    return ContractLimitError(
        "the file is too large for a contract",
        where=where,
        expected=f"at most {MAX_BYTES} bytes",
        found=found,
        hint="split it, or move data that no rule reads into a file of its own",
    )


def walk(root: Node) -> Iterator[Node]:
    """Every node once, each before what it holds; without recursion."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, SequenceNode):
            pending.extend(reversed(node.items))
        elif isinstance(node, MappingNode):
            for key, value in reversed(node.entries):
                pending.extend((value, key))


class _Mark(Protocol):
    """The two mark classes of PyYAML, libyaml's and the pure one; both count from 0."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    node: SequenceNode | MappingNode
    anchor: str | None
    key: Node | None = None
    expanded: int = 1


class _Builder:
    """Takes parser events one by one; holds the path from the root to here as a stack."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._root: Node | None = None
        self._num_documents = 0

    def add(self, event: yaml.Event) -> None:
        if isinstance(event, ScalarEvent):
            node = ScalarNode(
                text=event.value,
                plain=not event.style,
                tag=event.tag,
                place=_place(event.start_mark),
            )
            self._finish(node, event.anchor, 1)
        elif isinstance(event, MappingStartEvent):
            self._open(MappingNode(place=_place(event.start_mark)), event.anchor)
        elif isinstance(event, SequenceStartEvent):
            self._open(SequenceNode(place=_place(event.start_mark)), event.anchor)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            done = self._stack.pop()
            self._finish(done.node, done.anchor, done.expanded)
        elif isinstance(event, AliasEvent):
            self._alias(event)
        elif isinstance(event, DocumentStartEvent):
            self._start_document(_place(event.start_mark))

    def root(self) -> Node:
        if self._root is None:
            raise ContractDocumentsError(
                "Failed to parse YAML: there is no document",
                where=self._where,
                expected="one YAML document",
                found="nothing but blanks and comments",
                hint="start with a `metadata:` block",
            )
        return self._root

    def _start_document(self, place: Place) -> None:
        self._num_documents += 1
        if self._num_documents > 1:
            raise ContractDocumentsError(
                "Failed to parse YAML: a second document starts",
                where=f"{self._where}:{place.line}:{place.column}",
                expected="one YAML document a file",
                found="a second `---`",
                hint="give each document a file of its own",
            )

    def _open(self, node: SequenceNode | MappingNode, anchor: str | None) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise _too_deep(node.place, where=self._where)
        if anchor is not None:
            # Until its end this name must not reach an older anchor: it would be itself.
            self._anchors.pop(anchor, None)
        self._stack.append(_Open(node, anchor))

    def _alias(self, event: AliasEvent) -> None:
        place = _place(event.start_mark)
        target = self._anchors.get(event.anchor or "")
        if target is None:
            raise ContractSyntaxError(
                f"Failed to parse YAML: the alias *{event.anchor} has no anchor before it",
                where=f"{self._where}:{place.line}:{place.column}",
                expected=f"a finished node marked &{event.anchor} above",
                found="none, or one that contains this alias",
                hint="write the value out, or move the anchor up",
            )
        self._finish(target[0], None, target[1])

    def _finish(self, node: Node, anchor: str | None, expanded: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, expanded)
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        parent.expanded += expanded
        if parent.expanded > MAX_EXPANDED_NODES:
            raise ContractLimitError(
                "the document has too many nodes",
                where=f"{self._where}:{parent.node.place.line}:{parent.node.place.column}",
                expected=f"at most {MAX_EXPANDED_NODES} nodes once every alias is followed",
                found=f"at least {parent.expanded} under this node",
                hint="an alias of aliases multiplies: write its values out, or split the file",
            )
        if isinstance(parent.node, SequenceNode):
            parent.node.items.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            parent.node.entries.append((parent.key, node))
            parent.key = None


def _place(mark: _Mark | None) -> Place:
    return Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)


def _too_deep(place: Place, *, where: str) -> ContractLimitError:
    return ContractLimitError(
        "the document is nested too deep",
        where=f"{where}:{place.line}:{place.column}",
        expected=f"at most {MAX_DEPTH} levels",
        found="one more opens here",
        hint="flatten the block; no contract needs this",
    )


def _parser_error(error: yaml.YAMLError, text: str, *, where: str) -> ContractError:
    """One message from either of PyYAML's two kinds of error."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
    if mark is not None:
        place = _place(mark)
    else:
        before = text[: int(getattr(error, "position", 0) or 0)]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
    if "nesting" in problem:
        # libyaml scans ahead for keys, and meets its own limit of 1000 before ours.
        return _too_deep(place, where=where)
    lines = text.splitlines()
    at_end = place.line > len(lines)
    found = "the end of the file" if at_end else ascii(lines[place.line - 1].strip()[:60])
    return ContractSyntaxError(
        f"Failed to parse YAML: {problem}",
        where=f"{where}:{place.line}:{place.column}",
        expected="YAML",
        found=found,
        hint="quote text that holds `: `, `{`, `[` or starts with a special character",
    )
