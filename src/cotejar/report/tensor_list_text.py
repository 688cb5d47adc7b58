"""A list of tensors for people: a line a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.report.tables import (
    Column,
    heading,
    output_width,
    render_table,
    render_text,
    visible,
    with_unit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.files.tensor_list import ListedTensor, TensorList

_COLUMNS = (
    Column("tensor"),
    Column("type"),
    Column("shape", is_number=True),
    Column("bytes", is_number=True),
)
_OFFSET = (Column("offset", is_number=True),)
_STATS = tuple(
    Column(title, is_number=True)
    for title in ("mean", "std", "min", "max", "zeros", "NaN", "Inf")
)


def tensor_list_lines(found: TensorList) -> Iterator[str]:
    """The text of `apr tensors`."""
    yield heading(visible(str(found.path)))
    with_stats = found.tensors[0].stats is not None
    columns = _COLUMNS + (_STATS if with_stats else _OFFSET)
    rows = [_row(tensor, is_split=found.num_parts > 1) for tensor in found.tensors]
    yield from render_table(columns, rows, output_width())
    listed, matched = len(found.tensors), found.num_matched
    listed_bytes = sum(tensor.entry.num_bytes for tensor in found.tensors)
    more = f"; {matched - listed:,} more match (--limit)" if matched > listed else ""
    yield ""
    yield from render_text(
        f"{listed:,} of {found.num_tensors:,} tensors, {with_unit(listed_bytes)}{more}",
        output_width(),
    )


def _row(tensor: ListedTensor, *, is_split: bool) -> Sequence[str]:
    entry, stats = tensor.entry, tensor.stats
    row = [
        visible(entry.name),
        entry.block_type.label,
        " x ".join(map(str, entry.shape)),
        f"{entry.num_bytes:,}",
    ]
    if stats is None:
        part = f"part {entry.part_index + 1}: " if is_split else ""
        return [*row, f"{part}{entry.offset_bytes:,}"]
    figures = (stats.mean, stats.std, stats.min, stats.max)
    counts = (stats.zero_count, stats.nan_count, stats.inf_count)
    return [*row, *(f"{x:.4g}" for x in figures), *(f"{n:,}" if n else "" for n in counts)]
