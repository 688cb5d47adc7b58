"""What an order of outputs is: reversed, axes exchanged, pairs for halves in each group.

Shape letters: R outputs, g a group's outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact

if TYPE_CHECKING:
    from jaxtyping import Int


def order_words(order: Int[np.ndarray, "R"]) -> str | None:
    """The order in words; None where it has no simple form."""
    size = len(order)
    index = np.arange(size)
    if (order == index[::-1]).all():
        return "in reverse order"
    step = int(order[0])
    if step and (order == (index + step) % size).all():
        return f"shifted by {step if step <= size / 2 else step - size}"
    for rows in _divisors(size):
        if (order == index.reshape(rows, -1).T.reshape(-1)).all():
            return f"those of {rows} x {size // rows}, taken as {size // rows} x {rows}"
    for group in _divisors(size):
        within = order.reshape(-1, group) - index.reshape(-1, group)[:, :1]
        if (within == within[0]).all():
            words = _group_words(within[0])
            if words:
                return f"in each group of {group} {words}"
    return _moved_blocks(order)


def _group_words(order: Int[np.ndarray, "g"]) -> str | None:
    group = len(order)
    index = np.arange(group)
    named = {"in reverse order": index[::-1]}
    if group % 2 == 0:
        halves = exact.half_split_order(group, group)
        named |= {
            "pairs of neighbours are taken for halves": halves,
            "halves are taken for pairs of neighbours": np.argsort(halves),
            "the halves change places": (index + group // 2) % group,
            "neighbours change places": index ^ 1,
        }
    named |= {
        f"{rows} x {group // rows} are taken as {group // rows} x {rows}": index.reshape(
            rows, -1
        ).T.reshape(-1)
        for rows in _divisors(group)
    }
    return next((words for words, one in named.items() if (order == one).all()), None)


def _moved_blocks(order: Int[np.ndarray, "R"]) -> str | None:
    """Runs of outputs that stay together and stand elsewhere."""
    size = len(order)
    for group in reversed(_divisors(size)):
        blocks = order.reshape(-1, group)
        together = (blocks - blocks[:, :1] == np.arange(group)).all()
        if together and (blocks[:, 0] % group == 0).all() and group > 1:
            shown = " ".join(str(b) for b in (blocks[:, 0] // group).tolist()[:8])
            return f"blocks of {group} stand in another order: {shown} ..."
    return None


def _divisors(size: int) -> list[int]:
    """But for 1 and the number itself."""
    return [n for n in range(2, size // 2 + 1) if size % n == 0]


def paired_for(order: Int[np.ndarray, "R"], heads: int) -> int | None:
    """With how many heads rows were put in RoPE's pairs, if with `heads` they were taken out.

    Or the reverse. Converters split each head's rows into halves and store the two by turns;
    with another number of heads the halves are other rows. None where it is neither.
    """
    size = len(order)
    if heads < 1 or size % (2 * heads):
        return None
    right = _in_turns(size, heads)
    for other in range(1, size // 2 + 1):
        if size % (2 * other) or other == heads:
            continue
        turns = _in_turns(size, other)
        for put, back in ((turns, right), (right, turns)):
            out = np.argsort(back)
            if (order == put[out]).all() or (order == out[put]).all():
                return other
    return None


def _in_turns(size: int, heads: int) -> Int[np.ndarray, "R"]:
    """Rows of the two halves of each head by turns."""
    turns: np.ndarray = np.arange(size).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return turns
