"""From the lines of `generation.py` to the tables that a reader sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.formats.atomic import atomic_write_text
from cotejar.trace.host import describe_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    Line = dict[str, Any]

HEAD = """# Parity that survives generation

`{command}`

{host}

Texts are greedy. The candidate decodes the prompts side by side over its caches; the
reference, given the same tokens, says what it would have chosen, up to the first difference:
MATCH where there is none, TIE-FLIP where the reference's lead there lies within the measured
noise of `apr parity`, WRONG beyond it. How all rows of `apr check` are made is said in
`docs/generation.md`."""


def write_table(path: Path, lines: Sequence[Line], *, command: str) -> None:
    """Write every bar, then the details behind it."""
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items() if value)
    bars = (
        (line["key"], line["bar"], "yes" if line["holds"] else "**NO**", line["found"])
        for line in lines
    )
    parts = [HEAD.format(command=command, host=host)]
    parts.append("## The bars\n\n" + _table(("measurement", "bar", "kept", "found"), bars))
    parts += [_texts(line) for line in lines if "prompts" in line]
    checks = [line for line in lines if "rows" in line]
    if checks:
        parts.append("## One engine against itself, worst relative L2\n\n" + _checks(checks))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "\n\n".join(parts) + "\n", overwrite=True)


def _texts(line: Line) -> str:
    rows = (
        (
            f"{prompt['kind']}{', templated' * prompt['chat']}",
            prompt["outcome"],
            str(prompt["tokens"]),
            "" if prompt["step"] is None else str(prompt["step"]),
            "" if prompt["margin"] is None else f"{prompt['margin']:.3g}",
        )
        for prompt in line["prompts"]
    )
    columns = ("prompt", "outcome", "tokens", "first difference", "margin there")
    limit = f"A lead of up to {line['limit']:.3g} is a tie."
    return f"## {line['key']}\n\n{limit}\n\n{_table(columns, rows)}"


def _checks(lines: Sequence[Line]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line["rows"]))
    rows = (
        (
            line["key"].partition(" ")[2],
            *(f"{line['rows'][name]:.3g}" if name in line["rows"] else "" for name in names),
        )
        for line in lines
    )
    return _table(("engine", *names), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
