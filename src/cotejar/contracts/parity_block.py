"""The `parity:` block of a contract: what `apr parity --contract FILE` runs.

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
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.contracts.coerce import Fields, fail
from cotejar.contracts.read import read_source
from cotejar.contracts.scalars import parse_float
from cotejar.contracts.yaml_nodes import MappingNode, Node, ScalarNode, SequenceNode
from cotejar.errors import ContractError, UnknownSiteError
from cotejar.parity.compare import Plan
from cotejar.parity.gates import METRICS, Gate
from cotejar.parity.preconditions import CHECKS
from cotejar.trace.forward_trace import Scope
from cotejar.trace.site import CONTRACT_SLOTS, SLOT_ALIASES, SLOTS, parse_site

if TYPE_CHECKING:
    from pathlib import Path as FilePath

    from cotejar.contracts.source import Path, Source

_KEYS = (
    "reference",
    "candidate",
    "prompts",
    "scopes",
    "required_sites",
    "preconditions",
    "gates",
)
_BAND_ENDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityBlock:
    """One contract's comparison."""

    reference: str | None
    candidate: str | None
    prompts: tuple[str, ...]
    plan: Plan


def read_parity_block(path: FilePath) -> ParityBlock:
    """Read a contract's `parity:` block.

    Raises:
        FileError: there is no such file, or it cannot be read.
        ContractError: no YAML, no such block, or a value in it that means nothing.
    """
    source = read_source(path)
    root = source.root
    found = [
        (key, value)
        for key, value in (root.entries if isinstance(root, MappingNode) else [])
        if isinstance(key, ScalarNode) and key.text == "parity"
    ]
    blocks = [value for _, value in found]
    if len(blocks) != 1:
        raise ContractError(
            "the contract does not say what to compare",
            where=f"{path}:{found[1][0].place.line}" if blocks else str(path),
            expected="one top-level block `parity:`",
            found=f"{len(blocks)} of them",
            hint="contracts/apr-vs-gguf-forward-parity-v1.yaml shows one",
        )
    at: Path = ("parity",)
    _refuse_unknown_keys(blocks[0], source, at, _KEYS)
    fields = Fields(blocks[0], source, at, _KEYS)
    slots = _read_words(fields, "required_sites", (*SLOTS, *SLOT_ALIASES), source)
    preconditions = _read_words(fields, "preconditions", tuple(CHECKS), source)
    scopes = _read_words(fields, "scopes", ("all", "last"), source)
    gates = fields.structs("gates", _read_gate)
    if not gates:
        fail(blocks[0], source, (*at, "gates"), "at least one gate", "none")
    return ParityBlock(
        reference=fields.optional_text("reference"),
        candidate=fields.optional_text("candidate"),
        prompts=fields.texts("prompts"),
        plan=Plan(
            gates=gates,
            scopes=tuple(Scope(s) for s in scopes) or (Scope.ALL, Scope.LAST),
            required_slots=tuple(SLOT_ALIASES.get(s, s) for s in slots) or CONTRACT_SLOTS,
            preconditions=preconditions,
        ),
    )


def _read_gate(node: Node, source: Source, path: Path) -> Gate:
    keys = ("metric", "sites", "limit", "band", "origin")
    _refuse_unknown_keys(node, source, path, keys)
    fields = Fields(node, source, path, keys)
    metric = fields.text("metric")
    if metric not in METRICS:
        fail(node, source, (*path, "metric"), f"of: {', '.join(METRICS)}", metric)
    sites = _read_sites(fields.text("sites", "all"), node, source, (*path, "sites"))
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
    fields: Fields, name: str, known: tuple[str, ...], source: Source
) -> tuple[str, ...]:
    words, node = fields.texts(name), fields.node(name)
    items = node.items if isinstance(node, SequenceNode) else []
    for index, (word, item) in enumerate(zip(words, items, strict=True)):
        if word not in known:
            fail(item, source, ("parity", name, index), f"of: {', '.join(known)}", word)
    return words


def _refuse_unknown_keys(
    node: Node, source: Source, path: Path, known: tuple[str, ...]
) -> None:
    """A misspelt key would drop a gate in silence."""
    for key, _ in node.entries if isinstance(node, MappingNode) else []:
        text = key.text if isinstance(key, ScalarNode) else "a key that is no text"
        if text not in known:
            fail(key, source, path, f"keys of: {', '.join(known)}", text)
