"""Two traces: a list of what differs, with no figure where one would mean nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import NothingMeasuredError
from cotejar.files.diff_traces import SiteStatus, diff_traces
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
from cotejar.trace.trace_file import write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.files.diff_traces import SiteDiff, TraceDiff

SLOTS = ("attn_norm", "ffn_swiglu_inner", "output")
VALUES = {
    slot: np.random.default_rng(i).standard_normal((4, 6)) for i, slot in enumerate(SLOTS)
}


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Path]:
    """Write a trace of 4 tokens and one layer; `changes` go into the ForwardTrace."""

    def write(
        values: dict[str, np.ndarray] = VALUES,
        *,
        scopes: tuple[Scope, ...] = BOTH_SCOPES,
        arrays: bool = True,
        **changes: object,
    ) -> Path:
        slots = EVERY_ARRAY if arrays else frozenset[str]()
        recorder = TraceRecorder(Capture(scopes=scopes, array_slots=slots))
        for slot, array in values.items():
            recorder.record(slot, array, 0)
        trace = ForwardTrace(
            engine=EngineInfo(name="native", build="1", numerics="f32"),
            model=ModelInfo(
                name="m", format="gguf", architecture="llama", fingerprint="sha256:1"
            ),
            config={"num_layers": 1},
            token_ids=(1, 2, 3, 4),
            positions=(0, 1, 2, 3),
            prompt=None,
            sites=recorder.sites,
            arrays=recorder.arrays,
        )
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.trace"
        write_trace(path, replace(trace, **changes))
        return path

    return write


def changed(slot: str, token: int, by: float) -> dict[str, np.ndarray]:
    array = VALUES[slot].copy()
    array[token, 0] += by
    return VALUES | {slot: array}


def site(diff: TraceDiff, slot: str) -> SiteDiff:
    return next(one for one in diff.sites if one.site == f"layer.0.{slot}")


def test_a_trace_is_the_same_as_itself(record: Callable[..., Path]) -> None:
    diff = diff_traces(record(), record())

    assert [one.status for one in diff.sites] == [SiteStatus.SAME] * 3
    assert (diff.num_compared, diff.warnings, diff.exit_code) == (3, [], 0)


def test_one_element_is_found_at_its_place(record: Callable[..., Path]) -> None:
    diff = diff_traces(record(), record(changed("output", 2, 1e-12)))

    found = site(diff, "output")
    assert found.status is SiteStatus.DIFFERS
    assert found.distance is not None
    assert found.distance.max_abs_index == 2 * 6
    assert found.distance.num_different == 1
    assert [one.site for one in diff.worst_first] == ["layer.0.output"]
    assert diff.exit_code == 1


def test_the_worst_come_first_and_a_nan_before_all(record: Callable[..., Path]) -> None:
    b = {slot: array + 0.1 * i for i, (slot, array) in enumerate(VALUES.items())}
    b["attn_norm"] = b["attn_norm"].copy()
    b["attn_norm"][0, 0] = math.nan

    diff = diff_traces(record(), record(b), threshold=1e9)

    assert [one.site.split(".")[2] for one in diff.worst_first] == ["attn_norm"]
    assert [one.site.split(".")[2] for one in diff_traces(record(), record(b)).worst_first] == [
        "attn_norm",
        "output",
        "ffn_swiglu_inner",
    ]


def test_other_tokens_are_said_and_decide(record: Callable[..., Path]) -> None:
    diff = diff_traces(record(), record(token_ids=(1, 2, 9, 4)))

    assert diff.warnings == [
        "the token_ids differ, first at index 2, 3 against 9: every site saw another input"
    ]
    assert diff.exit_code == 1


def test_other_engines_are_listed_and_do_not_decide(record: Callable[..., Path]) -> None:
    engine = EngineInfo(name="oracle", build="2", numerics="f64")

    diff = diff_traces(record(), record(engine=engine))

    differing = [(fact.name, fact.a, fact.b) for fact in diff.facts if not fact.is_same]
    assert differing == [
        ("engine", "native", "oracle"),
        ("build", "1", "2"),
        ("numerics", "f32", "f64"),
    ]
    assert diff.exit_code == 0


def test_unequal_samples_get_no_figure(record: Callable[..., Path]) -> None:
    diff = diff_traces(record(scopes=(Scope.ALL,)), record(scopes=(Scope.LAST,)))

    found = site(diff, "ffn_swiglu_inner")
    assert found.status is SiteStatus.SAMPLES_DIFFER
    assert found.message == "24 values (all) of width 6 against 6 values (last) of width 6"
    assert (found.std_ratio, found.distance) == (None, None)
    assert diff.warnings == [
        "the samples differ at 3 of 3 sites, first at layer.0.attn_norm: "
        "24 values (all) of width 6 against 6 values (last) of width 6"
    ]
    assert diff.num_compared == 0
    assert diff.exit_code == 3


def test_of_both_scopes_the_one_that_both_have_is_compared(record: Callable[..., Path]) -> None:
    a = record(changed("output", 0, 1.0))  # not the last token

    diff = diff_traces(a, record(scopes=(Scope.LAST,)))

    assert {one.scope for one in diff.sites} == {Scope.LAST}
    assert site(diff, "output").distance is not None
    assert diff.exit_code == 0


def test_another_number_of_tokens_leaves_the_last_one(record: Callable[..., Path]) -> None:
    longer = {slot: np.vstack([array[:1], array]) for slot, array in VALUES.items()}
    b = record(longer, token_ids=(7, 1, 2, 3, 4), positions=(0, 1, 2, 3, 4))

    diff = diff_traces(record(), b)

    assert {one.scope for one in diff.sites} == {Scope.LAST}
    assert diff.warnings == [
        "the token_ids differ, 4 against 5 of them: every site saw another input",
        "the positions differ, 4 against 5 of them: every site saw other positions",
    ]
    assert diff.exit_code == 1


def test_another_width_is_another_sample(record: Callable[..., Path]) -> None:
    b = VALUES | {"output": np.ones((4, 12))}

    found = site(diff_traces(record(), record(b)), "output")

    assert found.status is SiteStatus.SAMPLES_DIFFER
    assert found.message == (
        "24 values (all) and 6 values (last) of width 6 against "
        "48 values (all) and 12 values (last) of width 12"
    )


def test_another_capture_point_gets_no_figure(record: Callable[..., Path]) -> None:
    a, b = record(), record()
    data = b.read_bytes()
    mine, other = b"after the feed-forward's residual", b"afore the feed-forward's residual"
    assert data.count(mine) == 1
    b.write_bytes(data.replace(mine, other))

    diff = diff_traces(a, b)

    found = site(diff, "output")
    assert found.status is SiteStatus.CAPTURE_POINTS_DIFFER
    assert found.message == (
        '"after the feed-forward\'s residual addition" against '
        '"afore the feed-forward\'s residual addition"'
    )
    assert diff.exit_code == 1


def test_sites_of_one_side_are_named(record: Callable[..., Path]) -> None:
    fewer = {slot: VALUES[slot] for slot in SLOTS[:2]}

    diff = diff_traces(record(), record(fewer))

    assert site(diff, "output").status is SiteStatus.ONLY_IN_A
    assert diff.exit_code == 1


def test_statistics_alone_are_compared_to_the_last_bit(record: Callable[..., Path]) -> None:
    a = record(arrays=False)
    b = record(changed("output", 1, 1e-9), arrays=False)

    diff = diff_traces(a, b)
    found = site(diff, "output")

    assert (found.status, found.distance) == (SiteStatus.DIFFERS, None)
    assert found.stats is not None
    assert 0 < found.stats_distance < 1e-8
    assert diff_traces(a, b, threshold=1e-8).exit_code == 0
    assert diff_traces(a, record(arrays=False)).exit_code == 0


def test_statistics_count_nans(record: Callable[..., Path]) -> None:
    broken = VALUES["output"].copy()
    broken[0, 0] = math.nan
    b = record(VALUES | {"output": broken}, arrays=False)

    diff = diff_traces(record(arrays=False), b, threshold=1e9)

    assert site(diff, "output").status is SiteStatus.DIFFERS


def test_a_filter_that_leaves_nothing_is_no_pass(record: Callable[..., Path]) -> None:
    a, b = record(), record()

    with pytest.raises(NothingMeasuredError) as caught:
        diff_traces(a, b, name_filter="nope")

    assert str(caught.value) == (
        "error[APR-U009]: no site is left to compare\n"
        f"  where     {a} and {b}\n"
        "  expected  sites like 'layer.0.attn_norm'\n"
        "  found     'nope', which none of 3 has\n"
        "  try       a text is looked for anywhere in a site's name: --filter ffn_gate"
    )


def test_a_filter_restricts_what_decides(record: Callable[..., Path]) -> None:
    a, b = record(), record(changed("output", 0, 1.0))

    assert diff_traces(a, b, name_filter="attn_norm").exit_code == 0
    assert diff_traces(a, b, name_filter="layer.*.output").exit_code == 1


def test_the_json_has_every_site(record: Callable[..., Path]) -> None:
    facts = diff_traces(record(), record(changed("output", 0, 1.0))).as_json()

    assert [one["site"] for one in facts["sites"]] == [f"layer.0.{slot}" for slot in SLOTS]
    assert facts["worst"] == ["layer.0.output"]
    assert facts["counts"]["same"] == 2
    assert facts["sites"][2]["elementwise"] is True
    assert facts["sites"][2]["max_abs"] == 1.0
    assert facts["exit_code"] == 1
