"""A trace of tokens fed one at a time has the rows of one pass, and says how it was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.engines.run_trace import TraceRequest, run_trace
from cotejar.engines.spec import ENGINES
from cotejar.engines.steps import MOST, choose_steps
from cotejar.engines.trace_check import check_trace
from cotejar.errors import CotejarError, EngineDataError, TraceError, UsageError
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.trace.manifest import ManifestReader
from cotejar.trace.trace_file import read_trace, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.engines.protocol import SteppingEngine

TOKENS = (0, 141, 59, 26, 53, 7, 300)
CAPTURE = Capture(array_slots=EVERY_ARRAY)
STEPPING = ["native+f32", "native+q8-kvq8", "llamacpp+q8", "transformers+f32"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    decoder = TinyDecoder(architecture="qwen3", num_layers=2)
    return write_tiny_gguf(tmp_path_factory.mktemp("steps") / "tiny.gguf", decoder)


def stepping(engine: str, path: Path) -> SteppingEngine:
    from cotejar.model.language_model import open_language_model

    return create_engine(parse_engine_name(f"{engine}:{path}"), open_language_model(path))  # type: ignore[return-value]


@pytest.mark.parametrize("text", STEPPING)
def test_the_rows_are_those_of_one_pass(path: Path, text: str) -> None:
    for package in ENGINES[text.partition("+")[0]].packages:
        pytest.importorskip(package)
    engine = stepping(text, path)

    whole = engine.trace(TOKENS, capture=CAPTURE)
    steps = engine.trace_steps(TOKENS, num_steps=4, capture=CAPTURE)

    assert (whole.passes, steps.passes) == ((7,), (3, 1, 1, 1, 1))
    assert (whole.num_steps, steps.num_steps) == (0, 4)
    assert [*steps.sites] == [*whole.sites]
    assert {n: r.shape for n, r in steps.sites.items()} == {
        n: r.shape for n, r in whole.sites.items()
    }
    for name, rows in whole.arrays.items():
        # Of one row and of several a product adds its 96 (or 160) terms in another order:
        # some 4 sqrt(160) 2**-24 = 3e-6, and a hundred operations one behind another.
        allowed = 3e-4 * np.linalg.norm(rows)
        assert np.linalg.norm(steps.arrays[name] - rows) <= allowed, name


def test_what_comes_behind_the_cache_is_read_from_it(path: Path) -> None:
    """Keys and values in 8 bits: with a cache in float32 the rows would be others."""
    plain = stepping("native+f32", path).trace_steps(TOKENS, num_steps=4, capture=CAPTURE)
    coarse = stepping("native+f32-kvq8", path).trace_steps(TOKENS, num_steps=4, capture=CAPTURE)

    a, b = (t.arrays["layer.0.attn_context"] for t in (plain, coarse))
    assert np.abs(a - b).max(axis=1).min() > 1e-4


@pytest.mark.parametrize(
    ("asked", "num_tokens", "steps"),
    [(None, 7, 0), (MOST, 7, 4), (MOST, 20, 16), (MOST, 2, 1), (6, 7, 6), (1, 2, 1)],
)
def test_how_many_tokens_are_fed_singly(asked: int | None, num_tokens: int, steps: int) -> None:
    assert choose_steps(asked, num_tokens) == steps


@pytest.mark.parametrize(
    ("asked", "num_tokens", "expected", "found"),
    [
        (7, 7, "1..6: the first pass takes at least 1 token", "7, and 7 tokens"),
        (MOST, 1, "a prompt of at least 2 tokens", "1 tokens"),
    ],
)
def test_a_first_pass_needs_a_token(
    asked: int, num_tokens: int, expected: str, found: str
) -> None:
    with pytest.raises(UsageError) as caught:
        choose_steps(asked, num_tokens)

    assert str(caught.value) == (
        "error[APR-U001]: the prompt has too few tokens to feed so many of them one at a time\n"
        "  where     --decode\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       give a longer prompt, or a smaller number"
    )


def test_an_engine_without_a_cache_is_refused(path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_trace(TraceRequest(source=f"oracle:{path}", capture=Capture(), decode=MOST))

    assert str(caught.value) == (
        "error[APR-U001]: the engine oracle feeds all tokens at once\n"
        "  where     --decode\n"
        "  expected  an engine of native, llamacpp, transformers\n"
        "  found     oracle\n"
        "  try       leave --decode out: the rows of one pass are the same"
    )


def test_a_file_says_how_tokens_were_fed(path: Path, tmp_path: Path) -> None:
    trace = run_trace(
        TraceRequest(source=f"native:{path}", token_ids=TOKENS, capture=CAPTURE, decode=2)
    ).trace

    write_trace(tmp_path / "run.trace", trace)

    assert read_trace(tmp_path / "run.trace").passes == trace.passes == (5, 1, 1)


@pytest.mark.parametrize("passes", [[5, 1], [7, 0], [8]])
def test_passes_that_are_not_of_these_tokens_are_refused(passes: list[int]) -> None:
    with pytest.raises(TraceError) as caught:
        ManifestReader("run.trace").passes({"passes": passes}, 7)

    assert caught.value.parts["expected"] == "numbers above 0 that sum to 7 tokens"


def test_passes_may_be_left_out() -> None:
    assert ManifestReader("run.trace").passes({}, 7) == ()


def test_two_runs_that_were_fed_in_two_ways_need_not_repeat_their_bits(path: Path) -> None:
    engine = stepping("native+f32", path)

    whole = engine.trace(TOKENS, capture=Capture())
    steps = engine.trace_steps(TOKENS, num_steps=2, capture=Capture())

    assert whole.arithmetic == engine.trace(TOKENS, capture=Capture()).arithmetic
    assert whole.arithmetic != steps.arithmetic


def test_an_engine_that_was_to_step_and_did_not_is_caught(path: Path) -> None:
    engine = stepping("native+f32", path)
    trace = engine.trace(TOKENS, capture=CAPTURE)

    with pytest.raises(EngineDataError) as caught:
        check_trace(
            trace,
            spec=ENGINES["native"],
            info=engine.info,
            config=engine.model.declared.config,  # type: ignore[attr-defined]
            token_ids=TOKENS,
            num_steps=3,
            capture=CAPTURE,
        )

    parts = caught.value.parts
    assert (parts["expected"], parts["found"]) == ("the last 3 tokens one at a time", "[7]")


def test_tokens_that_cannot_be_run_are_refused_before_the_first_pass(path: Path) -> None:
    with pytest.raises(CotejarError, match="token id 100000 is not in the vocabulary"):
        stepping("native+f32", path).trace_steps(
            (*TOKENS, 100_000), num_steps=2, capture=CAPTURE
        )
