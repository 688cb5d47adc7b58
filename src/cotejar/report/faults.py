"""What `apr faults` says on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.report.tables import Column, counted, fold, output_width, render_table, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cotejar.faults.fault import Fault

COLUMNS = (
    Column("id"),
    Column("what is wrong"),
    Column("first seen at"),
    Column("needs"),
    Column("strength"),
)


def fault_list_lines(faults: Sequence[Fault]) -> list[str]:
    """A table of every family, and what its columns mean."""
    lines: list[str] = []
    for family in dict.fromkeys(fault.family for fault in faults):
        rows = [_row(fault) for fault in faults if fault.family == family]
        lines += [family, *render_table(COLUMNS, rows, output_width()), ""]
    note = (
        f"{counted(len(faults), 'fault')}, named ID[@LAYER][*STRENGTH]; without a layer in "
        "every layer, or in layer 0 where the mistake is in one layer's bytes."
    )
    return [*lines, *fold(note, output_width())]


def written_fault_lines(path: Path, fault: str, names: Iterable[str]) -> list[str]:
    """What was written, and which tensors are wrong."""
    return [
        f"wrote {visible(str(path))} with {fault}",
        *(f"  {visible(name)} is not the source's" for name in names),
    ]


def _row(fault: Fault) -> list[str]:
    needs = [need.text for need in fault.needs]
    needs += [need.text for need in fault.prompt_needs]
    strength = fault.strength
    means = "" if strength is None else f"{strength.text} ({strength.default:g})"
    return [fault.id, fault.title, fault.slot, "; ".join(needs), means]
