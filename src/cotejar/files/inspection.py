"""What `apr inspect` finds: a file's header, metadata and architecture, and no weight.

Any of the three model formats, of any architecture, and trace and stage files. Nothing is
read but headers and tables, unless `verify` asks for every byte.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.files.file_kind import find_file_kind
from cotejar.files.shown_metadata import as_json as metadata_json
from cotejar.files.shown_metadata import count_elements, read_shown_metadata
from cotejar.formats.apr.layout import Flag
from cotejar.formats.apr.reader import AprFile
from cotejar.formats.mapped_file import open_mapped
from cotejar.formats.open_model import open_model
from cotejar.model.architecture_summary import ArchitectureSummary, summarize_architecture

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cotejar.formats.model_file import ModelFile
    from cotejar.trace.forward_trace import ForwardTrace
    from cotejar.trace.stats import ActivationStats

_CHUNK_BYTES = 1 << 24
_UNQUANTISED = ("F32", "F16", "BF16")
_TOKENIZER_KEYS = {
    "gguf": ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"),
    "apr": ("tokenizer.model", "tokenizer.pre_type", "tokenizer.vocabulary"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePart:
    """One file of a model; most models have one."""

    path: Path
    size_bytes: int
    num_tensors: int
    sha256: str | None = None
    """Of the whole file, in hexadecimal; None where it was not asked for."""

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "file": self.path,
            "size_bytes": self.size_bytes,
            "tensor_count": self.num_tensors,
            "sha256": self.sha256,
        }


@dataclass(kw_only=True, slots=True)
class TypeShare:
    """What the tensors of one block type add up to."""

    label: str
    num_tensors: int = 0
    num_values: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFacts:
    """What a file says of its tokenizer, without decoding it."""

    kind: str
    pre_tokenizer: str | None
    num_tokens: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A model file, as far as it can be known without reading a weight."""

    path: Path
    format: str
    format_version: str
    parts: tuple[FilePart, ...]
    block_types: tuple[TypeShare, ...]
    """The most bytes first."""
    architecture: ArchitectureSummary
    tokenizer: TokenizerFacts | None
    has_chat_template: bool
    flags: Mapping[str, bool]
    metadata: Mapping[str, object]
    """Long values are `shown_metadata.Omitted`."""
    checksum_valid: bool | None
    """None: not verified, or a format without a checksum. A wrong one is an error."""
    verified: bool
    """Every byte was read."""

    @property
    def size_bytes(self) -> int:
        """Of all parts together."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def num_tensors(self) -> int:
        """In all parts."""
        return sum(part.num_tensors for part in self.parts)

    def as_json(self) -> dict[str, object]:
        """Upstream's keys first, then ours."""
        facts = self.architecture.facts()
        first = ("architecture", "num_layers", "num_heads", "hidden_size", "vocab_size")
        return {
            "file": self.path,
            "valid": True if self.verified else None,
            "format": self.format,
            "version": self.format_version,
            "tensor_count": self.num_tensors,
            "size_bytes": self.size_bytes,
            "checksum_valid": self.checksum_valid,
            **{key: facts.pop(key) for key in first},
            "flags": dict(self.flags),
            "metadata": metadata_json(self.metadata),
            **facts,
            "value_count": sum(share.num_values for share in self.block_types),
            "tensor_bytes": sum(share.num_bytes for share in self.block_types),
            "block_types": [
                {
                    "type": share.label,
                    "tensor_count": share.num_tensors,
                    "value_count": share.num_values,
                    "size_bytes": share.num_bytes,
                }
                for share in self.block_types
            ],
            "tokenizer": None
            if self.tokenizer is None
            else {
                "kind": self.tokenizer.kind,
                "pre_tokenizer": self.tokenizer.pre_tokenizer,
                "num_tokens": self.tokenizer.num_tokens,
            },
            "has_chat_template": self.has_chat_template,
            "parts": [part.as_json() for part in self.parts],
            "verified": self.verified,
            "valid_means": _valid_means(
                verified=self.verified, has_checksum=self.format == "apr"
            ),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceInspection:
    """A trace file."""

    path: Path
    size_bytes: int
    trace: ForwardTrace
    verified: bool
    """Every array was read."""

    def as_json(self) -> dict[str, object]:
        """Upstream's keys for a model, as far as a trace has them, then ours."""
        from cotejar.trace.manifest import SCHEMA_VERSION, make_manifest

        trace, config = self.trace, self.trace.config
        return {
            "file": self.path,
            "valid": True if self.verified else None,
            "format": "trace",
            "version": SCHEMA_VERSION,
            "tensor_count": len(trace.arrays) + 1,
            "size_bytes": self.size_bytes,
            "checksum_valid": None,
            "architecture": trace.model.architecture,
            **{
                key: config.get(key)
                for key in ("num_layers", "num_heads", "hidden_size", "vocab_size")
            },
            "flags": {},
            "metadata": make_manifest(trace),
            "num_tokens": len(trace.token_ids),
            "num_sites": len(trace.sites),
            "arrays": sorted(trace.arrays),
            "verified": self.verified,
            "valid_means": _valid_means(verified=self.verified, has_checksum=False),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class StageInspection:
    """A stage file."""

    path: Path
    size_bytes: int
    layer: int | None
    stats: ActivationStats

    def as_json(self) -> dict[str, object]:
        """Upstream's keys for a model, as far as a stage has them, then ours."""
        stats = self.stats
        return {
            "file": self.path,
            "valid": True,  # every value was read, for the statistics
            "format": "aprt",
            "version": None,
            "tensor_count": 1,
            "size_bytes": self.size_bytes,
            "checksum_valid": None,
            "flags": {},
            "metadata": {},
            "layer": self.layer,
            "value_count": stats.count,
            "mean": stats.mean,
            "std": stats.std,
            "min": stats.min,
            "max": stats.max,
            "nan_count": stats.nan_count,
            "inf_count": stats.inf_count,
            "zero_count": stats.zero_count,
            "valid_means": _valid_means(verified=True, has_checksum=False),
        }


def _valid_means(*, verified: bool, has_checksum: bool) -> str:
    """What `valid` says: null is not known yet. Never false, for a broken file is an error."""
    known = "the format's rules hold for header, metadata and tables"
    if not verified:
        return f"{known}; --verify reads the rest"
    if has_checksum:
        return f"{known}, and the checksum of all bytes is right"
    return f"{known}; every byte was read, and the format has no checksum to compare"


FileInspection = Inspection | TraceInspection | StageInspection


def inspect_file(
    path: str | Path, *, verify: bool = False, whole_lists: bool = False
) -> FileInspection:
    """Read what a file says of itself.

    Args:
        path: a model of any format, a trace, a stage file, or `demo:NAME`.
        verify: read every byte, and compare the checksums where the format has any.
        whole_lists: keep the long lists of the metadata, the vocabulary among them.

    Raises:
        FileError: it cannot be opened, breaks its format, or a checksum is wrong.
        TraceError: a trace that does not hold together.
    """
    kind, found = find_file_kind(path)
    if kind == "trace":
        return _inspect_trace(found, verify=verify)
    if kind == "stage":
        return _inspect_stage(found)
    with open_model(found) as file:
        return _inspect_model(file, verify=verify, whole_lists=whole_lists)


# These two import what a model's inspection, which must be quick, has no use for.
def _inspect_trace(path: Path, *, verify: bool) -> TraceInspection:
    from cotejar.trace.trace_file import read_trace

    trace = read_trace(path)
    if verify:
        for name in trace.arrays:
            trace.arrays[name]  # reads it; one that cannot be read raises
    return TraceInspection(
        path=path, size_bytes=path.stat().st_size, trace=trace, verified=verify
    )


def _inspect_stage(path: Path) -> StageInspection:
    from cotejar.files.tensor_values import measure_chunks, split_array
    from cotejar.formats.apr.stage_file import read_stage_file

    stage = read_stage_file(path)
    return StageInspection(
        path=path,
        size_bytes=path.stat().st_size,
        layer=stage.layer,
        stats=measure_chunks(split_array(stage.values)),
    )


def _inspect_model(file: ModelFile, *, verify: bool, whole_lists: bool) -> Inspection:
    has_checksum = isinstance(file, AprFile)
    if verify and isinstance(file, AprFile):
        file.verify()
    shares = _share_types(file)
    tokenizer = _read_tokenizer(file)
    return Inspection(
        path=file.path,
        format=file.format,
        format_version=file.format_version,
        parts=_read_parts(file, verify=verify),
        block_types=shares,
        architecture=summarize_architecture(file),
        tokenizer=tokenizer,
        has_chat_template=_has_chat_template(file),
        flags=_read_flags(file, shares, has_vocab=tokenizer is not None),
        metadata=read_shown_metadata(file, whole=whole_lists),
        checksum_valid=True if verify and has_checksum else None,
        verified=verify,
    )


def _read_parts(file: ModelFile, *, verify: bool) -> tuple[FilePart, ...]:
    paths: tuple[Path, ...] = getattr(file, "part_paths", (file.path,))
    counts = [0] * len(paths)
    for entry in file.tensors.values():
        counts[entry.part_index] += 1
    return tuple(
        FilePart(
            path=path,
            size_bytes=path.stat().st_size,
            num_tensors=count,
            sha256=_hash_file(path) if verify else None,
        )
        for path, count in zip(paths, counts, strict=True)
    )


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open_mapped(path) as mapped:
        for start in range(0, mapped.size_bytes, _CHUNK_BYTES):
            digest.update(mapped.view[start : start + _CHUNK_BYTES])
    return digest.hexdigest()


def _share_types(file: ModelFile) -> tuple[TypeShare, ...]:
    shares: dict[str, TypeShare] = {}
    for entry in file.tensors.values():
        label = entry.block_type.label
        share = shares.setdefault(label, TypeShare(label=label))
        share.num_tensors += 1
        share.num_values += entry.num_elements
        share.num_bytes += entry.num_bytes
    return tuple(sorted(shares.values(), key=lambda share: -share.num_bytes))


def _read_flags(
    file: ModelFile, shares: tuple[TypeShare, ...], *, has_vocab: bool
) -> dict[str, bool]:
    """The header's flags; for a format without any, those that its contents answer."""
    if isinstance(file, AprFile):
        return {str(flag.name).lower(): bool(file.flags & flag) for flag in Flag}
    return {
        "quantized": any(share.label not in _UNQUANTISED for share in shares),
        "sharded": len(getattr(file, "part_paths", ())) > 1,
        "has_vocab": has_vocab,
    }


def _read_tokenizer(file: ModelFile) -> TokenizerFacts | None:
    metadata = file.metadata
    if file.format == "safetensors":
        present = [name for name in ("tokenizer.json", "vocab.json") if name in metadata]
        if not present:
            return None
        return TokenizerFacts(kind=present[0], pre_tokenizer=None, num_tokens=None)
    model, pre, tokens = _TOKENIZER_KEYS[file.format]
    kind = metadata.get(model) or metadata.get("tokenizer.model_type")
    if not isinstance(kind, str):
        return None
    name = metadata.get(pre)
    return TokenizerFacts(
        kind=kind,
        pre_tokenizer=name if isinstance(name, str) else None,
        num_tokens=count_elements(file, tokens),
    )


def _has_chat_template(file: ModelFile) -> bool:
    metadata = file.metadata
    keys = ("tokenizer.chat_template", "chat_template", "chat_template.jinja")
    if any(key in metadata and metadata[key] for key in keys):
        return True
    config = metadata.get("tokenizer_config.json")
    return isinstance(config, dict) and bool(config.get("chat_template"))
