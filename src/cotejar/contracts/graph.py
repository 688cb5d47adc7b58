"""Which contract depends on which, in what order they build on each other, and cycles."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.contracts.corpus import Corpus

MAX_CYCLES = 100
"""A dense graph has more than anybody reads; one is enough to fail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContractGraph:
    """Contracts by their stems; an edge goes from a contract to one that it depends on."""

    nodes: tuple[str, ...]
    """Sorted; a dependency that is no file of the corpus is a node too."""
    edges: Mapping[str, tuple[str, ...]]
    """Every node's dependencies, each once, in the file's order."""
    missing: frozenset[str]
    """Nodes that are only depended on."""
    cycles: tuple[tuple[str, ...], ...]
    """Closed walks, each without the repeat of its start; the first hundred."""

    @property
    def topological_order(self) -> list[str]:
        """Dependencies first; empty if there is a cycle."""
        return [] if self.cycles else _dependencies_first(self.nodes, self.edges)

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "nodes": list(self.nodes),
            "edges": [
                {"from": node, "to": target}
                for node in self.nodes
                for target in self.edges[node]
            ],
            "missing": sorted(self.missing),
            "topo_order": self.topological_order,
            "cycles": [list(cycle) for cycle in self.cycles],
        }


def build_graph(corpus: Corpus) -> ContractGraph:
    """Draw the graph of `metadata.depends_on`."""
    edges: dict[str, tuple[str, ...]] = {}
    for contract in corpus.contracts:
        seen = (*edges.get(contract.stem, ()), *contract.metadata.depends_on)
        edges[contract.stem] = tuple(dict.fromkeys(seen))
    missing = {target for targets in edges.values() for target in targets} - edges.keys()
    edges.update(dict.fromkeys(missing, ()))
    nodes = tuple(sorted(edges))
    return ContractGraph(
        nodes=nodes,
        edges=edges,
        missing=frozenset(missing),
        cycles=tuple(_find_cycles(nodes, edges)),
    )


def graph_text(graph: ContractGraph) -> str:
    """A line a node with its dependencies, the order, and the cycles."""
    lines = []
    for node in graph.nodes:
        arrow = f" -> {', '.join(graph.edges[node])}" if graph.edges[node] else ""
        lines.append(f"{node}{' (not here)' if node in graph.missing else ''}{arrow}")
    num_edges = sum(map(len, graph.edges.values()))
    lines += ["", f"{len(graph.nodes)} nodes, {num_edges} edges"]
    if graph.cycles:
        lines += [f"cycle: {' -> '.join((*cycle, cycle[0]))}" for cycle in graph.cycles]
    else:
        lines.append("build order: " + " ".join(graph.topological_order))
    return "\n".join(lines)


def graph_dot(graph: ContractGraph) -> str:
    """Graphviz."""
    lines = ["digraph contracts {", "  rankdir=LR;"]
    for node in graph.nodes:
        style = " [style=dashed]" if node in graph.missing else ""
        lines.append(f"  {_quote(node)}{style};")
        lines += [f"  {_quote(node)} -> {_quote(target)};" for target in graph.edges[node]]
    return "\n".join([*lines, "}"])


def graph_mermaid(graph: ContractGraph) -> str:
    """Mermaid; nodes are numbered, since a stem may hold characters that end an id."""
    number = {node: f"n{index}" for index, node in enumerate(graph.nodes)}
    lines = ["graph LR"]
    for node in graph.nodes:
        label = node.replace("#", "#35;").replace('"', "#quot;")
        lines.append(f'  {number[node]}["{label}"]')
    for node in graph.nodes:
        lines += [f"  {number[node]} --> {number[target]}" for target in graph.edges[node]]
    return "\n".join(lines)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _dependencies_first(
    nodes: tuple[str, ...], edges: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Kahn's algorithm: a node comes when all that it depends on has come."""
    waiting_for = {node: len(edges[node]) for node in nodes}
    dependents: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for target in edges[node]:
            dependents[target].append(node)
    order = [node for node in nodes if waiting_for[node] == 0]
    for node in order:  # grows while it is read
        for dependent in dependents[node]:
            waiting_for[dependent] -= 1
            if waiting_for[dependent] == 0:
                order.append(dependent)
    return order


def _find_cycles(
    nodes: tuple[str, ...], edges: Mapping[str, tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Depth first, without recursion; each edge back to the open path closes one cycle."""
    cycles: list[tuple[str, ...]] = []
    done: set[str] = set()
    for start in nodes:
        if start in done:
            continue
        path, branches = [start], [iter(edges[start])]
        on_path = {start}
        while branches:
            target = next(branches[-1], None)
            if target is None:
                branches.pop()
                finished = path.pop()
                on_path.discard(finished)
                done.add(finished)
            elif target in on_path and len(cycles) < MAX_CYCLES:
                cycles.append(tuple(path[path.index(target) :]))
            elif target not in done and target not in on_path:
                path.append(target)
                on_path.add(target)
                branches.append(iter(edges[target]))
    return cycles
