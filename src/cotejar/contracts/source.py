"""A YAML document and the file it came from: where a path of keys is written.

A path is keys and indices from the root: `("proof_obligations", 2, "property")`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cotejar.contracts.scalars import resolve
from cotejar.contracts.yaml_nodes import (
    MappingNode,
    Node,
    Place,
    ScalarNode,
    SequenceNode,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Step = str | int
Path = tuple[Step, ...]
Children = dict[str, tuple[Node, Place]]

ALIASES = {
    "property": "statement",
    "formal": "verification",
    "rule": "description",
    "prediction": "expected",
    "test": "command",
    "if_fails": "fails_if",
}
"""Canonical key -> the older spelling that upstream also reads."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DuplicateKey:
    """A mapping key that is there twice: every reader keeps one and drops the other."""

    key: str
    first: Place
    again: Place


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """One document."""

    file: str
    """As errors and findings name it."""
    root: Node
    _children: dict[int, Children] = field(default_factory=dict, repr=False)
    """By the id of a node, what its keys lead to: filled as places are asked for."""

    def place_of(self, path: Path) -> Place:
        """Where `path` is written; if it is not there, where the nearest parent is."""
        node, place = self.root, self.root.place
        for step in path:
            found = self._child(node, step)
            if found is None:
                break
            node, place = found
        return place

    def value_of(self, key: str) -> Any:
        """A top-level block as plain Python data; None if it is not there."""
        found = self._child(self.root, key)
        return None if found is None else plain_value(found[0])

    def text_at(self, path: Path) -> str | None:
        """The raw text of the scalar that `path` leads to: `1.10` stays `1.10`."""
        node = self.root
        for step in path:
            found = self._child(node, step)
            if found is None:
                return None
            node = found[0]
        return node.text if isinstance(node, ScalarNode) else None

    def _child(self, node: Node, step: Step) -> tuple[Node, Place] | None:
        """The node one step down, and where its key or item starts."""
        if isinstance(node, ScalarNode):
            return None
        if isinstance(step, int):
            items = node.items[step : step + 1] if isinstance(node, SequenceNode) else []
            return (items[0], items[0].place) if items else None
        children = self._children.get(id(node))
        if children is None:
            children = self._children[id(node)] = _index(node)
        return children.get(step) or children.get(ALIASES.get(step, step))

    def top_level_keys(self) -> list[str]:
        """The scalar keys of the root mapping, in the file's order, each once."""
        if not isinstance(self.root, MappingNode):
            return []
        texts = (key.text for key, _ in self.root.entries if isinstance(key, ScalarNode))
        return list(dict.fromkeys(texts))

    def duplicate_keys(self) -> Iterator[DuplicateKey]:
        """Every repeated key of every mapping, in the file's order."""
        for node in walk(self.root):
            if not isinstance(node, MappingNode):
                continue
            seen: dict[tuple[type, object], Place] = {}
            for key, _ in node.entries:
                if not isinstance(key, ScalarNode):
                    continue
                # 1 and "1" are two keys to a YAML reader; `a` and "a" are one.
                value = plain_value(key)
                identity = (type(value), value)
                if identity in seen:
                    yield DuplicateKey(key=key.text, first=seen[identity], again=key.place)
                else:
                    seen[identity] = key.place


def plain_value(node: Node) -> Any:
    """None, bool, int, float, str, list and dict, as serde_yaml's generic value has them."""
    if isinstance(node, ScalarNode):
        return scalar_value(node)
    if isinstance(node, SequenceNode):
        return [plain_value(item) for item in node.items]
    return {_key_value(key): plain_value(value) for key, value in node.entries}


def scalar_value(node: ScalarNode) -> None | bool | int | float | str:
    """What the scalar means where no field asks for a type; a quoted one is text."""
    return resolve(node.text) if node.plain and node.tag is None else node.text


def path_text(path: Path) -> str:
    """`proof_obligations[2].property`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def _key_value(key: Node) -> Any:
    # A list or a mapping as a key has no plain form; its place tells two of them apart.
    return scalar_value(key) if isinstance(key, ScalarNode) else ("complex key", key.place)


def _index(node: SequenceNode | MappingNode) -> Children:
    """What each key leads to, and where the key stands; of a repeated key the last.

    An item of a list goes by its `id`, or as `equation_N`, as equations in a list do.
    """
    children: Children = {}
    if isinstance(node, MappingNode):
        for key, value in node.entries:
            if isinstance(key, ScalarNode):
                children[key.text] = (value, key.place)
        return children
    for index, item in enumerate(node.items):
        children[f"equation_{index}"] = (item, item.place)
    for item in node.items:
        for key, value in item.entries if isinstance(item, MappingNode) else ():
            is_id = isinstance(key, ScalarNode) and key.text == "id"
            if is_id and isinstance(value, ScalarNode):
                children[value.text] = (item, item.place)
    return children
