"""The option type of limits: a number in a range, and a NaN is in none.

Click compares a value with the ends of a range, and no comparison with a NaN is true: it
would get through, and be a limit that nothing exceeds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click import Context, Parameter


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` of finite numbers."""

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> float:
        """The number, or click's usage error."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number
