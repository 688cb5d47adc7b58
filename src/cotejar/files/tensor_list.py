"""What `apr tensors` lists: a file's tensor table, with statistics of the values if asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import UsageError
from cotejar.files.file_kind import find_file_kind
from cotejar.files.name_filter import NameFilter
from cotejar.files.tensor_values import measure_chunks, open_values
from cotejar.formats.open_model import open_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.formats.model_file import TensorEntry
    from cotejar.trace.stats import ActivationStats


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedTensor:
    """A line of the list."""

    entry: TensorEntry
    stats: ActivationStats | None
    """Of the decoded values; None where it was not asked for."""

    def as_json(self, *, is_split: bool) -> dict[str, object]:
        """Upstream's keys first, then ours."""
        entry, stats = self.entry, self.stats
        facts: dict[str, object] = {
            "name": entry.name,
            "shape": list(entry.shape),
            "dtype": entry.block_type.label,
            "size_bytes": entry.num_bytes,
            "offset_bytes": entry.offset_bytes,
        }
        if is_split:
            facts["part_index"] = entry.part_index
        if stats is not None:
            facts |= {
                "mean": stats.mean,
                "std": stats.std,
                "min": stats.min,
                "max": stats.max,
                "nan_count": stats.nan_count,
                "inf_count": stats.inf_count,
                "zero_count": stats.zero_count,
            }
        return facts


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorList:
    """The tensors of one file."""

    path: Path
    format: str
    format_version: str
    num_tensors: int
    """In the file."""
    num_bytes: int
    """Of all tensors in the file."""
    num_matched: int
    """By the filter."""
    tensors: tuple[ListedTensor, ...]
    """At most as many as the limit, in the file's order."""
    num_parts: int

    def as_json(self) -> dict[str, object]:
        """Upstream's keys first, then ours."""
        is_split = self.num_parts > 1
        return {
            "file": self.path,
            "format_version": self.format_version,
            "tensor_count": self.num_tensors,
            "total_size_bytes": self.num_bytes,
            "tensors": [tensor.as_json(is_split=is_split) for tensor in self.tensors],
            "format": self.format,
            "matched_count": self.num_matched,
            "listed_count": len(self.tensors),
        }


def list_tensors(
    path: str | Path,
    *,
    name_filter: str | None = None,
    limit: int | None = None,
    with_stats: bool = False,
    on_tensor: Callable[[str, int, int], None] = lambda _name, _done, _total: None,
) -> TensorList:
    """Read a model's tensor table.

    Args:
        path: a model of any format, or `demo:NAME`.
        name_filter: text or glob; None for every tensor.
        limit: how many to list at most; None for all.
        with_stats: decode the values of those, a few at a time, and measure them.
        on_tensor: called before a tensor is measured, with its name, how many are done and
            how many there are.

    Raises:
        FileError: it cannot be opened, or breaks its format.
        UsageError: it is a trace or a stage file.
        NothingMeasuredError: no tensor matches.
    """
    kind, found = find_file_kind(path)
    if kind != "model":
        raise UsageError(
            "the file is no model",
            where=str(found),
            expected="a GGUF, an .apr, safetensors, or a Hugging Face folder",
            found=f"a {kind} file",
            hint=f"see what it holds: `apr inspect {found}`",
        )
    with open_model(found) as file:
        wanted = NameFilter(name_filter)
        matched = [entry for name, entry in file.tensors.items() if wanted.matches(name)]
        wanted.require(matched, file.tensors, where=str(found))
        listed = []
        for done, entry in enumerate(matched[:limit]):
            stats = None
            if with_stats:
                on_tensor(entry.name, done, len(matched[:limit]))
                stats = measure_chunks(open_values(file, entry).chunks())
            listed.append(ListedTensor(entry=entry, stats=stats))
        return TensorList(
            path=file.path,
            format=file.format,
            format_version=file.format_version,
            num_tensors=len(file.tensors),
            num_bytes=sum(entry.num_bytes for entry in file.tensors.values()),
            num_matched=len(matched),
            tensors=tuple(listed),
            num_parts=len(getattr(file, "part_paths", (path,))),
        )
