"""Compare two stage files element by element: what `apr diff` does with `APRT` files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import NothingMeasuredError
from cotejar.files.elementwise import (
    ElementwiseDistance,
    measure_elements,
    require_threshold,
)
from cotejar.files.tensor_values import split_array
from cotejar.formats.apr.stage_file import StageFile, read_stage_file
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "apr-stage-diff-v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageDiff:
    """How two stage files of one layer and length differ."""

    path_a: Path
    path_b: Path
    layer: int | None
    distance: ElementwiseDistance
    threshold: float | None

    @property
    def is_same(self) -> bool:
        """No value differs, or all of them together by no more than the threshold."""
        return self.distance.is_within(self.threshold)

    @property
    def exit_code(self) -> int:
        """0 for the same, 1 where they differ, 3 where no pair of finite values was found."""
        if self.distance.num_compared == 0 and self.is_same:
            return Verdict.INCOMPARABLE.exit_code
        return 0 if self.is_same else 1

    def as_json(self) -> dict[str, object]:
        """Upstream's keys, then ours."""
        distance = self.distance
        return {
            "schema": SCHEMA,
            "path_a": self.path_a,
            "path_b": self.path_b,
            "layer": self.layer,
            "dim_product": distance.num_elements,
            "max_abs_diff": distance.max_abs,
            "max_abs_diff_index": distance.max_abs_index,
            "rms_diff": distance.rms_diff,
            "cosine_sim": distance.cosine,
            "top_diffs": [
                {"index": pair.index, "a": pair.a, "b": pair.b, "abs_diff": pair.abs_diff}
                for pair in distance.worst
            ],
            "rel_l2": distance.rel_l2,
            "num_compared": distance.num_compared,
            "num_different": distance.num_different,
            **distance.nonfinite_counts(),
            "threshold": self.threshold,
            "same": self.is_same,
            "exit_code": self.exit_code,
        }


def diff_stages(
    path_a: Path, path_b: Path, *, limit: int = 10, threshold: float | None = None
) -> StageDiff:
    """Compare two stage files.

    Args:
        path_a: the reference.
        path_b: the candidate.
        limit: how many of the largest differences are kept.
        threshold: the relative L2 up to which they count as the same; None for 0.

    Raises:
        UsageError: a threshold that decides nothing.
        FileError: one of them cannot be read.
        NothingMeasuredError: they are of different layers or lengths, or hold nothing.
    """
    require_threshold(threshold)
    a, b = read_stage_file(path_a), read_stage_file(path_b)
    where = f"{path_a} and {path_b}"
    if a.layer != b.layer:
        raise NothingMeasuredError(
            "the two stages are of different layers",
            where=where,
            expected=f"{_layer(a)} on both sides",
            found=f"{_layer(a)} and {_layer(b)}",
            hint="compare files of one stage: A/layer-N/STAGE.bin B/layer-N/STAGE.bin",
        )
    if a.values.size != b.values.size or a.values.size == 0:
        raise NothingMeasuredError(
            "the two stages have no common shape",
            where=where,
            expected=f"{a.values.size} values on both sides" if a.values.size else "values",
            found=f"{a.values.size} and {b.values.size} values",
            hint="save both from one prompt: the same tokens, all positions or the last",
        )
    distance = measure_elements(split_array(a.values), split_array(b.values), num_worst=limit)
    return StageDiff(
        path_a=path_a, path_b=path_b, layer=a.layer, distance=distance, threshold=threshold
    )


def _layer(stage: StageFile) -> str:
    return "no layer" if stage.layer is None else f"layer {stage.layer}"
