"""What `pv` prints for people: folded to the terminal, whole elsewhere, and harmless."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cotejar.cli.pv.group import pv
from cotejar.cli.pv.print_text import print_text

ROOT = Path(__file__).parents[2]
CONTRACT = str(ROOT / "contracts/apr-vs-gguf-forward-parity-v1.yaml")
VERBS = (
    ("validate", CONTRACT),
    ("lint", CONTRACT),
    ("status", CONTRACT, "--why"),
    ("audit", CONTRACT),
    ("coverage", CONTRACT),
    ("graph", CONTRACT),
    ("equations", CONTRACT),
    ("score", CONTRACT, "--binding", str(ROOT / "contracts/binding.yaml")),
    ("scoreboard", CONTRACT, "--evidence", "nowhere"),
    ("explain",),
    ("explain", "COMPOSITION-002"),
    ("falsify", CONTRACT, "--id", "none"),
)


@pytest.mark.parametrize("width", [50, 80])
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_no_line_is_wider_than_the_terminal(verb: tuple[str, ...], width: int) -> None:
    folded = CliRunner(env={"COLUMNS": str(width)}).invoke(pv, verb)
    whole = CliRunner(env={"COLUMNS": ""}).invoke(pv, verb)

    assert max(map(len, folded.stdout.splitlines()), default=0) <= width
    # Folding moves blanks only.
    assert "".join(folded.stdout.split()) == "".join(whole.stdout.split())


def test_the_rest_of_a_line_starts_further_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "24")

    print_text("  one two three four five six seven\n\nshort")

    assert capsys.readouterr().out == ("  one two three four\n      five six seven\n\nshort\n")


def test_control_characters_of_a_contract_do_not_reach_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        'metadata: {version: 1.0.0, description: "\\e[31mred\\a", references: [r]}\n'
        'proof_obligations: [{id: "\\e]0;title\\a", property: p}]\n'
    )

    for verb in ("status", "audit", "validate", "lint", "scoreboard"):
        printed = CliRunner().invoke(pv, [verb, str(file)]).output
        assert "\x1b" not in printed
        assert "\a" not in printed
    assert r"\x1b[31mred\x07" in CliRunner().invoke(pv, ["status", str(file)]).output


def test_what_a_program_reads_is_never_folded() -> None:
    runner = CliRunner(env={"COLUMNS": "20"})

    dot = runner.invoke(pv, ["graph", CONTRACT, "--format", "dot"]).stdout
    table = runner.invoke(pv, ["scoreboard", CONTRACT, "--markdown"]).stdout

    assert any(len(line) > 20 for line in dot.splitlines())
    assert all(line.startswith("|") for line in table.splitlines() if "FALSIFY" in line)
