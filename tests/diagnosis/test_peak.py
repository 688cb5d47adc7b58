"""A diagnosis takes less than twice the model's file, engines and interpreter included."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Of this program alone: `ru_maxrss` counts what forked it as well.
SAYS_ITS_PEAK = """
import sys
from pathlib import Path
from cotejar.diagnosis.diagnose import diagnose
from cotejar.diagnosis.request import Request

found = diagnose(Request(reference=sys.argv[1], candidate=sys.argv[2], fault=sys.argv[3]))
print(found.site, [cause.id for cause in found.causes])
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says it in /proc")
def test_the_peak_is_under_twice_the_file(demo_model: Path) -> None:
    """Of the two engines that take most, and the largest product, which is searched longest."""
    fault = "head-row-shift"

    told = subprocess.run(
        [
            sys.executable,
            "-c",
            SAYS_ITS_PEAK,
            f"oracle:{demo_model}",
            f"native+f32:{demo_model}",
            fault,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        text=True,
    )

    answer, peak_kib = told.stdout.splitlines()
    assert answer == "logits ['rows-shifted']"
    assert int(peak_kib) * 1024 < 2 * demo_model.stat().st_size
