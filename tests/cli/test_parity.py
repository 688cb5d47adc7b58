"""`apr parity` from the outside: four exit codes, files, contracts, recorded traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cotejar.engines.spec import ENGINES, EngineSpec
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Done

    Run = Callable[..., Done]

OWN = Path(__file__).parents[2] / "contracts/apr-vs-gguf-forward-parity-v1.yaml"

CONTRACT = """\
parity:
  prompts: [hello, the end]
  gates:
    - {metric: rel_l2_max, sites: all, limit: 1.0e-5, origin: "the test's own"}
"""


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT)
    return path


def record(run_apr: Run, model: Path, path: Path, *flags: str) -> str:
    done = run_apr("trace", model, "--tokens", "5,6,7", "--capture", "all", "-o", path, *flags)
    assert done.code == 0
    return f"recorded:{path}"


def facts_of(done: Done) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(done.out, parse_constant=refuse)


# --- 0, 1, 2, 3 --------------------------------------------------------------------------


def test_a_model_and_its_import_pass_bit_for_bit(
    run_apr: Run, tiny_gguf: Path, tiny_apr: Path
) -> None:
    done = run_apr("parity", tiny_gguf, tiny_apr, "--tokens", "5,6,7")

    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("reference  native+q8@cpu (products in f32)  tiny.gguf  sha256:")
    assert lines[1].startswith("candidate  native+q8@cpu (products in f32)  tiny.apr  sha256:")
    assert lines[2] == "prompts    1, 3 tokens"
    assert "preconditions  11 of 11 hold" in lines
    # 3 tokens x (2 layers x (9 x 96 + 3 x 32 + 160 + 4 x 160) + 2 x 96 + 320).
    assert (
        "PASS  74 of 74 cells (site x scope) within their gates, 12,096 numbers compared, "
        "bit-identical"
    ) in lines


def test_a_fault_fails_and_its_site_is_named(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr(
        "parity", tiny_gguf, tiny_gguf, "--tokens", "5,6,7", "--fault", "block-shift@1"
    )

    assert (done.code, done.err) == (1, "")
    assert "fault      block-shift@1 was injected into the candidate" in done.out
    assert "\n  first at layer.1.ffn_out (all tokens, worst " in done.out
    assert "\n  origin of the limit: the same bytes through the same build" in done.out


def test_unequal_samples_are_incomparable(run_apr: Run, tiny_gguf: Path) -> None:
    scopes = ["--reference-scope", "all", "--candidate-scope", "last"]

    done = run_apr("parity", tiny_gguf, tiny_gguf, "--tokens", "5,6,7", *scopes)

    assert (done.code, done.err) == (3, "")
    assert (
        "  BROKEN  sample-count: the samples differ at 37 of 37 sites; embed: 288 values "
        "(all) against 96 (last), and no scope in common\n"
    ) in done.out
    last = done.out.splitlines()[-2:]
    assert last[0] == "INCOMPARABLE  broken: sample-count; nothing was measured"
    assert last[1].startswith("  at layer.")
    assert ".ffn_swiglu_inner the standard deviations of 480 values (all) and 160 " in last[1]


def test_two_recorded_traces_of_other_scopes_are_incomparable(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path
) -> None:
    every = record(run_apr, tiny_gguf, tmp_path / "all.trace", "--scope", "all")
    last = record(run_apr, tiny_gguf, tmp_path / "last.trace", "--scope", "last")
    both = record(run_apr, tiny_gguf, tmp_path / "both.trace")

    assert run_apr("parity", every, last).code == 3
    assert run_apr("parity", last, every).code == 3
    assert run_apr("parity", every, both).code == 0
    assert run_apr("parity", both, last).code == 0
    assert run_apr("parity", both, both, "--scope", "last").code == 0


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["none.gguf", "MODEL"], "error[APR-F002]"),
        (["MODEL", "/"], "error[APR-F003]"),
        (["MODEL", __file__], "error[APR-F011]"),
        (["MODEL", "recorded:MODEL"], "error[APR-R001]"),
        (["MODEL", "MODEL", "--prompt", ""], "error[APR-U002]: the prompt is empty"),
        (["MODEL", "MODEL", "--tokens", "320"], "error[APR-U003]: token id 320 is not in"),
        (["MODEL", "MODEL", "--tokens", "1," * 64 + "1"], "error[APR-U004]: the text is"),
        (["nativ:MODEL", "MODEL"], "error[APR-U005]: there is no engine 'nativ'"),
        (["MODEL", "MODEL", "--fault", "none"], "error[APR-U001]: there is no fault 'none'"),
        (["MODEL", "MODEL", "--fault", "block-shift@2"], "error[APR-U001]: there is no layer"),
        (["MODEL", "MODEL", "--tokens", "1", "--prompt", "x"], "error[APR-U001]: a prompt is"),
        (["MODEL", "MODEL", "--contract", "none.yaml"], "error[APR-F002]"),
        (["MODEL", "MODEL", "--contract", __file__], "error[PV-E"),
    ],
)
def test_bad_input_is_one_error_and_no_output(
    run_apr: Run, tiny_gguf: Path, args: list[str], problem: str
) -> None:
    done = run_apr("parity", *[arg.replace("MODEL", str(tiny_gguf)) for arg in args])

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(problem)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name two sides: apr parity REFERENCE CANDIDATE"),
        (["a.gguf"], "name two sides: apr parity REFERENCE CANDIDATE"),
        (
            ["a.gguf", "b.gguf", "--waive", "arrays"],
            "'arrays' cannot be waived; these can: config, weights-fingerprint, "
            "capture-points, ddof",
        ),
    ],
)
def test_bad_usage_is_said_before_anything_is_opened(
    run_apr: Run, args: list[str], message: str
) -> None:
    done = run_apr("parity", *args)

    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(f"Error: {message}\n")


# --- what is shown -----------------------------------------------------------------------


def test_each_slots_worst_site_every_site_or_none(run_apr: Run, tiny_gguf: Path) -> None:
    pair = ["parity", tiny_gguf, tiny_gguf, "--tokens", "5,6,7"]

    slots, sites, brief = (run_apr(*pair, *f).out for f in ([], ["--all-sites"], ["--brief"]))

    rows = [line for line in slots.splitlines() if line.endswith("PASS")]
    assert len(rows) == 20  # 17 slots, and embed, final_norm, logits
    assert len([line for line in sites.splitlines() if line.endswith("PASS")]) == 74
    assert not [line for line in brief.splitlines() if line.endswith("PASS")]
    assert all("PASS  74 of 74 cells" in text for text in (slots, sites, brief))


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (60, "site rel L2 max median verdict"),
        (95, "site scope rel L2 max median gate verdict"),
        (
            130,
            "site scope rel L2 max median max abs cosine min NMSE std ratio gate verdict",
        ),
    ],
)
def test_a_terminal_gets_as_many_columns_as_fit_in_a_line(
    run_apr: Run,
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    titles: str,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))

    done = run_apr("parity", tiny_gguf, tiny_gguf, "--tokens", "5,6,7")

    start = done.out.index("  site")
    table = done.out[start : done.out.index("  (each slot's worst")].splitlines()
    assert " ".join(table[0].split()) == titles
    assert max(len(line) for line in table) <= columns
    assert sum(line.endswith("PASS") for line in table) == len(table) - 1 == 20


def test_the_json_is_the_whole_report(run_apr: Run, tiny_gguf: Path, tiny_apr: Path) -> None:
    done = run_apr("parity", tiny_gguf, tiny_apr, "--tokens", "5,6,7", "--json")

    facts = facts_of(done)
    assert (done.code, facts["exit_code"], facts["verdict"]) == (0, 0, "PASS")
    assert facts["bit_identical"] is True
    assert facts["tokens"] == [5, 6, 7]
    assert (facts["reference"]["model"], facts["candidate"]["model"]) == (
        "tiny.gguf",
        "tiny.apr",
    )
    assert facts["reference"]["fingerprint"] == facts["candidate"]["fingerprint"]
    assert len(facts["sites"]) == 74


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--fault", "norm-eps"], 1)])
def test_the_json_can_go_to_a_file_beside_the_text(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path, flags: list[str], code: int
) -> None:
    path = tmp_path / "report.json"
    pair = ["parity", tiny_gguf, tiny_gguf, "--tokens", "5,6,7", *flags]

    done = run_apr(*pair, "-o", path)
    written = json.loads(path.read_text())

    assert done.code == written["exit_code"] == code
    assert done.out.startswith("reference  ")
    assert written == facts_of(run_apr(*pair, "--json"))
    again = run_apr(*pair, "-o", path)
    assert (again.code, again.out) == (2, "")
    assert again.err.startswith("error[APR-F006]: the output is there already")
    assert run_apr(*pair, "-o", path, "--force").code == code


def test_an_error_leaves_no_file(run_apr: Run, tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    done = run_apr("parity", tiny_gguf, tiny_gguf, "--tokens", "320", "-o", path)

    assert (done.code, list(tmp_path.iterdir())) == (2, [])


def test_an_error_is_json_too(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("parity", tiny_gguf, "none.apr", "--json")

    facts = facts_of(done)
    assert (done.code, facts["exit_code"], facts["error"]["code"]) == (2, 2, "APR-F002")


@pytest.mark.parametrize(
    ("fails", "code", "found"),
    [
        ("crash", "APR-E002", "signal 11, SIGSEGV; it said: about to fall"),
        ("hang", "APR-E003", "none; its process was ended; it said nothing"),
    ],
)
def test_a_failing_engine_is_incomparable_in_its_own_words(
    run_apr: Run,
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    code: str,
    found: str,
) -> None:
    put_fake_engine(monkeypatch, fails)
    pair = (tiny_gguf, f"fake:{tiny_gguf}")
    if fails == "hang":  # at the second request, or on a slow machine at the first
        monkeypatch.setenv("COTEJAR_ENGINE_TIMEOUT_S", "2")

    done = run_apr("parity", *pair, "--tokens", "1,2", "--json")

    facts = facts_of(done)
    assert (done.code, facts["exit_code"], facts["verdict"]) == (3, 3, "INCOMPARABLE")
    assert (facts["error"]["code"], facts["error"]["where"]) == (code, "engine fake")
    assert facts["error"]["found"] == found
    assert done.err.splitlines()[-5].startswith(f"error[{code}]: the engine")


def test_an_engine_that_gives_nan_is_incomparable(
    run_apr: Run, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_fake_engine(monkeypatch, "nan")

    done = run_apr("parity", f"oracle:{tiny_gguf}", f"fake:{tiny_gguf}", "--json")

    facts = facts_of(done)
    (finite,) = [p for p in facts["preconditions"] if p["id"] == "finite"]
    assert (done.code, facts["verdict"], finite["holds"]) == (3, "INCOMPARABLE", False)
    assert "the first is candidate logits" in finite["message"]


def put_fake_engine(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    spec = EngineSpec(
        name="fake", target=f"fake_engine:{fails}", numerics=("f64",), isolated=True
    )
    monkeypatch.setitem(ENGINES, "fake", spec)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "engines"))


# --- several prompts, contracts, waivers ---------------------------------------------------


def test_every_prompt_is_compared(run_apr: Run, tiny_gguf: Path, tiny_apr: Path) -> None:
    done = run_apr("parity", tiny_gguf, tiny_apr, "-p", "hello", "-p", "the end", "--json")

    facts = facts_of(done)
    assert [p["prompt"] for p in facts["prompts"]] == ["hello", "the end"]
    assert facts["tokens"] == [i for p in facts["prompts"] for i in p["token_ids"]]


def test_a_contract_gives_gates_and_prompts(
    run_apr: Run, tiny_gguf: Path, contract: Path
) -> None:
    pair = [f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}", "--contract", contract]

    passed = facts_of(run_apr("parity", *pair, "--json"))
    failed = run_apr("parity", *pair, "--fault", "key-value-swapped@1")

    assert passed["verdict"] == "PASS"
    assert [p["prompt"] for p in passed["prompts"]] == ["hello", "the end"]
    assert {s["gate"]["origin"] for s in passed["sites"]} == {"the test's own"}
    assert failed.code == 1
    assert "first at layer.1.k (all tokens, " in failed.out
    assert "origin of the limit: the test's own" in failed.out


def test_a_contract_may_name_the_pair(
    run_apr: Run, tiny_gguf: Path, tiny_apr: Path, contract: Path
) -> None:
    sides = f"  reference: {tiny_gguf}\n  candidate: {tiny_apr}\n"
    contract.write_text(CONTRACT.replace("parity:\n", f"parity:\n{sides}"))

    named = facts_of(run_apr("parity", "--contract", contract, "--json"))
    other = facts_of(run_apr("parity", tiny_apr, "--contract", contract, "--json"))

    assert (named["reference"]["format"], named["candidate"]["format"]) == ("gguf", "apr")
    assert (other["reference"]["format"], other["candidate"]["format"]) == ("apr", "apr")


@pytest.mark.parametrize(
    ("named", "made"),
    [("demo-out/none.apr", "run `make demo`, which makes it"), ("none.apr", "make it")],
)
def test_a_file_that_only_the_contract_names_comes_with_how_it_is_made(
    run_apr: Run, tiny_gguf: Path, contract: Path, named: str, made: str
) -> None:
    contract.write_text(
        CONTRACT.replace("parity:\n", f"parity:\n  candidate: native+f32:{named}\n")
    )

    done = run_apr("parity", tiny_gguf, "--contract", contract)
    own = run_apr("parity", "none.gguf", named, "--contract", contract)

    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error[APR-F002]: a file that the contract names is not there\n"
        f"  where     {named}\n"
        "  expected  a file that can be read\n"
        "  found     nothing at that path\n"
        f"  try       {made}, or name two sides: apr parity --contract FILE REFERENCE "
        "CANDIDATE\n"
    )
    assert own.err.startswith("error[APR-F002]: there is no such file\n  where     none.gguf")


def test_a_contracts_prompts_give_way(run_apr: Run, tiny_gguf: Path, contract: Path) -> None:
    pair = ["parity", tiny_gguf, tiny_gguf, "--contract", contract, "--json"]

    prompts = facts_of(run_apr(*pair, "-p", "other"))["prompts"]
    ids = facts_of(run_apr(*pair, "--tokens", "1,2"))["prompts"]

    assert [p["prompt"] for p in prompts] == ["other"]
    assert [(p["prompt"], p["token_ids"]) for p in ids] == [(None, [1, 2])]


def test_a_contract_judges_what_was_recorded(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path, contract: Path
) -> None:
    """Its prompts are for models that run: a trace has its own."""
    recorded = record(run_apr, tiny_gguf, tmp_path / "run.trace")

    done = run_apr("parity", recorded, tiny_gguf, "--contract", contract, "--json")

    facts = facts_of(done)
    assert (done.code, facts["tokens"]) == (0, [5, 6, 7])
    assert {s["gate"]["origin"] for s in facts["sites"]} == {"the test's own"}


def test_our_own_contract_runs_on_any_depth(
    run_apr: Run, tiny_gguf: Path, tiny_apr: Path
) -> None:
    done = run_apr("parity", tiny_gguf, tiny_apr, "--contract", OWN, "--brief")

    assert done.code == 0
    assert "PASS  74 of 74 cells" in done.out


def test_a_gate_that_names_no_site_of_the_model_passes_nothing(
    run_apr: Run, tiny_gguf: Path, contract: Path
) -> None:
    contract.write_text(
        CONTRACT + '    - {metric: max_abs, sites: layer.2.ffn_up, limit: 1, origin: "deep"}\n'
    )

    done = run_apr("parity", tiny_gguf, tiny_gguf, "--contract", contract)

    assert done.code == 3
    assert done.out.splitlines()[-1] == (
        "INCOMPARABLE  1 gate was judged nowhere: max_abs at layer.2.ffn_up"
    )


def test_statistics_alone_are_incomparable(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stats.trace"
    run_apr("trace", tiny_gguf, "--tokens", "5,6,7", "-o", path)

    refused = run_apr("parity", tiny_gguf, f"recorded:{path}")

    assert refused.code == 3
    assert refused.out.splitlines()[-1] == (
        "INCOMPARABLE  broken: arrays; nothing was measured"
    )


def test_another_model_is_incomparable_unless_a_contract_says_how_far_it_may_differ(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path, contract: Path
) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", TinyDecoder(seed=1))
    pair = ["parity", tiny_gguf, other, "--tokens", "5,6"]
    waive = ["--waive", "weights-fingerprint"]

    refused, without, judged = (
        run_apr(*pair, *flags) for flags in ([], waive, [*waive, "--contract", contract])
    )

    assert (refused.code, without.code, judged.code) == (3, 3, 1)
    assert "  BROKEN  weights-fingerprint: other weights: sha256:" in refused.out
    for done in (without, judged):
        assert "  waived  weights-fingerprint: other weights: sha256:" in done.out
    assert "INCOMPARABLE  no gate is known" in without.out


def test_help_shows_its_examples_line_by_line(run_apr: Run) -> None:
    out = run_apr("parity", "--help").out

    assert "  apr parity model.gguf model.apr\n" in out
    assert "  Exits 0 on PASS, 1 on FAIL, 2 on bad input, 3 when" in out
