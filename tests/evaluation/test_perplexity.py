"""Perplexity is what the definition says, whatever the pieces, and goes on where it stopped."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.native.engine import NativeSession
from cotejar.errors import (
    MissingFileError,
    ModelError,
    NothingMeasuredError,
    UnknownEngineError,
    UsageError,
)
from cotejar.evaluation import text_chunks
from cotejar.evaluation.divergence import measure_divergence
from cotejar.evaluation.perplexity import measure_perplexity
from cotejar.evaluation.running_mean import RunningMean
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 16


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("a b c d e f g h " * 12)
    return path


def by_definition(model: Path, text: Path, numerics: str) -> list[float]:
    """-log p of every judged token, each chunk in one pass, plainly."""
    from cotejar.engines.native.engine import NativeEngine

    opened = open_language_model(model)
    ids = opened.tokenizer.encode(text.read_text())
    found = []
    for start in range(0, len(ids) - CHUNK + 1, CHUNK):
        chunk = ids[start : start + CHUNK]
        if opened.tokenizer.spec.add_bos:
            chunk[0] = opened.tokenizer.bos_id
        logits_TV = NativeEngine(opened, numerics=numerics).start().append_all(chunk)
        for position in range(CHUNK // 2, CHUNK - 1):
            row = logits_TV[position].astype(np.float64)
            total = math.fsum(math.exp(v) for v in row.tolist())
            found.append(math.log(total) - row[chunk[position + 1]])
    return found


@pytest.mark.parametrize("numerics", ["q8", "f32"])
@pytest.mark.parametrize("rows_at_once", [1, 3, 32])
def test_it_is_the_exponent_of_the_mean_of_what_came(
    model: Path,
    text: Path,
    numerics: str,
    rows_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_chunks, "ROWS_AT_ONCE", rows_at_once)

    found = measure_perplexity(f"native+{numerics}:{model}", text, chunk_tokens=CHUNK)

    expected = by_definition(model, text, numerics)
    assert found.num_judged == len(expected) > CHUNK
    # f32 products may round otherwise for another number of rows: 2e-5 of a logit near 1.
    assert found.mean_nll == pytest.approx(np.mean(expected), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)
    assert found.standard_error_nll == pytest.approx(
        np.std(expected, ddof=1) / math.sqrt(len(expected)), rel=1e-4
    )


def test_the_mean_of_parts_is_the_mean_of_all() -> None:
    values = np.random.default_rng(0).normal(3, 2, 1000)
    mean = RunningMean()

    for part in np.split(values, [1, 1, 10, 500]):
        mean.add(part)

    assert mean.count == 1000
    assert mean.mean == pytest.approx(values.mean(), rel=1e-12)
    assert mean.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(1000), rel=1e-12)


def test_one_value_has_no_known_spread() -> None:
    mean = RunningMean()
    mean.add(np.array([2.0]))

    assert math.isnan(mean.standard_error)


class StopError(Exception):
    """Stands for Ctrl-C."""


def stop_at(chunk: int) -> Any:
    def on_chunk(text: str) -> None:
        if text.startswith(f"chunk {chunk} "):
            raise StopError

    return on_chunk


def test_it_goes_on_where_it_was_stopped(model: Path, text: Path, tmp_path: Path) -> None:
    sums, options = tmp_path / "sums.json", {"chunk_tokens": CHUNK}
    with pytest.raises(StopError):
        measure_perplexity(str(model), text, resume=sums, on_chunk=stop_at(3), **options)
    heard: list[str] = []

    found = measure_perplexity(str(model), text, resume=sums, on_chunk=heard.append, **options)

    assert heard[0].startswith("chunk 3 of ")
    assert found == measure_perplexity(str(model), text, **options)


def test_a_divergence_goes_on_where_it_was_stopped(
    model: Path, text: Path, tmp_path: Path
) -> None:
    sums, sides = tmp_path / "sums.json", (f"native+f32:{model}", str(model))
    options = {"chunk_tokens": CHUNK}
    with pytest.raises(StopError):
        measure_divergence(*sides, text, resume=sums, on_chunk=stop_at(2), **options)

    found = measure_divergence(*sides, text, resume=sums, **options)

    assert found == measure_divergence(*sides, text, **options)


def test_sums_of_another_evaluation_are_refused(
    model: Path, text: Path, tmp_path: Path
) -> None:
    sums = tmp_path / "sums.json"
    measure_perplexity(str(model), text, chunk_tokens=CHUNK, resume=sums)
    text.write_text(text.read_text() + "i")

    with pytest.raises(UsageError) as caught:
        measure_perplexity(str(model), text, chunk_tokens=CHUNK, resume=sums)

    assert str(caught.value) == (
        "error[APR-U001]: the evaluation cannot go on from this file\n"
        f"  where     {sums}\n"
        "  expected  what the same evaluation saved, or no file\n"
        "  found     one that differs in text\n"
        "  try       name another file with --resume, or remove this one"
    )


@pytest.mark.parametrize(
    "content", ["", "{", "[]", json.dumps({"schema": "cotejar.evaluation/1"}), "[" * 100_000]
)
def test_a_file_that_holds_no_sums_is_refused(
    model: Path, text: Path, tmp_path: Path, content: str
) -> None:
    sums = tmp_path / "sums.json"
    sums.write_text(content)

    with pytest.raises(UsageError, match="the evaluation cannot go on from this file"):
        measure_perplexity(str(model), text, chunk_tokens=CHUNK, resume=sums)
    assert sums.read_text() == content


def test_a_model_diverges_from_itself_by_nothing(model: Path, text: Path) -> None:
    found = measure_divergence(str(model), str(model), text, chunk_tokens=CHUNK)

    assert found.num_judged > CHUNK
    assert found.kl_quantiles == (0, 0, 0, 0)
    assert found.top1_equal.mean == 1
    assert found.perplexities[0] == found.perplexities[1]


def test_the_divergence_is_what_the_definition_says(
    model: Path, text: Path, tmp_path: Path
) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", TinyDecoder(seed=1))

    found = measure_divergence(str(model), str(other), text, chunk_tokens=CHUNK)
    turned = measure_divergence(str(other), str(model), text, chunk_tokens=CHUNK)

    a, b = (np.mean(by_definition(path, text, "q8")) for path in (model, other))
    assert found.perplexities == pytest.approx((math.exp(a), math.exp(b)))
    assert found.kl.mean > 0
    assert found.kl.mean != turned.kl.mean, "KL has a direction"
    assert found.probability_change.mean == pytest.approx(-turned.probability_change.mean)


def test_a_text_shorter_than_a_chunk_measures_nothing(model: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a b")

    with pytest.raises(NothingMeasuredError) as caught:
        measure_perplexity(str(model), short, chunk_tokens=CHUNK)

    assert caught.value.exit_code == 3
    assert "expected  at least 16 tokens" in str(caught.value)


@pytest.mark.parametrize("chunk_tokens", [0, 7, 65])
def test_a_chunk_that_does_not_fit_is_refused(
    model: Path, text: Path, chunk_tokens: int
) -> None:
    with pytest.raises(UsageError, match="the text cannot be cut so"):
        measure_perplexity(str(model), text, chunk_tokens=chunk_tokens)


def test_a_text_that_is_no_utf_8_is_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")

    with pytest.raises(UsageError, match="the text is no UTF-8"):
        measure_perplexity(str(model), path, chunk_tokens=CHUNK)


def test_a_text_that_is_not_there_is_one_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="the text cannot be read"):
        measure_perplexity(str(model), tmp_path / "none.txt", chunk_tokens=CHUNK)


def test_an_engine_that_only_traces_is_refused(model: Path, text: Path) -> None:
    with pytest.raises(UnknownEngineError, match="oracle cannot continue a text"):
        measure_perplexity(f"oracle:{model}", text, chunk_tokens=CHUNK)


def test_one_logit_that_is_no_number_stops_it(
    model: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_all = NativeSession.append_all

    def broken(self: NativeSession, token_ids: list[int]) -> np.ndarray:
        logits_TV = append_all(self, token_ids)
        logits_TV[-1, 0] = np.nan
        return logits_TV

    monkeypatch.setattr(NativeSession, "append_all", broken)

    with pytest.raises(ModelError, match="found     1 NaN or infinite"):
        measure_perplexity(str(model), text, chunk_tokens=CHUNK)
