"""The token loop, on an engine that says what it is told, and on a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.native.engine import NativeEngine
from cotejar.errors import ContextLengthError, EmptyPromptError, ModelError, UsageError
from cotejar.generation.generate import Generation, generate
from cotejar.generation.sampler import Sampler
from cotejar.generation.sampling_options import SamplingOptions
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

END = 0


class ScriptedEngine:
    """Gives the tokens of a script, one after another, and notes what it is asked."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script = list(script)
        self.appended: list[list[int]] = []
        self.num_tokens = 0

    def start(self) -> ScriptedEngine:
        return self

    def append(self, token_ids: Sequence[int]) -> np.ndarray:
        self.num_tokens += len(token_ids)
        self.appended.append(list(token_ids))
        logits_V = np.zeros(10, np.float32)
        logits_V[self.script[len(self.appended) - 1]] = 1
        return logits_V


def run(
    engine: object, prompt: Sequence[int], max_tokens: int = 8, **more: object
) -> Generation:
    settings = {"sampler": Sampler(), "max_tokens": max_tokens, "end_ids": {END}} | more
    return generate(engine, prompt, **settings)


def test_tokens_are_made_until_the_end_token_which_is_not_kept() -> None:
    engine = ScriptedEngine([4, 5, 6, END, 7])

    made = run(engine, [1, 2, 3])

    assert (made.token_ids, made.ended, made.prompt_ids) == ([4, 5, 6], True, (1, 2, 3))
    assert engine.appended == [[1, 2, 3], [4], [5], [6]]


def test_no_more_than_max_tokens_are_made_nor_computed() -> None:
    engine = ScriptedEngine([4, 5, 6, END])

    made = run(engine, [1], max_tokens=2)

    assert (made.token_ids, made.ended) == ([4, 5], False)
    assert engine.appended == [[1], [4]]  # nothing is computed after the last token


def test_an_end_token_at_once_makes_nothing() -> None:
    heard: list[int] = []

    made = run(ScriptedEngine([END]), [1], on_token=heard.append)

    assert (made.token_ids, made.ended, heard) == ([], True, [])


def test_every_token_is_told_before_the_next_is_computed() -> None:
    engine = ScriptedEngine([4, 5, 6, END])
    told: list[tuple[int, int]] = []

    made = run(engine, [1], on_token=lambda token: told.append((token, len(engine.appended))))

    assert told == [(4, 1), (5, 2), (6, 3)]
    assert made.token_ids == [token for token, _ in told]


def test_speed_counts_generated_tokens_over_the_whole_time() -> None:
    made = Generation(prompt_ids=(1, 2, 3), token_ids=[4, 5], seconds=0.5)

    assert made.tokens_per_s == 4
    assert Generation(prompt_ids=(1,)).tokens_per_s == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_the_models_fault(bad: float) -> None:
    class Broken(ScriptedEngine):
        def append(self, token_ids: Sequence[int]) -> np.ndarray:
            logits_V = super().append(token_ids)
            if len(self.appended) == 3:
                logits_V[7:] = bad
            return logits_V

    heard: list[int] = []
    with pytest.raises(ModelError) as caught:
        run(Broken([4, 5, 6]), [1, 2], on_token=heard.append)

    assert heard == [4, 5]
    assert str(caught.value) == (
        "error[APR-M001]: the model computes no usable numbers\n"
        "  where     logits after token 3\n"
        "  expected  10 finite logits\n"
        "  found     3 NaN or infinite\n"
        "  try       `apr trace MODEL --payload` names the first layer that breaks"
    )


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_no_tokens_at_all_are_refused(max_tokens: int) -> None:
    engine = ScriptedEngine([4])
    with pytest.raises(UsageError) as caught:
        run(engine, [1], max_tokens=max_tokens)

    assert engine.appended == []
    assert str(caught.value) == (
        "error[APR-U001]: there is nothing to generate\n"
        "  where     --max-tokens\n"
        "  expected  at least 1\n"
        f"  found     {max_tokens}\n"
        "  try       to look at a prompt alone use `apr trace`"
    )


# --- on an engine that computes --------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModel]:
    folder = tmp_path_factory.mktemp("generation")
    decoders = {
        "Q4_0": TinyDecoder(block_type=BlockType.Q4_0, context_length=16),
        "Q8_0": TinyDecoder(block_type=BlockType.Q8_0, architecture="qwen2", context_length=16),
        "Q4_K": TinyDecoder(
            block_type=BlockType.Q4_K,
            hidden_size=256,
            num_heads=8,
            ffn_size=512,
            context_length=16,
        ),
        "window": TinyDecoder(architecture="mistral", sliding_window=4, context_length=16),
    }
    opened: dict[str, LanguageModel] = {}

    def open_one(name: str) -> LanguageModel:
        if name not in opened:
            path = write_tiny_gguf(folder / f"{name}.gguf", decoders[name])
            opened[name] = open_language_model(path)
        return opened[name]

    return open_one


@pytest.mark.parametrize("numerics", ["q8", "f32"])
@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "window"])
def test_a_cache_gives_what_the_whole_text_gives_each_time(
    model: Callable[[str], LanguageModel], name: str, numerics: str
) -> None:
    engine = NativeEngine(model(name), numerics=numerics)
    prompt = [5, 17, 200, 33]

    made = run(engine, prompt, max_tokens=10, end_ids=set())

    text = list(prompt)
    for token in made.token_ids:
        assert int(engine.start().append(text).argmax()) == token
        text.append(token)
    assert len(made.token_ids) == 10


def test_a_seed_generates_the_same_text_again(model: Callable[[str], LanguageModel]) -> None:
    engine = NativeEngine(model("Q4_0"), numerics="q8")

    one, again, other = (
        run(
            engine,
            [1, 2],
            max_tokens=10,
            sampler=Sampler(SamplingOptions(temperature=5, seed=seed)),
            end_ids=set(),
        ).token_ids
        for seed in (1, 1, 2)
    )

    assert one == again
    assert one != other


def test_the_context_may_be_filled_to_its_edge(model: Callable[[str], LanguageModel]) -> None:
    """16 positions: 12 of the prompt, 4 generated ones, and a last one that is not run."""
    engine = NativeEngine(model("Q4_0"), numerics="q8")

    made = run(engine, [7] * 12, max_tokens=5, end_ids=set())

    assert len(made.token_ids) == 5


def test_beyond_the_edge_of_the_context_is_an_error(
    model: Callable[[str], LanguageModel],
) -> None:
    engine = NativeEngine(model("Q4_0"), numerics="q8")
    heard: list[int] = []

    with pytest.raises(ContextLengthError) as caught:
        run(engine, [7] * 12, max_tokens=6, end_ids=set(), on_token=heard.append)

    assert len(heard) == 5  # what could be made was told
    assert str(caught.value) == (
        "error[APR-U004]: the text is longer than the model's context\n"
        "  where     prompt\n"
        "  expected  at most 16 tokens\n"
        "  found     17 tokens\n"
        "  try       shorten the prompt, or ask for fewer tokens"
    )


def test_a_prompt_must_fit_and_hold_something(model: Callable[[str], LanguageModel]) -> None:
    engine = NativeEngine(model("Q4_0"), numerics="q8")

    assert len(run(engine, [7] * 16, max_tokens=1, end_ids=set()).token_ids) == 1
    with pytest.raises(ContextLengthError):
        run(engine, [7] * 17, max_tokens=1)
    with pytest.raises(EmptyPromptError):
        run(engine, [], max_tokens=1)
