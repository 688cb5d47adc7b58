"""YAML text becomes nodes with places, and hostile text ends in one bounded error."""

import resource

import pytest
import yaml

from cotejar.contracts.source import Source, plain_value
from cotejar.contracts.yaml_nodes import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_EXPANDED_NODES,
    MappingNode,
    ScalarNode,
    compose,
)
from cotejar.errors import ContractDocumentsError, ContractLimitError, ContractSyntaxError

LOADERS = [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)]


def read(text: str, loader: type = yaml.SafeLoader) -> object:
    return plain_value(compose(text, where="x.yaml", loader=loader))


def parts(error: Exception) -> tuple[str, str]:
    return error.code, error.parts["where"]


@pytest.mark.parametrize("loader", LOADERS)
def test_both_parsers_give_the_same_nodes_and_places(loader: type) -> None:
    root = compose("a: 1\nb:\n  - 'x'\n", where="f", loader=loader)

    assert isinstance(root, MappingNode)
    (_, one), (key, items) = root.entries
    assert isinstance(one, ScalarNode)
    assert (one.text, one.plain, one.place) == ("1", True, (1, 4))
    assert key.place == (2, 1)
    assert (items.items[0].plain, items.items[0].place) == (False, (3, 5))


@pytest.mark.parametrize("loader", LOADERS)
def test_an_alias_is_the_anchored_value(loader: type) -> None:
    assert read("a: &x [1, two]\nb: *x\n", loader) == {"a": [1, "two"], "b": [1, "two"]}


def test_a_merge_key_is_an_ordinary_key() -> None:
    assert read("a: &x {k: 1}\nb: {<<: *x}\n") == {"a": {"k": 1}, "b": {"<<": {"k": 1}}}


def test_duplicate_keys_compare_by_value_not_by_spelling() -> None:
    text = 'a: 1\n"a": 2\n1: x\n"1": y\n0x1: z\n'
    source = Source(file="f", root=compose(text, where="f"))

    assert [(k.key, k.first, k.again) for k in source.duplicate_keys()] == [
        ("a", (1, 1), (2, 1)),
        ("0x1", (3, 1), (5, 1)),
    ]


@pytest.mark.parametrize("loader", LOADERS)
def test_text_that_is_no_yaml_is_named_with_its_line(loader: type) -> None:
    with pytest.raises(ContractSyntaxError) as caught:
        compose("a: 1\nb: [1, 2\nc: 3\n", where="x.yaml", loader=loader)

    assert parts(caught.value) == ("PV-E002", "x.yaml:3:2")


@pytest.mark.parametrize("loader", LOADERS)
def test_a_control_character_is_named_with_its_line(loader: type) -> None:
    with pytest.raises(ContractSyntaxError) as caught:
        compose("a: 1\nb: \x00\n", where="x.yaml", loader=loader)

    assert caught.value.code == "PV-E002"
    assert caught.value.parts["where"].startswith("x.yaml:2:")


def test_no_document_and_two_documents_are_refused() -> None:
    found = []
    for text in ("# nothing\n", "a: 1\n---\nb: 2\n"):
        with pytest.raises(ContractDocumentsError) as caught:
            compose(text, where="x.yaml")
        found.append(caught.value.parts["where"])

    assert found == ["x.yaml", "x.yaml:2:1"]


def test_an_alias_without_an_anchor_and_one_inside_its_own_anchor_are_refused() -> None:
    found = []
    for text in ("a: *gone\n", "a: &x [1]\nb: &x [*x]\n"):
        with pytest.raises(ContractSyntaxError) as caught:
            compose(text, where="x.yaml")
        found.append(caught.value.parts["where"])

    assert found == ["x.yaml:1:4", "x.yaml:2:8"]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth_is_limited_before_it_costs_anything(loader: type, opening: str) -> None:
    with pytest.raises(ContractLimitError) as caught:
        compose(opening * (MAX_BYTES // 8), where="x.yaml", loader=loader)

    assert caught.value.problem == "the document is nested too deep"


def test_the_deepest_allowed_document_is_read() -> None:
    value = read("[" * MAX_DEPTH + "]" * MAX_DEPTH)

    depth = 0
    while value:
        value, depth = value[0], depth + 1
    assert depth == MAX_DEPTH - 1


def test_an_alias_bomb_is_refused_at_the_line_that_explodes() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 60)]

    with pytest.raises(ContractLimitError) as caught:
        compose("\n".join(lines), where="x.yaml")

    # Level n expands to more than 10**(n + 1) nodes: level 5 is the first above the limit.
    assert caught.value.parts["where"] == "x.yaml:6:5"
    assert str(MAX_EXPANDED_NODES) in caught.value.parts["expected"]


def test_text_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(ContractLimitError) as caught:
        compose("x" * (MAX_BYTES + 1), where="x.yaml")

    assert parts(caught.value) == ("PV-E004", "x.yaml")


def test_the_most_nodes_that_are_allowed_take_less_than_300_mib() -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    compose("[" + "a," * (MAX_EXPANDED_NODES - 1) + "]", where="x.yaml")

    # A node is a ScalarNode (72 bytes), its text (50), its Place (56 and two integers of 28),
    # and for a moment an event with two marks (about 400): 700 bytes at most, 175 MB in all.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 300 * 1024
