"""One prompt to one trace: from a text, from ids, or from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.run_trace import DEFAULT_PROMPT, TraceRequest, run_trace
from cotejar.errors import (
    EmptyPromptError,
    NoTokenizerError,
    TokenIdError,
    TraceError,
    UsageError,
)
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope
from cotejar.trace.site import OPTIONAL_SLOTS
from cotejar.trace.trace_file import write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.engines.run_trace import TraceResult


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("trace") / "tiny.gguf")


def trace(source: object, **settings: object) -> TraceResult:
    capture = settings.pop("capture", Capture())
    return run_trace(TraceRequest(source=str(source), capture=capture, **settings))


def test_without_a_prompt_the_usual_question_is_run(path: Path) -> None:
    result = trace(path)

    assert result.model is not None
    assert result.trace.prompt == DEFAULT_PROMPT == "What is 2+2?"
    assert list(result.trace.token_ids) == result.model.tokenizer.encode(DEFAULT_PROMPT)


def test_a_prompt_is_run_as_it_is_without_a_template(path: Path) -> None:
    result = trace(path, prompt="hello")

    assert result.model is not None
    assert list(result.trace.token_ids) == result.model.tokenizer.encode("hello")
    assert result.trace.prompt == "hello"


def test_ids_are_run_as_they_are(path: Path) -> None:
    found = trace(path, token_ids=(5, 6)).trace

    assert (found.token_ids, found.positions, found.prompt) == ((5, 6), (0, 1), None)


def test_the_engine_that_is_named_runs(path: Path) -> None:
    assert trace(path).trace.engine.numerics == "q8"
    assert trace(f"oracle:{path}").trace.engine.name == "oracle"
    assert trace(f"native+f32:{path}").trace.engine.numerics == "f32"


def test_what_is_captured_is_what_was_asked_for(path: Path) -> None:
    capture = Capture(
        scopes=(Scope.LAST,), array_slots=frozenset({"ffn_up"}), layers=frozenset({1})
    )

    found = trace(path, token_ids=(5, 6, 7), capture=capture).trace

    assert list(found.arrays) == ["layer.1.ffn_up"]  # and no logits, which nobody asked for
    assert found.arrays["layer.1.ffn_up"].shape == (1, 160)
    assert {r.site.layer for r in found.sites.values()} == {None, 1}
    assert {scope for r in found.sites.values() for scope in r.stats} == {Scope.LAST}


@pytest.mark.parametrize("slots", [(), ("ffn_up",), ("logits",), EVERY_ARRAY - OPTIONAL_SLOTS])
def test_the_last_logits_are_there_whatever_is_captured(path: Path, slots: object) -> None:
    capture = Capture(array_slots=frozenset(slots))
    every = trace(path, token_ids=(5, 6, 7), capture=Capture(array_slots=EVERY_ARRAY)).trace

    found = trace(path, token_ids=(5, 6, 7), capture=capture)

    assert found.last_logits is not None
    assert np.array_equal(found.last_logits, every.arrays["logits"][2])
    assert {name.rpartition(".")[2] for name in found.trace.arrays} == capture.array_slots


def test_a_recorded_trace_has_the_last_logits_it_was_recorded_with(
    path: Path, tmp_path: Path
) -> None:
    for name, slots in (("with", {"logits"}), ("without", set[str]())):
        capture = Capture(array_slots=frozenset(slots))
        made = trace(path, token_ids=(5, 6, 7), capture=capture)
        write_trace(tmp_path / name, made.trace)

        found = trace(f"recorded:{tmp_path / name}").last_logits

        assert (found is not None) == bool(slots)
        assert found is None or np.array_equal(found, made.last_logits)


def test_a_recorded_trace_is_handed_out_as_it_is(path: Path, tmp_path: Path) -> None:
    made = trace(path, token_ids=(5, 6, 7), capture=Capture(array_slots=EVERY_ARRAY)).trace
    write_trace(tmp_path / "run.trace", made)

    result = trace(f"recorded:{tmp_path / 'run.trace'}")

    assert result.model is None
    assert (result.trace.token_ids, result.trace.engine) == (made.token_ids, made.engine)
    assert result.trace.sites.keys() == made.sites.keys()
    assert all(np.array_equal(made.arrays[n], result.trace.arrays[n]) for n in made.arrays)


@pytest.mark.parametrize("given", [{"prompt": "x"}, {"token_ids": (1,)}, {"prompt": ""}])
def test_a_recorded_trace_takes_no_other_prompt(given: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        trace("recorded:run.trace", **given)

    assert str(caught.value) == (
        "error[APR-U001]: a recorded trace has its prompt already\n"
        "  where     recorded:run.trace\n"
        "  expected  no --prompt and no --tokens\n"
        "  found     one of them\n"
        "  try       name the model to trace something else"
    )


def test_a_prompt_and_ids_together_are_refused(path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        trace(path, prompt="x", token_ids=(1,))

    assert str(caught.value) == (
        "error[APR-U001]: a prompt is given twice\n"
        "  where     --prompt and --tokens\n"
        "  expected  one of them\n"
        "  found     both\n"
        "  try       --tokens runs ids as they are"
    )


def test_an_empty_prompt_is_refused_before_a_tokenizer_makes_something_of_it() -> None:
    with pytest.raises(EmptyPromptError) as caught:
        trace("no such file", prompt="")

    assert str(caught.value) == (
        "error[APR-U002]: the prompt is empty\n"
        "  where     prompt\n"
        "  expected  at least 1 character\n"
        "  found     0 characters\n"
        "  try       leave --prompt out for the default, or give ids with --tokens"
    )


def test_an_id_out_of_range_is_refused(path: Path) -> None:
    with pytest.raises(TokenIdError) as caught:
        trace(path, token_ids=(5, 320))

    assert str(caught.value) == (
        "error[APR-U003]: token id 320 is not in the vocabulary\n"
        "  where     token 1 of 2\n"
        "  expected  0..319\n"
        "  found     320\n"
        "  try       were the ids made by another model's tokenizer?"
    )


def test_a_model_without_a_tokenizer_is_traced_from_ids_alone(tmp_path: Path) -> None:
    silent = write_tiny_gguf(tmp_path / "ids.gguf", TinyDecoder(tokenizer=False))

    assert trace(silent, token_ids=(5,)).trace.token_ids == (5,)
    with pytest.raises(NoTokenizerError):
        trace(silent)


def test_a_model_is_no_trace(path: Path) -> None:
    with pytest.raises(TraceError):
        trace(f"recorded:{path}")
