"""The weights as a mapping from canonical name to blocks, and nothing decoded until asked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cotejar.formats.mapped_file import release_pages
from cotejar.model.inventory import EMBEDDING, LM_HEAD
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

    from cotejar.model.config import DecoderConfig


class Weights(Mapping[str, BlockMatrix]):
    """Every tensor of a model by canonical name; a vector is a matrix of one row."""

    def __init__(self, matrices: Mapping[str, BlockMatrix]) -> None:
        self._matrices = dict(matrices)
        self._vectors: dict[str, Float32[np.ndarray, "W"]] = {}

    def __getitem__(self, name: str) -> BlockMatrix:
        return self._matrices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)

    @property
    def lm_head(self) -> BlockMatrix:
        """The LM head; of a model with tied embeddings, the embedding table."""
        return self._matrices.get(LM_HEAD, self._matrices[EMBEDDING])

    def vector(self, name: str) -> Float32[np.ndarray, "W"]:
        """A norm's weight or a bias, decoded once; read-only."""
        vector = self._vectors.get(name)
        if vector is None:
            matrix = self._matrices[name]
            vector = matrix.decode_rows(0, matrix.rows).reshape(-1)
            vector.setflags(write=False)
            self._vectors[name] = vector
        return vector

    def optional_vector(self, name: str) -> Float32[np.ndarray, "W"] | None:
        """The same, or None where the model has no such tensor."""
        return self.vector(name) if name in self._matrices else None

    def replaced(self, changes: Mapping[str, BlockMatrix]) -> Weights:
        """The same weights with some of them exchanged."""
        return Weights({**self._matrices, **changes})


def fingerprint_weights(weights: Weights, config: DecoderConfig) -> str:
    """A hash of the weights that does not depend on the file they came from.

    SHA-256 over the sorted canonical names, block types, shapes and bytes. The rows of q and
    k are taken in half-split order, whatever order the file stores them in. The LM head is
    always part of it, as the embedding table where the two are tied, so that storing the
    tied table twice gives the same fingerprint.
    """
    digests: dict[str, bytes] = {}
    for name, matrix in weights.items():
        digest = hashlib.sha256(
            f"{matrix.block_type.label} {matrix.rows} {matrix.columns}\n".encode()
        )
        raw = np.ascontiguousarray(matrix.raw)
        if config.rope.pairing == "adjacent" and _ROTATED.search(name):
            raw = _in_half_split_order(matrix, config)
        digest.update(raw.data)
        digests[name] = digest.digest()
        release_pages(matrix.raw)
    digests.setdefault(LM_HEAD, digests[EMBEDDING])
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(f"{name}\n".encode() + digests[name])
    return f"sha256:{whole.hexdigest()}"


_ROTATED = re.compile(r"self_attn\.[qk]_proj\.(weight|bias)$")
_WHOLE_ROWS = {t for t in BlockType if t not in {BlockType.APR_Q4, BlockType.APR_Q8}}


def _in_half_split_order(
    matrix: BlockMatrix, config: DecoderConfig
) -> UInt8[np.ndarray, "num_bytes"]:
    """The bytes with the outputs of each head in the order of canonical q and k.

    A row is whole blocks, so whole rows move; of a bias, whole values. What has neither, the
    two types whose blocks may cross rows, is taken decoded.
    """
    outputs = matrix.rows if matrix.rows > 1 else matrix.columns
    has_parts = matrix.rows > 1 or matrix.block_type.elements_per_block == 1
    if has_parts and matrix.block_type in _WHOLE_ROWS:
        rows = matrix.raw.reshape(outputs, -1)
    else:
        rows = matrix.decode_rows(0, matrix.rows).reshape(outputs, -1).view(np.uint8)
    half, size = config.rope.dim // 2, config.head_dim
    order = [*range(0, 2 * half, 2), *range(1, 2 * half, 2), *range(2 * half, size)]
    heads = rows.reshape(-1, size, rows.shape[1])
    return np.ascontiguousarray(heads[:, order])
