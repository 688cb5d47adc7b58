"""`.apr` -> GGUF: the keys and the order of the source, if that was a GGUF.

An `.apr` that was imported from a GGUF gives back every key with its type and every
tensor in its place: where the source was laid out as llama.cpp lays a file out, the
export is the same file, byte for byte. For any other `.apr` the keys are built from its
metadata (`to_gguf`), and where llama.cpp wants it, q and k rows change their order and
the divisors of Llama 3's RoPE are written out (`rope_rows`). The copy of a tied embedding
table is dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import ConfigValueError, LeftoverTensorError, MetadataError, UsageError
from cotejar.formats.apr.reader import AprFile
from cotejar.formats.atomic import require_writable
from cotejar.formats.convert.from_gguf import DEFAULT_ROPE_THETA, ROPE_TYPES
from cotejar.formats.convert.import_model import TIED_KEY, same_bytes
from cotejar.formats.convert.reencode import file_type_of
from cotejar.formats.convert.report import ConversionReport, count_types
from cotejar.formats.convert.rope_rows import (
    is_permuted_name,
    llama3_divisors,
    permute_to_adjacent,
)
from cotejar.formats.convert.to_gguf import (
    architecture_of,
    build_gguf_keys,
    real_number,
    whole_number,
)
from cotejar.formats.convert.typed_keys import KEYS_KEY, TENSORS_KEY, decode_keys
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import files_of, open_model
from cotejar.formats.tensor_names import (
    EMBEDDING,
    LM_HEAD,
    ROPE_FREQS,
    stated_architecture,
    to_gguf,
    to_hugging_face,
)
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from jaxtyping import UInt8

    from cotejar.formats.convert.report import Check
    from cotejar.formats.gguf.value import GgufValue
    from cotejar.formats.model_file import TensorEntry

_HALVES = 2
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class _Rope:
    """How an architecture's q and k are ordered in the `.apr`, and must be in the GGUF."""

    permutes: bool
    num_heads: int
    num_kv_heads: int


def export_model(
    source: str | Path, target: Path, *, overwrite: bool = False, check: Check | None = None
) -> ConversionReport:
    """Write an `.apr` as a GGUF, whole or not at all.

    Args:
        source: the `.apr`.
        target: the GGUF.
        overwrite: replace a target that is there.
        check: see `report.Check`.

    Raises:
        UsageError: the source is no `.apr`, or the target is the source.
        ArchitectureError, MissingConfigError, ConfigValueError: not a model that
            llama.cpp knows, or metadata that contradict the weights.
        LeftoverTensorError: a tensor whose name has no counterpart.
        UnknownDtypeError: APR_Q4 and APR_Q8, which GGUF has not.
        FileError: the source is damaged, or the target cannot be written.
    """
    with open_model(source) as file:
        require_writable(target, overwrite=overwrite, inputs=files_of(file))
        if not isinstance(file, AprFile):
            raise UsageError(
                "only an `.apr` is exported",
                where=str(file.path),
                expected="an `.apr`",
                found=f"a file of the format {file.format}",
                hint="import it first: `apr import`",
            )
        named = _name_tensors(file)
        dropped = _drop_tied_copy(file, named)
        rope = _read_rope(file)
        added = _rope_freqs(file, named)
        tensors = [*_plan(file, _order(file, named), rope), *added]
        report = ConversionReport(
            source=file.path,
            source_format="apr",
            target=target,
            target_format="gguf",
            num_tensors=len(tensors),
            num_bytes=0,
            block_types=count_types(tensor.block_type for tensor in tensors),
            notes=tuple(_notes(dropped=dropped, permutes=rope.permutes, added=bool(added))),
        )
        write_gguf(
            target,
            metadata=_keys(file, named),
            tensors=tensors,
            overwrite=overwrite,
            check=report.checked_by(check),
        )
        return replace(report, num_bytes=target.stat().st_size)


def _name_tensors(file: AprFile) -> dict[str, TensorEntry]:
    """The tensors by GGUF name; one that is spelled so already keeps its name.

    Raises:
        LeftoverTensorError: a name that is not in the tables.
    """
    named: dict[str, TensorEntry] = {}
    leftover = []
    architecture = stated_architecture(file)
    for name, entry in file.tensors.items():
        theirs = to_gguf(name, architecture)
        if theirs is None and to_hugging_face(name, architecture):
            theirs = name
        if theirs is None or theirs in named:
            leftover.append(name)
        else:
            named[theirs] = entry
    if leftover:
        raise LeftoverTensorError(
            "the model has tensors that have no name in a GGUF",
            where=str(file.path),
            expected="the tensors of a llama, mistral, qwen2, qwen3 or gemma3, each once",
            found=f"{len(leftover)} of {len(file.tensors)} others: "
            + ", ".join(map(repr, leftover[:3])),
            hint="`apr tensors` lists them; an architecture with such parts is not supported",
        )
    return named


def _drop_tied_copy(file: AprFile, named: dict[str, TensorEntry]) -> bool:
    """Take the copy of a tied embedding table out of `named`, if there is one.

    Raises:
        ConfigValueError: the metadata say tied, and the two differ.
    """
    head, embedding = named.get("output.weight"), named.get("token_embd.weight")
    if file.metadata.get(TIED_KEY) is not True or head is None or embedding is None:
        return False
    is_same = head.block_type is embedding.block_type and same_bytes(
        file.read_bytes(head.name), file.read_bytes(embedding.name)
    )
    if not is_same:
        raise ConfigValueError(
            "the LM head is said to be the embedding table, and is not",
            where=f"{file.path}, metadata key {TIED_KEY}",
            expected=f"{LM_HEAD} equal to {EMBEDDING}, byte for byte",
            found="other bytes",
            hint="import the model again from its source",
        )
    del named["output.weight"]
    return True


def _read_rope(file: AprFile) -> _Rope:
    """Compare the order of the rows with the one that llama.cpp will assume.

    Raises:
        ConfigValueError: they differ, and there is no way to put them right.
    """
    metadata, where = file.metadata, str(file.path)
    architecture = architecture_of(metadata, where)
    stored, wanted = metadata.get("rope_type"), ROPE_TYPES[architecture]
    permutes = (stored, wanted) == (_HALVES, 0)
    if stored != wanted and not permutes:
        raise ConfigValueError(
            "the rows of q and k are not in the order that the architecture wants",
            where=f"{where}, metadata key rope_type",
            expected=f"{wanted if wanted == _HALVES else '0 or 2'} for {architecture}",
            found=f"{stored!r:.60}",
            hint="import the model again from its source",
        )
    if not permutes:
        return _Rope(permutes=False, num_heads=0, num_kv_heads=0)
    num_heads = whole_number(metadata, "num_heads", where)
    has_kv_heads = metadata.get("num_kv_heads") is not None
    return _Rope(
        permutes=True,
        num_heads=num_heads,
        num_kv_heads=whole_number(metadata, "num_kv_heads", where)
        if has_kv_heads
        else num_heads,
    )


def _rope_freqs(file: AprFile, named: dict[str, TensorEntry]) -> list[GgufTensor]:
    """Llama 3's scaling as the tensor that llama.cpp reads; nothing where it is there."""
    scaling = file.metadata.get("rope_scaling")
    if not isinstance(scaling, dict) or ROPE_FREQS in named:
        return []
    if scaling.get("rope_type", scaling.get("type")) != "llama3":
        return []
    where = str(file.path)
    divisors = llama3_divisors(
        scaling,
        theta=real_number(file.metadata, "rope_theta", where, default=DEFAULT_ROPE_THETA),
        dim=whole_number(file.metadata, "head_dim", where),
        where=f"{where}, metadata key rope_scaling",
    )
    return [
        GgufTensor(
            name=ROPE_FREQS,
            block_type=BlockType.F32,
            shape=divisors.shape,
            data=divisors.view(np.uint8),
        )
    ]


def _keys(file: AprFile, named: dict[str, TensorEntry]) -> dict[str, GgufValue]:
    """The keys of the GGUF that the file came from, else new ones."""
    if KEYS_KEY in file.metadata:
        return decode_keys(file.metadata, where=f"{file.path}, metadata")
    embedding = named.get("token_embd.weight")
    num_rows = (
        embedding.shape[0]
        if embedding is not None
        else whole_number(file.metadata, "vocab_size", str(file.path))
    )
    file_type = file_type_of(entry.decodable_type(file.path) for entry in named.values())
    return build_gguf_keys(file, num_rows=num_rows, file_type=file_type)


def _order(file: AprFile, named: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """The tensors in the order of the GGUF they came from, else in llama.cpp's."""
    listed = file.metadata.get(TENSORS_KEY, [])
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise MetadataError(
            f"{TENSORS_KEY} is no list of names",
            where=f"{file.path}, metadata",
            expected='["token_embd.weight", ...]',
            found=f"{listed!r:.60}",
            hint="import the model again from its source",
        )
    place = {name: i for i, name in enumerate(listed)}
    names = sorted(named, key=lambda name: (place.get(name, len(place)), _natural(name)))
    return {name: named[name] for name in names}


def _natural(name: str) -> tuple[int, int, str]:
    """The table before the layers, layers by number, the rest after them."""
    layer = _LAYER.match(name)
    if layer:
        return 1, int(layer[1]), name
    return (0 if name.startswith("token_embd") else 2), 0, name


def _plan(file: AprFile, ordered: dict[str, TensorEntry], rope: _Rope) -> Iterable[GgufTensor]:
    for name, entry in ordered.items():
        yield GgufTensor(
            name=name,
            block_type=entry.decodable_type(file.path),
            shape=entry.shape,
            data=_reader(file, entry, rope),
        )


def _reader(
    file: AprFile, entry: TensorEntry, rope: _Rope
) -> Callable[[], UInt8[np.ndarray, "num_bytes"]]:
    canonical = to_hugging_face(entry.name) or entry.name
    if not (rope.permutes and is_permuted_name(canonical)):
        return lambda: file.read_bytes(entry.name)
    num_heads = rope.num_heads if ".q_proj." in canonical else rope.num_kv_heads

    def read() -> UInt8[np.ndarray, "num_bytes"]:
        raw = file.read_bytes(entry.name)
        return permute_to_adjacent(raw, entry, num_heads, where=str(file.path))

    return read


def _notes(*, dropped: bool, permutes: bool, added: bool) -> Iterable[str]:
    if dropped:
        yield f"{LM_HEAD} left out: it is the embedding table, and a GGUF stores that once"
    if permutes:
        yield (
            "rows of q and k put in adjacent pairs, as llama.cpp wants them for "
            "architecture llama; their bytes are unchanged"
        )
    if added:
        yield f"{ROPE_FREQS} computed from rope_scaling"
