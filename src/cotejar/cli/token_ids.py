"""The option type of `--tokens`: ids with commas between them."""

from __future__ import annotations

import click

MAX_ID = 1 << 31
MAX_DIGITS = 10


def ids(value: str | tuple[int, ...]) -> tuple[int, ...]:
    """`3838,374,220` to (3838, 374, 220); whether the model has them is its own business.

    Raises:
        click.BadParameter: a part is no whole number below 2**31.
    """
    if isinstance(value, tuple):
        return value  # the option's default
    found = []
    for part in (part.strip() for part in value.strip("[] ").split(",")):
        is_number = part.isascii() and part.isdigit() and len(part) <= MAX_DIGITS
        if not is_number or int(part) >= MAX_ID:
            raise click.BadParameter(
                f"{part[:40]!r} is no token id; give ids like 3838,374,220"
            )
        found.append(int(part))
    return tuple(found)
