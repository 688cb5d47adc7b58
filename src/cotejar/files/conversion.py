"""Convert, read back, and say what was done: what `apr import` and `apr export` print."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.files.conversion_check import ConversionCheck, check_conversion

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.formats.convert.report import ConversionReport


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedConversion:
    """A conversion, and what reading it back found."""

    report: ConversionReport
    check: ConversionCheck | None
    """None where it was not asked for."""
    seconds: float
    """Of writing and reading back together."""

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        verified = None if self.check is None else self.check.as_json()
        return {**self.report.as_json(), "verified": verified, "seconds": self.seconds}


def run_conversion(
    convert: Callable[[], ConversionReport],
    *,
    verify: bool = True,
    on_progress: Callable[[str], None] = lambda _: None,
) -> FinishedConversion:
    """Convert a model, and compare what was written with the source.

    Args:
        convert: writes the target, whole or not at all.
        verify: read the target back.
        on_progress: called with what is going on.

    Raises:
        CotejarError: as `convert`, and as `check_conversion`.
    """
    started = time.perf_counter()
    on_progress("writing")
    report = convert()
    check = None
    if verify:
        on_progress("reading back")
        check = check_conversion(report)
    return FinishedConversion(report=report, check=check, seconds=time.perf_counter() - started)
