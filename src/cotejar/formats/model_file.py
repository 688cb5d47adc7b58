"""What every opened model file offers, whatever its format.

Opening reads the header, the metadata and the tensor table and checks every offset,
count and length in them; no weight is read before `read_bytes` asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    import numpy as np

    from cotejar.quant.block_type import BlockType


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """One line of a file's tensor table."""

    name: str
    """As the file spells it."""
    block_type: BlockType
    shape: tuple[int, ...]
    """Row-major, outermost first: `(rows, columns)`. A GGUF stores the reverse."""
    part_index: int
    """Which file of a split model holds it, from 0."""
    offset_bytes: int
    """Where its bytes begin, from the start of that file."""
    num_bytes: int

    @property
    def num_elements(self) -> int:
        """Values in the tensor."""
        product = 1
        for size in self.shape:
            product *= size
        return product


class ModelFile(Protocol):
    """An opened model file. Close it, or use it as a context manager."""

    @property
    def path(self) -> Path:
        """The path that was opened (the first part of a split model)."""

    @property
    def format(self) -> str:
        """`gguf`, `apr` or `safetensors`."""

    @property
    def format_version(self) -> str:
        """The version in the header: `3` for GGUF v3, `2.0` for `.apr` v2."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """The file's own keys. A long list is decoded when it is first looked up."""

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """The tensor table by name, in the file's order."""

    def read_bytes(self, name: str) -> np.ndarray:
        """The tensor's bytes, uint8 (num_bytes,), read-only: a view of the mapped file.

        Raises:
            MissingTensorError: the file has no tensor of that name.
        """

    def close(self) -> None:
        """Unmap the file. Arrays handed out stay valid until they are dropped."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
