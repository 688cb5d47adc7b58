"""Compare two files of one kind: models, traces or stage files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.errors import UsageError
from cotejar.files.diff_models import DiffOptions, ModelDiff, diff_models
from cotejar.files.diff_stages import StageDiff, diff_stages
from cotejar.files.diff_traces import TraceDiff, diff_traces
from cotejar.files.file_kind import find_file_kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FileDiff = ModelDiff | TraceDiff | StageDiff

_KINDS = {"model": "a model", "trace": "a trace", "stage": "a stage file"}


def diff_files(
    path_a: str | Path,
    path_b: str | Path,
    options: DiffOptions,
    *,
    limit: int = 10,
    on_progress: Callable[[str, int, int], None] = lambda _name, _done, _total: None,
) -> FileDiff:
    """Compare two files, each told by its bytes.

    Args:
        path_a: the reference.
        path_b: the candidate.
        options: for models; of traces and stage files the filter and threshold count.
        limit: how many of the largest differences of two stage files are kept.
        on_progress: called with what is being compared, how many are done, and of how many.

    Raises:
        UsageError: the two are of different kinds.
        FileError, TraceError, ModelError: one of them cannot be read.
        NothingMeasuredError: nothing is left to compare.
    """
    (kind, a), (other, b) = find_file_kind(path_a), find_file_kind(path_b)
    if kind != other:
        raise UsageError(
            "the two files are of different kinds",
            where=f"{a} and {b}",
            expected="two models, two traces, or two stage files",
            found=f"{_KINDS[kind]} and {_KINDS[other]}",
            hint="record a trace of the model: `apr trace MODEL --payload -o run.trace`",
        )
    if kind == "trace":
        return diff_traces(
            a,
            b,
            name_filter=options.name_filter,
            threshold=options.threshold,
            on_site=on_progress,
        )
    if kind == "stage":
        return diff_stages(a, b, limit=limit, threshold=options.threshold)
    return diff_models(a, b, options, on_progress)
