"""A conversion for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.report.tables import heading, output_width, render_pairs, visible, with_unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.files.conversion import FinishedConversion


def conversion_lines(done: FinishedConversion) -> Iterator[str]:
    """The text of `apr import` and `apr export`."""
    report, check = done.report, done.check
    yield heading(visible(str(report.target)))
    types = ", ".join(f"{count} {label}" for label, count in report.block_types.items())
    pairs = [
        ("from", f"{visible(str(report.source))} ({report.source_format})"),
        ("format", report.target_format),
        ("size", with_unit(report.num_bytes)),
        ("tensors", f"{report.num_tensors:,}: {types}"),
    ]
    if report.num_reencoded:
        pairs.append(("re-encoded", f"{report.num_reencoded:,} tensors"))
    if report.extension_types:
        pairs.append(("own codes", f"{', '.join(report.extension_types)} as 64 + ggml's id"))
    pairs.append(("verified", "no (--no-verify)" if check is None else check.sentence))
    pairs += [("note", visible(note)) for note in report.notes]
    pairs.append(("time", f"{done.seconds:.1f} s"))
    yield from render_pairs(pairs, output_width())
