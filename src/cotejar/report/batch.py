"""The text and the JSON of `apr run --batch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.report.tables import visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cotejar.generation.batch import BatchResult

SHOWN_FAILURES = 5


def batch_lines(result: BatchResult, output: Path, seconds: float) -> Iterator[str]:
    """How many were answered, and what could not be."""
    before = f", {result.num_before} before" if result.num_before else ""
    rate = result.num_tokens / seconds if seconds > 0 else 0.0
    yield visible(f"{output}: {result.num_answered} answered{before}")
    yield f"{result.num_tokens} tokens in {seconds:.1f} s, {rate:.1f} a second"
    for number, error in result.failures[:SHOWN_FAILURES]:
        yield visible(f"line {number}: {error.problem}: {error.parts['found']}")
    if len(result.failures) > SHOWN_FAILURES:
        yield f"... and {len(result.failures) - SHOWN_FAILURES} more lines, each in the output"


def batch_json(result: BatchResult, output: Path, seconds: float) -> dict[str, Any]:
    """The same facts."""
    return {
        "output": str(output),
        "answered": result.num_answered,
        "answered_before": result.num_before,
        "failed": [
            {"line": number, "error": error.as_json()} for number, error in result.failures
        ],
        "tokens": result.num_tokens,
        "seconds": seconds,
    }
