"""Do two functions of one signature give the same result for every input?"""

from __future__ import annotations

import inspect
import itertools
import time
from typing import TYPE_CHECKING

from cotejar.contracts.prove.decide import Decider
from cotejar.contracts.prove.execute import Executor
from cotejar.contracts.prove.source import SourceReader
from cotejar.contracts.prove.state import State
from cotejar.contracts.prove.terms import Sort, Term, Terms, Unsupported
from cotejar.contracts.prove.values import Value, as_term

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FunctionType

_SORTS = {"int": Sort.INT, "float": Sort.FLOAT, "bool": Sort.BOOL}


def are_equivalent(
    first: FunctionType, second: FunctionType, max_length: int, deadline: float
) -> bool:
    """Proved: the same value, or no exception in either, for all numbers and all lists.

    Lists have up to `max_length` items each. False means different or not decided.
    """
    try:
        decider = Decider(deadline)
        return all(
            _same_result(first, second, lengths, decider)
            for lengths in _lengths(first, max_length)
            if time.monotonic() < deadline or _give_up()
        )
    except (Unsupported, RecursionError):
        return False


def _give_up() -> bool:
    raise Unsupported("the time is up")


def _lengths(function: FunctionType, max_length: int) -> Iterator[tuple[int, ...]]:
    texts = _annotations(function)
    sizes = [range(max_length + 1) if "[" in text else (0,) for text in texts]
    yield from itertools.product(*sizes)


def _annotations(function: FunctionType) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [str(getattr(p.annotation, "__name__", p.annotation)) for p in parameters]


def _same_result(
    first: FunctionType, second: FunctionType, lengths: tuple[int, ...], decider: Decider
) -> bool:
    terms = Terms()
    state = State(terms)
    executor = Executor(state, SourceReader(), None)
    texts = _annotations(first)
    args: list[Value] = []
    for number, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        item = text.rpartition("[")[2].rstrip("]")
        if item not in _SORTS:
            raise Unsupported(f"an argument of type {text}")
        name, sort = f"argument{number}", _SORTS[item]
        if "[" in text:
            args.append([terms.variable(f"{name}[{i}]", sort) for i in range(length)])
        else:
            args.append(terms.variable(name, sort))
    results = [executor.call(function, list(args), {}) for function in (first, second)]
    raised = terms.any_of(violation.guard for violation in state.violations)
    differs = state.lift(lambda _, a, b: _differ(terms, a, b), *results)
    formula = terms.or_(raised, as_term(terms, differs))
    return decider.decide(formula) is None


def _differ(terms: Terms, a: Value, b: Value) -> Value:
    if not isinstance(a, (Term, bool, int, float)) or not isinstance(
        b, (Term, bool, int, float)
    ):
        return a is not b
    x, y = as_term(terms, a), as_term(terms, b)
    if x.sort is not y.sort:
        return True
    same = terms.equal(x, y)
    if x.sort is Sort.FLOAT:
        numbers = terms.or_(terms.equal(x, x), terms.equal(y, y))
        same = terms.or_(same, terms.not_(numbers))
    return terms.not_(same)
