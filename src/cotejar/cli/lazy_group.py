"""A click group that imports a verb's module only when that verb is used.

The table gives each verb's one-line help, so that `--help` imports no verb either.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

VerbTable = dict[str, tuple[str, str]]
"""Verb -> (`module:attribute` of its click command, one line of help)."""


class LazyGroup(click.Group):
    """A group whose verbs are named in a table and loaded on use."""

    def __init__(self, *, verbs: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        """Take the table; `settings` are click's own."""
        super().__init__(**settings)
        self._verbs = dict(verbs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the table's order."""
        del ctx
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb; None if the table has no such verb."""
        del ctx
        if cmd_name not in self._verbs:
            return None
        module_name, attribute = self._verbs[cmd_name][0].split(":")
        command = getattr(import_module(module_name), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module_name}:{attribute} is no click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's own help lines; nothing is imported."""
        del ctx
        rows = [(name, short_help) for name, (_, short_help) in self._verbs.items()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
