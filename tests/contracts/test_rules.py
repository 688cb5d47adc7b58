"""Every rule fires on its own Bad, alone, and on nothing in its own Good."""

import re

import pytest

from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.catalogue import CONTRACT_RULES, all_rules
from cotejar.contracts.rules.example import BASE_BLOCKS, fill_example
from cotejar.contracts.validate import validate_contract


def rule_ids(blocks: str) -> list[str]:
    return [f.rule for f in validate_contract(parse_contract(fill_example(blocks)))]


def test_the_base_of_every_example_breaks_no_rule() -> None:
    assert rule_ids(BASE_BLOCKS["metadata"]) == []


@pytest.mark.parametrize("rule", CONTRACT_RULES, ids=lambda rule: rule.id)
def test_a_rule_fires_on_its_bad_example_and_no_other_does(rule) -> None:
    assert set(rule_ids(rule.help().bad)) == {rule.id}


@pytest.mark.parametrize("rule", CONTRACT_RULES, ids=lambda rule: rule.id)
def test_nothing_fires_on_a_good_example(rule) -> None:
    assert rule_ids(rule.help().good) == []


def test_the_catalogue_is_the_whole_of_the_published_list() -> None:
    expected = {f"SCHEMA-{n:03}" for n in range(1, 25)} | {"PROVABILITY-001"}
    expected |= {f"BEAT-{n:03}" for n in range(1, 8)} | {"CRUX-001", "CRUX-002"}
    expected |= {f"KAIZEN-{n:03}" for n in range(1, 7)}
    expected |= {f"PM-SHAPE-{n:03}" for n in range(6)}

    ids = [rule.id for rule in all_rules()]

    assert sorted(ids) == sorted(expected)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_a_rule_documents_itself(rule) -> None:
    help_ = rule.help()

    assert re.fullmatch(r"[A-Z]+(-[A-Z]+)?-\d{3}", help_.id)
    assert min(len(help_.title), len(help_.why), len(help_.bad), len(help_.good)) > 0
