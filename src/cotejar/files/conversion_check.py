"""Read a converted file back and compare it with its source, tensor by tensor.

It is read under its temporary name: one that does not hold what it should never appears.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import CotejarError, ReadBackError
from cotejar.files.diff_layouts import find_layout
from cotejar.files.reencoding_check import BOUNDS, find_excess
from cotejar.files.tensor_values import have_same_bytes, open_canonical_values
from cotejar.formats.apr.reader import AprFile
from cotejar.formats.convert.report import count_types
from cotejar.formats.norm_offset import is_less_one
from cotejar.formats.open_model import open_model
from cotejar.formats.tensor_names import EMBEDDING, LM_HEAD
from cotejar.model.architecture_summary import summarize_architecture
from cotejar.model.names import canonical_names

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.files.tensor_values import TensorValues
    from cotejar.formats.convert.report import ConversionReport
    from cotejar.formats.model_file import ModelFile, TensorEntry

_AGAIN = "convert again, to another disk if this repeats; nothing was written"


@dataclass(kw_only=True, slots=True)
class ConversionCheck:
    """What was read back. Of every tensor that was not re-encoded, the rows are equal."""

    num_equal: int = 0
    """Byte for byte."""
    num_bytes: int = 0
    """Of these."""
    num_reordered: int = 0
    """Rows of q and k in the order that the target declares, and otherwise equal."""
    num_shifted: int = 0
    """Norms of a gemma3 folder, with the 1 that Hugging Face leaves out added."""
    num_reencoded: int = 0
    """Of another type now: each block lies within what encoding may do to it."""

    @property
    def sentence(self) -> str:
        """For people."""
        parts = [
            f"{self.num_equal:,} tensors ({self.num_bytes:,} bytes) equal the source's, "
            "byte for byte"
        ]
        if self.num_reordered:
            parts.append(f"{self.num_reordered:,} equal row for row, in the other RoPE order")
        if self.num_shifted:
            parts.append(f"{self.num_shifted:,} norms equal them with 1 added")
        if self.num_reencoded:
            parts.append(f"{self.num_reencoded:,} were re-encoded")
        return f"read back: {'; '.join(parts)}"

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "equal_count": self.num_equal,
            "equal_bytes": self.num_bytes,
            "reordered_count": self.num_reordered,
            "shifted_count": self.num_shifted,
            "reencoded_count": self.num_reencoded,
        }


def check_conversion(report: ConversionReport, written: Path | None = None) -> ConversionCheck:
    """Open both files and compare every tensor of the source with the target's.

    Args:
        report: what was done.
        written: where the target lies, if it has not taken its place yet.

    Raises:
        ReadBackError: the target does not hold what was written: the disk, or a defect of ours.
        FileError: the source cannot be read.
    """
    check = ConversionCheck()
    with open_model(report.source) as source, _open_written(report, written) as target:
        written_names, originals = canonical_names(target), canonical_names(source)
        for name, entry in originals.items():
            if name not in written_names and name == LM_HEAD:
                continue  # the copy of a tied table, which an export leaves out
            _check_tensor(
                check, report, (source, target), (entry, written_names.get(name)), name
            )
        _require(report, "tensors re-encoded", report.num_reencoded, check.num_reencoded)
        if LM_HEAD in written_names and LM_HEAD not in originals:
            copy = ConversionCheck()  # a copy is compared, but counts as re-encoded once
            pair = originals[EMBEDDING], written_names[LM_HEAD]
            _check_tensor(copy, report, (source, target), pair, EMBEDDING)
            check.num_equal += copy.num_equal
            check.num_bytes += copy.num_bytes
        types = count_types(e.decodable_type(target.path) for e in target.tensors.values())
        _require(report, "block types", dict(report.block_types), types)
    return check


def _open_written(report: ConversionReport, written: Path | None) -> ModelFile:
    """Open the target, its checksums verified: it was written a moment ago, and is whole."""
    try:
        file = open_model(written or report.target)
        try:
            if isinstance(file, AprFile):
                file.verify()
        except BaseException:
            file.close()
            raise
    except CotejarError as error:
        raise ReadBackError(
            f"the file that was written cannot be read back: {error.problem}",
            where=str(report.target),
            expected=error.parts["expected"],
            found=error.parts["found"],
            hint=_AGAIN,
        ) from error
    return file


def _require(report: ConversionReport, what: str, expected: object, found: object) -> None:
    """What was asked for, and nothing more or less."""
    if expected != found:
        raise ReadBackError(
            "the file that was written has other block types than were asked for",
            where=str(report.target),
            expected=f"{what}: {expected}",
            found=f"{found}",
            hint="this is a defect of ours; please report it",
        )


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
    a = open_canonical_values(files[0], entry, name)
    b = open_canonical_values(files[1], found, name)
    if is_less_one(files[0], name):
        if b.block_type is not a.block_type or not have_same_bytes(a.raw, b.raw):
            raise _mismatch(report, name, entry, found)
        check.num_shifted += 1
        return
    if found.block_type is not entry.block_type:
        _check_reencoded(report, name, a, b)
        check.num_reencoded += 1
        return
    if have_same_bytes(a.raw, b.raw):
        check.num_equal += 1
        check.num_bytes += entry.num_bytes
        return
    summaries = summarize_architecture(files[0]), summarize_architecture(files[1])
    layout = find_layout(name, a, b, summaries, plain=None)
    if layout is None or not (layout.is_declared and layout.distance.is_zero):
        raise _mismatch(report, name, entry, found)
    check.num_reordered += 1


def _check_reencoded(
    report: ConversionReport, name: str, a: TensorValues, b: TensorValues
) -> None:
    if b.block_type not in BOUNDS:
        _require(report, f"type of {name}", a.block_type.label, b.block_type.label)
    excess = find_excess(a, b)
    if excess is not None:
        raise ReadBackError(
            f"the file that was written does not hold the source's tensor {name!r}",
            where=str(report.target),
            expected=f"{b.block_type.label} within {excess.limit:.3g} of every weight, rms "
            f"{excess.rms_limit:.3g}",
            found=excess.sentence,
            hint=_AGAIN,
        )


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
        hint=_AGAIN,
    )
