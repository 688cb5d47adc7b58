"""`--decode`: tokens fed one at a time, in `apr trace`, `apr parity` and `apr diagnose`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Run

TOKENS = ("--tokens", "5,77,300,12,9,41,8")


@pytest.mark.parametrize(
    ("option", "passes"),
    [((), [7]), (("--decode",), [3, 1, 1, 1, 1]), (("--decode=2",), [5, 1, 1])],
)
def test_a_trace_says_how_its_tokens_were_fed(
    run_apr: Run, tiny_gguf: Path, option: tuple[str, ...], passes: list[int]
) -> None:
    done = run_apr("trace", tiny_gguf, "--payload", *TOKENS, "--json", *option)

    assert done.code == 0
    assert json.loads(done.out)["manifest"]["passes"] == passes


def test_the_summary_says_it_in_words(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("trace", tiny_gguf, "--payload", *TOKENS, "--brief", "--decode")

    assert "7 tokens, the last 4 one at a time through the KV cache, std with" in done.out


def test_a_fault_of_decoding_is_found_and_named(run_apr: Run, tiny_gguf: Path) -> None:
    sides = (f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}")

    whole = run_apr("diagnose", *sides, *TOKENS, "--fault", "decode-stale")
    steps = run_apr("diagnose", *sides, *TOKENS, "--fault", "decode-stale", "--decode")

    assert (whole.code, steps.code) == (0, 1)
    assert "tokens     7, the last 4 one at a time (candidate)\n" in steps.out
    assert "cache-stale: a step's own keys and values are not written" in steps.out


@pytest.mark.parametrize(("fault", "code"), [((), 0), (("--fault", "decode-stale"), 1)])
def test_parity_judges_the_steps(
    run_apr: Run, tiny_gguf: Path, fault: tuple[str, ...], code: int
) -> None:
    """The fault is behind the cache alone: one pass over the same tokens does not show it."""
    sides = (f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}", *TOKENS, *fault)

    whole = run_apr("parity", *sides, "--json")
    steps = run_apr("parity", *sides, "--json", "--decode=2")

    assert (whole.code, steps.code) == (0, code)
    assert json.loads(whole.out)["prompts"][0]["num_steps"] == 0
    assert json.loads(steps.out)["prompts"][0]["num_steps"] == 2


def test_parity_counts_tokens_as_the_prompt_does(run_apr: Run, tiny_gguf: Path) -> None:
    sides = (f"oracle:{tiny_gguf}", f"native+f32:{tiny_gguf}", *TOKENS)

    done = run_apr("parity", *sides, "--fault", "decode-stale", "--decode=1", "--brief")

    assert "prompts    1, 7 tokens, of which 1 fed one at a time are compared\n" in done.out
    assert (
        "first at layer.0.attn_context (the 1 fed one at a time, worst is token 6)" in done.out
    )


def test_parity_of_two_passes_has_no_steps(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("parity", f"oracle:{tiny_gguf}", f"oracle:{tiny_gguf}", "--decode")

    assert (done.code, done.out) == (2, "")
    assert "no side keeps a KV cache that can be traced" in done.err


def test_generation_feeds_its_own_tokens(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("parity", tiny_gguf, tiny_gguf, "--decode", "--generate", "2")

    assert (done.code, done.out) == (2, "")
    assert "--generate decodes on its own; leave --decode out" in done.err


@pytest.mark.parametrize("value", ["0", "some", "m.gguf"])
def test_a_value_that_is_no_number_is_refused(
    run_apr: Run, tiny_gguf: Path, value: str
) -> None:
    done = run_apr("trace", tiny_gguf, "--payload", f"--decode={value}")

    assert (done.code, done.out) == (2, "")
    assert f"{value!r} is no number of tokens above 0" in done.err
