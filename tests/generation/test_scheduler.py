"""Texts that grow side by side are the texts that each would be alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.native.engine import NativeEngine, NativeSession
from cotejar.errors import ContextLengthError, EmptyPromptError, TokenIdError, UsageError
from cotejar.generation import scheduler as scheduler_module
from cotejar.generation.generate import generate
from cotejar.generation.sampler import Sampler
from cotejar.generation.sampling_options import SamplingOptions
from cotejar.generation.scheduler import Finish, Job, Scheduler
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [[3, 1, 4], [1, 5], [9, 2, 6, 5, 3, 5, 8, 9], [7], [9, 3, 2, 3], [8, 4], [6, 2]]


@pytest.fixture
def engine(tmp_path: Path) -> NativeEngine:
    model = open_language_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    return NativeEngine(model, numerics="q8")


def job(prompt: list[int], *, seed: int | None = None, **more: Any) -> Job:
    options = SamplingOptions() if seed is None else SamplingOptions(temperature=2, seed=seed)
    settings = {"max_tokens": 9, "end_ids": set(), "on_token": lambda *_: False} | more
    return Job(prompt_ids=prompt, sampler=Sampler(options), **settings)


def alone(engine: NativeEngine, prompt: list[int], seed: int | None = None) -> list[int]:
    options = SamplingOptions() if seed is None else SamplingOptions(temperature=2, seed=seed)
    sampler = Sampler(options)
    return generate(engine, prompt, sampler=sampler, max_tokens=9, end_ids=set()).token_ids


@pytest.mark.parametrize("slots", [1, 2, 3, 20])
@pytest.mark.parametrize("seed", [None, 5])
def test_each_text_is_what_it_is_alone(
    engine: NativeEngine, slots: int, seed: int | None
) -> None:
    jobs = [job(prompt, seed=seed) for prompt in PROMPTS]
    scheduler = Scheduler(engine, slots=slots)
    for one in jobs:
        scheduler.add(one)

    scheduler.run_all()

    assert [one.token_ids for one in jobs] == [alone(engine, p, seed) for p in PROMPTS]
    assert {one.finish for one in jobs} == {Finish.LENGTH}
    assert scheduler.num_jobs == 0


def test_a_long_prompt_is_read_in_chunks_and_the_text_is_the_same(
    engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "PROMPT_TOKENS_AT_ONCE", 3)
    scheduler, long, short = Scheduler(engine), job(PROMPTS[2]), job([7])
    scheduler.add(long)
    scheduler.add(short)

    scheduler.step()
    assert (len(long.token_ids), len(short.token_ids)) == (0, 1)
    scheduler.run_all()

    assert long.token_ids == alone(engine, PROMPTS[2])
    assert short.token_ids == alone(engine, [7])


def test_one_that_joins_later_changes_nothing(engine: NativeEngine) -> None:
    scheduler, first, second = Scheduler(engine), job(PROMPTS[0]), job(PROMPTS[1])
    scheduler.add(first)
    for _ in range(4):
        scheduler.step()
    scheduler.add(second)

    scheduler.run_all()

    assert first.token_ids == alone(engine, PROMPTS[0])
    assert second.token_ids == alone(engine, PROMPTS[1])


def test_what_another_text_left_in_a_cache_is_used_again(engine: NativeEngine) -> None:
    scheduler, first = Scheduler(engine, slots=1), job(PROMPTS[2])
    second = job([*PROMPTS[2][:5], 1, 1])
    scheduler.add(first)
    scheduler.add(second)

    scheduler.run_all()

    assert second.num_reused == 5
    assert second.token_ids == alone(engine, [*PROMPTS[2][:5], 1, 1])


def test_the_best_prefix_of_several_is_taken(engine: NativeEngine) -> None:
    scheduler = Scheduler(engine, slots=3)
    for prompt in ([5, 5, 5], PROMPTS[2], [9, 2, 1]):
        scheduler.add(job(prompt))
    scheduler.run_all()
    again = job(PROMPTS[2])

    scheduler.add(again)
    scheduler.run_all()

    assert again.num_reused == len(PROMPTS[2]) - 1


def test_an_end_token_ends_a_text_and_is_not_kept(engine: NativeEngine) -> None:
    made = alone(engine, PROMPTS[0])
    one = job(PROMPTS[0], end_ids={made[3]})
    scheduler = Scheduler(engine)
    scheduler.add(one)

    scheduler.run_all()

    assert one.token_ids == made[: made.index(made[3])]
    assert one.finish is Finish.STOP


def test_whoever_hears_a_token_may_end_the_text(engine: NativeEngine) -> None:
    one = job(PROMPTS[0])
    one.on_token = lambda *_: len(one.token_ids) == 2
    scheduler = Scheduler(engine)
    scheduler.add(one)

    scheduler.run_all()

    assert one.token_ids == alone(engine, PROMPTS[0])[:2]
    assert one.finish is Finish.STOP


def test_a_cancelled_text_leaves_and_the_others_go_on(engine: NativeEngine) -> None:
    scheduler, gone, stays, waits = Scheduler(engine, slots=2), *map(job, PROMPTS[:3])
    finished: list[Job] = []
    for one in (gone, stays, waits):
        one.on_finish = finished.append
        scheduler.add(one)
    scheduler.step()
    gone.cancelled = waits.cancelled = True

    scheduler.run_all()

    assert (gone.finish, waits.finish) == (Finish.CANCELLED, Finish.CANCELLED)
    assert len(gone.token_ids) == 1
    assert stays.token_ids == alone(engine, PROMPTS[1])
    assert set(map(id, finished)) == {id(gone), id(stays), id(waits)}


def test_a_context_that_is_full_ends_the_text(engine: NativeEngine) -> None:
    context = engine.model.config.context_length
    one = job([1] * (context - 2), max_tokens=100)
    scheduler = Scheduler(engine)
    scheduler.add(one)

    scheduler.run_all()

    assert one.finish is Finish.LENGTH
    assert len(one.token_ids) == 3, "two that find a place, and one that is not run"


@pytest.mark.parametrize(
    ("prompt", "error"),
    [([], EmptyPromptError), ([1 << 20], TokenIdError), ([1] * 65, ContextLengthError)],
)
def test_a_prompt_that_cannot_be_run_fails_alone(
    engine: NativeEngine, prompt: list[int], error: type[Exception]
) -> None:
    scheduler, bad, good = Scheduler(engine), job(prompt), job(PROMPTS[0])
    scheduler.add(bad)
    scheduler.add(good)

    scheduler.run_all()

    assert isinstance(bad.error, error)
    assert bad.finish is Finish.ERROR
    assert good.token_ids == alone(engine, PROMPTS[0])


def test_what_is_forbidden_is_not_taken_though_it_is_the_greatest(engine: NativeEngine) -> None:
    second = alone(engine, PROMPTS[0])[1]
    forbidding, scheduler = job(PROMPTS[0]), Scheduler(engine)
    forbidding.sampler = Sampler(SamplingOptions(logit_bias=((second, -np.inf),)))
    scheduler.add(forbidding)

    scheduler.run_all()

    assert len(forbidding.token_ids) > 1
    assert second not in forbidding.token_ids


def test_logits_that_are_no_numbers_fail_their_text_alone(
    engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = NativeEngine.append_packed

    def broken(self: NativeEngine, parts: list[tuple[NativeSession, list[int]]]) -> np.ndarray:
        logits_NV = append(self, parts)
        logits_NV[0, 0] = np.nan
        return logits_NV

    expected = alone(engine, PROMPTS[1])
    monkeypatch.setattr(NativeEngine, "append_packed", broken)
    scheduler, bad, good = Scheduler(engine), job(PROMPTS[0]), job(PROMPTS[1])
    for one in (bad, good):
        scheduler.add(one)

    scheduler.step()
    monkeypatch.setattr(NativeEngine, "append_packed", append)
    scheduler.run_all()

    assert bad.finish is Finish.ERROR
    assert "1 NaN or infinite" in str(bad.error)
    assert good.token_ids == expected


def test_no_slot_is_refused(engine: NativeEngine) -> None:
    with pytest.raises(UsageError, match="no text can grow so"):
        Scheduler(engine, slots=0)
