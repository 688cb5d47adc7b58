"""What `apr probe` says on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cotejar.report.tables import (
    Column,
    counted,
    heading,
    output_width,
    render_table,
    render_text,
    visible,
)
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.parity.probe import ProbeReport, Prospect

COLUMNS = (Column("fault"), Column("what is wrong"), Column("why"))
_COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCOMPARABLE: "yellow"}


def probe_lines(report: ProbeReport, *, show_all: bool) -> list[str]:
    """The verdict, what stays hidden, a better prompt; with `show_all` the rest as well."""
    shown, hidden = report.having("shown"), report.having("hidden")
    nothing = report.having("nothing to break")
    verdict = click.style(report.verdict.name, fg=_COLOURS[report.verdict], bold=True)
    lines = [
        f"{verdict}  {visible(report.model)}, {counted(report.num_tokens, 'token')}",
        f"of {counted(len(shown) + len(hidden), 'fault')} that this model can have, the prompt "
        f"shows {len(shown)}",
    ]
    if hidden:
        lines += ["", heading("hidden"), *_table(hidden)]
    if show_all and shown:
        lines += ["", heading("shown"), *_table(shown)]
    decoding = report.having("needs decoding")
    if decoding:
        lines += ["", heading("needs decoding, whatever the prompt"), *_table(decoding)]
    if show_all and nothing:
        lines += ["", heading("nothing to break"), *_table(nothing)]
    elif nothing:
        lines += [
            "",
            f"{counted(len(nothing), 'fault')} with nothing to break here; --all lists",
        ]
    proposal = report.proposal
    if proposal is not None:
        lines += [
            "",
            heading(f"a prompt of {counted(proposal.num_tokens, 'token')} that shows more"),
            *render_text(" ".join(proposal.shows), output_width()),
            f"  --prompt {_in_shell(proposal.prompt)}",
        ]
    return lines


def _in_shell(text: str) -> str:
    """The text as bash and zsh read it back: $'...' with escapes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{visible(escaped)}'"


def _table(prospects: Sequence[Prospect]) -> list[str]:
    rows = [[p.fault, p.title, visible(p.reason)] for p in prospects]
    return render_table(COLUMNS, rows, output_width())
