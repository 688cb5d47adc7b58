"""`apr noise`, and what `apr parity` makes of its profile and of the arbiter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Done

    Run = Callable[..., Done]


OVER = ("-o", "PROFILE", "--force")


@pytest.fixture
def profile(run_apr: Run, tiny_gguf: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.noise.json"
    assert run_apr("noise", tiny_gguf, "-p", "hello", "-p", "the end", "-o", path).code == 0
    return path


def test_it_shows_each_slots_noise_and_writes_the_same_facts(
    run_apr: Run, tiny_gguf: Path, profile: Path
) -> None:
    done = run_apr("noise", tiny_gguf, "-p", "hello", "-p", "the end", "--json")

    assert (done.code, done.err) == (0, "")
    printed, written = json.loads(done.out), json.loads(profile.read_text())
    assert {**printed, "date": ""} == {**written, "date": ""}
    text = run_apr("noise", tiny_gguf, "-p", "hello").out.splitlines()
    assert text[0].startswith("tiny.gguf  sha256:")
    assert text[0].endswith("  1 prompt, 1 token")
    assert len([line for line in text if line.startswith("  ffn_out ")]) == 1
    assert any(line.startswith("native+q8  KL ") for line in text)


def test_gates_come_from_the_profile_and_say_so(
    run_apr: Run, tiny_gguf: Path, profile: Path
) -> None:
    pair = [f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}", "-p", "hello", "--noise", profile]

    done = run_apr("parity", *pair)
    facts = json.loads(run_apr("parity", *pair, "--json").out)

    tokens = json.loads(profile.read_text())["num_tokens"]
    assert (done.code, done.err) == (0, "")
    assert f"\ngates      from tiny.noise.json, {tokens} tokens of 20" in done.out
    assert f"the noise of native+f32 over {tokens} tokens in tiny.noise.json)" in done.out
    assert {site["verdict"] for site in facts["sites"]} == {"PASS"}
    assert all("in tiny.noise.json" in site["gate"]["origin"] for site in facts["sites"])
    assert facts["noise"]["profile"] == "tiny.noise.json"
    assert facts["noise"]["no_gates"] is facts["arbiter"] is None
    assert (facts["not_judged"], facts["noise"]["other_builds"]) == ([], [])


def test_a_fault_beyond_the_profile_fails_and_the_arbiter_names_its_side(
    run_apr: Run, tiny_gguf: Path, profile: Path
) -> None:
    pair = [f"native+q8:{tiny_gguf}", f"native+f32:{tiny_gguf}", "-p", "hello"]
    flags = ["--noise", profile, "--arbiter", "--fault", "block-shift@1"]

    done = run_apr("parity", *pair, *flags, "--brief")
    table = run_apr("parity", *pair, *flags, "--all-sites").out
    facts = json.loads(run_apr("parity", *pair, *flags, "--json").out)["arbiter"]

    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    assert lines[-3] == "arbiter    oracle+f64 on the weights of tiny.gguf"
    assert lines[-2].startswith(
        "  at layer.1.ffn_out (all): the candidate is further from exact than its "
        "arithmetic explains; reference "
    )
    assert lines[-1].startswith("  overall: the candidate, up to ")
    assert lines[-1].endswith(" at 0 (reference) and 8 (candidate) of 74 cells")
    assert len([x for x in table.splitlines() if x.endswith("  candidate")]) == 8
    assert len([x for x in table.splitlines() if x.endswith("  undecided")]) == 66
    assert facts["further"] == facts["first_divergence"]["further"] == "candidate"
    first = facts["first_divergence"]
    assert first["site"] == "layer.1.ffn_out"
    assert first["reference_rel_l2"] < 1e-5 < first["candidate_rel_l2"]
    assert len(facts["sites"]) == 74


def test_two_honest_sides_leave_the_arbiter_undecided(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr(
        "parity", f"native+f32:{tiny_gguf}", f"native+q8:{tiny_gguf}", "--arbiter", "--brief"
    )

    assert done.code == 0
    assert done.out.splitlines()[-1] == (
        "  overall: undecided, the two are within noise of each other; "
        "beyond what its arithmetic explains at 0 (reference) and 0 (candidate) of 74 cells"
    )


def test_a_profile_of_another_model_is_incomparable(
    run_apr: Run, tiny_gguf: Path, profile: Path, tmp_path: Path
) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", TinyDecoder(seed=1))

    done = run_apr("parity", f"oracle:{other}", f"native+f32:{other}", "--noise", profile)

    assert (done.code, done.err) == (3, "")
    last = done.out.splitlines()[-1]
    assert last.startswith(
        "INCOMPARABLE  the noise profile tiny.noise.json is of tiny.gguf (sha256:"
    )
    assert ", not of other.gguf (sha256:" in last


def test_a_profile_without_a_sides_numerics_is_incomparable(
    run_apr: Run, tiny_gguf: Path, profile: Path
) -> None:
    pair = [f"oracle:{tiny_gguf}", f"native+q8-kvf16:{tiny_gguf}"]

    done = run_apr("parity", *pair, "--noise", profile)

    assert done.code == 3
    assert done.out.splitlines()[-1] == (
        "INCOMPARABLE  the noise profile tiny.noise.json holds native+f32, native+q8, "
        "not native+q8-kvf16"
    )


def test_what_the_profile_lacks_is_not_judged_and_listed(
    run_apr: Run, tiny_gguf: Path, profile: Path
) -> None:
    content = json.loads(profile.read_text())
    for engine in content["engines"]:
        del engine["sites"]["layer.1.ffn_up"]
    profile.write_text(json.dumps(content))
    pair = [f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}"]

    done = run_apr("parity", *pair, "-p", "hello", "--noise", profile)

    assert done.code == 0
    assert "  not judged, for want of noise: layer.1.ffn_up\n" in done.out
    assert "\nPASS  72 of 74 cells" in done.out


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["noise", "none.gguf"], "error[APR-F002]"),
        (["noise", "MODEL", "--engines", "nativ"], "error[APR-U005]"),
        (["noise", "MODEL", "--engines", "oracle"], "error[APR-U001]: 'oracle' has no noise"),
        (["noise", "MODEL", "-p", ""], "error[APR-U002]"),
        (["noise", "MODEL", "-o", "PROFILE"], "error[APR-F006]"),
        (["noise", "MODEL", "-o", "MODEL", "--force"], "error[APR-U001]: the output is one"),
        (["parity", "MODEL", "MODEL", "--noise", "none.json"], "error[APR-F002]"),
        (["parity", "MODEL", "MODEL", "--noise", "MODEL"], "error[APR-F016]"),
        (
            ["parity", "MODEL", "MODEL", "--noise", "PROFILE", *OVER],
            "error[APR-U001]: the output is one of the files that are read",
        ),
        (
            ["parity", "MODEL", "MODEL", "--noise", "PROFILE", "--generate", "2", *OVER],
            "error[APR-U001]: the output is one of the files that are read",
        ),
    ],
)
def test_bad_input_is_one_error_and_no_output(
    run_apr: Run, tiny_gguf: Path, profile: Path, args: list[str], problem: str
) -> None:
    names = {"MODEL": str(tiny_gguf), "PROFILE": str(profile)}
    before = profile.read_text()

    done = run_apr(*[names.get(arg, arg) for arg in args])

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(problem)
    assert profile.read_text() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["noise", "MODEL", "--engines", " , "], "--engines names no engine"),
        (
            ["parity", "MODEL", "MODEL", "--noise", "PROFILE", "--contract", "CONTRACT"],
            "gates come from --contract or from --noise, not from both",
        ),
        (
            ["parity", "MODEL", "MODEL", "--arbiter", "--generate", "3"],
            "--arbiter compares sites; --generate has none",
        ),
    ],
)
def test_bad_usage_is_said(
    run_apr: Run, tiny_gguf: Path, profile: Path, args: list[str], message: str
) -> None:
    contract = profile.with_name("contract.yaml")
    contract.write_text(
        "parity:\n  prompts: [hello]\n  gates:\n"
        "    - {metric: rel_l2_max, sites: all, limit: 1.0e-5, origin: the test}\n"
    )
    names = {"MODEL": tiny_gguf, "PROFILE": profile, "CONTRACT": contract}

    done = run_apr(*[names.get(arg, arg) for arg in args])

    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(f"Error: {message}\n")


def test_generated_steps_are_judged_by_the_profile(
    run_apr: Run, tiny_gguf: Path, profile: Path
) -> None:
    pair = [f"native+f32:{tiny_gguf}", f"native+q8:{tiny_gguf}", "--generate", "3"]

    done = run_apr("parity", *pair, "-p", "hello", "--noise", profile, "--json")

    facts = json.loads(done.out)
    assert done.code == 0
    assert "native+q8, added over" in json.dumps(facts)
