"""The option `--decode [N]`: how many tokens are fed one at a time, over the KV cache."""

from __future__ import annotations

import click

MOST = "most"
MAX_DIGITS = 9


def steps(value: str | int | None) -> int | None:
    """`3` to 3, `most` (the option alone) to 0; None where the option is left out.

    Raises:
        click.BadParameter: no whole number above 0.
    """
    if value is None or isinstance(value, int):
        return value
    if value == MOST:
        return 0
    is_number = value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS
    if not is_number or int(value) == 0:
        raise click.BadParameter(
            f"{value[:40]!r} is no number of tokens above 0; put --decode alone behind the "
            "other arguments, or give --decode=N"
        )
    return int(value)


decode_option = click.option(
    "--decode",
    metavar="[N]",
    type=steps,
    is_flag=False,
    flag_value=MOST,
    default=None,
    help="Feed the last N tokens one at a time, through the KV cache; without N all but the "
    "first few.",
)
