"""The text and the JSON of `apr check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.report.tables import Column, output_width, render_table, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.parity.self_check import Row, SelfCheck

_COLUMNS = (
    Column("row"),
    Column("positions", is_number=True),
    Column("rel L2 max", is_number=True),
    Column("first other bit", is_number=True),
    Column("verdict"),
)


def self_check_lines(check: SelfCheck) -> Iterator[str]:
    """One row a way, then the verdict."""
    yield visible(f"engine  {check.engine}+{check.numerics}  {check.model}")
    yield f"text    {check.num_tokens} tokens, against one pass over all of them"
    limit = "none" if check.limit is None else f"{check.limit:g}"
    yield f"limit   {limit} on a position's relative L2 ({check.limit_origin})"
    yield ""
    yield from render_table(_COLUMNS, [_cells(row) for row in check.rows], output_width())
    yield ""
    for row in check.rows:
        if row.error is not None:
            yield f"{row.id}: {row.error}"
    for name, reason in check.left_out:
        yield f"left out  {name}: {reason}"
    same = sum(row.bit_identical for row in check.rows)
    yield f"{check.verdict.name}  {same} of {len(check.rows)} rows bit-identical"


def self_check_json(check: SelfCheck) -> dict[str, Any]:
    """The same facts."""
    return {
        "verdict": check.verdict.name,
        "engine": check.engine,
        "numerics": check.numerics,
        "model": check.model,
        "tokens": check.num_tokens,
        "limit": check.limit,
        "limit_origin": check.limit_origin,
        "rows": [
            {
                "id": row.id,
                "title": row.title,
                "verdict": row.verdict.name,
                "bit_identical": row.bit_identical,
                "first_difference": row.first_difference,
                "rel_l2_max": row.rel_l2_max,
                "positions": row.num_positions,
                "error": row.error,
            }
            for row in check.rows
        ],
        "left_out": [{"id": name, "reason": reason} for name, reason in check.left_out],
    }


def _cells(row: Row) -> list[str]:
    first = "none" if row.bit_identical else str(row.first_difference)
    cells = [row.id, str(row.num_positions), f"{row.rel_l2_max:.2e}", first]
    return [*cells, row.verdict.name]
