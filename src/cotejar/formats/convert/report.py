"""What a conversion did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from cotejar.quant.block_type import BlockType


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionReport:
    """A conversion that ended well."""

    source: Path
    source_format: str
    """`gguf`, `safetensors` or `apr`."""
    target: Path
    target_format: str
    num_tensors: int
    """Written to the target, copies included."""
    num_bytes: int
    """Of the target file."""
    block_types: Mapping[str, int] = field(default_factory=dict)
    """How many tensors of the target have a type, by its label, most common first."""
    extension_types: tuple[str, ...] = ()
    """Types written under a code that upstream's `.apr` does not have."""
    num_reencoded: int = 0
    """Tensors whose weights were encoded anew; the bytes of all others are the source's."""
    notes: tuple[str, ...] = ()
    """What a user should know, a sentence each."""

    def checked_by(self, check: Check | None) -> Callable[[Path], None] | None:
        """What a writer calls with the temporary file; its size is known by then."""
        if check is None:
            return None
        return lambda written: check(replace(self, num_bytes=written.stat().st_size), written)

    def as_json(self) -> dict[str, object]:
        """The same facts for `--json`."""
        return {
            "source": str(self.source),
            "source_format": self.source_format,
            "target": str(self.target),
            "target_format": self.target_format,
            "num_tensors": self.num_tensors,
            "num_bytes": self.num_bytes,
            "block_types": dict(self.block_types),
            "extension_types": list(self.extension_types),
            "num_reencoded": self.num_reencoded,
            "notes": list(self.notes),
        }


Check: TypeAlias = "Callable[[ConversionReport, Path], None]"
"""Called with what was done and the path of the whole target under its temporary name, before
it takes its place: what it raises leaves nothing behind, and an older target as it was."""


def count_types(block_types: Iterable[BlockType]) -> dict[str, int]:
    """Count types by label, the most common first, ties by ggml's numbers."""
    counts = Counter(block_types)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {kind.label: count for kind, count in ordered}
