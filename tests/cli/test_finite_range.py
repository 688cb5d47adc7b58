"""A limit that is no number limits nothing, so no option takes one."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from cotejar.cli.apr.group import apr
from cotejar.cli.pv.group import pv

OPTIONS = [
    (pv, ("prove", "c.yaml", "--timeout")),
    (pv, ("falsify", "c.yaml", "--timeout")),
    (pv, ("score", "c.yaml", "--min-score")),
    (pv, ("lint", "c.yaml", "--min-score")),
    (pv, ("lint", "c.yaml", "--min-coverage")),
    (apr, ("diff", "a", "b", "--threshold")),
]


@pytest.mark.parametrize("value", ["nan", "inf", "-0.5", "x"])
@pytest.mark.parametrize(("group", "words"), OPTIONS)
def test_a_number_that_is_no_limit_is_bad_usage(
    group: object, words: tuple[str, ...], value: str
) -> None:
    done = CliRunner().invoke(group, [*words, value])  # type: ignore[arg-type]  # a group

    assert done.exit_code == 2
    assert f"Invalid value for '{words[-1]}'" in done.output
