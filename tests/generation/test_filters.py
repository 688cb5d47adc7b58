"""What each filter leaves, beside llama.cpp's and Hugging Face's own on the same logits.

Ties and shares that are met exactly are left out of the random rows: there the three differ,
and our own rule (the lower id is the likelier) has a test of its own.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.generation.filters import Candidates, min_p, top_k, top_p, typical_p
from cotejar.generation.sampler import Sampler
from cotejar.generation.sampling_options import TRANSFORMERS_ORDER, SamplingOptions

if TYPE_CHECKING:
    from collections.abc import Callable

VOCAB = 1000


def row(seed: int, spread: float = 3.0) -> np.ndarray:
    logits_V = np.random.default_rng(seed).normal(0, spread, VOCAB).astype(np.float32)
    assert np.unique(logits_V).size == VOCAB, "a tie would make the comparison unfair"
    return logits_V


def candidates(logits_V: np.ndarray) -> Candidates:
    return Candidates(np.arange(logits_V.size), logits_V.astype(np.float64))


OURS: dict[str, Callable[[Candidates, float], Candidates]] = {
    "top_k": lambda left, k: top_k(left, int(k)),
    "top_p": top_p,
    "min_p": min_p,
    "typical_p": typical_p,
}
SETTINGS = [
    *(("top_k", k) for k in (1, 2, 40, 999, 1000, 5000)),
    *(("top_p", p) for p in (0.001, 0.3, 0.9, 0.999)),
    *(("min_p", p) for p in (0.001, 0.05, 0.5, 1.0)),
    *(("typical_p", p) for p in (0.001, 0.2, 0.9, 0.99)),
]


class LlamaCpp:
    """Its sampler chain, through the low-level API."""

    def __init__(self) -> None:
        self.api = pytest.importorskip("llama_cpp")

    def make(self, name: str, value: float) -> object:
        api = self.api
        if name == "top_k":
            return api.llama_sampler_init_top_k(int(value))
        return {
            "top_p": api.llama_sampler_init_top_p,
            "min_p": api.llama_sampler_init_min_p,
            "typical_p": api.llama_sampler_init_typical,
        }[name](value, 1)

    def apply(self, sampler: object, logits_V: np.ndarray) -> dict[int, float]:
        """Token to logit of what the sampler leaves; frees the sampler."""
        api = self.api
        data = (api.llama_token_data * logits_V.size)()
        for token, logit in enumerate(logits_V.tolist()):
            data[token].id, data[token].logit = token, logit
        array = api.llama_token_data_array(
            data=data, size=logits_V.size, selected=-1, sorted=False
        )
        api.llama_sampler_apply(sampler, ctypes.byref(array))
        api.llama_sampler_free(sampler)
        return {array.data[i].id: array.data[i].logit for i in range(array.size)}


@pytest.fixture(scope="module")
def llamacpp() -> LlamaCpp:
    return LlamaCpp()


@pytest.mark.parametrize(("name", "value"), SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_llamacpp_leaves_the_same_tokens(
    llamacpp: LlamaCpp, name: str, value: float, seed: int
) -> None:
    logits_V = row(seed)

    ours = OURS[name](candidates(logits_V), value)

    theirs = llamacpp.apply(llamacpp.make(name, value), logits_V)
    assert sorted(theirs) == ours.ids.tolist()


def hugging_face(name: str, value: float) -> Callable[[np.ndarray], np.ndarray]:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    warper = {
        "top_k": lambda k: process.TopKLogitsWarper(int(k)),
        "top_p": process.TopPLogitsWarper,
        "min_p": process.MinPLogitsWarper,
        "typical_p": process.TypicalLogitsWarper,
        "temperature": process.TemperatureLogitsWarper,
    }[name](value)
    return lambda scores_V: warper(None, torch.from_numpy(scores_V)[None])[0].numpy()


@pytest.mark.parametrize(("name", "value"), SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_hugging_face_leaves_the_same_tokens(name: str, value: float, seed: int) -> None:
    logits_V = row(seed)

    ours = OURS[name](candidates(logits_V), value)

    theirs_V = hugging_face(name, value)(logits_V)
    assert np.flatnonzero(theirs_V > -np.inf).tolist() == ours.ids.tolist()


FILTERS = {"top_k": 40, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.9}


@pytest.mark.parametrize("temperature", [0.5, 1.7])
@pytest.mark.parametrize("seed", range(3))
def test_the_whole_chain_in_llamacpps_order_is_llamacpps(
    llamacpp: LlamaCpp, temperature: float, seed: int
) -> None:
    logits_V, api = row(seed), llamacpp.api
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    for name in ("top_k", "typical_p", "top_p", "min_p"):
        api.llama_sampler_chain_add(chain, llamacpp.make(name, FILTERS[name]))
    api.llama_sampler_chain_add(chain, api.llama_sampler_init_temp(temperature))

    ours = Sampler(SamplingOptions(temperature=temperature, **FILTERS)).narrow(logits_V)

    theirs = llamacpp.apply(chain, logits_V)
    assert sorted(theirs) == ours.ids.tolist()
    weights = np.array([theirs[token] for token in ours.ids.tolist()])
    # One float32 rounding of a logit below 30: a relative 30 * 2^-23 of its probability.
    assert probabilities(weights) == pytest.approx(ours.probabilities, rel=4e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.7])
@pytest.mark.parametrize("seed", range(3))
def test_the_whole_chain_in_hugging_faces_order_is_hugging_faces(
    temperature: float, seed: int
) -> None:
    logits_V, settings = row(seed), {"temperature": temperature, **FILTERS}
    options = SamplingOptions(order=TRANSFORMERS_ORDER, **settings)

    ours = Sampler(options).narrow(logits_V)

    for name in TRANSFORMERS_ORDER:
        logits_V = hugging_face(name, settings[name])(logits_V)
    assert np.flatnonzero(logits_V > -np.inf).tolist() == ours.ids.tolist()
    kept = logits_V[ours.ids].astype(np.float64)
    # As above, with the division by 0.5 doubling the logit.
    assert probabilities(kept) == pytest.approx(ours.probabilities, rel=8e-6)


def test_the_order_of_the_stages_matters() -> None:
    logits_V = row(0)
    settings = {"temperature": 2.0, "top_p": 0.8}

    before = Sampler(SamplingOptions(**settings)).narrow(logits_V)
    after = Sampler(SamplingOptions(order=TRANSFORMERS_ORDER, **settings)).narrow(logits_V)

    assert before.ids.size < after.ids.size


def probabilities(logits_N: np.ndarray) -> np.ndarray:
    weights = np.exp(logits_N - logits_N.max())
    return weights / weights.sum()


PENALTIES = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"presence_penalty": 0.7},
    {"frequency_penalty": 0.4},
    {"repetition_penalty": 1.1, "presence_penalty": -0.2, "frequency_penalty": 0.3},
]


def history() -> list[int]:
    return np.random.default_rng(5).integers(0, 40, 100).tolist()


@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("window", [0, 1, 20, -1])
def test_penalties_are_llamacpps(
    llamacpp: LlamaCpp, penalties: dict[str, float], window: int
) -> None:
    logits_V, seen, api = row(1), history(), llamacpp.api
    options = SamplingOptions(penalty_window=window, **penalties)
    sampler = api.llama_sampler_init_penalties(
        VOCAB,
        len(seen) if window < 0 else window,
        options.repetition_penalty,
        options.frequency_penalty,
        options.presence_penalty,
    )
    for token in seen:
        api.llama_sampler_accept(sampler, token)

    ours_V = Sampler(options).adjust(logits_V, seen)

    theirs = llamacpp.apply(sampler, logits_V)
    theirs_V = np.array([theirs[token] for token in range(VOCAB)])
    # Three float32 operations on logits below 16.
    assert np.abs(ours_V - theirs_V).max() <= 3 * 16 * 2**-24
    assert (ours_V != logits_V).any() == (window != 0)


@pytest.mark.parametrize("penalty", [0.8, 1.3])
def test_the_repetition_penalty_over_the_whole_text_is_hugging_faces(penalty: float) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits_V, seen = row(2), history()
    options = SamplingOptions(repetition_penalty=penalty, penalty_window=-1)

    ours_V = Sampler(options).adjust(logits_V, seen)

    processor = process.RepetitionPenaltyLogitsProcessor(penalty)
    theirs_V = processor(torch.tensor([seen]), torch.from_numpy(logits_V)[None])[0].numpy()
    assert np.abs(ours_V - theirs_V).max() <= 16 * 2**-23
    assert (ours_V != logits_V).any()


@pytest.mark.parametrize(("name", "value"), [("top_k", 2), ("top_p", 0.45)])
def test_of_equal_logits_the_lower_ids_stay(name: str, value: float) -> None:
    ours = OURS[name](candidates(np.zeros(4, np.float32)), value)

    assert ours.ids.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
def test_the_least_share_keeps_one(name: str) -> None:
    assert OURS[name](candidates(row(0)), 5e-324).ids.size == 1


@pytest.mark.parametrize(("name", "value"), FILTERS.items())
def test_a_filter_leaves_the_logits_as_they_are(name: str, value: float) -> None:
    logits_V = row(4)

    ours = OURS[name](candidates(logits_V), value)

    assert (ours.logits == logits_V[ours.ids]).all()
    assert 0 < ours.ids.size < VOCAB
