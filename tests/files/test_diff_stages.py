"""Two stage files: upstream's object, and what upstream leaves unsaid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import NothingMeasuredError, WrongMagicError
from cotejar.files.diff_stages import diff_stages
from cotejar.formats.apr.stage_file import StageFile, write_stage_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, values: list[float], layer: int | None = 3) -> Path:
        path = tmp_path / name
        write_stage_file(path, StageFile(layer=layer, values=np.array(values, np.float32)))
        return path

    return write


def test_the_object_has_upstreams_keys(stage: Callable[..., Path]) -> None:
    a, b = stage("a", [3, 4, 0, 0]), stage("b", [3, 4, 0, 0.5])

    facts = diff_stages(a, b).as_json()

    assert list(facts)[:10] == [
        "schema",
        "path_a",
        "path_b",
        "layer",
        "dim_product",
        "max_abs_diff",
        "max_abs_diff_index",
        "rms_diff",
        "cosine_sim",
        "top_diffs",
    ]
    assert facts["schema"] == "apr-stage-diff-v1"
    assert (facts["layer"], facts["dim_product"]) == (3, 4)
    assert (facts["max_abs_diff"], facts["max_abs_diff_index"]) == (0.5, 3)
    assert facts["rms_diff"] == 0.25
    assert facts["top_diffs"] == [{"index": 3, "a": 0.0, "b": 0.5, "abs_diff": 0.5}]
    assert facts["exit_code"] == 1


def test_the_same_values_are_the_same(stage: Callable[..., Path]) -> None:
    diff = diff_stages(stage("a", [1, 2]), stage("b", [1, 2]))

    assert (diff.is_same, diff.exit_code, diff.as_json()["top_diffs"]) == (True, 0, [])


def test_a_nan_on_one_side_is_flagged_and_differs(stage: Callable[..., Path]) -> None:
    diff = diff_stages(stage("a", [1, 2]), stage("b", [1, math.nan]), threshold=10.0)
    facts = diff.as_json()

    assert (facts["nan_count_b"], facts["nonfinite_mismatches"]) == (1, 1)
    assert diff.exit_code == 1


def test_nans_alone_are_nothing_compared(stage: Callable[..., Path]) -> None:
    assert diff_stages(stage("a", [math.nan]), stage("b", [math.nan])).exit_code == 3


def test_a_threshold_lets_noise_through_and_a_larger_difference_not(
    stage: Callable[..., Path],
) -> None:
    a, b = stage("a", [3, 4]), stage("b", [3, 4.5])  # rel L2 0.5 / 5

    assert diff_stages(a, b, threshold=0.1).exit_code == 0
    assert diff_stages(a, b, threshold=0.0999).exit_code == 1


def test_only_so_many_are_listed(stage: Callable[..., Path]) -> None:
    diff = diff_stages(stage("a", [0, 0, 0]), stage("b", [1, 3, 2]), limit=2)

    assert [pair.index for pair in diff.distance.worst] == [1, 2]


def test_other_layers_are_not_compared(stage: Callable[..., Path]) -> None:
    a, b = stage("a", [1]), stage("b", [1], layer=None)

    with pytest.raises(NothingMeasuredError) as caught:
        diff_stages(a, b)

    assert str(caught.value) == (
        "error[APR-U009]: the two stages are of different layers\n"
        f"  where     {a} and {b}\n"
        "  expected  layer 3 on both sides\n"
        "  found     layer 3 and no layer\n"
        "  try       compare files of one stage: A/layer-N/STAGE.bin B/layer-N/STAGE.bin"
    )
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0], "1 values on both sides"), ([], "values")]
)
def test_other_lengths_are_not_compared(
    stage: Callable[..., Path], values: list[float], expected: str
) -> None:
    a, b = stage("a", values), stage("b", [1.0, 2.0] if values else [])

    with pytest.raises(NothingMeasuredError) as caught:
        diff_stages(a, b)

    assert str(caught.value) == (
        "error[APR-U009]: the two stages have no common shape\n"
        f"  where     {a} and {b}\n"
        f"  expected  {expected}\n"
        f"  found     {len(values)} and {2 * len(values)} values\n"
        "  try       save both from one prompt: the same tokens, all positions or the last"
    )


def test_another_file_is_refused(stage: Callable[..., Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"GGUF" + bytes(20))

    with pytest.raises(WrongMagicError):
        diff_stages(stage("a", [1]), other)
