"""Dependencies, their order, and cycles."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cotejar.contracts.corpus import Corpus
from cotejar.contracts.graph import (
    ContractGraph,
    build_graph,
    graph_dot,
    graph_mermaid,
    graph_text,
)
from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.example import fill_example


def graph_of(depends_on: dict[str, list[str]]) -> ContractGraph:
    contracts = [
        parse_contract(
            fill_example(f"metadata: {{version: 1, description: d, depends_on: {targets}}}\n"),
            file=f"{stem}.yaml",
        )
        for stem, targets in depends_on.items()
    ]
    return build_graph(Corpus(target="c", contracts=tuple(contracts), skipped=()))


def test_dependencies_come_first_and_an_absent_one_is_a_node() -> None:
    graph = graph_of({"a": ["b", "c"], "b": ["d"], "c": ["d", "d"]})

    assert graph.as_json() == {
        "nodes": ["a", "b", "c", "d"],
        "edges": [
            {"from": "a", "to": "b"},
            {"from": "a", "to": "c"},
            {"from": "b", "to": "d"},
            {"from": "c", "to": "d"},
        ],
        "missing": ["d"],
        "topo_order": ["d", "b", "c", "a"],
        "cycles": [],
    }


def test_a_cycle_is_walked_and_leaves_no_order() -> None:
    graph = graph_of({"a": ["b"], "b": ["c"], "c": ["b"]})

    assert (graph.cycles, graph.topological_order) == ((("b", "c"),), [])
    assert graph_text(graph).endswith("cycle: b -> c -> b")


def test_a_contract_that_depends_on_itself_is_a_cycle() -> None:
    assert graph_of({"a": ["a"]}).cycles == (("a",),)


def test_a_chain_of_5000_contracts_needs_no_recursion() -> None:
    edges = {f"n{i:04}": (f"n{i + 1:04}",) for i in range(5000)} | {"n5000": ()}
    chain = {stem: list(targets) for stem, targets in edges.items()}

    graph = graph_of({**dict(list(chain.items())[:50])})

    assert graph.topological_order == [f"n{i:04}" for i in range(50, -1, -1)]
    from cotejar.contracts.graph import _find_cycles

    assert _find_cycles(tuple(edges), edges) == []


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefg"), max_size=4), min_size=1
    )
)
def test_the_order_respects_every_edge_or_there_is_a_cycle(edges: dict) -> None:
    graph = graph_of(edges)
    order = graph.topological_order

    if graph.cycles:
        for cycle in graph.cycles:
            steps = zip(cycle, (*cycle[1:], cycle[0]), strict=True)
            assert all(target in graph.edges[node] for node, target in steps)
    else:
        assert sorted(order) == list(graph.nodes)
        assert all(
            order.index(target) < order.index(node)
            for node in graph.nodes
            for target in graph.edges[node]
        )


def test_dot_and_mermaid_quote_names_that_would_end_them() -> None:
    graph = graph_of({'a"b': ["c#d"]})

    assert graph_dot(graph) == (
        "digraph contracts {\n"
        "  rankdir=LR;\n"
        '  "a\\"b";\n'
        '  "a\\"b" -> "c#d";\n'
        '  "c#d" [style=dashed];\n'
        "}"
    )
    assert graph_mermaid(graph) == ('graph LR\n  n0["a#quot;b"]\n  n1["c#35;d"]\n  n0 --> n1')


def test_a_folder_is_read_from_disk(tmp_path: Path) -> None:
    from cotejar.contracts.corpus import read_corpus

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.yaml").write_text(fill_example("x: 1\n"))
    (tmp_path / "binding.yaml").write_text("{{")
    (tmp_path / "legacy").mkdir()
    (tmp_path / "legacy/b.yaml").write_text("{{")
    (tmp_path / "c.yaml").write_text("{{")

    corpus = read_corpus(tmp_path)

    assert [c.stem for c in corpus.contracts] == ["a"]
    assert [Path(s.file).name for s in corpus.skipped] == ["c.yaml"]
