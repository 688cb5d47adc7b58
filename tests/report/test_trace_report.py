"""A forward trace for people and for other tools, from traces made by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from cotejar.engines.run_trace import TraceResult
from cotejar.report.json_output import encode_json
from cotejar.report.trace import top_logits, trace_json, trace_lines
from cotejar.trace.forward_trace import (
    BOTH_SCOPES,
    EVERY_ARRAY,
    Capture,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    TraceRecorder,
)
from cotejar.trace.site import CONTRACT_SLOTS, SLOTS, parse_site

ROWS = np.array([[1.0, 2.0], [3.0, 6.0]])


def make_trace(
    values: dict[str, np.ndarray] | None = None,
    *,
    scopes: tuple[Scope, ...] = BOTH_SCOPES,
    arrays: frozenset[str] = EVERY_ARRAY,
) -> ForwardTrace:
    """Two tokens of one layer."""
    if values is None:
        names = ["embed", *(f"layer.0.{slot}" for slot in SLOTS), "final_norm", "logits"]
        values = dict.fromkeys(names, ROWS)
    recorder = TraceRecorder(Capture(scopes=scopes, array_slots=arrays))
    for name, array in values.items():
        site = parse_site(name)
        recorder.record(site.slot, array, site.layer)
    return ForwardTrace(
        engine=EngineInfo(name="native", build="cotejar 0.1.0", numerics="q8"),
        model=ModelInfo(
            name="m.gguf",
            format="gguf",
            architecture="llama",
            fingerprint="sha256:12ab",
            product_types=("F16", "F32"),
        ),
        config={"num_layers": 12, "hidden_size": 2, "vocab_size": 2, "rope_theta": 10000.0},
        token_ids=(7, 8),
        positions=(0, 1),
        prompt="Hi\n",
        sites=recorder.sites,
        arrays=recorder.arrays,
    )


def result_of(trace: ForwardTrace, *, logits: bool = True) -> TraceResult:
    last = trace.arrays["logits"][-1] if logits and "logits" in trace.arrays else None
    return TraceResult(trace=trace, model=None, last_logits=last)


def lines_of(trace: ForwardTrace, *, brief: bool = False) -> list[str]:
    return list(trace_lines(result_of(trace), brief=brief))


STATS = "all n=4 mean=  3.0000 std=  2.1602 | last n=2 mean=  4.5000 std=  2.1213"
"""Of 1 2 3 6 the mean is 3 and the deviation sqrt(14/3); of 3 6 they are 4.5, sqrt(9/2)."""


def test_the_whole_text() -> None:
    slots = [f"    {slot + ':':<17} {STATS}" for slot in CONTRACT_SLOTS]
    every = "range=[1.0000, 6.0000] mean=3.0000 std=2.1602"
    last = "range=[3.0000, 6.0000] mean=4.5000 std=2.1213"
    assert lines_of(make_trace()) == [
        "Traced Inference (APR-TRACE-001)",
        "",
        "Format: gguf   Model: m.gguf",
        "Weights: sha256:12ab",
        "Engine: native+q8  (cotejar 0.1.0)",
        "Products: weights in F16, F32; activations in f16",
        "Test prompt: Hi\\n",
        "Encoded tokens: [7, 8]",
        "",
        "FORWARD PASS (with layer tracing):",
        f"EMBEDDING (all): {every}",
        f"EMBEDDING (last): {last}",
        "",
        "LAYER-BY-LAYER ACTIVATIONS:",
        "Layer  0/12 [OK]",
        *slots,
        "",
        f"FINAL LAYER NORM (all): {every}",
        f"FINAL LAYER NORM (last): {last}",
        f"LM_HEAD (all): {every}",
        f"LM_HEAD (last): {last}",
        "Top 5 predictions:",
        "  1. token_id=1, logit=6.0000",
        "  2. token_id=0, logit=3.0000",
        "",
        "TRACE SUMMARY",
        "  m.gguf, native+q8: 22 sites, scope all and last, 2 tokens, std with ddof 1",
        "  every value is finite",
    ]


def test_a_slot_that_was_not_observed_says_so() -> None:
    trace = make_trace()
    sites = {n: r for n, r in trace.sites.items() if n not in {"layer.0.qkv", "embed"}}

    lines = lines_of(replace(trace, sites=sites))

    assert "    qkv:              not observed" in lines
    assert "EMBEDDING: not observed" in lines


@pytest.mark.parametrize(
    ("bad", "mark"),
    [
        ([math.nan], " NaN:1"),
        ([math.inf, -math.inf], " Inf:2"),
        ([math.nan, math.inf], " NaN:1 Inf:1"),
    ],
)
def test_a_number_that_is_none_is_an_anomaly_and_is_named(bad: list[float], mark: str) -> None:
    rows = ROWS.copy()
    rows.reshape(-1)[: len(bad)] = bad
    broken = make_trace(dict.fromkeys(["layer.0.qkv"], ROWS) | {"layer.3.ffn_up": rows})

    lines = lines_of(broken)

    (marked,) = [line for line in lines if line.startswith("    ffn_up:") and mark in line]
    assert f"{mark} | last n=2" in marked  # in scope all, and not in last
    assert "Layer  3/12 [ANOMALY]" in lines
    assert "Layer  0/12 [OK]" in lines
    assert lines[-1] == "  NaN or infinite at 1 sites; the first is layer.3.ffn_up"


def test_without_logits_there_is_no_prediction() -> None:
    result = result_of(make_trace(), logits=False)

    assert not [line for line in trace_lines(result) if "predictions" in line]
    assert trace_json(result)["logits"] is None


def test_ids_without_a_text_say_so() -> None:
    assert "Test prompt: (token ids)" in lines_of(replace(make_trace(), prompt=None))


@pytest.mark.parametrize("part", ["name", "build", "numerics"])
def test_a_strangers_names_send_nothing_to_the_terminal(part: str) -> None:
    trace = make_trace()
    engine = replace(trace.engine, **{part: "\x1b[2J"})
    model = replace(trace.model, name="\x1b[1m", format="\x1b[1m", fingerprint="\x1b[1m")

    for brief in (False, True):
        text = "\n".join(lines_of(replace(trace, engine=engine, model=model), brief=brief))

        assert "\x1b" not in text
        assert "\\x1b[1m" in text


def test_the_largest_logits_come_first_and_of_equals_the_lowest_id() -> None:
    row = np.array([1.0, 5.0, 5.0, 7.0, -2.0, 0.0, 5.0], np.float32)

    assert top_logits(row) == [(3, 7.0), (1, 5.0), (2, 5.0), (6, 5.0), (0, 1.0)]
    assert top_logits(row, 1) == [(3, 7.0)]


def test_numbers_that_are_none_are_no_predictions() -> None:
    row = np.array([math.inf] * 12 + [math.nan, 2.0, -math.inf, 3.0])

    assert top_logits(row) == [(15, 3.0), (13, 2.0)]


def test_the_json_of_a_slot() -> None:
    facts = json.loads(encode_json(trace_json(result_of(make_trace()))))

    every = {
        "min": 1.0,
        "max": 6.0,
        "mean": 3.0,
        "std_dev": pytest.approx(math.sqrt(14 / 3)),
        "rms": pytest.approx(math.sqrt(50 / 4)),
        "nan_count": 0,
        "inf_count": 0,
        "zero_count": 0,
        "count": 4,
    }
    last = {
        **every,
        "min": 3.0,
        "mean": 4.5,
        "std_dev": pytest.approx(math.sqrt(9 / 2)),
        "rms": pytest.approx(math.sqrt(45 / 2)),
        "count": 2,
    }
    assert facts["layers"][0]["attn_norm"] == every | {
        "scope": "all",
        "ddof": 1,
        "capture_point": "after the RMSNorm before attention, times its weight",
        "shape": [2, 2],
        "scopes": {"all": every, "last": last},
    }


def test_the_first_scope_of_the_trace_is_the_one_of_upstreams_keys() -> None:
    facts = trace_json(result_of(make_trace(scopes=(Scope.LAST,))))

    slot = facts["layers"][0]["qkv"]
    assert (slot["scope"], slot["count"], slot["mean"]) == ("last", 2, 4.5)
    assert list(slot["scopes"]) == ["last"]


def test_the_json_keeps_its_keys_where_a_slot_is_missing() -> None:
    facts = trace_json(result_of(make_trace({"layer.4.qkv": ROWS})))

    assert [layer["layer_idx"] for layer in facts["layers"]] == [4]
    assert facts["layers"][0]["ffn_up"] is None
    assert set(facts["layers"][0]) == {"layer_idx", *SLOTS}
    assert facts["embedding"] is facts["final_norm"] is facts["logits_stats"] is None


def test_the_json_of_no_finite_number_is_still_json() -> None:
    facts = trace_json(result_of(make_trace({"layer.0.qkv": np.full((2, 2), math.nan)})))

    slot = json.loads(encode_json(facts))["layers"][0]["qkv"]
    assert (slot["nan_count"], slot["min"], slot["min_nonfinite"]) == (4, None, "Infinity")


def test_the_logits_of_the_json_are_the_last_positions() -> None:
    facts = trace_json(result_of(make_trace()))

    assert facts["logits"] == {
        "vocab_size": 2,
        "l2_norm": pytest.approx(math.sqrt(45)),
        "top_k": [{"token_id": 1, "logit": 6.0}, {"token_id": 0, "logit": 3.0}],
    }
