"""What an import says of what it wrote: upstream's size keys, and notes for the user."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cotejar.formats.apr.layout import EXTENSION_TYPES
from cotejar.formats.convert.hugging_face_tokenizer import UNKNOWN_PRE_TYPE
from cotejar.formats.norm_offset import is_less_one
from cotejar.formats.tensor_names import EMBEDDING, LM_HEAD
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cotejar.formats.apr.writer import TensorToWrite
    from cotejar.formats.model_file import ModelFile, TensorEntry

_UNQUANTISED = (BlockType.F32, BlockType.F16, BlockType.BF16)
_BITS = {
    BlockType.Q2_K: 2,
    BlockType.Q3_K: 3,
    BlockType.Q4_0: 4,
    BlockType.Q4_1: 4,
    BlockType.Q4_K: 4,
    BlockType.Q5_0: 5,
    BlockType.Q5_1: 5,
    BlockType.Q5_K: 5,
    BlockType.Q6_K: 6,
    BlockType.Q8_0: 8,
}
_WITH_OFFSETS = (
    BlockType.Q2_K,
    BlockType.Q4_1,
    BlockType.Q4_K,
    BlockType.Q5_1,
    BlockType.Q5_K,
)
_EXTENSION_LABELS = {kind.label for kind in EXTENSION_TYPES}


def size_keys(tensors: Sequence[TensorToWrite]) -> dict[str, object]:
    """Upstream's size keys, of the model itself: before a head is copied."""
    facts: dict[str, object] = {
        "total_size": sum(t.num_bytes for t in tensors),
        "param_count": sum(math.prod(t.shape) for t in tensors),
    }
    quantised = [t for t in tensors if t.block_type not in _UNQUANTISED]
    if quantised:
        bytes_of = dict.fromkeys((t.block_type for t in quantised), 0)
        for tensor in quantised:
            bytes_of[tensor.block_type] += tensor.num_bytes
        most = max(bytes_of, key=lambda kind: (bytes_of[kind], -kind))
        facts["quantization"] = {
            "quant_type": most.label.lower(),
            "bits": _BITS[most],
            "block_size": most.elements_per_block,
            "symmetric": most not in _WITH_OFFSETS,
        }
    return facts


def extension_labels(tensors: Sequence[TensorToWrite]) -> tuple[str, ...]:
    """The types that upstream's `.apr` has no code for."""
    return tuple(sorted({t.block_type.label for t in tensors} & _EXTENSION_LABELS))


def import_notes(
    file: ModelFile,
    named: dict[str, TensorEntry],
    tensors: Sequence[TensorToWrite],
    metadata: dict[str, object],
    wanted: BlockType | None,
) -> Iterable[str]:
    """What a user should know, a sentence each.

    Args:
        file: the source.
        named: its tensors by Hugging Face name.
        tensors: what was written, a copied head last.
        metadata: likewise.
        wanted: what `--quantize` asked for.
    """
    extensions = extension_labels(tensors)
    if extensions:
        yield (
            f"upstream's .apr has no code for {', '.join(extensions)}: written as 64 + ggml's "
            "id and announced in the metadata"
        )
    if len(tensors) > len(named):
        yield f"{LM_HEAD} is a copy of {EMBEDDING}: the model ties the two"
    if len(named) < len(file.tensors):
        yield (
            f"{len(file.tensors) - len(named)} rotary_emb.inv_freq tables left out: they "
            "follow from rope_theta"
        )
    if file.format == "gguf" and metadata["rope_type"] == 0:
        yield "rows of q and k stay in the GGUF's order, permuted for adjacent pairs"
    if "tokenizer.vocabulary" not in metadata:
        yield "no tokenizer that could be taken over: the model runs from token ids only"
    elif metadata.get("tokenizer.pre_type") == UNKNOWN_PRE_TYPE:
        yield "the pre-tokenizer has no name in GGUF: the model runs from token ids only"
    num_shifted = sum(is_less_one(file, name) for name in named)
    if num_shifted:
        yield (
            f"{num_shifted} norms are written with the 1 that Hugging Face's gemma3 leaves out "
            "of them, in F32"
        )
    if wanted is not None:
        yield from _reencoding_notes(named, reencoded(file, named, tensors), wanted)


def reencoded(
    file: ModelFile, named: dict[str, TensorEntry], tensors: Sequence[TensorToWrite]
) -> list[TensorToWrite]:
    """The tensors whose type is not the source's.

    Not counted: a copied head, and norms that get a 1 added.
    """
    return [
        t
        for t in tensors
        if t.name in named
        and named[t.name].block_type is not t.block_type
        and not is_less_one(file, t.name)
    ]


def _reencoding_notes(
    named: dict[str, TensorEntry], changed: Sequence[TensorToWrite], wanted: BlockType
) -> Iterable[str]:
    twice = {named[t.name].block_type for t in changed} - set(_UNQUANTISED)
    if twice:
        labels = ", ".join(kind.label for kind in sorted(twice))
        yield f"weights that were quantised already ({labels}) lose precision twice"
    others = sorted({t.block_type for t in changed} - {wanted})
    if others:
        yield f"the LM head is {others[0].label}: its error goes straight into the logits"
    names = {t.name for t in changed}
    kept = [
        name
        for name, entry in named.items()
        if len(entry.shape) > 1
        and name not in names
        and entry.shape[-1] % wanted.elements_per_block
    ]
    if kept:
        yield (
            f"{len(kept)} of the matrices keep their type: their rows are no whole "
            f"{wanted.label} blocks of {wanted.elements_per_block}"
        )
