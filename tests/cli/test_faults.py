"""`apr faults` and `apr probe` as a user has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cotejar.faults.catalogue import FAULTS
from cotejar.model.language_model import open_language_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Done

    Run = Callable[..., Done]


def test_every_fault_is_listed(run_apr: Run) -> None:
    done = run_apr("faults")

    assert (done.code, done.err) == (0, "")
    ids = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ")]
    assert [i for i in ids if i != "id"] == list(FAULTS)
    assert f"\n{len(FAULTS)} faults, named ID[@LAYER][*STRENGTH]; without" in done.out


def test_a_row_says_what_where_and_with_what(run_apr: Run) -> None:
    done = run_apr("faults", "--family", "rope")

    line = next(line for line in done.out.splitlines() if line.startswith("  rope-theta "))
    assert [cell.strip() for cell in line.split("  ") if cell.strip()] == [
        "rope-theta",
        "RoPE's theta is a tenth",
        "q_rope",
        "a second position",
        "factor on theta (0.1)",
    ]


def test_the_list_as_json(run_apr: Run) -> None:
    facts = json.loads(run_apr("faults", "--json").out)

    assert [fault["id"] for fault in facts["faults"]] == list(FAULTS)
    theta = next(fault for fault in facts["faults"] if fault["id"] == "rope-theta")
    assert theta == {
        "id": "rope-theta",
        "title": "RoPE's theta is a tenth",
        "family": "rope",
        "slot": "q_rope",
        "acts_in": "every layer",
        "needs": [],
        "prompt_needs": ["a second position"],
        "strength": {"means": "factor on theta", "default": 0.1, "least": 1e-6, "most": 1e6},
        "in_doubt": False,
        "only_decoding": False,
        "of_bytes": False,
        "verdict": "FAIL",
    }


def test_a_faulty_file_is_written_and_fails(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.gguf"

    done = run_apr("faults", "--model", tiny_gguf, "--fault", "block-shift@1", "-o", bad)

    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"wrote {bad} with block-shift@1\n  blk.1.ffn_down.weight is not the source's\n"
    )
    waived = ["--waive", "weights-fingerprint", "--tokens", "3,4,5"]
    assert run_apr("parity", tiny_gguf, bad, *waived).code != 0
    assert open_language_model(bad).config == open_language_model(tiny_gguf).config


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--family", "none"], "there is no family 'none'; these are: tokens, head, norm,"),
        (["--model", "MODEL"], "to write a faulty file: --model GGUF --fault ID -o OUTPUT"),
        (["--fault", "relu"], "to write a faulty file"),
        (
            ["--model", "MODEL", "--fault", "relu", "-o", "OUT"],
            "error[APR-U001]: this fault is not one of bytes",
        ),
        (
            ["--model", "none.gguf", "--fault", "block-shift", "-o", "OUT"],
            "error[APR-F002]",
        ),
    ],
)
def test_bad_input_of_faults(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path, args: list[str], problem: str
) -> None:
    names = {"MODEL": str(tiny_gguf), "OUT": str(tmp_path / "out.gguf")}

    done = run_apr("faults", *(names.get(arg, arg) for arg in args))

    assert (done.code, done.out) == (2, "")
    assert problem in done.err
    assert [*tmp_path.iterdir()] == []


def test_a_fault_with_a_strength_is_injected(run_apr: Run, tiny_gguf: Path) -> None:
    sides = [f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}", "--tokens", "5,6,7"]

    assert run_apr("parity", *sides, "--fault", "attention-scale@1*1.5").code == 1
    assert run_apr("parity", *sides, "--fault", "attention-scale@1*1").code == 0


def test_other_tokens_are_incomparable(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("parity", tiny_gguf, tiny_gguf, "--tokens", "5,6", "--fault", "bos-extra")

    assert done.code == 3
    assert "BROKEN  token-ids" in done.out


def test_a_probe_says_what_it_cannot_show(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("probe", tiny_gguf, "--tokens", "5", "--measure", "none")

    assert (done.code, done.err) == (1, "")
    first, second, *_ = done.out.splitlines()
    assert first == "FAIL  tiny.gguf, 1 token"
    assert second.endswith(" faults that this model can have, the prompt shows 77")
    assert "position 0 is not turned: needs 2 tokens, found 1\n" in done.out
    assert "\n  --prompt $'1. The capital of France" in done.out


def test_a_probe_that_shows_all_passes(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("probe", tiny_gguf, "--prompt", "Seven words", "--measure", "none", "--json")

    facts = json.loads(done.out)
    assert done.code == 0
    assert (facts["verdict"], facts["hidden"], facts["proposal"]) == ("PASS", 0, None)
    assert facts["prompt"] == "Seven words"


def test_a_probe_runs_what_is_in_doubt(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr(
        "probe",
        tiny_gguf,
        "--tokens",
        "5,6",
        "--fault",
        "norm-eps",
        "--all",
        "--numerics",
        "f32",
    )

    assert done.code == 0
    assert "at layer.0.attn_norm: rel_l2_max " in done.out


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--tokens", "320"], "error[APR-U003]"),
        (["--prompt", ""], "error[APR-U002]"),
        (["--prompt", "x", "--tokens", "1"], "give --prompt or --tokens, not both"),
        (["--fault", "none"], "error[APR-U001]: there is no fault 'none'"),
    ],
)
def test_bad_input_of_probe(
    run_apr: Run, tiny_gguf: Path, args: list[str], problem: str
) -> None:
    done = run_apr("probe", tiny_gguf, *args)

    assert (done.code, done.out) == (2, "")
    assert problem in done.err
