"""What `recorded:PATH` names: a trace file, a trace's JSON, or a folder of stage files.

Told apart by what they are, not by their names. A safetensors file begins with the length
of its header, little-endian in 8 bytes; eight bytes of JSON, read as such, are a length
that no file has.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cotejar.formats.mapped_file import open_mapped
from cotejar.trace.stage_folder import read_stage_folder
from cotejar.trace.trace_file import read_trace
from cotejar.trace.trace_json import read_trace_json

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.trace.forward_trace import ForwardTrace

_LENGTH_BYTES = 8


def read_recorded_trace(path: Path) -> ForwardTrace:
    """Read a trace that was recorded before, by us or by another program.

    Raises:
        FileError: it cannot be read.
        TraceError: it does not say what a trace must, or contradicts itself.
    """
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it never raises
        return read_stage_folder(path)
    with open_mapped(path) as mapped:
        start = mapped.bytes(0, min(64, mapped.size_bytes), "the first bytes")
        size = mapped.size_bytes
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if length > size and start.lstrip()[:1] == b"{":
        return read_trace_json(path)
    return read_trace(path)
