"""`pv lint` of what changed, against a baseline, and over time."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from cotejar.cli.pv.lint import lint
from cotejar.contracts.lint_trend import Snapshot, TrendStep, read_trend, step_of
from cotejar.contracts.rules.example import LINT_BLOCKS, fill_example
from cotejar.contracts.rules.lint_trend import TREND_RULES
from cotejar.errors import CotejarError, EvidenceError

GOOD = "".join(LINT_BLOCKS.values())
PROPERTY = "property: y is finite"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Contracts a, b and c, b of which depends on a, and c on b; all committed."""
    monkeypatch.chdir(tmp_path)
    Path("tests").mkdir()
    Path("tests/test_example.py").write_text("def test_it(): pass\n")
    Path("contracts").mkdir()
    for name, depends_on in (("a", "[]"), ("b", "[a-v1]"), ("c", "[b-v1]"), ("d", "[]")):
        meta = "version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)]"
        blocks = f"metadata: {{{meta}, depends_on: {depends_on}}}\n"
        Path(f"contracts/{name}-v1.yaml").write_text(fill_example(blocks, LINT_BLOCKS))
    git("init", "--quiet")
    commit()
    return tmp_path


def git(*words: str) -> None:
    settings = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    subprocess.run(["git", *settings, *words], check=True, capture_output=True)


def commit() -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", "m")


def edit(name: str, old: str, new: str) -> None:
    file = Path("contracts") / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def run(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(lint, ["contracts", *options])
    if isinstance(result.exception, CotejarError):  # `pv` itself prints it and exits so
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.stdout


def run_json(*options: str) -> tuple[int, dict]:
    code, text = run(*options, "--json")
    return code, json.loads(text)


def files_of(facts: dict) -> set[str]:
    return {f["file"] for gate in facts["gates"] for f in gate["findings"]}


# --- what changed -------------------------------------------------------------------


def test_what_changed_is_judged_and_what_depends_on_it(project: Path) -> None:
    edit("b-v1.yaml", "domain: R, ", "")
    edit("d-v1.yaml", "domain: R, ", "")
    commit()
    edit("b-v1.yaml", "formula: y = x", "formula: y = x + 0")

    code, facts = run_json("--diff", "HEAD")

    assert (code, facts["num_contracts"], facts["num_judged"]) == (0, 4, 2)
    assert files_of(facts) == {"contracts/b-v1.yaml"}  # d is as it was
    assert (facts["changed_since"], facts["num_warnings"]) == ("HEAD", 1)
    assert run_json("--diff", "HEAD~1")[1]["num_judged"] == 3
    edit("a-v1.yaml", "formula: y = x", "formula: y = 1 * x")
    assert run_json("--diff", "HEAD")[1]["num_judged"] == 3


def test_a_new_file_counts_as_changed_and_so_does_what_depended_on_one_that_is_gone(
    project: Path,
) -> None:
    Path("contracts/e-v1.yaml").write_text(GOOD)
    assert run_json("--diff", "HEAD")[1]["num_judged"] == 1
    commit()
    Path("contracts/b-v1.yaml").unlink()
    assert run_json("--diff", "HEAD")[1]["num_judged"] == 1  # c
    commit()
    Path("contracts/e-v1.yaml").unlink()  # nothing depends on it
    assert run("--diff", "HEAD")[0] == 3


def test_a_broken_file_fails_where_it_changed_and_nowhere_else(project: Path) -> None:
    Path("contracts/e-v1.yaml").write_text("{{")
    commit()
    edit("d-v1.yaml", "formula: y = x", "formula: y = x + 0")
    assert run("--diff", "HEAD")[0] == 0
    Path("contracts/e-v1.yaml").write_text("{{{")
    code, facts = run_json("--diff", "HEAD")
    assert (code, files_of(facts)) == (1, {"contracts/e-v1.yaml"})


def test_a_shared_name_is_seen_though_the_other_did_not_change(project: Path) -> None:
    Path("contracts/sub").mkdir()
    Path("contracts/sub/d-v1.yaml").write_text(GOOD)

    code, facts = run_json("--diff", "HEAD")

    assert (code, files_of(facts)) == (1, {"contracts/sub/d-v1.yaml"})


def test_where_nothing_changed_nothing_passes(project: Path) -> None:
    Path("contracts/binding.yaml").write_text("version: 1\n")  # no contract

    code, text = run("--diff", "HEAD")

    assert code == 3
    assert text == (
        "error[APR-U009]: decline: no contract changed\n"
        "  where     --diff HEAD\n"
        "  expected  at least one contract under contracts that differs from HEAD\n"
        "  found     none that is there now\n"
        "  try       without --diff every contract is judged; nothing was checked"
    )


@pytest.mark.parametrize("revision", ["nowhere", "--help", ""])
def test_a_revision_that_git_does_not_know_is_refused(project: Path, revision: str) -> None:
    code, text = run(f"--diff={revision}")

    assert (code, text.splitlines()[0]) == (2, "error[APR-U001]: git knows no such revision")


# --- baseline -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sarif", "json"])
def test_what_a_baseline_knows_does_not_fail_and_what_is_new_does(
    project: Path, form: str
) -> None:
    edit("a-v1.yaml", "test_it", "test_gone")
    code, text = run("--format", form)
    Path("base").write_text(text)
    assert code == 1

    code, facts = run_json("--baseline", "base")
    assert (code, facts["num_known"], facts["num_errors"], facts["num_gone"]) == (0, 1, 0, 0)

    edit("a-v1.yaml", "metadata:", "\n\nmetadata:")  # lines move
    assert run("--baseline", "base")[0] == 0
    edit("d-v1.yaml", "test_it", "test_gone")
    code, facts = run_json("--baseline", "base")
    assert (code, facts["num_known"], files_of(facts)) == (1, 1, {"contracts/d-v1.yaml"})


def test_a_baseline_covers_as_many_as_it_holds_and_tells_what_is_gone(project: Path) -> None:
    one = f"  - {{type: invariant, {PROPERTY}, lean: {{theorem: t, status: proved}}}}\n"
    edit("a-v1.yaml", one, one.replace(PROPERTY, "property: ''"))
    Path("base").write_text(run("--format", "sarif")[1])
    assert run("--baseline", "base")[0] == 0
    edit("a-v1.yaml", "proof_obligations:\n", "proof_obligations:\n  - {property: ''}\n")
    code, facts = run_json("--baseline", "base", "--gate", "validate")
    assert (code, facts["num_known"], facts["num_errors"] > 0) == (1, 1, True)

    git("checkout", "--quiet", "contracts/a-v1.yaml")
    code, facts = run_json("--baseline", "base")
    assert (code, facts["num_known"], facts["num_gone"] > 0) == (0, 0, True)
    assert f"Baseline: 0 known, {facts['num_gone']} gone" in run("--baseline", "base")[1]


def test_a_sarif_log_against_a_baseline_says_what_is_new(project: Path) -> None:
    edit("a-v1.yaml", "test_it", "test_gone")
    Path("base").write_text(run("--format", "sarif")[1])
    edit("d-v1.yaml", "test_it", "test_gone")

    (log,) = json.loads(run("--format", "sarif", "--baseline", "base")[1])["runs"]

    assert [result["baselineState"] for result in log["results"]] == ["new", "unchanged"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "1",
        '{"runs": 1}',
        '{"runs": [{"results": [{}]}]}',
        "[" * 100_000,
        '{"gates": [{"findings": [{"rule": 1, "file": "a", "message": "m"}], "known": []}]}',
    ],
)
def test_what_is_no_baseline_is_refused(project: Path, text: str) -> None:
    Path("base").write_text(text)

    code, message = run("--baseline", "base")

    assert (code, message.splitlines()[0]) == (2, "error[APR-U001]: this is no baseline")


# --- over time ----------------------------------------------------------------------

NOW = datetime(2026, 6, 8, 12, tzinfo=UTC)


def snapshot(hours_ago: float, score: float = 0.8, errors: int = 3) -> Snapshot:
    return Snapshot(
        time=(NOW - timedelta(hours=hours_ago)).isoformat(),
        commit=None,
        num_contracts=4,
        num_errors=errors,
        num_warnings=0,
        mean_score=score,
    )


def judged(now: Snapshot, *before: Snapshot) -> list[tuple[str, str]]:
    step = TrendStep(file="f", now=now, before=before)
    return [(f.rule, f.message) for rule in TREND_RULES for f in rule.check(step)]


@pytest.mark.parametrize("rule", TREND_RULES, ids=lambda rule: rule.id)
def test_a_rule_fires_on_its_bad_example_alone_and_not_on_its_good_one(rule) -> None:
    def fired(lines: str) -> list[str]:
        name, *values = lines.replace("{", "").replace("}", "").replace(":", "").split()
        before, now = (
            replace(snapshot(0), **{name: type(getattr(snapshot(0), name))(value)})
            for value in (values[0], values[2])
        )
        return [one[0] for one in judged(now, before)]

    assert fired(rule.help().bad) == [rule.id]
    assert fired(rule.help().good) == []


def test_a_score_falls_only_beyond_five_percent_of_the_mean() -> None:
    before = (snapshot(3, 0.7), snapshot(2, 0.9))

    assert judged(snapshot(0, 0.761), *before) == []
    assert judged(snapshot(0, 0.759), *before) == [
        (
            "PV-TRD-001",
            "the mean score is 0.759; the mean of 2 run(s) in the seven days before is 0.800",
        )
    ]
    assert judged(snapshot(0, float("nan")), *before)[0][0] == "PV-TRD-001"
    assert judged(snapshot(0, 0.1)) == []


def test_errors_are_held_against_the_last_run() -> None:
    before = (snapshot(3, errors=9), snapshot(2, errors=3))

    assert judged(snapshot(0, errors=4), *before) == [
        ("PV-TRD-002", "4 errors; the last run had 3")
    ]


def test_runs_older_than_seven_days_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    runs = [snapshot(7 * 24 + 1), snapshot(7 * 24), snapshot(1), snapshot(-1)]
    file.write_text("".join(json.dumps(one.as_json()) + "\n" for one in runs))

    assert step_of(file, snapshot(0)).before == (runs[1], runs[2])


def test_each_run_is_kept_and_held_against_those_before(project: Path) -> None:
    assert run("--trend")[0] == 0
    edit("a-v1.yaml", "test_it", "test_gone")
    edit("a-v1.yaml", "kani_harnesses:\n  - ", "other:\n  - ")
    code, facts = run_json("--trend")

    trend = facts["gates"][-1]
    assert (code, trend["gate"], [f["rule"] for f in trend["findings"]]) == (
        1,
        "trend",
        [],  # an invalid contract: validate failed, and nothing after it ran
    )
    edit("a-v1.yaml", "other:\n  - ", "kani_harnesses:\n  - ")
    code, facts = run_json("--trend")

    first, second = read_trend(project / ".pv/lint-trend.jsonl")
    assert [f["rule"] for f in facts["gates"][-1]["findings"]] == ["PV-TRD-002"]
    assert (first.num_errors, second.num_errors) == (0, 1)
    assert facts["trend"] == second.as_json()
    assert len(first.commit or "") == 40
    shown = run("--show-trend")[1].splitlines()
    assert shown == [second.as_text(), first.as_text(), "2 run(s) on record"]


def test_a_trend_of_a_part_is_refused(project: Path) -> None:
    for part in (("--gate", "audit"), ("--diff", "HEAD")):
        code, text = run("--trend", *part)
        assert code == 2
        assert text.startswith("error[APR-U001]: a trend is of every contract and every gate\n")
    assert not Path(".pv").exists()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 99_999,
        json.dumps({**snapshot(0).as_json(), "time": "2026-01-01"}),
        json.dumps({**snapshot(0).as_json(), "mean_score": float("nan")}),
    ],
)
def test_a_line_that_is_no_run_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(snapshot(0).as_json()) + "\n" + line + "\n")

    with pytest.raises(EvidenceError) as caught:
        read_trend(file)

    assert caught.value.parts["where"] == f"{file}:2"
