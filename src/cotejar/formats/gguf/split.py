"""Models in several files: `NAME-00001-of-00003.gguf`, and what the parts must agree on.

llama.cpp's `gguf-split` gives each part three keys: `split.count`, `split.no` (from 0) and
`split.tensors.count` (of the whole model). The other keys are in the first part alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cotejar.errors import MetadataError, SplitFileError, TensorNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cotejar.formats.model_file import TensorEntry

COUNT_KEY = "split.count"
NUMBER_KEY = "split.no"
TENSORS_KEY = "split.tensors.count"

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def num_parts(path: Path, metadata: Mapping[str, object]) -> int:
    """How many files the model has, by the metadata of one of them; 1 if it is no split."""
    return max(_whole_number(path, metadata, COUNT_KEY), 1) if COUNT_KEY in metadata else 1


def part_paths(path: Path, count: int) -> list[Path]:
    """The paths of all parts, by the path of one.

    Raises:
        SplitFileError: the name is not one of a part, or says another count.
    """
    match = _NAME.fullmatch(path.name)
    if not (match and int(match["count"]) == count >= int(match["number"]) >= 1):
        raise SplitFileError(
            "the parts of a split model cannot be found by this file's name",
            where=str(path),
            expected=f"a name that ends in -00001-of-{count:05}.gguf, or another number: "
            f"{COUNT_KEY} is {count}",
            found=path.name,
            hint="give the parts the names that they were split into",
        )
    return [
        path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf")
        for number in range(1, count + 1)
    ]


def missing_part(path: Path, number: int, count: int) -> SplitFileError:
    """The error for a part that is not there; `number` counts from 1."""
    return SplitFileError(
        f"part {number} of {count} of a split model is missing",
        where=str(path),
        expected=f"all {count} parts in {path.parent}",
        found="no such file",
        hint="fetch the missing part, or merge the parts: `llama-gguf-split --merge`",
    )


def require_part(path: Path, metadata: Mapping[str, object], number: int, count: int) -> None:
    """Refuse a part that says it is another one; `number` counts from 0.

    Raises:
        SplitFileError: its keys contradict its name, or are not there.
    """
    expected = {COUNT_KEY: count, NUMBER_KEY: number}
    for key, value in expected.items():
        found = _whole_number(path, metadata, key) if key in metadata else None
        if found != value:
            raise SplitFileError(
                f"part {number + 1} of {count} of a split model is not what its name says",
                where=str(path),
                expected=f"{key} = {value}",
                found="no such key" if found is None else f"{key} = {found}",
                hint="the parts are of two models, or renamed: fetch them again",
            )


def merge_tables(
    paths: Sequence[Path],
    metadata: Mapping[str, object],
    tables: Sequence[Sequence[TensorEntry]],
) -> dict[str, TensorEntry]:
    """Join the tables of all parts, in order.

    Args:
        paths: of the parts.
        metadata: of the first part.
        tables: a part's tensors each, with their `part_index`.

    Raises:
        SplitFileError: the parts do not have as many tensors as the model should.
        TensorNameError: a tensor is in two parts.
    """
    merged: dict[str, TensorEntry] = {}
    for entry in (entry for table in tables for entry in table):
        if entry.name in merged:
            raise TensorNameError(
                f"the tensor {entry.name!r} is in two parts",
                where=str(paths[entry.part_index]),
                expected="each tensor in one part",
                found=f"it is in {paths[merged[entry.name].part_index].name} too",
                hint="the parts are of two models: fetch them again",
            )
        merged[entry.name] = entry
    if TENSORS_KEY in metadata:
        expected = _whole_number(paths[0], metadata, TENSORS_KEY)
        if expected != len(merged):
            raise SplitFileError(
                "the parts do not hold the whole model",
                where=str(paths[0]),
                expected=f"{expected} tensors ({TENSORS_KEY})",
                found=f"{len(merged)} tensors in {len(paths)} parts",
                hint="the parts are of two models, or one is damaged: fetch them again",
            )
    return merged


def _whole_number(path: Path, metadata: Mapping[str, object], key: str) -> int:
    value = metadata[key]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise MetadataError(
        f"the key {key!r} is not a count",
        where=str(path),
        expected="a whole number, 0 or more",
        found=f"{type(value).__name__} {str(value)[:60]!r}",
        hint="the file is damaged, or was split wrongly: fetch it again",
    )
