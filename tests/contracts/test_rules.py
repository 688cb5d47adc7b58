"""Every rule fires on its own Bad, alone, and on nothing in its own Good."""

import re

import pytest

from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.catalogue import CONTRACT_RULES
from cotejar.contracts.rules.every_rule import all_rules
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


def numbered(prefix: str, last: int) -> set[str]:
    return {f"{prefix}-{number:03}" for number in range(1, last + 1)}


def test_the_catalogue_is_the_whole_of_the_published_list_and_ours() -> None:
    validate = numbered("SCHEMA", 24) | numbered("PROVABILITY", 1) | numbered("BEAT", 7)
    validate |= numbered("PARITY", 1) | numbered("CRUX", 2) | numbered("KAIZEN", 6)
    validate |= numbered("PM-SHAPE", 5) | {"PM-SHAPE-000"}
    audit = numbered("AUDIT", 3) | numbered("BIND", 5) | numbered("TRACE", 11)
    lint = numbered("PV-VAL", 6) | numbered("PV-AUD", 5) | numbered("PV-SCR", 4)
    lint |= numbered("PV-PRV", 4) | numbered("PV-VER", 2) | numbered("PV-ENF", 2)
    lint |= numbered("PV-LCK", 2) | numbered("PV-DUP", 1) | numbered("PV-SUP", 1)
    lint |= numbered("PV-RCV", 2) | numbered("COMPOSITION", 2) | numbered("PV-TRD", 2)

    ids = [rule.id for rule in all_rules()]

    assert sorted(ids) == sorted(validate | audit | lint)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_a_rule_documents_itself(rule) -> None:
    help_ = rule.help()

    assert re.fullmatch(r"[A-Z]+(-[A-Z]+)?-\d{3}", help_.id)
    assert min(len(help_.title), len(help_.why), len(help_.bad), len(help_.good)) > 0
