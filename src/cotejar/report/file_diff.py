"""A difference of any kind, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.files.diff_models import ModelDiff
from cotejar.files.diff_traces import TraceDiff
from cotejar.report.model_diff_text import model_diff_lines
from cotejar.report.trace_diff_text import stage_diff_lines, trace_diff_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cotejar.files.diff_files import FileDiff


def file_diff_lines(diff: FileDiff, *, limit: int, with_values: bool) -> Iterable[str]:
    """The text of `apr diff`; `limit` for each list in it."""
    if isinstance(diff, ModelDiff):
        return model_diff_lines(diff, limit=limit, with_values=with_values)
    if isinstance(diff, TraceDiff):
        return trace_diff_lines(diff, limit=limit)
    return stage_diff_lines(diff)


def file_diff_json(diff: FileDiff, *, limit: int) -> dict[str, object]:
    """The object of `apr diff --json`; `limit` for the tensors that are not equal."""
    return diff.as_json(limit) if isinstance(diff, ModelDiff) else diff.as_json()
