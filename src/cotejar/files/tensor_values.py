"""A tensor's values, a few at a time: memory stays the same whatever the tensor's size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.formats.norm_offset import SUM_TYPE, add_one, is_less_one
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode, decode_rows
from cotejar.trace.stats import ActivationStats, measure_stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jaxtyping import Float, Float32, UInt8

    from cotejar.formats.model_file import ModelFile, TensorEntry

VALUES_AT_A_TIME = 1 << 16
"""A multiple of every block's size; in float64 they fit a core's own cache."""
_BYTES_AT_A_TIME = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TensorValues:
    """A tensor of an opened file, and its values on demand."""

    block_type: BlockType
    shape: tuple[int, ...]
    """Row-major, outermost first."""
    raw: UInt8[np.ndarray, "num_bytes"]
    """Its bytes; a view of the mapped file."""

    @property
    def num_elements(self) -> int:
        """Values in the tensor."""
        return math.prod(self.shape)

    @property
    def num_rows(self) -> int:
        """Rows of the last dimension; 1 for a vector."""
        return math.prod(self.shape[:-1])

    def chunks(self) -> Iterator[Float32[np.ndarray, "n"]]:
        """All values in row-major order, `VALUES_AT_A_TIME` each but the last.

        Two tensors of one shape give chunks of the same sizes, whatever their types.
        """
        width, num_bytes = self.block_type.elements_per_block, self.block_type.bytes_per_block
        for start in range(0, self.num_elements, VALUES_AT_A_TIME):
            stop = min(start + VALUES_AT_A_TIME, self.num_elements)
            if self.block_type is BlockType.APR_Q8:
                part = np.concatenate([self.raw[:4], self.raw[4 + start : 4 + stop]])
            else:
                part = self.raw[start // width * num_bytes : -(-stop // width) * num_bytes]
            yield decode(self.block_type, part, stop - start)

    def rows(self, start: int, stop: int) -> Float32[np.ndarray, "R C"]:
        """Rows start..stop of the last dimension."""
        columns = self.shape[-1]
        return decode_rows(self.block_type, self.raw, self.num_rows, columns, start, stop)


def open_values(file: ModelFile, entry: TensorEntry) -> TensorValues:
    """A file's tensor, not yet decoded.

    Raises:
        UnknownDtypeError: it has a type that cannot be decoded.
        MissingTensorError: the file has no such tensor.
    """
    raw = np.asarray(file.read_bytes(entry.name))
    block_type = entry.decodable_type(file.path)
    return TensorValues(block_type=block_type, shape=entry.shape, raw=raw)


def open_canonical_values(file: ModelFile, entry: TensorEntry, name: str) -> TensorValues:
    """What a model computes with: of a norm that is stored less 1, the sum.

    Args:
        file: the opened file.
        entry: a line of its tensor table.
        name: the tensor's canonical name.
    """
    if not is_less_one(file, name):
        return open_values(file, entry)
    return TensorValues(block_type=SUM_TYPE, shape=entry.shape, raw=add_one(file, entry))


def have_same_bytes(a: UInt8[np.ndarray, "n"], b: UInt8[np.ndarray, "m"]) -> bool:
    """Whether two runs of bytes are equal, in pieces: they may be as large as a file."""
    step = _BYTES_AT_A_TIME
    return a.size == b.size and all(
        np.array_equal(a[start : start + step], b[start : start + step])
        for start in range(0, a.size, step)
    )


def split_array(values: Float[np.ndarray, "..."]) -> Iterator[Float[np.ndarray, "n"]]:
    """An array's values in parts of the same sizes as `TensorValues.chunks`."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, VALUES_AT_A_TIME):
        yield flat[start : start + VALUES_AT_A_TIME]


def measure_chunks(chunks: Iterable[Float[np.ndarray, "n"]]) -> ActivationStats:
    """Statistics of all chunks together; of none, a count of 0."""
    total: ActivationStats | None = None
    for chunk in chunks:
        with np.errstate(invalid="ignore"):  # a signalling NaN says so when it is widened
            stats = measure_stats(chunk)
        total = stats if total is None else total.merged(stats)
    return measure_stats(np.empty(0)) if total is None else total
