"""Texts in a process of its own: logits come back as they were, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines import isolated_session
from cotejar.engines.isolated_session import IsolatedGenerator, open_isolated
from cotejar.engines.spec import EngineSpec
from cotejar.errors import ContextLengthError, EngineDataError

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel

SPEC = EngineSpec(
    name="fake",
    target="fake_engine:FakeEngine",
    numerics=("f64",),
    generates=True,
    isolated=True,
)
ROW_BYTES = 8 * 320
"""Of the tiny model's vocabulary, as wide as a logit can be."""


@pytest.fixture
def model(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return tiny()


def isolated(model: LanguageModel, **options: Any) -> IsolatedGenerator:
    engine = open_isolated(SPEC, model, numerics="f64", options=options)
    assert isinstance(engine, IsolatedGenerator)
    return engine


def test_logits_after_each_token_come_in_pieces_of_bounded_size(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = isolated(model)
    session, pieces, run = engine.start(), [], engine._run
    monkeypatch.setattr(isolated_session, "MAX_LOGITS_BYTES", 3 * ROW_BYTES + 1)
    monkeypatch.setattr(
        engine, "_run", lambda *args, **more: pieces.append(len(args[2])) or run(*args, **more)
    )
    session.append([9])

    rows_TV = session.append_all([1, 2, 3, 4, 5, 6, 7, 8])

    assert pieces == [1, 3, 3, 2]
    assert (rows_TV.shape, rows_TV.dtype, session.num_tokens) == ((8, 320), np.float32, 9)
    # The fake's logits count the tokens so far.
    assert np.array_equal(rows_TV, np.full((320, 8), np.arange(2, 10)).T)
    assert [*engine._child.folder.iterdir()] == []


def test_a_vocabulary_wider_than_a_piece_goes_row_by_row(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_session, "MAX_LOGITS_BYTES", 1)

    assert isolated(model).start().append_all([1, 2])[:, 0].tolist() == [1, 2]


def test_float64_stays_float64(model: LanguageModel) -> None:
    rows_TV = isolated(model, fails="wide").start().append_all([1, 2])

    assert (rows_TV.dtype, rows_TV[:, 7].tolist()) == (np.float64, [1, 2])


@pytest.mark.parametrize(
    ("fails", "expected", "found"),
    [
        (
            "one row",
            "3840 bytes of logits, 4 a token id at each of 3 positions",
            "1280 bytes",
        ),
        (
            "a row more",
            "3840 bytes of logits, 4 a token id at each of 3 positions",
            "5120 bytes",
        ),
        ("short", "3840 bytes of logits, 4 a token id at each of 3 positions", "3828 bytes"),
        ("nan", "960 finite logits", "3 that are NaN or infinite"),
        ("forgets", "3 tokens in its context", "0"),
    ],
)
def test_rows_that_are_not_what_was_asked_for_are_refused(
    model: LanguageModel, fails: str, expected: str, found: str
) -> None:
    engine = isolated(model, fails=fails)

    with pytest.raises(EngineDataError) as caught:
        engine.start().append_all([1, 2, 3])

    assert caught.value.as_json() == {
        "code": "APR-E005",
        "problem": "the engine sent other data than it was asked for",
        "where": "engine fake",
        "expected": expected,
        "found": found,
        "try": "nothing was measured; the fault is the engine's",
    }
    assert [*engine._child.folder.iterdir()] == []


def test_pieces_of_another_type_are_refused(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = isolated(model, fails="wider later").start()
    monkeypatch.setattr(isolated_session, "MAX_LOGITS_BYTES", 2 * ROW_BYTES)

    with pytest.raises(EngineDataError) as caught:
        session.append_all([1, 2, 3, 4])

    assert (caught.value.parts["expected"], caught.value.parts["found"]) == (
        "float32",
        "float64",
    )


@pytest.mark.parametrize("dtype", ["float16", "", None, "object"])
def test_a_type_that_no_logits_have_is_refused(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, dtype: object
) -> None:
    engine = isolated(model)
    ask = engine.ask
    monkeypatch.setattr(engine, "ask", lambda *args: ask(*args) | {"dtype": dtype})

    with pytest.raises(EngineDataError) as caught:
        engine.start().append([1])

    assert caught.value.parts["expected"] == "float32 or float64"
    assert caught.value.parts["found"] == str(dtype)


def test_more_than_the_context_holds_is_refused_before_any_of_it_runs(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_session, "MAX_LOGITS_BYTES", 2 * ROW_BYTES)
    session = isolated(model).start()

    with pytest.raises(ContextLengthError):
        session.append_all([1] * 65)

    assert session.num_tokens == 0
