"""What every opened model file offers, whatever its format.

Opening reads the header, the metadata and the tensor table and checks every offset,
count and length in them; no weight is read before `read_bytes` asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cotejar.errors import MissingTensorError, UnknownDtypeError
from cotejar.quant.block_type import BlockType, ListedType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """One line of a file's tensor table."""

    name: str
    """As the file spells it."""
    block_type: BlockType | ListedType
    """A `ListedType` is listed, and cannot be decoded: see `decodable_type`."""
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

    def decodable_type(self, path: Path) -> BlockType:
        """The type, for whoever is about to decode the tensor of the file `path`.

        Raises:
            UnknownDtypeError: there is no codec for it.
        """
        if isinstance(self.block_type, BlockType):
            return self.block_type
        raise UnknownDtypeError(
            "a tensor has a type that cannot be decoded",
            where=f"{path}, tensor {self.name!r}",
            expected=f"one of {', '.join(kind.label for kind in BlockType)}",
            found=self.block_type.label,
            hint="quantize the model again to one of these types; `apr tensors` lists all",
        )


def require_tensor(tensors: Mapping[str, TensorEntry], name: str, path: Path) -> TensorEntry:
    """The line of that name in the table of the file `path`.

    Raises:
        MissingTensorError: there is none.
    """
    entry = tensors.get(name)
    if entry is None:
        raise MissingTensorError(
            f"there is no tensor {name!r}",
            where=str(path),
            expected=f"one of its {len(tensors)} tensors",
            found=f"{name!r}",
            hint=f"`apr tensors {path}` lists them",
        )
    return entry


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
