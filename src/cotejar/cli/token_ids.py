"""The option type of `--tokens`: ids with commas between them."""

from __future__ import annotations

from typing import Any

import click

MAX_ID = 1 << 31


class TokenIds(click.ParamType):
    """`3838,374,220` to (3838, 374, 220); whether the model has them is its own business."""

    name = "ids"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read the ids; whatever is no whole number is a usage error."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).strip("[] ").split(",")]
        ids = []
        for part in parts:
            if not (part.isascii() and part.isdigit()) or int(part[:12]) >= MAX_ID:
                self.fail(f"{part!r} is no token id; give ids like 3838,374,220", param, ctx)
            ids.append(int(part))
        return tuple(ids)


TOKEN_IDS = TokenIds()
