"""GGUF or safetensors -> `.apr`: names and dimensions change, bytes do not.

Tensors get their Hugging Face names. A GGUF stores dimensions reversed, `.apr` row-major:
that is the whole difference, no weight is moved. In particular the rows of q and k stay
in the order they have, permuted in a GGUF of architecture llama and half-split elsewhere,
and `rope_type` says which. A model without an LM head of its own gets a copy of its
embedding table under `lm_head.weight` and `tied_embeddings: true`, as upstream's importer
does, whose loaders want both; an export drops the copy again. Only the norms of a Hugging
Face folder of gemma3 get other values: 1 is added, as a GGUF has them (`norm_offset`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from cotejar.errors import ConfigValueError, LeftoverTensorError, UsageError
from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.formats.atomic import require_writable
from cotejar.formats.convert.from_gguf import read_gguf_metadata
from cotejar.formats.convert.from_hugging_face import read_hugging_face_metadata
from cotejar.formats.convert.import_facts import (
    extension_labels,
    import_notes,
    reencoded,
    size_keys,
)
from cotejar.formats.convert.reencode import (
    choose_type,
    file_type_of,
    parse_quantize,
    reencode,
)
from cotejar.formats.convert.report import ConversionReport, count_types
from cotejar.formats.gguf.reader import GgufFile
from cotejar.formats.norm_offset import SUM_TYPE, add_one, is_less_one
from cotejar.formats.open_model import files_of, open_model
from cotejar.formats.tensor_names import (
    EMBEDDING,
    LM_HEAD,
    stated_architecture,
    to_gguf,
    to_hugging_face,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from jaxtyping import UInt8

    from cotejar.formats.convert.report import Check
    from cotejar.formats.model_file import ModelFile, TensorEntry
    from cotejar.formats.safetensors.reader import SafetensorsFile
    from cotejar.quant.block_type import BlockType

TIED_KEY = "tied_embeddings"

# Old checkpoints store a table that follows from rope_theta; it is no weight.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def import_model(
    source: str | Path,
    target: Path,
    *,
    strict: bool = False,
    quantize: str | None = None,
    overwrite: bool = False,
    check: Check | None = None,
) -> ConversionReport:
    """Write `source` as an `.apr`, whole or not at all.

    Args:
        source: a GGUF, a Hugging Face folder, a `.safetensors` file, or `demo:NAME`.
        target: the `.apr`.
        strict: refuse block types that upstream's `.apr` has no code for.
        quantize: one of `reencode.QUANTIZE_TYPES`; None keeps every byte.
        overwrite: replace a target that is there.
        check: see `report.Check`.

    Raises:
        UsageError: the source is an `.apr` already, the target is a file of the source, or
            there is no such type to re-encode to.
        ModelError: an architecture, a configuration or a tensor that we do not know.
        NoUpstreamCodeError, EncodingError: `strict` or `quantize` cannot be met.
        FileError: the source breaks its format, or the target cannot be written.
    """
    wanted = parse_quantize(quantize)
    with open_model(source) as file:
        require_writable(target, overwrite=overwrite, inputs=files_of(file))
        named = _name_tensors(file)
        is_tied = _is_tied(file, named)
        tensors = _plan_tensors(file, named, wanted, is_tied=is_tied)
        metadata = _read_metadata(file, named, tensors)
        metadata |= size_keys(tensors[: len(named)]) | {TIED_KEY: is_tied}
        report = ConversionReport(
            source=file.path,
            source_format=file.format,
            target=target,
            target_format="apr",
            num_tensors=len(tensors),
            num_bytes=0,
            block_types=count_types(t.block_type for t in tensors),
            extension_types=extension_labels(tensors),
            num_reencoded=len(reencoded(file, named, tensors)),
            notes=tuple(import_notes(file, named, tensors, metadata, wanted)),
        )
        num_bytes = write_apr(
            target,
            metadata=metadata,
            tensors=tensors,
            strict=strict,
            overwrite=overwrite,
            check=report.checked_by(check),
        )
        return replace(report, num_bytes=num_bytes)


def _read_metadata(
    file: ModelFile, named: dict[str, TensorEntry], tensors: Sequence[TensorToWrite]
) -> dict[str, object]:
    if isinstance(file, GgufFile):
        is_other = bool(reencoded(file, named, tensors))
        file_type = file_type_of(t.block_type for t in tensors) if is_other else None
        return read_gguf_metadata(file, file_type=file_type)
    return read_hugging_face_metadata(cast("SafetensorsFile", file))


def _name_tensors(file: ModelFile) -> dict[str, TensorEntry]:
    """The source's tensors by Hugging Face name.

    Raises:
        UsageError: the source is no GGUF and no safetensors.
        LeftoverTensorError: a name that is not in the tables.
    """
    if file.format not in ("gguf", "safetensors"):
        raise UsageError(
            "the source cannot be imported",
            where=str(file.path),
            expected="a GGUF, a Hugging Face folder, or safetensors",
            found=f"a file of the format {file.format}",
            hint="to re-encode it, export it to GGUF and import that with --quantize",
        )
    named: dict[str, TensorEntry] = {}
    leftover = []
    architecture = stated_architecture(file)
    for name, entry in file.tensors.items():
        if file.format == "gguf":
            ours = to_hugging_face(name, architecture)
        elif _DERIVED.fullmatch(name):
            continue
        else:
            ours = name if to_gguf(name, architecture) is not None else None
        if ours is None:
            leftover.append(name)
        else:
            named[ours] = entry
    if leftover:
        raise LeftoverTensorError(
            "the model has tensors that have no name in an `.apr`",
            where=str(file.path),
            expected="the tensors of a llama, mistral, qwen2, qwen3 or gemma3",
            found=f"{len(leftover)} of {len(file.tensors)} others: "
            + ", ".join(map(repr, leftover[:3])),
            hint="`apr tensors` lists them; an architecture with such parts is not supported",
        )
    return named


def _is_tied(file: ModelFile, named: dict[str, TensorEntry]) -> bool:
    """Whether the embedding table is the LM head too: no other is stored, or the same.

    Raises:
        ConfigValueError: config.json ties the two, and two are stored and differ: one of
            them is not what transformers would use.
    """
    if LM_HEAD not in named or EMBEDDING not in named:
        return EMBEDDING in named
    config = file.metadata.get("config")
    says = config.get("tie_word_embeddings") if isinstance(config, dict) else None
    if says is not True:
        return False
    if same_bytes(file.read_bytes(EMBEDDING), file.read_bytes(LM_HEAD)):
        return True
    raise ConfigValueError(
        "the LM head is said to be the embedding table, and is not",
        where=f"{file.path}, config.json",
        expected=f"tie_word_embeddings false, or {LM_HEAD} equal to {EMBEDDING}",
        found="tie_word_embeddings true, and other bytes",
        hint="delete the one that is wrong, and save the model again",
    )


def same_bytes(a: UInt8[np.ndarray, "n"], b: UInt8[np.ndarray, "m"]) -> bool:
    """Whether two runs of bytes are equal, in small pieces: they may be large."""
    step = 1 << 22
    return a.size == b.size and all(
        np.array_equal(a[start : start + step], b[start : start + step])
        for start in range(0, a.size, step)
    )


def _plan_tensors(
    file: ModelFile,
    named: dict[str, TensorEntry],
    wanted: BlockType | None,
    *,
    is_tied: bool,
) -> list[TensorToWrite]:
    """What to write: the source's tensors in its order, then the copied head if any."""
    tensors = [
        _plan(file, entry, name, choose_type(file, entry, name, wanted, tied=is_tied))
        for name, entry in named.items()
    ]
    if is_tied and LM_HEAD not in named:
        tensors += [replace(t, name=LM_HEAD) for t in tensors if t.name == EMBEDDING]
    return tensors


def _plan(
    file: ModelFile, entry: TensorEntry, name: str, block_type: BlockType
) -> TensorToWrite:
    less_one = is_less_one(file, name)
    if less_one:
        block_type = SUM_TYPE

    def read() -> Iterable[UInt8[np.ndarray, "chunk"]]:
        if less_one:
            return [add_one(file, entry)]
        if block_type is entry.block_type:
            return [file.read_bytes(entry.name)]
        return reencode(file, entry, block_type)

    return TensorToWrite(name=name, block_type=block_type, shape=entry.shape, read=read)
