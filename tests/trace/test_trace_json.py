"""The JSON of `apr trace --json --payload`: upstream's says less than ours."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotejar.errors import CotejarError, MetadataError, TraceError
from cotejar.trace.forward_trace import UNKNOWN, Scope
from cotejar.trace.recorded_trace import read_recorded_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cotejar.trace.forward_trace import ForwardTrace

STATS = {
    "min": -1.5,
    "max": 2.0,
    "mean": 0.25,
    "std_dev": 0.5,
    "nan_count": 0,
    "inf_count": 0,
    "zero_count": 3,
    "count": 25088,
}
# The keys that `reference` lists of upstream's `apr trace --json --payload`.
UPSTREAM: dict[str, Any] = {
    "format": "GGUF",
    "architecture": "qwen2",
    "num_layers": 2,
    "hidden_dim": 3584,
    "vocab_size": 152064,
    "num_heads": 28,
    "num_kv_heads": 4,
    "prompt": "What is 2+2?",
    "encoded_tokens": [3838, 374, 220, 17, 10, 17, 30],
    "embedding": STATS,
    "layers": [
        {
            "layer_idx": n,
            **dict.fromkeys(
                ("attn_norm", "qkv", "attn_out", "ffn_norm", "ffn_out", "output"), STATS
            ),
        }
        for n in range(2)
    ],
    "final_norm": STATS,
    "logits_stats": STATS | {"count": 152064},
    "logits": {"vocab_size": 152064, "l2_norm": 9.5, "top_k": [{"token_id": 17, "logit": 9.0}]},
}
HINT = "write it again: `apr trace MODEL --payload --json > trace.json`"


def read(tmp_path: Path, content: object) -> ForwardTrace:
    path = tmp_path / "trace.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_recorded_trace(path)


def changed(*keys: str | int, value: object) -> dict[str, Any]:
    content = copy.deepcopy(UPSTREAM)
    holder: Any = content
    *outer, last = keys
    for key in outer:
        holder = holder[key]
    holder[last] = value
    return content


def test_what_upstream_says_is_read(tmp_path: Path) -> None:
    trace = read(tmp_path, UPSTREAM)

    assert trace.prompt == "What is 2+2?"
    assert trace.token_ids == (3838, 374, 220, 17, 10, 17, 30)
    assert trace.config == {
        "architecture": "qwen2",
        "num_layers": 2,
        "hidden_size": 3584,
        "vocab_size": 152064,
        "num_heads": 28,
        "num_kv_heads": 4,
    }
    assert len(trace.sites) == 2 * 6 + 3
    stats = trace.sites["layer.1.ffn_out"].stats[Scope.UNKNOWN]
    assert (stats.count, stats.zero_count, stats.min, stats.max) == (25088, 3, -1.5, 2.0)
    assert (stats.mean, stats.std) == (0.25, pytest.approx(0.5, rel=2**-50))


def test_what_upstream_does_not_say_is_unknown(tmp_path: Path) -> None:
    trace = read(tmp_path, UPSTREAM)

    assert trace.ddof is None
    assert trace.positions == ()
    assert trace.model.fingerprint == ""
    assert {r.capture_point for r in trace.sites.values()} == {UNKNOWN}
    assert {tuple(r.stats) for r in trace.sites.values()} == {(Scope.UNKNOWN,)}
    assert {r.shape for r in trace.sites.values()} == {(0, 0)}


@pytest.mark.parametrize("text", [" \n", "", "\t"])
def test_a_json_is_told_by_what_it_is(tmp_path: Path, text: str) -> None:
    assert len(read(tmp_path, text + json.dumps(UPSTREAM, indent=2)).sites) == 15


def test_aliases_of_slots_are_read(tmp_path: Path) -> None:
    content = changed("layers", 0, "ffn_swigl", value=STATS)

    assert "layer.0.ffn_swiglu_inner" in read(tmp_path, content).sites


def test_a_slot_that_was_not_measured_is_absent(tmp_path: Path) -> None:
    content = changed("layers", 0, "qkv", value=None)

    assert "layer.0.qkv" not in read(tmp_path, content).sites


def test_no_finite_value_needs_no_smallest_one(tmp_path: Path) -> None:
    nothing = STATS | {"nan_count": 25088, "zero_count": 0, "min": None, "max": None}

    trace = read(tmp_path, changed("embedding", value=nothing))

    stats = trace.sites["embed"].stats[Scope.UNKNOWN]
    assert (stats.min, stats.max, stats.mean) == (float("inf"), float("-inf"), 0.0)


def test_what_ours_says_more_is_read(tmp_path: Path) -> None:
    more = STATS | {"count": 12, "ddof": 1, "capture_point": "here", "shape": [3, 4]}
    ours = more | {"scopes": {"all": more, "last": STATS | {"count": 4}}}
    content = {"encoded_tokens": [1, 2, 3], "embedding": ours}

    trace = read(tmp_path, content)

    record = trace.sites["embed"]
    assert (record.shape, record.capture_point, trace.ddof) == ((3, 4), "here", 1)
    assert {s.value: stats.count for s, stats in record.stats.items()} == {"all": 12, "last": 4}


STATS_HOSTILE: dict[str, tuple[object, str, str]] = {
    "a list": ([], "embed", "[]"),
    "a negative count": (STATS | {"count": -1}, "embed unknown.count", "-1"),
    "a count of nothing": (
        STATS | {"count": 0, "zero_count": 0},
        "embed unknown",
        "'count': 0",
    ),
    "a huge count": (STATS | {"count": 10**30}, "embed unknown.count", str(10**30)),
    "a count that is true": (STATS | {"count": True}, "embed unknown.count", "True"),
    "more zeros than values": (STATS | {"zero_count": 25089}, "embed unknown", "25089"),
    "a mean that is text": (STATS | {"mean": "0"}, "embed unknown.mean", "0"),
    "no mean": ({k: v for k, v in STATS.items() if k != "mean"}, "embed unknown.mean", "None"),
    "a minimum above the maximum": (STATS | {"min": 3}, "embed unknown", "'min': 3"),
    "a std below 0": (STATS | {"std_dev": -0.5}, "embed unknown", "-0.5"),
    "a number beyond floats": (STATS | {"max": 10**400}, "embed unknown.max", "1000"),
    "a shape that lies": (STATS | {"shape": [7, 3], "scope": "all"}, "embed all", "25088"),
    "a shape below 0": (STATS | {"shape": [-1, 3]}, "embed.shape", "[-1, 3]"),
    "an unknown scope": (STATS | {"scope": "some"}, "embed.scopes", "some"),
    "a scope that is a list": (STATS | {"scope": ["all"]}, "embed.scopes", "all"),
    "no scope": (STATS | {"scopes": {}}, "embed.scopes", "none"),
    "a capture point of 3": (STATS | {"capture_point": 3}, "embed.capture_point", "3"),
    "a ddof of text": (STATS | {"ddof": "1"}, "embed.ddof", "1"),
}


@pytest.mark.parametrize("name", STATS_HOSTILE)
def test_statistics_that_no_values_can_have_are_refused(tmp_path: Path, name: str) -> None:
    value, part, found = STATS_HOSTILE[name]

    with pytest.raises(TraceError) as caught:
        read(tmp_path, changed("embedding", value=value))

    assert caught.value.problem == f"the JSON is no trace: {part}"
    assert found in caught.value.parts["found"]
    assert caught.value.parts["try"] == HINT


HOSTILE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a layer twice": (lambda: changed("layers", 1, "layer_idx", value=0), "layers"),
    "a layer below 0": (lambda: changed("layers", 1, "layer_idx", value=-1), "layers"),
    "a layer of a million": (lambda: changed("layers", 1, "layer_idx", value=10**6), "layers"),
    "a layer that is true": (lambda: changed("layers", 1, "layer_idx", value=True), "layers"),
    "a layer that is a list": (lambda: changed("layers", 1, value=[]), "layers"),
    "layers that are an object": (lambda: changed("layers", value={}), "layers"),
    "a site twice": (
        lambda: changed(
            "layers",
            0,
            value=UPSTREAM["layers"][0]
            | {
                "ffn_silu": STATS,
                "ffn_silu_gate": STATS,
            },
        ),
        "sites",
    ),
    "no statistics": (lambda: {"format": "GGUF", "layers": []}, "sites"),
    "a prompt of 7": (lambda: changed("prompt", value=7), "prompt"),
    "no hidden size": (lambda: changed("hidden_dim", value=0), "hidden_dim"),
    "metadata alone": (
        lambda: {"stats_source": "metadata-only", "layers": [{"layer_idx": 0, "qkv": None}]},
        "sites",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_json_that_does_not_hold_together_is_refused(tmp_path: Path, name: str) -> None:
    make, part = HOSTILE[name]

    with pytest.raises(TraceError) as caught:
        read(tmp_path, make())

    assert caught.value.problem == f"the JSON is no trace: {part}"


def test_the_whole_message(tmp_path: Path) -> None:
    with pytest.raises(TraceError) as caught:
        read(tmp_path, changed("layers", 1, "layer_idx", value=0))

    assert str(caught.value) == (
        "error[APR-R001]: the JSON is no trace: layers\n"
        f"  where     {tmp_path / 'trace.json'}\n"
        "  expected  each layer once\n"
        "  found     layer 0 twice\n"
        f"  try       {HINT}"
    )


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every value inside."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from paths(inner, (*path, key))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(where=st.sampled_from(sorted(paths(UPSTREAM), key=str)), value=ANYTHING)
def test_any_value_anywhere_gives_a_clear_error_or_a_trace(
    tmp_path: Path, where: tuple[str | int, ...], value: object
) -> None:
    try:
        trace = read(tmp_path, changed(*where, value=value))
    except CotejarError:
        return

    assert trace.sites


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(UPSTREAM)[:-7],
        json.dumps(UPSTREAM).replace("0.25", "NaN"),
        '{"a":' * 500 + "1" + "}" * 500,
        '{"embedding": 1, "embedding": 2}',
    ],
    ids=["cut short", "a NaN", "nested", "a key twice"],
)
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(MetadataError) as caught:
        read(tmp_path, text)

    assert str(tmp_path / "trace.json") in caught.value.parts["where"]
