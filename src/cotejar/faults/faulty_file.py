"""Write a GGUF with a fault of bytes in it: for engines that open files by themselves.

Only the tensors that the fault alters are exchanged; every key, and every other tensor byte
for byte, is the source's. The weights' fingerprint is another one, as it must be: the file
holds other weights, and a comparison that is to go on waives `weights-fingerprint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import UsageError
from cotejar.faults.catalogue import inject_fault, parse_fault
from cotejar.formats.atomic import require_writable
from cotejar.formats.gguf.reader import GgufFile
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import input_files
from cotejar.formats.tensor_names import to_gguf
from cotejar.model.language_model import open_language_model

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.quant.block_matrix import BlockMatrix


def write_faulty_gguf(
    source: str | Path, target: Path, text: str, *, overwrite: bool = False
) -> tuple[str, ...]:
    """Copy a GGUF with the fault `ID[@LAYER]` in its bytes; the names of what changed.

    Raises:
        UsageError: no such fault, one that is not of bytes, or nothing that it could break.
        FileError, ModelError: as opening the source and writing the target find.
    """
    require_writable(target, overwrite=overwrite, inputs=input_files(str(source)))
    fault = parse_fault(text).fault
    if not fault.is_of_bytes:
        raise UsageError(
            "this fault is not one of bytes",
            where=f"--fault {text}",
            expected="a fault that alters weights: `apr faults` marks them",
            found=f"{fault.id}: {fault.title}",
            hint="`apr parity --fault` injects it into the native engine",
        )
    model = open_language_model(source)
    try:
        if not isinstance(model.file, GgufFile):
            raise UsageError(
                "a faulty file is made from a GGUF",
                where=str(source),
                expected="a .gguf",
                found=model.file.format,
                hint="`apr export` writes one from an .apr",
            )
        weights, sound = inject_fault(model, text).model.weights, model.weights
        changed = {
            to_gguf(name) or name: weights[name]
            for name in weights
            if name not in sound or weights[name] is not sound[name]
        }
        write_gguf(
            target,
            metadata=model.file.typed_metadata,
            tensors=[*_copied(model.file, changed), *_added(model.file, changed)],
            overwrite=overwrite,
        )
    finally:
        model.file.close()
    return tuple(changed)


def _copied(file: GgufFile, changed: dict[str, BlockMatrix]) -> list[GgufTensor]:
    tensors = []
    for name, entry in file.tensors.items():
        matrix = changed.get(name)
        tensors.append(
            GgufTensor(
                name=name,
                block_type=entry.decodable_type(file.path)
                if matrix is None
                else matrix.block_type,
                shape=entry.shape,
                data=file.read_bytes(name) if matrix is None else np.asarray(matrix.raw),
            )
        )
    return tensors


def _added(file: GgufFile, changed: dict[str, BlockMatrix]) -> list[GgufTensor]:
    return [
        GgufTensor(
            name=name,
            block_type=matrix.block_type,
            shape=(matrix.rows, matrix.columns),
            data=np.asarray(matrix.raw),
        )
        for name, matrix in changed.items()
        if name not in file.tensors
    ]
