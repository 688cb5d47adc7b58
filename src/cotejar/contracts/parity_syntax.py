"""The `parity:` block of a contract as it is written: every word and figure checked.

    parity:
      reference: demo:smollm2            # [ENGINE[+numerics][@device]:]PATH
      candidate: model.apr               # the command line may name other two
      prompts: ["What is 2+2?"]
      scopes: [all, last]
      required_sites: [ffn_gate, ...]    # slots that every layer must have on both sides
      preconditions: [token-ids, ...]    # none listed: all; three are judged in any case
      gates:
        - {metric: rel_l2_max, sites: all, limit: 1.0e-5, origin: "where it comes from"}
        - {metric: std_ratio, sites: ffn_swiglu_inner, band: [0.5, 2.0], origin: "..."}

Upstream's `pv` ignores the block. A band must be symmetric, [1/x, x]: the gate is judged as
max(ratio, 1/ratio) <= x, which does not depend on which side is called the reference.

Nothing here loads what judges: `pv validate` reads the block too.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.contracts.coerce import Fields, fail
from cotejar.contracts.scalars import parse_float
from cotejar.contracts.source import scalar_value
from cotejar.contracts.yaml_nodes import MappingNode, Node, ScalarNode, SequenceNode
from cotejar.errors import ContractSchemaError, UnknownSiteError
from cotejar.parity.gates import LOGITS_METRICS, METRICS, Gate
from cotejar.parity.precondition_ids import PRECONDITION_IDS
from cotejar.trace.site import SLOT_ALIASES, SLOTS, parse_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cotejar.contracts.source import Path, Source

KEY = "parity"
_KEYS = (
    "reference",
    "candidate",
    "prompts",
    "scopes",
    "required_sites",
    "preconditions",
    "gates",
)
_WORDS = {
    "required_sites": (*SLOTS, *SLOT_ALIASES),
    "preconditions": PRECONDITION_IDS,
    "scopes": ("all", "last"),
    "prompts": None,
}
"""What a list may hold; None for any text."""
_BAND_ENDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenParity:
    """One block's words; nothing is filled in for what is left out."""

    reference: str | None
    candidate: str | None
    prompts: tuple[str, ...]
    scopes: tuple[str, ...]
    required_slots: tuple[str, ...]
    """Without aliases."""
    preconditions: tuple[str, ...]
    gates: tuple[Gate, ...]


def find_parity_blocks(source: Source) -> list[tuple[Node, Node]]:
    """Every top-level `parity:`, key and value; a contract has one at most."""
    entries = source.root.entries if isinstance(source.root, MappingNode) else []
    return [
        (key, value)
        for key, value in entries
        if isinstance(key, ScalarNode) and key.text == KEY
    ]


def parse_parity(node: Node, source: Source) -> WrittenParity:
    """Read the block.

    Raises:
        ContractSchemaError: a value in it means nothing; the first, in the block's order.
    """
    written, problems = _read_block(node, source)
    if written is None or problems:
        raise problems[0]
    return written


def parity_problems(node: Node, source: Source) -> list[ContractSchemaError]:
    """Everything in the block that means nothing."""
    return _read_block(node, source)[1]


def _read_block(
    node: Node, source: Source
) -> tuple[WrittenParity | None, list[ContractSchemaError]]:
    problems: list[ContractSchemaError] = []
    with _collecting(problems):
        _refuse_unknown_keys(node, source, (KEY,), _KEYS)
    try:
        fields = Fields(node, source, (KEY,), _KEYS)
    except ContractSchemaError as error:
        return None, [*problems, error]
    sides: dict[str, str | None] = {}
    for name in ("reference", "candidate"):
        with _collecting(problems):
            sides[name] = _read_side(fields, name, source)
    words: dict[str, tuple[str, ...]] = {}
    for name, known in _WORDS.items():
        with _collecting(problems):
            words[name] = _read_words(fields, name, known, source)
    gates: list[Gate] = []
    with _collecting(problems):
        found = fields.structs("gates", _collected(_read_gate, problems))
        gates += [gate for gate in found if gate is not None]
        if not found:
            fail(node, source, (KEY, "gates"), "at least one gate", "none")
    if problems:
        return None, problems
    written = WrittenParity(
        reference=sides["reference"],
        candidate=sides["candidate"],
        prompts=words["prompts"],
        scopes=words["scopes"],
        required_slots=tuple(SLOT_ALIASES.get(s, s) for s in words["required_sites"]),
        preconditions=words["preconditions"],
        gates=tuple(gates),
    )
    return written, problems


@contextlib.contextmanager
def _collecting(problems: list[ContractSchemaError]) -> Iterator[None]:
    """Note what means nothing, and go on after the block of code."""
    try:
        yield
    except ContractSchemaError as error:
        problems.append(error)


def _collected(
    read: Callable[[Node, Source, Path], Gate], problems: list[ContractSchemaError]
) -> Callable[[Node, Source, Path], Gate | None]:
    """As `read`, but a gate that means nothing is noted, and the next one is read."""

    def read_one(node: Node, source: Source, path: Path) -> Gate | None:
        try:
            return read(node, source, path)
        except ContractSchemaError as error:
            problems.append(error)
            return None

    return read_one


def _read_side(fields: Fields, name: str, source: Source) -> str | None:
    text, node = fields.optional_text(name), fields.node(name)
    if text is None or node is None:
        return None
    value = scalar_value(node) if isinstance(node, ScalarNode) else None
    if not isinstance(value, str) or not text.strip():
        found = f"{value!r:.40}"
        fail(node, source, (KEY, name), "text: [ENGINE[+numerics][@device]:]PATH", found)
    return text


def _read_gate(node: Node, source: Source, path: Path) -> Gate:
    keys = ("metric", "sites", "limit", "band", "origin")
    _refuse_unknown_keys(node, source, path, keys)
    fields = Fields(node, source, path, keys)
    metric = fields.text("metric")
    if metric not in METRICS:
        fail(node, source, (*path, "metric"), f"of: {', '.join(METRICS)}", metric)
    sites = _read_sites(fields.text("sites", "all"), node, source, (*path, "sites"))
    if metric in LOGITS_METRICS and sites not in {"all", "logits"}:
        expected = f"logits, or all: {metric} is measured nowhere else"
        fail(node, source, (*path, "sites"), expected, sites)
    limit, band = fields.number("limit"), fields.node("band")
    if (limit is None) == (band is None):
        fail(node, source, path, "a limit or a band, one of them", "both or neither")
    if band is not None:
        if metric != "std_ratio":
            fail(band, source, (*path, "band"), f"a limit: {metric} is no ratio", "a band")
        limit = _read_band(band, source, (*path, "band"))
    if limit is None or not limit >= 0 or math.isinf(limit):
        fail(node, source, (*path, "limit"), "a finite number of at least 0", str(limit))
    origin = fields.text("origin").strip()
    if not origin:
        fail(node, source, (*path, "origin"), "where the limit comes from", "nothing")
    return Gate(metric=metric, sites=sites, limit=limit, origin=origin)


def _read_sites(text: str, node: Node, source: Source, path: Path) -> str:
    """`all`, a slot or a site, without aliases: a misspelt one would be judged nowhere."""
    if text == "all":
        return text
    text = SLOT_ALIASES.get(text, text)
    if text in SLOTS:
        return text
    try:
        return str(parse_site(text))
    except UnknownSiteError:
        fail(node, source, path, f"all, a site, or one of: {', '.join(SLOTS)}", text)


def _read_band(node: Node, source: Source, path: Path) -> float:
    ends = []
    for item in node.items if isinstance(node, SequenceNode) else []:
        plain = isinstance(item, ScalarNode) and item.plain
        ends.append(parse_float(item.text) if plain and isinstance(item, ScalarNode) else None)
    low, high = ends if len(ends) == _BAND_ENDS else (None, None)
    if low is None or high is None or not (0 < low <= high and math.isclose(low * high, 1)):
        fail(node, source, path, "[1/x, x]: the same band whichever side is first", str(ends))
    return high


def _read_words(
    fields: Fields, name: str, known: tuple[str, ...] | None, source: Source
) -> tuple[str, ...]:
    """A list of `known` words; without a list, of any text that is not empty."""
    words, node = fields.texts(name), fields.node(name)
    items = node.items if isinstance(node, SequenceNode) else []
    for index, (word, item) in enumerate(zip(words, items, strict=True)):
        if known is None and not word:
            fail(item, source, (KEY, name, index), "a text of at least 1 character", "none")
        if known is not None and word not in known:
            fail(item, source, (KEY, name, index), f"of: {', '.join(known)}", word)
    return words


def _refuse_unknown_keys(
    node: Node, source: Source, path: Path, known: tuple[str, ...]
) -> None:
    """A misspelt key would drop a gate in silence."""
    for key, _ in node.entries if isinstance(node, MappingNode) else []:
        text = key.text if isinstance(key, ScalarNode) else "a key that is no text"
        if text not in known:
            fail(key, source, path, f"keys of: {', '.join(known)}", text)
