"""Recordings that lack something: the last token alone, layers, one whole side, numbers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import find_causes
from cotejar.engines.native.forward import Pass
from cotejar.verdict import Verdict

from .conftest import TOKENS, first_wrong_case, observe, run
from .planted import first
from .test_diagnose import HeadTransposed, NoRope, judge, last_only, only, saved

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models


def kept(trace: ForwardTrace, names: set[str]) -> ForwardTrace:
    """These sites of the last token alone, as a program that computes no other logits."""
    short = last_only(trace)
    return replace(
        trace,
        sites={n: short.sites[n] if n in names else r for n, r in trace.sites.items()},
        arrays={n: short.arrays[n] if n in names else a for n, a in trace.arrays.items()},
    )


@pytest.mark.parametrize("names", [{"logits"}, {"final_norm", "logits"}])
def test_logits_of_the_last_token_alone_on_both_sides_are_replayed(
    models: Models, tmp_path: Path, names: set[str]
) -> None:
    right, wrong = run(models("llama"), "f32"), run(models("llama"), "q8", HeadTransposed)
    reference = saved(tmp_path / "right.trace", kept(right, names))
    candidate = saved(tmp_path / "wrong.trace", kept(wrong, names))
    again = saved(tmp_path / "again.trace", kept(run(models("llama"), "q8"), names))
    folder = tmp_path / "repro"

    healthy = judge(reference, again, model=models.path("llama"))
    result = judge(reference, candidate, model=models.path("llama"), output=folder)

    assert (healthy.verdict, healthy.site) == (Verdict.PASS, None)
    assert "every one of 70 operations" in healthy.summary
    assert (result.site, result.wrong_side) == ("logits", "candidate")
    assert [c.id for c in result.causes] == ["weight-transposed"]
    assert result.reproduction is not None
    assert result.reproduction.token_ids == TOKENS
    shown = subprocess.run(
        [sys.executable, "show.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (1, "")
    assert shown.stdout.startswith("logits of the candidate, token 11\n")


def test_layers_that_nobody_saw_do_not_pass(models: Models, tmp_path: Path) -> None:
    trace = run(models("llama"), "f32")
    seen = [n for n in trace.sites if not n.startswith("layer.1.") and n[0] not in "fl"]
    seen += [n for n in trace.sites if n.startswith("layer.0.")]
    recorded = saved(tmp_path / "part.trace", only(trace, *seen))

    result = judge(f"native+f32:{models.path('llama')}", recorded)

    assert (result.verdict, result.wrong_side) == (Verdict.INCOMPARABLE, "neither")
    assert result.summary == (
        "52 operations could be replayed and are right; 18 of 35 of the candidate were not "
        "seen: layer.1.attn_norm to logits"
    )
    assert result.next_step.startswith("capture every array of the candidate: `apr trace ")


def test_the_layers_that_were_asked_for_pass_alone(models: Models, tmp_path: Path) -> None:
    trace = run(models("llama"), "f32")
    seen = [n for n in trace.sites if not n.startswith("layer.0.")]
    recorded = saved(tmp_path / "part.trace", only(trace, *seen, "layer.0.output"))

    result = judge(f"native+f32:{models.path('llama')}", recorded, layers="1")

    assert result.verdict is Verdict.PASS


def test_what_was_derived_on_the_way_counts_as_seen(models: Models, tmp_path: Path) -> None:
    trace = run(models("llama"), "f32")
    names = [n for n in trace.sites if n.split(".")[-1] not in {"q_rope", "k_rope"}]
    recorded = saved(tmp_path / "part.trace", only(trace, *names))

    result = judge(f"native+f32:{models.path('llama')}", recorded)

    assert result.verdict is Verdict.PASS
    assert "every one of 66 operations" in result.summary


def test_one_side_that_recorded_nothing_does_not_hide_the_other(
    models: Models, tmp_path: Path
) -> None:
    silent = saved(tmp_path / "a.trace", replace(run(models("llama"), "f32"), arrays={}))
    faulty = saved(tmp_path / "b.trace", run(models("llama"), "f32", NoRope))

    result = judge(silent, faulty, model=models.path("llama"))

    assert (result.verdict, result.site) == (Verdict.FAIL, "layer.1.k_rope")
    assert result.summary == (
        "the candidate is wrong at layer.1.k_rope: RoPE is left out; no operation of the "
        "reference can be replayed"
    )


class NotANumber(Pass):
    """Layer 1's values are NaN."""

    def linear(self, layer: int, part: str, values: np.ndarray) -> np.ndarray:
        product = super().linear(layer, part, values)  # type: ignore[arg-type]
        return product * np.float32(np.nan) if (layer, part) == (1, "v") else product


def test_nan_on_both_sides_names_both_and_is_shown(models: Models, tmp_path: Path) -> None:
    sides = [
        saved(tmp_path / f"{n}.trace", run(models("llama"), numerics, NotANumber))
        for n, numerics in enumerate(("f32", "q8"))
    ]
    folder = tmp_path / "repro"

    result = judge(*sides, model=models.path("llama"), output=folder)

    assert (result.verdict, result.site, result.wrong_side) == (
        Verdict.FAIL, "layer.1.v", "both",
    )  # fmt: skip
    assert result.summary == (
        "the first numbers that are not finite are on both sides: 384 of 384 values at "
        "layer.1.v of the reference are NaN or infinite"
    )
    assert result.next_step == (
        f"run {folder}/show.py: look at what makes layer.1.v there: everything behind it is "
        "lost"
    )
    shown = subprocess.run(
        [sys.executable, "show.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "off by nan" in shown.stdout


def test_nan_whose_input_was_not_captured_writes_nothing_and_says_so(
    models: Models, tmp_path: Path
) -> None:
    trace = run(models("llama"), "f32", NotANumber)
    recorded = saved(tmp_path / "a.trace", only(trace, "layer.1.v"))
    folder = tmp_path / "repro"

    result = judge(f"native+f32:{models.path('llama')}", recorded, output=folder)

    assert (result.verdict, result.site, result.reproduction) == (
        Verdict.FAIL, "layer.1.v", None,
    )  # fmt: skip
    assert result.next_step == (
        "look at what makes layer.1.v there: everything behind it is lost; nothing was "
        f"written to {folder}, for what went in was not captured"
    )
    assert not folder.exists()


LAYER_1 = ("q", "q_rope", "k_rope", "v", "attn_context", "attn_out", "ffn_gate", "output")


@pytest.mark.parametrize("site", ["embed", *(f"layer.1.{slot}" for slot in LAYER_1)])
def test_one_site_of_the_last_token_alone_is_no_fault(models: Models, site: str) -> None:
    """A row says nothing of its place, nor which keys it saw: it is not held against either."""
    model = models("llama")
    trace = kept(run(model, "f32"), {site})

    errors = replay_sides([observe(trace, model)])

    assert errors
    assert [error.site for error in errors if not error.explained] == []


def test_an_embedding_of_the_last_token_alone_is_named(models: Models) -> None:
    model = models("gemma3")
    trace = kept(run(model, "f32"), {"embed"})
    scale = np.float32(model.declared.config.embedding_scale)
    wrong = replace(trace, arrays={**trace.arrays, "embed": trace.arrays["embed"] / scale})

    found = find_causes(first_wrong_case(observe(wrong, model)))

    assert first(found) == ("embedding-scale", "the embedding's scale of 9.798 is left out")


def test_steps_are_wrong_beside_a_site_of_the_last_token_alone(models: Models) -> None:
    """What was recorded of one row alone is not asked for others."""
    model = models("llama")
    whole = run(model, "f32")
    trace = replace(kept(whole, {"layer.1.ffn_up"}), passes=(8, 1, 1, 1, 1))
    gate = trace.arrays["layer.1.ffn_gate"].copy()
    gate[8:] = whole.arrays["layer.1.ffn_up"][8:]
    arrays = {**trace.arrays, "layer.1.ffn_gate": gate}

    found = find_causes(first_wrong_case(observe(replace(trace, arrays=arrays), model)))

    title = (
        "gate and up change places: the weight is model.layers.1.mlp.up_proj.weight and ought "
        "to be model.layers.1.mlp.gate_proj.weight, in the tokens fed one at a time"
    )
    assert first(found) == ("gate-up-swapped", title)
