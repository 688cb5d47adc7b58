"""Small functions that together use every construct the engine knows.

`conformance.py` runs each over symbols and over plain numbers, and compares.
"""

from __future__ import annotations

import math


def comparisons(a: float, b: float) -> list[bool]:
    """All six."""
    return [a < b, a <= b, a > b, a >= b, a == b, a != b]


def chain(a: float, b: float) -> bool:
    """A chained comparison."""
    return 0 <= a < b != 1


def arithmetic(a: float, b: float) -> list[float]:
    """Everything that does not raise."""
    return [a + b, a - b, a * b, -a, +b, abs(a), 2 * a, a - 1]


def quotient(a: float, b: float) -> float:
    """Raises where b is 0."""
    return a / b


def guarded_quotient(a: float, b: float) -> float:
    """Never raises."""
    if b == 0:
        return math.inf
    return a / b


def extremes(a: float, b: float) -> list[float]:
    """Of two and of three, with NaN as CPython has it."""
    return [max(a, b), min(a, b), max([b, a, 1.0]), min(1.0, a, b)]


def classes(a: float, b: float) -> list[bool]:
    """The three of `math`."""
    return [math.isnan(a), math.isinf(a), math.isfinite(a), math.isfinite(b)]


def truth(a: float, b: float) -> list[bool]:
    """Of numbers and of their combinations."""
    return [not a, bool(b), not (a < b or b < a), (a and b) == b, (a or b) == a]


def conditional(a: float, b: float) -> float:
    """A conditional expression, of which one side may raise."""
    return a / b if b > 0 else -b


def nested(a: float, b: float) -> int:
    """Branches within branches, some of which return."""
    kind = 0
    if a > 0:
        if b > a:
            return 1
        kind = 2
        if b < 0:
            kind = 3
    elif a == b:
        kind = 4
    else:
        return 5
    return kind


def last_positive(a: float, b: float) -> int:
    """A loop that must reach its last turn."""
    found = -1
    for index, value in enumerate([b, a, b, a]):
        if value > 0:
            found = index
    return found


def first_negative(a: float, b: float) -> int:
    """A loop that returns."""
    for index, value in enumerate([1.0, a, b]):
        if value < 0:
            return index
    return -1


def breaks(a: float, b: float) -> list[int]:
    """`break`, `continue` and the `else` of a loop."""
    turns = 0
    ended = 0
    for value in (a, b, a):
        if value > 1:
            break
        if value < 0:
            continue
        turns += 1
    else:
        ended = 1
    return [turns, ended]


def quantified(a: float, b: float) -> list[bool]:
    """`all` and `any` stop where they are decided, so that nothing raises later."""
    items = [a, b]
    return [
        all(x > 0 for x in items),
        any(x > 0 for x in items),
        all(x != 0 and 1 / x > 0 for x in items),
        any(x == 0 or 1 / x > 1 for x in [b, a]),
    ]


def quantified_raises(a: float, b: float) -> bool:
    """The second division happens only where the first item did not decide."""
    return all(1 / x > 0 for x in (a, b))


def calls(a: float, b: float) -> float:
    """A call of another function, and one whose result is unused."""
    guarded_quotient(b, a)
    return guarded_quotient(a, b) + 1


def swapped(a: float, b: float) -> list[float]:
    """Assignments of tuples, and several targets."""
    larger, smaller = a, b
    if smaller > larger:
        larger, smaller = smaller, larger
    first = second = larger
    second += smaller
    return [larger, smaller, first, second]


def zipped(a: float, b: float) -> list[bool]:
    """`zip` ends with the shorter list."""
    num_pairs = 2
    pairs = list(zip([a, b, a], [b, a], strict=False))
    return [len(pairs) == num_pairs, all(x == y for x, y in pairs)]


def signed_zero(a: float, b: float) -> float:
    """The sign of a zero survives."""
    return a if b > 0 else 0.0 * a


FLOAT_CASES = (
    comparisons,
    chain,
    arithmetic,
    quotient,
    guarded_quotient,
    extremes,
    classes,
    truth,
    conditional,
    nested,
    last_positive,
    first_negative,
    breaks,
    quantified,
    quantified_raises,
    calls,
    swapped,
    zipped,
    signed_zero,
)


def int_order(a: int, b: int) -> list[bool]:
    """Integers that are only compared."""
    return [a < b, a <= b, a == b, a != b, a > 0, b >= 1, a == b and a > 0, not a]


def int_extremes(a: int, b: int) -> list[bool]:
    """Extremes and truth of integers."""
    return [max(a, b) == a, min(a, b) < 1, a in (b, 0), bool(b)]


def int_lists(a: int, b: int) -> list[bool]:
    """Lists of integers: membership, equality, slices."""
    return [
        a in (b, 1),
        a not in [b],
        [a, b] == [b, a],
        (a, 0) != (b, 0),
        [a, b, b][1:] == [b, b],
        [a] == [a, b],
    ]


def int_arithmetic(a: int, b: int) -> list[int]:
    """Unbounded, floored."""
    return [a + b, a - b, a * 3, -a, abs(b), a % 7, b & 255, (a * 4) & 0xFFFFFFFF]


INT_ORDER_CASES = (int_order, int_extremes, int_lists)
INT_ARITHMETIC_CASES = (int_arithmetic,)
