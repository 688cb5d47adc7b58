"""Encode weights anew in another block type, a few rows at a time.

Which tensors: matrices (two dimensions, named `.weight`) whose rows are whole blocks of
the wanted type. Norms, biases and other matrices keep their bytes. The LM head, or the
embedding table where it is the head too, takes Q6_K, or Q8_0 where its rows are no whole
Q6_K blocks, when the wanted type has 4 bits: its error goes straight into the logits, and
llama.cpp makes the same exception. It never grows by that.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cotejar.errors import EncodingError, UsageError
from cotejar.formats.tensor_names import EMBEDDING, LM_HEAD
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode_rows, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from jaxtyping import UInt8

    from cotejar.formats.model_file import ModelFile, TensorEntry

QUANTIZE_TYPES = {
    "q8_0": BlockType.Q8_0,
    "q4_0": BlockType.Q4_0,
    "q4_k": BlockType.Q4_K,
    "q6_k": BlockType.Q6_K,
}
"""What `--quantize` takes."""
_FILE_TYPES = {
    BlockType.F32: 0,
    BlockType.F16: 1,
    BlockType.Q4_0: 2,
    BlockType.Q4_1: 3,
    BlockType.Q8_0: 7,
    BlockType.Q5_0: 8,
    BlockType.Q5_1: 9,
    BlockType.Q2_K: 10,
    BlockType.Q3_K: 12,
    BlockType.Q4_K: 14,
    BlockType.Q5_K: 16,
    BlockType.Q6_K: 18,
    BlockType.BF16: 32,
}

_FOUR_BITS = (BlockType.Q4_0, BlockType.Q4_K)
_HEAD_TYPES = (BlockType.Q6_K, BlockType.Q8_0)
_VALUES_AT_A_TIME = 1 << 20
_MATRIX_DIMS = 2


def parse_quantize(name: str | None) -> BlockType | None:
    """The block type that `--quantize NAME` asks for; None for None.

    Raises:
        UsageError: there is no such choice.
    """
    if name is None:
        return None
    block_type = QUANTIZE_TYPES.get(name.lower())
    if block_type is None:
        raise UsageError(
            f"weights cannot be re-encoded as {name!r}",
            where="--quantize",
            expected=", ".join(QUANTIZE_TYPES),
            found=name,
            hint="leave --quantize out to keep every byte",
        )
    return block_type


def choose_type(
    file: ModelFile, entry: TensorEntry, name: str, wanted: BlockType | None, *, tied: bool
) -> BlockType:
    """The type that a tensor gets.

    Args:
        file: the source.
        entry: the tensor in it.
        name: its Hugging Face name.
        wanted: the type asked for, or None to keep all.
        tied: whether the embedding table is the LM head too.

    Raises:
        UnknownDtypeError: the source has it in a type without a codec.
    """
    stored = entry.decodable_type(file.path)
    if wanted is None or len(entry.shape) != _MATRIX_DIMS or not name.endswith(".weight"):
        return stored
    is_head = name == LM_HEAD or (tied and name == EMBEDDING)
    if is_head and wanted in _FOUR_BITS:
        fitting = (kind for kind in _HEAD_TYPES if _fits(entry, kind))
        chosen = next(fitting, stored)
        grows = chosen.num_bytes(entry.num_elements) >= entry.num_bytes
        return stored if grows else chosen
    return wanted if _fits(entry, wanted) else stored


def file_type_of(block_types: Iterable[BlockType]) -> int:
    """The number in `enum llama_ftype` that `general.file_type` gives a model.

    It is that of the type that most tensors have: F32, which norms have in every model,
    only if all have it.
    """
    counts = Counter(kind for kind in block_types if kind in _FILE_TYPES)
    del counts[BlockType.F32]
    return _FILE_TYPES[max(counts, key=lambda kind: counts[kind], default=BlockType.F32)]


def reencode(
    file: ModelFile, entry: TensorEntry, block_type: BlockType
) -> Iterator[UInt8[np.ndarray, "chunk"]]:
    """Yield a matrix in another type, about a million values at a time.

    Raises:
        EncodingError: a weight is NaN or infinite, or too large for the type.
    """
    stored, raw = entry.decodable_type(file.path), file.read_bytes(entry.name)
    rows, columns = entry.shape
    step = max(1, _VALUES_AT_A_TIME // columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        values_RC = decode_rows(stored, raw, rows, columns, start, stop)
        try:
            yield encode(block_type, values_RC.reshape(-1))
        except EncodingError as error:
            raise EncodingError(
                error.problem,
                where=f"{file.path}, tensor {entry.name!r}, rows {start}..{stop}",
                expected=error.parts["expected"],
                found=error.parts["found"],
                hint=error.parts["try"],
            ) from error


def _fits(entry: TensorEntry, block_type: BlockType) -> bool:
    return entry.shape[-1] % block_type.elements_per_block == 0
