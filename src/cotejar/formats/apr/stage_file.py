"""An `APRT` file: what one stage of a forward pass put out, as float32.

Upstream's `apr trace --save-tensor` writes one a stage; `apr diff` compares two. All
little-endian:

    0..4     magic `APRT`
    4..8     u32  layer from 0; 0xFFFFFFFF for what belongs to no layer
    8..12    u32  number of values
    12..     float32, as many

Values are kept bit by bit, NaN included. The shape is not part of the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import LimitError, TrailingDataError, UsageError, WrongMagicError
from cotejar.formats.atomic import atomic_write
from cotejar.formats.mapped_file import open_mapped

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float32

MAGIC = b"APRT"
NO_LAYER = 0xFFFFFFFF
_HEADER = struct.Struct("<4sII")
_MAX_VALUES = 2**32 - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StageFile:
    """One stage's output."""

    layer: int | None
    """From 0; None for a stage that belongs to no layer: `embedding`, `final_norm`."""
    values: Float32[np.ndarray, "num_values"]
    """Flat, in row-major order of the tensor that was saved; read-only."""


def read_stage_file(path: Path) -> StageFile:
    """Read a stage file. The values are a view of the mapped file.

    Raises:
        WrongMagicError: it is no stage file.
        TruncatedError: it ends before its last value.
        TrailingDataError: it goes on after its last value.
        FileError: it is not there, or cannot be read.
    """
    with open_mapped(path) as mapped:
        magic = mapped.bytes(0, min(len(MAGIC), mapped.size_bytes), "the magic")
        if not MAGIC.startswith(magic):
            raise WrongMagicError(
                "the file is no stage file",
                where=str(path),
                expected=f"{MAGIC!r} in the first 4 bytes",
                found=f"{magic!r}",
                hint="a stage file is what upstream's `apr trace --save-tensor` writes",
            )
        header = mapped.bytes(0, _HEADER.size, "the header")
        _, layer, num_values = _HEADER.unpack(header)
        data = mapped.array(_HEADER.size, 4 * num_values, f"the {num_values} values")
        size = _HEADER.size + 4 * num_values
        if mapped.size_bytes != size:
            raise TrailingDataError(
                "the stage file goes on after its last value",
                where=str(path),
                expected=f"{size} bytes, for {num_values} values",
                found=f"{mapped.size_bytes} bytes",
                hint="the file is damaged: save the stage again",
            )
        return StageFile(layer=None if layer == NO_LAYER else layer, values=data.view("<f4"))


def write_stage_file(path: Path, stage: StageFile, *, overwrite: bool = False) -> None:
    """Write a stage file, whole or not at all.

    Raises:
        UsageError: a layer that the format cannot name.
        LimitError: 2**32 values or more.
        FileError: the file cannot be written; see `atomic_write`.
    """
    layer = NO_LAYER if stage.layer is None else stage.layer
    if not 0 <= layer <= NO_LAYER or stage.layer == NO_LAYER:
        raise UsageError(
            "a stage file cannot name that layer",
            where=str(path),
            expected=f"0..{NO_LAYER - 1}, or none",
            found=f"{stage.layer}",
            hint="count layers from 0",
        )
    if stage.values.size > _MAX_VALUES:
        raise LimitError(
            "a stage file cannot hold so many values",
            where=str(path),
            expected=f"at most {_MAX_VALUES}",
            found=f"{stage.values.size}",
            hint="save fewer tokens",
        )
    values = np.ascontiguousarray(stage.values, dtype="<f4").reshape(-1)
    with atomic_write(path, overwrite=overwrite) as output:
        output.write(_HEADER.pack(MAGIC, layer, values.size))
        output.write(values.view(np.uint8).data)
