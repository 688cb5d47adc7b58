"""Compare two model files: metadata, then the tensors' bytes, then their decoded values.

Tensors are paired by canonical name, so that the two may be of different formats. Tensors
with the same type, shape and bytes are not decoded; the others are, a few values at a time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import NothingMeasuredError
from cotejar.files.diff_layouts import QK_NAME, Layout, find_layout
from cotejar.files.diff_metadata import PAIRING_FACT, MetadataDiff, diff_metadata
from cotejar.files.elementwise import (
    ElementwiseDistance,
    measure_elements,
    require_threshold,
)
from cotejar.files.name_filter import NameFilter
from cotejar.files.tensor_values import (
    TensorValues,
    have_same_bytes,
    open_canonical_values,
)
from cotejar.formats.norm_offset import is_less_one
from cotejar.formats.open_model import open_model
from cotejar.formats.tensor_names import EMBEDDING, LM_HEAD
from cotejar.model.architecture_summary import ArchitectureSummary, summarize_architecture
from cotejar.model.names import canonical_names
from cotejar.quant.block_type import ListedType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cotejar.formats.model_file import ModelFile, TensorEntry
    from cotejar.model.config import RopePairing


class TensorStatus(enum.Enum):
    """How one tensor of two files compares."""

    EQUAL = "equal"
    """The same type, shape and bytes."""
    SAME_VALUES = "same_values"
    """Other bytes, or another type, and the same decoded values."""
    REORDERED = "reordered"
    """The same rows of q or k, in the RoPE order that each file declares."""
    TIED_COPY = "tied_copy"
    """One file stores the LM head, the other ties it to its embedding table: the same."""
    DIFFERS = "differs"
    NOT_DECODED = "not_decoded"
    """Other bytes, or another type, and no codec for a side: the values are unknown."""
    SHAPE_DIFFERS = "shape_differs"
    ONLY_IN_A = "only_in_a"
    ONLY_IN_B = "only_in_b"


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffOptions:
    """What is asked of `apr diff` between two models.

    Raises:
        UsageError: a threshold that decides nothing.
    """

    name_filter: str | None = None
    """Text or glob; None for every tensor."""
    weights_only: bool = False
    """Leave the metadata out."""
    transpose_aware: bool = False
    """Try other layouts of a tensor that differs."""
    threshold: float | None = None
    """Relative L2 up to which a tensor counts as the same; None for 0."""
    num_worst: int = 0
    """Elements kept a tensor, the largest differences first."""

    def __post_init__(self) -> None:
        require_threshold(self.threshold)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorDiff:
    """One tensor of two files."""

    name: str
    """Canonical: Hugging Face's spelling."""
    a: TensorEntry | None
    b: TensorEntry | None
    status: TensorStatus
    distance: ElementwiseDistance | None = None
    """Of the decoded values, where they were compared."""
    layout: Layout | None = None
    """The layout under which the two agree, or nearly so; the distance is under it."""

    def decides(self, threshold: float | None) -> bool:
        """Does this tensor make the two files differ?"""
        if self.status in _SAME:
            return False
        if self.status is not TensorStatus.DIFFERS or self.distance is None:
            return True
        if self.layout is not None and not self.layout.is_declared:
            return True
        return not self.distance.is_within(threshold)

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        facts: dict[str, object] = {"name": self.name, "status": self.status.value}
        for side, entry in (("a", self.a), ("b", self.b)):
            facts[f"name_{side}"] = None if entry is None else entry.name
            facts[f"dtype_{side}"] = None if entry is None else entry.block_type.label
            facts[f"shape_{side}"] = None if entry is None else list(entry.shape)
        facts["layout"] = None
        if self.layout is not None:
            facts["layout"] = self.layout.name
            facts["layout_declared"] = self.layout.is_declared
        if self.distance is None:
            return facts
        worst = [
            {"index": pair.index, "a": pair.a, "b": pair.b, "abs_diff": pair.abs_diff}
            for pair in self.distance.worst
        ]
        return facts | self.distance.as_json() | ({"top_diffs": worst} if worst else {})


_SAME = (
    TensorStatus.EQUAL,
    TensorStatus.SAME_VALUES,
    TensorStatus.REORDERED,
    TensorStatus.TIED_COPY,
)
_ONE_SIDED = (TensorStatus.ONLY_IN_A, TensorStatus.ONLY_IN_B)
_ORDER = (
    TensorStatus.SHAPE_DIFFERS,
    *_ONE_SIDED,
    TensorStatus.NOT_DECODED,
    TensorStatus.DIFFERS,
    TensorStatus.SAME_VALUES,
    TensorStatus.REORDERED,
    TensorStatus.TIED_COPY,
    TensorStatus.EQUAL,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two files."""

    path: Path
    format: str
    format_version: str
    num_tensors: int
    num_bytes: int
    """Of all its tensors."""

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "file": self.path,
            "format": self.format,
            "version": self.format_version,
            "tensor_count": self.num_tensors,
            "total_size_bytes": self.num_bytes,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDiff:
    """All that differs between two model files."""

    a: Side
    b: Side
    rope_pairings: tuple[RopePairing | None, RopePairing | None]
    """How the two say that they order the rows of q and k."""
    metadata: MetadataDiff | None
    """None where it was left out."""
    tensors: tuple[TensorDiff, ...]
    """The worst first."""
    threshold: float | None

    def count(self, status: TensorStatus) -> int:
        """How many tensors have a status."""
        return sum(tensor.status is status for tensor in self.tensors)

    @property
    def deciding(self) -> list[TensorDiff]:
        """The tensors that make the two files differ, the worst first."""
        return [tensor for tensor in self.tensors if tensor.decides(self.threshold)]

    @property
    def is_same(self) -> bool:
        """Nothing that counts differs.

        With a threshold, what counts is the architecture and the values: block types and
        the other keys of the metadata go with a quantisation, and are only listed.
        """
        if self.deciding:
            return False
        if self.metadata is None:
            return True
        return self.metadata.is_same if self.threshold is None else not self.metadata.facts

    @property
    def exit_code(self) -> int:
        """0 for the same, 1 where they differ."""
        return 0 if self.is_same else 1

    def as_json(self, limit: int | None = None) -> dict[str, object]:
        """For `--json`; `limit` cuts the list of tensors that are not equal."""
        unequal = [t for t in self.tensors if t.status is not TensorStatus.EQUAL]
        return {
            "a": self.a.as_json(),
            "b": self.b.as_json(),
            "metadata": None if self.metadata is None else self.metadata.as_json(),
            "num_compared": sum(t.status not in _ONE_SIDED for t in self.tensors),
            "counts": {status.value: self.count(status) for status in TensorStatus},
            "tensors_listed": len(unequal[:limit]),
            "tensors": [tensor.as_json() for tensor in unequal[:limit]],
            "threshold": self.threshold,
            "same": self.is_same,
            "exit_code": self.exit_code,
        }


def diff_models(
    path_a: str | Path,
    path_b: str | Path,
    options: DiffOptions | None = None,
    on_tensor: Callable[[str, int, int], None] = lambda _name, _done, _total: None,
) -> ModelDiff:
    """Compare two model files.

    Args:
        path_a: the reference.
        path_b: the candidate.
        options: see there.
        on_tensor: called before a tensor is compared, with its name, how many are done and
            how many there are.

    Raises:
        FileError: one of them cannot be read, or breaks its format.
        TensorNameError: two tensors of a file have one canonical name.
        NothingMeasuredError: no tensor is in both, or the filter leaves none.
    """
    options = options or DiffOptions()
    with open_model(path_a) as a, open_model(path_b) as b:
        comparison = _Comparison(a, b, options)
        names = comparison.names
        tensors = []
        for done, name in enumerate(names):
            on_tensor(name, done, len(names))
            tensors.append(comparison.compare(name))
        metadata = None if options.weights_only else diff_metadata(a, b)
        if metadata is not None and _are_rows_as_declared(tensors):
            metadata = metadata.without_fact(PAIRING_FACT)
        return ModelDiff(
            a=_side(a),
            b=_side(b),
            rope_pairings=comparison.rope_pairings,
            metadata=metadata,
            tensors=tuple(sorted(tensors, key=_worst_first)),
            threshold=options.threshold,
        )


def _side(file: ModelFile) -> Side:
    return Side(
        path=file.path,
        format=file.format,
        format_version=file.format_version,
        num_tensors=len(file.tensors),
        num_bytes=sum(entry.num_bytes for entry in file.tensors.values()),
    )


def _are_rows_as_declared(tensors: list[TensorDiff]) -> bool:
    """Are all q and k weights in the orders that the two files declare, which differ?"""
    layouts = [t.layout for t in tensors if t.a and t.b and QK_NAME.fullmatch(t.name)]
    return bool(layouts) and all(x is not None and x.is_declared for x in layouts)


def _worst_first(tensor: TensorDiff) -> tuple[int, bool, float]:
    unlike, rel_l2 = (False, 0.0) if tensor.distance is None else tensor.distance.severity
    return _ORDER.index(tensor.status), not unlike, -rel_l2


class _Comparison:
    """Two opened files, paired."""

    def __init__(self, a: ModelFile, b: ModelFile, options: DiffOptions) -> None:
        self._files = a, b
        self._entries = canonical_names(a), canonical_names(b)
        self._options = options
        self._summaries: tuple[ArchitectureSummary, ArchitectureSummary] = (
            summarize_architecture(a),
            summarize_architecture(b),
        )
        self.names = self._chosen_names()

    @property
    def rope_pairings(self) -> tuple[RopePairing | None, RopePairing | None]:
        """How the two order the rows of q and k, as they say."""
        return self._summaries[0].rope_pairing, self._summaries[1].rope_pairing

    def compare(self, name: str) -> TensorDiff:
        """Compare one tensor that at least one side has."""
        a, b = (entries.get(name) for entries in self._entries)
        if a is None or b is None:
            status = TensorStatus.ONLY_IN_A if b is None else TensorStatus.ONLY_IN_B
            if name == LM_HEAD and self._is_tied_copy():
                status = TensorStatus.TIED_COPY
            return TensorDiff(name=name, a=a, b=b, status=status)
        if isinstance(a.block_type, ListedType) or isinstance(b.block_type, ListedType):
            return self._compare_bytes(name, a, b)
        values_a = open_canonical_values(self._files[0], a, name)
        values_b = open_canonical_values(self._files[1], b, name)
        if a.shape == b.shape:
            shifted = is_less_one(self._files[0], name) != is_less_one(self._files[1], name)
            return self._compare_values(name, (a, b), values_a, values_b, shifted=shifted)
        found = TensorDiff(name=name, a=a, b=b, status=TensorStatus.SHAPE_DIFFERS)
        return self._with_layout(found, values_a, values_b)

    def _compare_bytes(self, name: str, a: TensorEntry, b: TensorEntry) -> TensorDiff:
        """What can be said where a side has no codec: the same bytes, or not."""
        status = TensorStatus.NOT_DECODED
        if a.shape != b.shape:
            status = TensorStatus.SHAPE_DIFFERS
        elif a.block_type is b.block_type:
            status = TensorStatus.EQUAL if self._have_same_bytes(a, b) else status
        return TensorDiff(name=name, a=a, b=b, status=status)

    def _chosen_names(self) -> list[str]:
        wanted = NameFilter(self._options.name_filter)
        mine, other = self._entries
        both = [name for name in dict.fromkeys([*mine, *other]) if wanted.matches(name)]
        if not any(name in mine and name in other for name in both):
            wanted.require(both, {*mine, *other}, where=self._where)
            raise NothingMeasuredError(
                "the two files have no tensor in common",
                where=self._where,
                expected="tensors of the same names",
                found=_one_sided(mine, other, both),
                hint="are they files of one model? `apr tensors` lists what each holds",
            )
        return both

    @property
    def _where(self) -> str:
        return " and ".join(str(file.path) for file in self._files)

    def _compare_values(
        self,
        name: str,
        entries: tuple[TensorEntry, TensorEntry],
        a: TensorValues,
        b: TensorValues,
        *,
        shifted: bool,
    ) -> TensorDiff:
        found = TensorDiff(name=name, a=entries[0], b=entries[1], status=TensorStatus.EQUAL)
        if not shifted and a.block_type is b.block_type and have_same_bytes(a.raw, b.raw):
            return found
        distance = measure_elements(a.chunks(), b.chunks(), num_worst=self._options.num_worst)
        if distance.is_zero:
            return replace(found, status=TensorStatus.SAME_VALUES, distance=distance)
        found = replace(found, status=TensorStatus.DIFFERS, distance=distance)
        return self._with_layout(found, a, b)

    def _with_layout(self, found: TensorDiff, a: TensorValues, b: TensorValues) -> TensorDiff:
        if not self._options.transpose_aware:
            return found
        layout = find_layout(
            found.name,
            a,
            b,
            self._summaries,
            plain=found.distance,
            num_worst=self._options.num_worst,
        )
        if layout is None:
            return found
        is_same = layout.is_declared and layout.distance.is_zero
        status = TensorStatus.REORDERED if is_same else found.status
        return replace(found, status=status, layout=layout, distance=layout.distance)

    def _is_tied_copy(self) -> bool:
        """Is the one LM head that is stored equal to the other side's embedding table?"""
        names = (LM_HEAD, EMBEDDING) if LM_HEAD in self._entries[0] else (EMBEDDING, LM_HEAD)
        a, b = (entries.get(name) for entries, name in zip(self._entries, names, strict=True))
        if a is None or b is None or (a.block_type, a.shape) != (b.block_type, b.shape):
            return False
        return self._have_same_bytes(a, b)

    def _have_same_bytes(self, a: TensorEntry, b: TensorEntry) -> bool:
        """Whether a tensor of the one file has the bytes of one of the other."""
        raw_a, raw_b = (
            np.asarray(file.read_bytes(entry.name))
            for file, entry in zip(self._files, (a, b), strict=True)
        )
        return have_same_bytes(raw_a, raw_b)


def _one_sided(a: Mapping[str, object], b: Mapping[str, object], names: list[str]) -> str:
    counts = [sum(name in entries for name in names) for entries in (a, b)]
    firsts = [next((n for n in names if n in entries), "none") for entries in (a, b)]
    return (
        f"{counts[0]} only in the first ({firsts[0]}, ...), "
        f"{counts[1]} only in the second ({firsts[1]}, ...)"
    )
