"""What a pytest run did, from the JUnit file that it is asked to leave.

pytest exits 0 when every test was skipped. Nothing was tried then, so nothing survived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from pathlib import Path

MAX_REPORT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class PytestReport:
    """Counts of one run."""

    num_tests: int
    num_skipped: int
    skip_reason: str
    """Of the first test that was skipped; "" if none was."""

    @property
    def num_tried(self) -> int:
        """Tests that ran."""
        return self.num_tests - self.num_skipped


def read_pytest_report(path: Path) -> PytestReport | None:
    """Read the file; None if there is none, or it is no JUnit file."""
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            return None
        root = ET.parse(path).getroot()  # noqa: S314 - see above
    except (OSError, ET.ParseError):
        return None
    cases = list(root.iter("testcase"))
    marks = [mark for case in cases if (mark := case.find("skipped")) is not None]
    # An expected failure is marked the same way, but it did run.
    skipped = [mark for mark in marks if mark.get("type") != "pytest.xfail"]
    reason = skipped[0].get("message", "") if skipped else ""
    return PytestReport(
        num_tests=len(cases), num_skipped=len(skipped), skip_reason=" ".join(reason.split())
    )
