"""The machine that a run took place on, as far as it moves bits or times."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import numpy as np

import cotejar


def describe_host() -> dict[str, str]:
    """What a reader needs to repeat a run elsewhere."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cotejar": cotejar.__version__,
        "processor": _processor(),
        # Which kernel a BLAS takes, and how it cuts sums into threads, moves last bits.
        "blas": " ".join(f"{n}={os.environ[n]}" for n in BLAS_SETTINGS if n in os.environ),
        "cores": str(os.cpu_count()),
    }


BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def _processor() -> str:
    """The processor's model, as Linux names it; elsewhere what Python knows."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
