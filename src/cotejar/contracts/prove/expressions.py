"""Expressions of the symbolic run."""

from __future__ import annotations

import ast
import enum
import math
from abc import abstractmethod
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING

from cotejar.contracts.prove.operations import Operations
from cotejar.contracts.prove.terms import Sort, Term, Unsupported
from cotejar.contracts.prove.values import Choice, Value, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cotejar.contracts.prove.state import Environment, State

MAX_UNROLLED = 100_000


class Expressions:
    """Evaluates expressions; `Executor` adds statements and calls."""

    def __init__(self, state: State, inputs: object) -> None:
        self.state = state
        self.inputs = inputs
        self.terms = state.terms
        self.operations = Operations(state)
        self._evaluators: dict[type[ast.expr], Callable[..., Value]] = {}
        self.globals: dict[str, object] = {}
        self.locals: frozenset[str] = frozenset()
        """Names that the current function assigns: never looked up outside it."""
        self.constants: dict[str, str] = {}
        """Values outside the functions that they read."""
        self.builtins: dict[object, Callable[..., Value]] = self._known_builtins()

    @abstractmethod
    def call(self, function: Value, args: list[Value], keywords: dict[str, Value]) -> Value:
        """Call a function that is no known built-in."""

    def evaluate(self, node: ast.expr, env: Environment) -> Value:
        """The value of an expression here."""
        kind = type(node)
        if kind not in self._evaluators:
            method = getattr(self, f"_eval_{kind.__name__.lower()}", None)
            if method is None:
                raise Unsupported(f"line {node.lineno}: {kind.__name__}")
            self._evaluators[kind] = method
        return self._evaluators[kind](node, env)

    def bind(self, target: ast.expr, value: Value, env: Environment) -> None:
        """Assign to a name or a tuple of names."""
        if isinstance(target, ast.Name):
            env[target.id] = value
            return
        if isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (list, tuple)):
            if len(target.elts) != len(value):
                self.state.fail(self.terms.true, "ValueError", target.lineno)
                return
            for part, item in zip(target.elts, value, strict=True):
                self.bind(part, item, env)
            return
        raise Unsupported(f"line {target.lineno}: an assignment to no name")

    # --- names and literals -----------------------------------------------------------

    def _eval_constant(self, node: ast.Constant, env: Environment) -> Value:
        del env
        return node.value

    def _eval_name(self, node: ast.Name, env: Environment) -> Value:
        if node.id in env:
            return env[node.id]
        if node.id in self.locals or node.id not in self.globals:
            raise Unsupported(f"line {node.lineno}: {node.id} has no value on every path")
        value = self.globals[node.id]
        if isinstance(value, (bool, int, float, str, tuple, list)):
            self.constants[node.id] = repr(value)
        return value

    def _eval_attribute(self, node: ast.Attribute, env: Environment) -> Value:
        owner = self.evaluate(node.value, env)
        if isinstance(owner, (Term, Choice, list, tuple)):
            raise Unsupported(f"line {node.lineno}: .{node.attr} of a symbolic value")
        constant = isinstance(owner, (ModuleType, enum.EnumMeta))
        if not constant and owner is not self.inputs:
            raise Unsupported(f"line {node.lineno}: .{node.attr} of {type(owner).__name__}")
        return getattr(owner, node.attr)

    def _eval_tuple(self, node: ast.Tuple, env: Environment) -> Value:
        return tuple(self._items(node.elts, env))

    def _eval_list(self, node: ast.List, env: Environment) -> Value:
        return self._items(node.elts, env)

    def _items(self, nodes: list[ast.expr], env: Environment) -> list[Value]:
        items: list[Value] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                items.extend(_known_list(self.evaluate(node.value, env)))
            else:
                items.append(self.evaluate(node, env))
        return items

    def _eval_joinedstr(self, node: ast.JoinedStr, env: Environment) -> Value:
        """An f-string of concrete values: the name of an input."""
        parts = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                value = self.evaluate(part.value, env)
                if isinstance(value, (Term, Choice)) or part.format_spec is not None:
                    raise Unsupported(f"line {node.lineno}: a symbolic value in text")
                parts.append(str(value))
            else:
                parts.append(str(self.evaluate(part, env)))
        return "".join(parts)

    def _eval_subscript(self, node: ast.Subscript, env: Environment) -> Value:
        items = self.evaluate(node.value, env)
        if not isinstance(items, (list, tuple, range)):
            raise Unsupported(f"line {node.lineno}: an index into no list")
        if isinstance(node.slice, ast.Slice):
            ends = (node.slice.lower, node.slice.upper, node.slice.step)
            index: Value = slice(*(None if e is None else self.evaluate(e, env) for e in ends))
        else:
            index = self.evaluate(node.slice, env)
        try:
            return items[index]
        except (IndexError, TypeError) as error:
            self.state.fail(self.terms.true, type(error).__name__, node.lineno)
            return None

    # --- operators --------------------------------------------------------------------

    def _eval_boolop(self, node: ast.BoolOp, env: Environment) -> Value:
        value = self.evaluate(node.values[0], env)
        for part in node.values[1:]:
            truth = self.operations.truth(value)
            goes_on = truth if isinstance(node.op, ast.And) else self.terms.not_(truth)
            if goes_on is self.terms.false:
                return value
            other = self.state.under(goes_on, partial(self.evaluate, part, env))
            value = self.operations.select(goes_on, other, value)
        return value

    def _eval_unaryop(self, node: ast.UnaryOp, env: Environment) -> Value:
        return self.operations.unary(node.op, self.evaluate(node.operand, env))

    def _eval_binop(self, node: ast.BinOp, env: Environment) -> Value:
        left, right = self.evaluate(node.left, env), self.evaluate(node.right, env)
        if isinstance(left, (list, tuple)) or isinstance(right, (list, tuple)):
            return _join_lists(node, left, right)
        return self.operations.binary(node.op, left, right, node.lineno)

    def _eval_compare(self, node: ast.Compare, env: Environment) -> Value:
        left = self.evaluate(node.left, env)
        right = self.evaluate(node.comparators[0], env)
        result = self.operations.compare(node.ops[0], left, right)
        for op, following in zip(node.ops[1:], node.comparators[1:], strict=True):
            goes_on = self.operations.truth(result)
            if goes_on is self.terms.false:
                return result
            left = right

            def go_on(
                op: ast.cmpop = op, left: Value = left, node: ast.expr = following
            ) -> Value:
                nonlocal right
                right = self.evaluate(node, env)
                return self.operations.compare(op, left, right)

            other = self.state.under(goes_on, go_on)
            result = self.operations.select(goes_on, other, result)
        return result

    def _eval_ifexp(self, node: ast.IfExp, env: Environment) -> Value:
        condition = self.operations.truth(self.evaluate(node.test, env))
        if condition is self.terms.true:
            return self.evaluate(node.body, env)
        if condition is self.terms.false:
            return self.evaluate(node.orelse, env)
        yes = self.state.under(condition, lambda: self.evaluate(node.body, env))
        opposite = self.terms.not_(condition)
        no = self.state.under(opposite, lambda: self.evaluate(node.orelse, env))
        return self.operations.select(condition, yes, no)

    # --- comprehensions and calls -----------------------------------------------------

    def _eval_listcomp(self, node: ast.ListComp, env: Environment) -> Value:
        return [self.evaluate(node.elt, scope) for scope in self._scopes(node, env)]

    def _scopes(
        self, node: ast.ListComp | ast.GeneratorExp, env: Environment, depth: int = 0
    ) -> Iterator[Environment]:
        """The variables of each turn of a comprehension over known lists."""
        if depth == len(node.generators):
            yield env
            return
        generator = node.generators[depth]
        items = self.evaluate(generator.iter, env)
        if not isinstance(items, (list, tuple, range)):
            raise Unsupported(f"line {node.lineno}: a loop over no list of known length")
        for item in items:
            scope = dict(env)
            self.bind(generator.target, item, scope)
            tests = (self.operations.truth(self.evaluate(c, scope)) for c in generator.ifs)
            kept = next((t for t in tests if t is not self.terms.true), self.terms.true)
            if kept is self.terms.true:
                yield from self._scopes(node, scope, depth + 1)
            elif kept is not self.terms.false:
                raise Unsupported(f"line {node.lineno}: a filter on symbolic values")

    def _eval_call(self, node: ast.Call, env: Environment) -> Value:
        function = self.evaluate(node.func, env)
        if function in (all, any) and isinstance(node.args[0], ast.GeneratorExp):
            return self._quantify(node.args[0], env, wants_all=function is all)
        if any(isinstance(arg, ast.Starred) for arg in node.args):
            raise Unsupported(f"line {node.lineno}: a starred argument")
        args = [self._argument(arg, env) for arg in node.args]
        keywords = {str(k.arg): self.evaluate(k.value, env) for k in node.keywords}
        if isinstance(function, (FunctionType, MethodType)):
            if any(isinstance(arg, _Lazy) for arg in args):
                raise Unsupported(f"line {node.lineno}: a generator as an argument")
            return self.call(function, args, keywords)
        return self._call_builtin(node, function, args, keywords)

    def _argument(self, node: ast.expr, env: Environment) -> Value:
        if isinstance(node, ast.GeneratorExp):
            return _Lazy(self.evaluate(_as_list(node), env))
        return self.evaluate(node, env)

    def _call_builtin(
        self, node: ast.Call, function: Value, args: list[Value], keywords: dict[str, Value]
    ) -> Value:
        if isinstance(function, (Choice, Term, list)) or function not in self.builtins:
            raise Unsupported(f"line {node.lineno}: a call of {function!r}")
        strict = function is zip and keywords.pop("strict", False) is True
        if strict and len({len(_known_list(a)) for a in args}) > 1:
            self.state.fail(self.terms.true, "ValueError", node.lineno)
            return []
        try:
            return self.builtins[function](*args, **keywords)
        except TypeError as error:
            raise Unsupported(f"line {node.lineno}: {error}") from None

    def _quantify(self, node: ast.GeneratorExp, env: Environment, *, wants_all: bool) -> Value:
        """`all(...)` or `any(...)`, which stops at the first item that decides."""
        before, ended = self.state.live, len(self.state.frame.ended)
        undecided = self.terms.true
        for scope in self._scopes(node, env):
            truth = self.operations.truth(self.evaluate(node.elt, scope))
            goes_on = truth if wants_all else self.terms.not_(truth)
            undecided = self.terms.and_(undecided, goes_on)
            self.state.live = self.terms.and_(self.state.live, goes_on)
        self.state.live = before
        for gone in self.state.frame.ended[ended:]:
            self.state.live = self.terms.and_(self.state.live, self.terms.not_(gone))
        return plain(undecided if wants_all else self.terms.not_(undecided))

    def _known_builtins(self) -> dict[object, Callable[..., Value]]:
        operations = self.operations
        return {
            len: _length,
            range: lambda *ends: _small(range(*ends)),
            list: lambda items=(): list(_known_list(items)),
            tuple: lambda items=(): tuple(_known_list(items)),
            zip: lambda *lists: list(zip(*map(_known_list, lists), strict=False)),
            enumerate: lambda items, start=0: list(enumerate(_known_list(items), start)),
            reversed: lambda items: list(reversed(_known_list(items))),
            max: lambda *values: operations.extreme(_spread(values), largest=True),
            min: lambda *values: operations.extreme(_spread(values), largest=False),
            abs: operations.absolute,
            bool: lambda value: plain(operations.truth(value)),
            float: self._as_float,
            isinstance: operations.is_instance,
            all: lambda items: self._fold(items, wants_all=True),
            any: lambda items: self._fold(items, wants_all=False),
            sum: self._sum,
            math.isnan: lambda value: operations.classify("isnan", value),
            math.isinf: lambda value: operations.classify("isinf", value),
            math.isfinite: lambda value: operations.classify("isfinite", value),
        }

    def _as_float(self, value: Value) -> Value:
        if isinstance(value, (bool, int, float)):
            return float(value)
        if isinstance(value, Term) and value.sort is Sort.FLOAT:
            return value
        raise Unsupported("float() of a symbolic integer")

    def _fold(self, items: Value, *, wants_all: bool) -> Value:
        truths = [self.operations.truth(item) for item in _known_list(items)]
        if wants_all:
            truths = [self.terms.not_(t) for t in truths]
        found = self.terms.any_of(truths)
        return plain(self.terms.not_(found) if wants_all else found)

    def _sum(self, items: Value) -> Value:
        total: Value = 0
        for item in _known_list(items):
            total = self.operations.binary(ast.Add(), total, item, 0)
        return total


class _Lazy(list[Value]):
    """The items of a generator, which only a built-in that reads all of them may take."""


def _as_list(node: ast.GeneratorExp) -> ast.ListComp:
    made = ast.ListComp(elt=node.elt, generators=node.generators)
    return ast.copy_location(made, node)


def _known_list(items: Value) -> Value:
    if isinstance(items, (list, tuple, range)):
        return items
    raise Unsupported("a list whose length depends on a symbol")


def _small(numbers: range) -> range:
    if len(numbers) > MAX_UNROLLED:
        raise Unsupported(f"a loop of more than {MAX_UNROLLED} turns")
    return numbers


def _length(items: Value) -> int:
    return len(_known_list(items))


def _spread(values: tuple[Value, ...]) -> list[Value]:
    return list(_known_list(values[0])) if len(values) == 1 else list(values)


def _join_lists(node: ast.BinOp, left: Value, right: Value) -> Value:
    if isinstance(node.op, ast.Add) and type(left) is type(right):
        return left + right
    if isinstance(node.op, ast.Mult):
        items, times = (left, right) if isinstance(left, (list, tuple)) else (right, left)
        if isinstance(times, int):
            return items * times
    raise Unsupported(f"line {node.lineno}: {type(node.op).__name__} on lists")
