"""Two models' differences for people: metadata, bytes, values, and what it comes to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cotejar.files.diff_metadata import MISSING
from cotejar.files.diff_models import TensorStatus
from cotejar.report.metadata_text import describe
from cotejar.report.tables import (
    Column,
    counted,
    heading,
    output_width,
    render_pairs,
    render_table,
    render_text,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.files.diff_metadata import ValueDifference
    from cotejar.files.diff_models import ModelDiff, Side, TensorDiff
    from cotejar.files.elementwise import ElementwiseDistance
    from cotejar.formats.model_file import TensorEntry

_TENSOR_COLUMNS = (
    Column("tensor"),
    Column("A"),
    Column("B"),
    *(Column(t, is_number=True) for t in ("rel L2", "max abs", "cosine", "NMSE", "NaN/Inf")),
    Column("note"),
)
_NOT_LISTED = (TensorStatus.EQUAL, TensorStatus.REORDERED, TensorStatus.TIED_COPY)
_ONE_SIDED_SHOWN = 5


def model_diff_lines(diff: ModelDiff, *, limit: int, with_values: bool) -> Iterator[str]:
    """The text of `apr diff` for two models; `limit` for each list."""
    yield from render_pairs(
        [("A", _side_text(diff.a)), ("B", _side_text(diff.b))], output_width()
    )
    yield ""
    yield from _metadata_lines(diff, limit)
    yield from _tensor_lines(diff)
    yield from _table_lines(diff, limit)
    if with_values:
        yield from _value_lines(diff, limit)
    yield ""
    yield _summary(diff)


def worst_lines(distance: ElementwiseDistance, shape: Sequence[int]) -> Iterator[str]:
    """The elements with the largest differences, a row each."""
    columns = tuple(Column(t, is_number=True) for t in ("index", "A", "B", "|B - A|"))
    rows = [
        (_place(pair.index, shape), f"{pair.a:.8g}", f"{pair.b:.8g}", f"{pair.abs_diff:.4g}")
        for pair in distance.worst
    ]
    yield from render_table(columns, rows, output_width())


def _side_text(side: Side) -> str:
    version = "" if side.format == "safetensors" else f" {side.format_version}"
    return (
        f"{visible(str(side.path))}  ({side.format}{version}, {side.num_tensors:,} tensors, "
        f"{side.num_bytes:,} bytes of weights)"
    )


def _metadata_lines(diff: ModelDiff, limit: int) -> Iterator[str]:
    metadata = diff.metadata
    if metadata is None:
        return
    yield heading("Metadata")
    yield f"  {metadata.num_facts} facts of architecture and tokenizer: " + _verdict(
        len(metadata.facts)
    )
    yield from _difference_rows(metadata.facts, limit)
    if metadata.num_keys is None:
        formats = f"{diff.a.format} and {diff.b.format}"
        yield from render_text(
            f"keys are not compared: {formats} name them differently", output_width()
        )
    else:
        yield f"  {metadata.num_keys} keys: " + _verdict(len(metadata.keys))
        yield from _difference_rows(metadata.keys, limit)
    yield ""


def _verdict(num_differing: int) -> str:
    if num_differing == 0:
        return "the same"
    return f"{num_differing} differ{'s' if num_differing == 1 else ''}"


def _difference_rows(differences: Sequence[ValueDifference], limit: int) -> Iterator[str]:
    if not differences:
        return
    rows = [
        (visible(one.key + one.place), _value_text(one.a), _value_text(one.b))
        for one in differences[:limit]
    ]
    columns = (Column("key"), Column("A"), Column("B"))
    yield from render_table(columns, rows, output_width())
    if len(differences) > limit:
        yield f"  ... and {len(differences) - limit} more (--limit)"


def _value_text(value: object) -> str:
    return str(MISSING) if value is MISSING else describe(value, 60)


def _tensor_lines(diff: ModelDiff) -> Iterator[str]:
    yield heading("Tensors")
    sentences = {
        TensorStatus.EQUAL: "equal byte for byte",
        TensorStatus.SAME_VALUES: "other bytes, the same values",
        TensorStatus.REORDERED: "the same rows, in the RoPE order that each file declares",
        TensorStatus.TIED_COPY: "LM head stored once here and tied there: the same",
        TensorStatus.DIFFERS: "with other values",
        TensorStatus.NOT_DECODED: "with other bytes, and of a type that cannot be decoded",
        TensorStatus.SHAPE_DIFFERS: "with other shapes",
        TensorStatus.ONLY_IN_A: "only in A",
        TensorStatus.ONLY_IN_B: "only in B",
    }
    for status, sentence in sentences.items():
        names = [tensor.name for tensor in diff.tensors if tensor.status is status]
        if not names and status is not TensorStatus.EQUAL:
            continue
        listed = ""
        if status in (TensorStatus.ONLY_IN_A, TensorStatus.ONLY_IN_B):
            listed = ": " + visible(", ".join(names[:_ONE_SIDED_SHOWN]))
            listed += ", ..." if len(names) > _ONE_SIDED_SHOWN else ""
        yield from render_text(f"{len(names):>6,}  {sentence}{listed}", output_width())
    pairings = diff.rope_pairings
    is_looked_through = any(tensor.layout is not None for tensor in diff.tensors)
    if None not in pairings and pairings[0] != pairings[1] and not is_looked_through:
        yield from render_text(
            f"the files order the rows of q and k differently (A {pairings[0]}, "
            f"B {pairings[1]}): --transpose-aware looks through that",
            output_width(),
        )


def _table_lines(diff: ModelDiff, limit: int) -> Iterator[str]:
    found = [t for t in diff.tensors if t.a and t.b and t.status not in _NOT_LISTED]
    if not found:
        return
    yield ""
    yield heading("Worst first (A is the reference)")
    rows = [_tensor_row(tensor) for tensor in found[:limit]]
    yield from render_table(_TENSOR_COLUMNS, rows, output_width())
    if len(found) > limit:
        yield f"  ... and {len(found) - limit} more (--limit)"


def _tensor_row(tensor: TensorDiff) -> Sequence[str]:
    a, b, distance = tensor.a, tensor.b, tensor.distance
    assert a is not None
    assert b is not None
    is_reshaped = a.shape != b.shape
    row = [visible(tensor.name), _type_text(a, is_reshaped), _type_text(b, is_reshaped)]
    note = "" if tensor.layout is None else tensor.layout.name
    if tensor.layout is not None and tensor.layout.is_declared:
        note += ", as declared"
    if distance is None:
        is_undecoded = tensor.status is TensorStatus.NOT_DECODED
        return [*row, "", "", "", "", "", note or ("not decoded" if is_undecoded else "shape")]
    return [*row, *measure_texts(distance), note]


def measure_texts(distance: ElementwiseDistance) -> list[str]:
    """The four measures and the numbers that are none, as cells of a table."""
    if distance.num_compared == 0:
        return ["", "", "", "", nonfinite_text(distance)]
    return [
        _figure(distance.rel_l2),
        _figure(distance.max_abs),
        f"{distance.cosine:.6f}",
        _figure(distance.nmse),
        nonfinite_text(distance),
    ]


def nonfinite_text(distance: ElementwiseDistance) -> str:
    """How many values are NaN or infinite, A's against B's; empty where there are none."""
    counts = (
        distance.nan_count_a + distance.inf_count_a,
        distance.nan_count_b + distance.inf_count_b,
    )
    return f"{counts[0]:,}/{counts[1]:,}" if any(counts) else ""


def _figure(value: float) -> str:
    return "inf" if math.isinf(value) else "0" if value == 0 else f"{value:.2e}"


def _type_text(entry: TensorEntry, with_shape: bool) -> str:  # noqa: FBT001 - one caller
    label = entry.block_type.label
    return f"{label} {'x'.join(map(str, entry.shape))}" if with_shape else label


def _value_lines(diff: ModelDiff, limit: int) -> Iterator[str]:
    for tensor in [t for t in diff.tensors if t.distance and t.distance.worst][:limit]:
        assert tensor.a is not None
        assert tensor.distance is not None
        yield ""
        different = tensor.distance.num_different
        yield heading(visible(tensor.name))
        yield f"  {different:,} of {tensor.distance.num_elements:,} values differ"
        yield from worst_lines(tensor.distance, tensor.a.shape)


def _place(index: int, shape: Sequence[int]) -> str:
    """`[row, column]`, outermost first."""
    place = []
    for size in reversed(shape):
        index, remainder = divmod(index, size)
        place.append(str(remainder))
    return f"[{', '.join(reversed(place))}]"


def _summary(diff: ModelDiff) -> str:
    within = "" if diff.threshold is None else f", within rel L2 {diff.threshold:g}"
    if diff.is_same:
        return f"SAME{within}"
    parts = []
    if diff.deciding:
        parts.append(f"{len(diff.deciding)} of {len(diff.tensors)} tensors")
    if diff.metadata is not None:
        if diff.metadata.facts:
            parts.append(counted(len(diff.metadata.facts), "fact"))
        if diff.metadata.keys and diff.threshold is None:
            parts.append(counted(len(diff.metadata.keys), "metadata key"))
    beyond = "" if diff.threshold is None else f" (limit: rel L2 {diff.threshold:g})"
    return f"THEY DIFFER  in {', '.join(parts)}{beyond}"
