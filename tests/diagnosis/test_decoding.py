"""What is wrong behind the KV cache alone shows in steps, and its cause is named."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.diagnose import diagnose
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.request import Request
from cotejar.diagnosis.search import find_causes
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.native.forward import Pass
from cotejar.engines.registry import parse_engine_name
from cotejar.errors import UsageError
from cotejar.faults.catalogue import FAULTS
from cotejar.faults.engine import faulty_engine
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.verdict import Verdict

from .conftest import TOKENS, observe
from .planted import first

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models

CAPTURE = Capture(array_slots=EVERY_ARRAY)
STEPS = 8
"""Of 12 tokens: the first pass takes 4."""

Read = "Callable[[np.ndarray, int], np.ndarray]"


def causes_at_the_first_wrong_site(model: LanguageModel, trace: ForwardTrace) -> tuple:
    side = observe(trace, model)
    error = next(e for e in replay_sides([side]) if not e.explained)
    operation = side.truth.operations[error.site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None
    return error.site, find_causes(Case(operation, side, inputs.arrays, recorded, error))


# --- the catalogue's -------------------------------------------------------------------

MODEL_OF = {"decode-ring": "mistral", "decode-bias-missing": "qwen2"}
NAMED = {
    "decode-position": ("q_rope", "decode-position", "the tokens fed one at a time are turned "
                        "as if 1 position later"),
    "decode-position-restart": ("q_rope", "decode-position", "the tokens fed one at a time are "
                                "turned as if from 0 on: the counter begins again"),
    "decode-stale": ("attn_context", "cache-stale", "a step's own keys and values are not "
                     "written: those of the token before are read"),
    "decode-prompt-lost": ("attn_context", "cache-rows-lost", "a step reads its own keys and "
                           "values alone: those before are lost"),
    "decode-written-early": ("attn_context", "cache-rows-lost",
                             "steps do not read the keys and values of token 3"),
    "decode-slot-empty": ("attn_context", "cache-slots-unwritten", "steps read keys and values "
                          "of 1 slots too many, which hold zeros"),
    "decode-ring": ("attn_context", "cache-ring-off-by-one", "steps read the keys and values "
                    "of the last 4 tokens and ought to read 5"),
    "decode-kv-f16": ("attn_context", "cache-rounded",
                      "keys and values that steps read are rounded to f16"),
    "decode-attention-scale": ("attn_context", "attention-scale",
                               "scores are scaled by 0.375, 1.5 times the right 0.25, in the "
                               "tokens fed one at a time"),
    "decode-bias-missing": ("q", "bias-missing",
                            "the bias model.layers.0.self_attn.q_proj.bias is left out, in the "
                            "tokens fed one at a time"),
}  # fmt: skip


def test_every_fault_of_decoding_is_named_below() -> None:
    assert [*NAMED] == [fault.id for fault in FAULTS.values() if fault.only_decoding]


@pytest.mark.parametrize("fault", NAMED)
def test_a_fault_of_decoding_is_named(models: Models, fault: str) -> None:
    model = models(MODEL_OF.get(fault, "llama"))
    engine = faulty_engine(parse_engine_name("native+f32:x"), model, fault)

    trace = engine.trace_steps(TOKENS, num_steps=STEPS, capture=CAPTURE)
    site, found = causes_at_the_first_wrong_site(model, trace)

    slot, id_, title = NAMED[fault]
    assert (site, *first(found)) == (f"layer.0.{slot}", id_, title)
    assert found.causes[0].residual_after <= 3 * found.causes[0].limit


@pytest.mark.parametrize("fault", NAMED)
def test_one_pass_cannot_show_it(models: Models, fault: str) -> None:
    model = models(MODEL_OF.get(fault, "llama"))
    engine = faulty_engine(parse_engine_name("native+f32:x"), model, fault)

    side = observe(engine.trace(TOKENS, capture=CAPTURE), model)

    assert all(error.explained for error in replay_sides([side]))


# --- what steps read --------------------------------------------------------------------


class _Reads(Pass):
    """In layer 1, from the second pass on, attention reads other rows than were kept."""

    read_k: Read
    read_v: Read

    def extend_cache(self, layer, k_TKE, v_TKE):
        k_SKE, v_SKE = super().extend_cache(layer, k_TKE, v_TKE)
        if layer != 1 or not self.cache.num_tokens:
            return k_SKE, v_SKE
        n = self.cache.num_tokens
        return type(self).read_k(k_SKE, n), type(self).read_v(v_SKE, n)


def of_rows(rows: Callable[[int], list[int]]) -> Read:
    """Those of these tokens; -1 for zeros."""

    def read(kept, n):
        padded = np.concatenate([kept, np.zeros_like(kept[:1])])
        return padded[rows(n)]

    return read


def same(kept, _):
    return kept


def both(rows: Callable[[int], list[int]]) -> tuple:
    return of_rows(rows), of_rows(rows)


READS = {
    "values one late": ((same, of_rows(lambda n: [0, *range(n)])),
                        ("cache-shifted", "steps read the values 1 late")),
    "keys stale": ((of_rows(lambda n: [*range(n), n - 1]), same),
                   ("cache-stale", "a step's own keys are not written: those of the token "
                    "before are read")),
    "its own lost": (both(lambda n: [*range(n)]),
                     ("cache-rows-lost", "a step does not read its own keys and values")),
    "written twice": (both(lambda n: [*range(n + 1), n]),
                      ("cache-rows-twice", "a step's own keys and values are written twice")),
    "the counter stands still": (
        both(lambda n: [0, 1, 2, 3, n]),
        ("cache-rows-lost", "a step reads the prompt's keys and values and its own: those of "
         "steps before are lost")),
    "two slots late": (
        both(lambda n: [0, 1, 2, 3, -1, -1, *range(4, n + 1)][: n + 1]),
        ("cache-written-elsewhere",
         "the keys and values of steps are written two slots late")),
    "values from slot 0 on": (
        (same, of_rows(lambda n: ([*range(4, n + 1), *range(n - 3, 4), *[-1] * 9][: n + 1]))),
        ("cache-written-elsewhere",
         "the values of steps are written from slot 0 on again")),
    "one slot from token 8 on": (
        both(lambda n: [*range(n + 1)] if n < 8 else [0, 1, 5, *range(3, n + 1)]),
        ("cache-slot", "from token 8 on the slot of token 2 in the cache holds those of token "
         "5 (keys and values)")),
    **{
        f"{rows} rolled {by}": (
            tuple(
                of_rows(lambda n, by=by: np.roll(np.arange(n + 1), by).tolist())
                if part in rows
                else same
                for part in ("keys", "values")
            ),
            ("cache-shifted", words),
        )
        for rows in ("keys", "values")
        for by in (1, -1)
        # No record tells keys that are late from values that are early.
        for words in (
            "steps read the keys 1 late against the values, around: keys are rolled by 1, or "
            "values by -1"
            if (rows == "keys") == (by == 1)
            else "steps read the values 1 late against the keys, around: values are rolled by "
            "1, or keys by -1",
        )
    },
    **{
        f"{rows} not written from token 7 on": (
            tuple(
                of_rows(lambda n: [s if s < 7 else -1 for s in range(n + 1)])
                if part in rows
                else same
                for part in ("keys", "values")
            ),
            ("cache-slots-unwritten",
             f"from token 7 on the {rows} are not written: zeros are read"),
        )
        for rows in ("keys", "values", "keys and values")
    },
    "not written from token 7 on, but its own are read": (
        both(lambda n: [s if s < 7 or s == n else -1 for s in range(n + 1)]),
        ("cache-slots-unwritten", "from token 7 on the keys and values are not written: zeros "
         "are read; a step reads its own all the same")),
    "not there from token 7 on": (
        both(lambda n: [s for s in range(n + 1) if s < 7]),
        ("cache-slots-unwritten",
         "from token 7 on the keys and values are not written: they are not read")),
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_what_steps_read_is_named(models: Models, name: str) -> None:
    (read_k, read_v), cause = READS[name]
    model = models("qwen2")
    wrong = type(
        "Wrong", (_Reads,), {"read_k": staticmethod(read_k), "read_v": staticmethod(read_v)}
    )
    engine = NativeEngine(model, numerics="f32", forward=wrong)

    trace = engine.trace_steps(TOKENS, num_steps=STEPS, capture=CAPTURE)
    site, found = causes_at_the_first_wrong_site(model, trace)

    assert (site, *first(found)) == ("layer.1.attn_context", *cause)


# --- the same operation, wrong in steps alone ---------------------------------------------


class _SharperScores(Pass):
    def attend(self, layer, q_THE, k_SKE, v_SKE):
        factor = 1.25 if layer == 1 and self.cache.num_tokens else 1.0
        return super().attend(layer, q_THE * np.float32(factor), k_SKE, v_SKE)


class _OtherTheta(Pass):
    def rotate(self, layer, values_THE, *, which):
        if layer == 1 and self.cache.num_tokens:
            from cotejar.engines.native.rope import rope_tables
            from cotejar.kernels import operations

            rope = self.model.config.rope
            half = rope.dim // 2
            frequencies = 500_000.0 ** (-np.arange(half) / half)
            right = rope.theta ** (-np.arange(half) / half)
            assert not rope.frequency_divisors
            from dataclasses import replace

            divided = replace(rope, frequency_divisors=tuple((right / frequencies).tolist()))
            tables = rope_tables(divided, self.cache.num_tokens, len(values_THE))
            return operations.rotate(values_THE, *tables, adjacent=self._adjacent)
        return super().rotate(layer, values_THE, which=which)


class _NoNorm(Pass):
    def norm(self, layer, part, values):
        if layer == 1 and part == "ffn_norm" and self.cache.num_tokens:
            return values
        return super().norm(layer, part, values)


STEP_OPERATIONS = {
    "scores": (_SharperScores, "attn_context", "attention-scale",
               "scores are scaled by 0.3125, 1.25 times the right 0.25, in the tokens fed one "
               "at a time"),
    "theta": (_OtherTheta, "q_rope", "rope-theta",
              "theta is 500,000 and ought to be 10,000, in the tokens fed one at a time"),
    "norm": (_NoNorm, "ffn_norm", "norm-missing",
             "the norm is left out: its input came through, in the tokens fed one at a time"),
}  # fmt: skip


@pytest.mark.parametrize("name", STEP_OPERATIONS)
def test_an_operation_that_is_wrong_in_steps_alone_is_named(models: Models, name: str) -> None:
    forward, slot, id_, title = STEP_OPERATIONS[name]
    model = models("qwen2")
    engine = NativeEngine(model, numerics="f32", forward=forward)

    trace = engine.trace_steps(TOKENS, num_steps=STEPS, capture=CAPTURE)
    site, found = causes_at_the_first_wrong_site(model, trace)

    assert (site, *first(found)) == (f"layer.1.{slot}", id_, title)
    assert found.output is not None
    assert len(found.output) == len(TOKENS)


# --- the whole command ------------------------------------------------------------------


def test_a_diagnosis_feeds_tokens_one_at_a_time_where_asked(models: Models) -> None:
    path = models.path("llama")
    request = functools.partial(
        Request,
        reference=f"oracle:{path}",
        candidate=f"native+f32:{path}",
        token_ids=TOKENS,
        fault="decode-stale@1",
    )

    whole, steps = diagnose(request()), diagnose(request(decode=0))

    assert whole.verdict is Verdict.PASS
    assert (steps.verdict, steps.site, steps.wrong_side) == (
        Verdict.FAIL, "layer.1.attn_context", "candidate",
    )  # fmt: skip
    assert [cause.id for cause in steps.causes] == ["cache-stale"]
    assert (steps.reference.passes, steps.candidate.passes) == ((12,), (4, *[1] * 8))


def test_the_shortest_prompt_that_shows_it_is_fed_so_too(models: Models, tmp_path) -> None:
    path = models.path("llama")

    found = diagnose(
        Request(
            reference=f"oracle:{path}",
            candidate=f"native+f32:{path}",
            token_ids=TOKENS,
            fault="decode-stale@1",
            decode=0,
            output=tmp_path / "repro",
        )
    )

    assert found.reproduction is not None
    assert found.reproduction.token_ids == TOKENS[:2]
    assert (tmp_path / "repro" / "show.py").is_file()


@pytest.mark.parametrize("numerics", ["f32", "q8", "q8-kvf16", "f32-kvq8"])
def test_an_honest_run_in_steps_passes(models: Models, numerics: str) -> None:
    path = models.path("Q4_K")

    found = diagnose(
        Request(
            reference=f"oracle:{path}",
            candidate=f"native+{numerics}:{path}",
            token_ids=TOKENS,
            decode=0,
        )
    )

    assert found.verdict is Verdict.PASS


def test_two_sides_without_a_cache_cannot_be_fed_so(models: Models) -> None:
    path = models.path("llama")

    with pytest.raises(UsageError) as caught:
        diagnose(Request(reference=f"oracle:{path}", candidate=f"oracle:{path}", decode=0))

    assert str(caught.value) == (
        "error[APR-U001]: no side keeps a KV cache that can be traced\n"
        "  where     --decode\n"
        "  expected  on one side an engine of native, llamacpp, transformers\n"
        "  found     oracle and oracle\n"
        "  try       name one of them as the candidate; the oracle may stay the reference"
    )
