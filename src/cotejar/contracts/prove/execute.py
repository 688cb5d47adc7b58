"""Run a Python function's own syntax tree over symbols, all paths at once.

Where an `if` depends on a symbol both branches run and their results are joined, so that 280
cells cost 280 steps, not 2**280 paths. Loops are unrolled over lists of known length. What
the engine does not know (`while`, `try`, classes, attributes of symbols) is `Unsupported`.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from types import FunctionType, MethodType
from typing import TYPE_CHECKING

from cotejar.contracts.prove.expressions import Expressions
from cotejar.contracts.prove.state import Frame, Loop
from cotejar.contracts.prove.terms import Unsupported
from cotejar.contracts.prove.values import Value, choose

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.contracts.prove.source import SourceReader
    from cotejar.contracts.prove.state import Environment, State
    from cotejar.contracts.prove.terms import Term

MAX_DEPTH = 40
"""Calls within calls; recursion ends here."""


class Executor(Expressions):
    """Statements and calls; `Expressions` has the rest."""

    def __init__(self, state: State, reader: SourceReader, inputs: object) -> None:
        super().__init__(state, inputs)
        self.reader = reader
        self.constants = reader.constants
        self.loops: list[Loop] = []
        self.depth = 0
        self._runners: dict[type[ast.stmt], Callable[..., None]] = {}
        self._signatures: dict[FunctionType, tuple[inspect.Signature, dict[str, object]]] = {}

    # --- calls ------------------------------------------------------------------------

    def call(self, function: Value, args: list[Value], keywords: dict[str, Value]) -> Value:
        """Call a function by running its syntax tree."""
        if isinstance(function, MethodType) and function.__self__ is self.inputs:
            return function(*args, **keywords)
        if not isinstance(function, FunctionType):
            raise Unsupported(f"a call of {getattr(function, '__qualname__', function)!s}")
        try:
            if function not in self._signatures:
                names = _names_of(function)
                self._signatures[function] = inspect.signature(function), names
            signature, names = self._signatures[function]
            bound = signature.bind(*args, **keywords)
        except TypeError as error:
            raise Unsupported(f"{function.__qualname__}: {error}") from None
        bound.apply_defaults()
        tree = self.reader.tree_of(function)
        if self.depth == MAX_DEPTH:
            raise Unsupported(f"calls nested deeper than {MAX_DEPTH}")
        local = frozenset(function.__code__.co_varnames + function.__code__.co_cellvars)
        return self._run_frame(tree, dict(bound.arguments), names, local)

    def _run_frame(
        self,
        tree: ast.FunctionDef,
        env: Environment,
        names: dict[str, object],
        local: frozenset[str],
    ) -> Value:
        state, terms = self.state, self.terms
        before = (state.context, state.live, state.frame, self.globals, self.locals, self.loops)
        state.context = terms.and_(state.context, state.live)
        state.live, state.frame, self.loops = terms.true, Frame(), []
        self.globals, self.locals = names, local
        self.depth += 1
        self.block(tree.body, env)
        self.depth -= 1
        frame = state.frame
        if state.live is not terms.false:
            frame.returns.append((state.live, None))
        state.context, live, state.frame, self.globals, self.locals, self.loops = before
        state.live = live
        state.end(terms.any_of(frame.ended))
        return choose(terms, frame.returns) if frame.returns else None

    # --- statements -------------------------------------------------------------------

    def block(self, body: list[ast.stmt], env: Environment) -> None:
        """Run statements in turn, as long as any path is still here."""
        for statement in body:
            if self.state.live is self.terms.false:
                return
            kind = type(statement)
            if kind not in self._runners:
                method = getattr(self, f"_run_{kind.__name__.lower()}", None)
                if method is None:
                    raise Unsupported(f"line {statement.lineno}: {kind.__name__}")
                self._runners[kind] = method
            self._runners[kind](statement, env)

    def _run_assign(self, node: ast.Assign, env: Environment) -> None:
        value = self.evaluate(node.value, env)
        for target in node.targets:
            self.bind(target, value, env)

    def _run_annassign(self, node: ast.AnnAssign, env: Environment) -> None:
        if node.value is not None:
            self.bind(node.target, self.evaluate(node.value, env), env)

    def _run_augassign(self, node: ast.AugAssign, env: Environment) -> None:
        if not isinstance(node.target, ast.Name):
            raise Unsupported(f"line {node.lineno}: only names are assigned to")
        old = self.evaluate(ast.Name(node.target.id, ast.Load(), lineno=node.lineno), env)
        if isinstance(old, list):
            raise Unsupported(f"line {node.lineno}: a list changed in place")
        value = self.evaluate(node.value, env)
        env[node.target.id] = self.operations.binary(node.op, old, value, node.lineno)

    def _run_expr(self, node: ast.Expr, env: Environment) -> None:
        if not isinstance(node.value, ast.Constant):
            self.evaluate(node.value, env)

    def _run_pass(self, node: ast.Pass, env: Environment) -> None:
        del node, env

    def _run_return(self, node: ast.Return, env: Environment) -> None:
        value = None if node.value is None else self.evaluate(node.value, env)
        self.state.frame.returns.append((self.state.live, value))
        self.state.live = self.terms.false

    def _run_assert(self, node: ast.Assert, env: Environment) -> None:
        holds = self.operations.truth(self.evaluate(node.test, env))
        self.state.fail(self.terms.not_(holds), "AssertionError", node.lineno)

    def _run_raise(self, node: ast.Raise, env: Environment) -> None:
        del env
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = error.id if isinstance(error, ast.Name) else "an exception"
        self.state.fail(self.terms.true, name, node.lineno)

    def _run_if(self, node: ast.If, env: Environment) -> None:
        condition = self.operations.truth(self.evaluate(node.test, env))
        state, terms = self.state, self.terms
        if condition is terms.true or condition is terms.false:
            self.block(node.body if condition is terms.true else node.orelse, env)
            return
        before = state.live
        paths, untouched = [], True
        for guard, body in ((condition, node.body), (terms.not_(condition), node.orelse)):
            branch = dict(env)
            entry = state.live = terms.and_(before, guard)
            if entry is not terms.false:
                self.block(body, branch)
            untouched = untouched and state.live is entry
            paths.append((state.live, guard, branch))
        merged = state.merge(paths)
        if untouched:
            state.live = before
        env.clear()
        env.update(merged)

    def _run_for(self, node: ast.For, env: Environment) -> None:
        items = self.evaluate(node.iter, env)
        if not isinstance(items, (list, tuple, range)):
            raise Unsupported(f"line {node.lineno}: a loop over no list of known length")
        loop = Loop()
        self.loops.append(loop)
        for item in items:
            if self.state.live is self.terms.false:
                break
            self.bind(node.target, item, env)
            self.block(node.body, env)
            if loop.continues:
                self._join([(self.state.live, env), *loop.continues], env)
                loop.continues = []
        self.loops.pop()
        if node.orelse:
            self.block(node.orelse, env)
        if loop.breaks:
            self._join([(self.state.live, env), *loop.breaks], env)

    def _join(self, paths: list[tuple[Term, Environment]], env: Environment) -> None:
        merged = self.state.merge([(live, live, dict(e)) for live, e in paths])
        env.clear()
        env.update(merged)

    def _run_break(self, node: ast.Break, env: Environment) -> None:
        del node
        self.loops[-1].breaks.append((self.state.live, dict(env)))
        self.state.live = self.terms.false

    def _run_continue(self, node: ast.Continue, env: Environment) -> None:
        del node
        self.loops[-1].continues.append((self.state.live, dict(env)))
        self.state.live = self.terms.false


def _names_of(function: FunctionType) -> dict[str, object]:
    """What names outside the function mean in it: cells of its closure, globals, built-ins."""
    names = {**vars(builtins), **function.__globals__}
    for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True
    ):
        names[name] = cell.cell_contents
    return names
