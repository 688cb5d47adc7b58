"""One value of a file's metadata as one line of text."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cotejar.files.shown_metadata import Omitted, as_json
from cotejar.report.json_output import strict
from cotejar.report.tables import shortened


def describe(value: object, width: int = 160) -> str:
    """One line for people."""
    if isinstance(value, float):
        return f"{value:.7g}"  # a float32 that a GGUF stores has no more digits
    if isinstance(value, str):
        rest = f" ({len(value):,} characters)" if len(value) > width else ""
        return shortened(value, width - len(rest)) + rest
    if isinstance(value, Omitted):
        return str(value)
    if isinstance(value, (Mapping, list)):
        return shortened(json.dumps(strict(as_json(value)), ensure_ascii=False), width)
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
