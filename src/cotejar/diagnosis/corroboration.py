"""The same operation of another layer, where the same fault shows more clearly.

In bfloat16, or where little was recorded, what is barely wrong is explained by many things. A
mistake in the code is in every layer: what explains the clearest of them, and the first one
too, is the better explanation of both.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.finding import Finding, look_into
from cotejar.trace.site import parse_site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.diagnosis.observed import Observed
    from cotejar.diagnosis.replay import LocalError
    from cotejar.diagnosis.search import Cause

_CLEAR = 16.0
"""Limits that the right operation leaves, from which on what explains it explains much."""
_CLEARER = 2.0
"""So many times as far from right another layer is at the least."""
_LAYER = re.compile(r"\blayers?[. ]\d+")


def corroborated(
    finding: Finding, errors: Sequence[LocalError], observed: Sequence[Observed]
) -> Finding:
    """The finding, its causes in the order that a clearer layer bears out.

    Args:
        finding: of the first wrong operation of a side.
        errors: every local error.
        observed: both sides.
    """
    site, explaining = parse_site(finding.error.site), finding.found.explaining
    if site.layer is None or len(explaining) < 2 or _ratio(finding.error) >= _CLEAR:  # noqa: PLR2004 - one has no rival
        return finding
    others = [
        error
        for error in errors
        if error.side == finding.error.side
        and not error.explained
        and parse_site(error.site).slot == site.slot
        and error.site != finding.error.site
    ]
    clearest = max(others, key=_ratio, default=None)
    if clearest is None or _ratio(clearest) < _CLEARER * _ratio(finding.error):
        return finding
    told = [_name(cause) for cause in look_into(clearest, observed).found.causes]
    borne_out = [one for name in told for one in explaining if _name(one[0]) == name]
    if not borne_out:
        return finding
    first, output = borne_out[0]
    rest = tuple(cause for cause in finding.found.causes if cause != first)
    found = replace(finding.found, causes=(first, *rest), output=output)
    return replace(finding, found=found)


def _ratio(error: LocalError) -> float:
    return float(np.nanmax(error.ratios))


def _name(cause: Cause) -> tuple[str, str]:
    """But for the layer that it speaks of."""
    return cause.id, _LAYER.sub("layer", cause.title)
