"""Read a converted file back and compare it with its source, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import ReadBackError
from cotejar.files.diff_layouts import find_layout
from cotejar.files.tensor_values import have_same_bytes, open_values
from cotejar.formats.open_model import open_model
from cotejar.formats.tensor_names import EMBEDDING, LM_HEAD
from cotejar.model.architecture_summary import summarize_architecture
from cotejar.model.names import canonical_names

if TYPE_CHECKING:
    from cotejar.formats.convert.report import ConversionReport
    from cotejar.formats.model_file import ModelFile, TensorEntry


@dataclass(kw_only=True, slots=True)
class ConversionCheck:
    """What was read back. Of every tensor that was not re-encoded, the rows are equal."""

    num_equal: int = 0
    """Byte for byte."""
    num_bytes: int = 0
    """Of these."""
    num_reordered: int = 0
    """Rows of q and k in the order that the target declares, and otherwise equal."""
    num_reencoded: int = 0
    """Of another type now: the shape was compared, and the bytes cannot be."""

    @property
    def sentence(self) -> str:
        """For people."""
        parts = [
            f"{self.num_equal:,} tensors ({self.num_bytes:,} bytes) equal the source's, "
            "byte for byte"
        ]
        if self.num_reordered:
            parts.append(f"{self.num_reordered:,} equal row for row, in the other RoPE order")
        if self.num_reencoded:
            parts.append(f"{self.num_reencoded:,} were re-encoded")
        return f"read back: {'; '.join(parts)}"

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "equal_count": self.num_equal,
            "equal_bytes": self.num_bytes,
            "reordered_count": self.num_reordered,
            "reencoded_count": self.num_reencoded,
        }


def check_conversion(report: ConversionReport) -> ConversionCheck:
    """Open both files and compare every tensor of the source with the target's.

    Raises:
        ReadBackError: the target does not hold what was written: the disk, or a defect of ours.
        FileError: one of the two cannot be read; a wrong checksum in the target is one.
    """
    check = ConversionCheck()
    with open_model(report.source) as source, open_model(report.target) as target:
        written, originals = canonical_names(target), canonical_names(source)
        for name, entry in originals.items():
            if name not in written and name == LM_HEAD:
                continue  # the copy of a tied table, which an export leaves out
            _check_tensor(check, report, (source, target), (entry, written.get(name)), name)
        if LM_HEAD in written and LM_HEAD not in originals:
            pair = originals[EMBEDDING], written[LM_HEAD]
            _check_tensor(check, report, (source, target), pair, EMBEDDING)
    expected = report.num_reencoded
    if bool(check.num_reencoded) != bool(expected):
        raise ReadBackError(
            "the file that was written has other block types than were asked for",
            where=str(report.target),
            expected=f"{expected} tensors re-encoded",
            found=f"{check.num_reencoded}",
            hint="this is a defect of ours; please report it",
        )
    return check


def _check_tensor(
    check: ConversionCheck,
    report: ConversionReport,
    files: tuple[ModelFile, ModelFile],
    entries: tuple[TensorEntry, TensorEntry | None],
    name: str,
) -> None:
    entry, found = entries
    if found is None or found.shape != entry.shape:
        raise _mismatch(report, name, entry, found)
    if found.block_type is not entry.block_type:
        check.num_reencoded += 1
        return
    a, b = open_values(files[0], entry), open_values(files[1], found)
    if have_same_bytes(a.raw, b.raw):
        check.num_equal += 1
        check.num_bytes += entry.num_bytes
        return
    summaries = summarize_architecture(files[0]), summarize_architecture(files[1])
    layout = find_layout(name, a, b, summaries, plain=None)
    if layout is None or not (layout.is_declared and layout.distance.is_zero):
        raise _mismatch(report, name, entry, found)
    check.num_reordered += 1


def _mismatch(
    report: ConversionReport, name: str, entry: TensorEntry, found: TensorEntry | None
) -> ReadBackError:
    described = f"{entry.block_type.label} {entry.shape}"
    return ReadBackError(
        f"the file that was written does not hold the source's tensor {name!r}",
        where=str(report.target),
        expected=f"{described}, {entry.num_bytes} bytes as in {report.source}",
        found="no such tensor"
        if found is None
        else f"{found.block_type.label} {found.shape}, other bytes",
        hint="do not use it: convert again, to another disk if this repeats",
    )
