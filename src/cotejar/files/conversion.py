"""Convert, read back, and say what was done: what `apr import` and `apr export` print."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.files.conversion_check import ConversionCheck, check_conversion
from cotejar.model.language_model import open_language_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.formats.convert.report import Check, ConversionReport


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
    source: str | Path,
    convert: Callable[[Check], ConversionReport],
    *,
    verify: bool = True,
    on_progress: Callable[[str], None] = lambda _: None,
) -> FinishedConversion:
    """Convert a model, and compare what was written with the source.

    A model that no engine here could run, because its configuration or its tensors cannot
    be, is refused: what is wrong with it would travel on, under a name that looks sound.

    Args:
        source: the model that is converted.
        convert: writes the target, whole or not at all; what it is given is to be called
            on the written file before that takes its place.
        verify: read the target back.
        on_progress: called with what is going on.

    Raises:
        CotejarError: as `open_language_model`, as `convert`, and as `check_conversion`.
            Nothing is written then.
    """
    started = time.perf_counter()
    found: ConversionCheck | None = None

    def check(report: ConversionReport, written: Path) -> None:
        nonlocal found
        if verify:
            on_progress("reading back")
            found = check_conversion(report, written)

    open_language_model(source).file.close()
    on_progress("writing")
    report = convert(check)
    seconds = time.perf_counter() - started
    return FinishedConversion(report=report, check=found, seconds=seconds)
