"""The ids of the preconditions, by which contracts and `--waive` name them.

A module of its own, so that a contract is validated without loading what judges traces.
"""

from __future__ import annotations

PRECONDITION_IDS = (
    "token-ids",
    "positions",
    "config",
    "weights-fingerprint",
    "sites",
    "capture-points",
    "shapes",
    "sample-count",
    "ddof",
    "finite",
    "arrays",
)
"""In the order of the report; `preconditions.CHECKS` has a check for each."""
