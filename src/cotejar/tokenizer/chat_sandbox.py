"""The sandbox that a chat template runs in: no reach outside, and an end to it.

A template is code that comes with a model. Jinja's immutable sandbox keeps it from private
attributes and from changing what it is given. What is added here keeps it from running, and
from growing, without end:

- each turn of a loop, each call and each filter is a step: `MAX_STEPS` of them, and at each
  the clock is looked at: `MAX_SECONDS`;
- no value may be larger than `MAX_SIZE`, written out; operations that could pass far beyond
  it (`'x' * 10 ** 9`, `text | indent(10 ** 9)`, `a.replace(b, c)`) are sized up first;
- all that is written, captured by `{% set %}` or a macro or not, is at most `MAX_WRITTEN`;
- `range` gives at most 100,000 numbers, which is Jinja's own limit.

One operation within these limits cannot be interrupted, so a template may overrun
`MAX_SECONDS` by what a single one takes: well under a second.

The names and filters are those of Hugging Face's `apply_chat_template`: `raise_exception`,
`strftime_now`, a `tojson` that does not escape HTML, `break` and `continue`, and
`{% generation %}`, which marks the assistant's words and changes no text. Filters that no
chat needs, and that are slow, grow text or give another result each time, are not there.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import ItemsView, KeysView, ValuesView
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_environment
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from jinja2 import Environment, Template
    from jinja2.parser import Parser
    from jinja2.runtime import Context

MAX_SIZE = 1 << 20
"""Of a value, written out: characters, and one for each element and each decimal digit."""
MAX_WRITTEN = 1 << 26
"""Characters written in all, to the output and to captured text."""
MAX_STEPS = 250_000
MAX_SECONDS = 10.0

_MAX_DEPTH = 64  # of lists in lists
_DROPPED_FILTERS = ("attr", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
_REFUSED_METHODS = ("expandtabs", "maketrans", "striptags", "translate")
_SCOPE_ARGUMENTS = ("_loop_vars", "_block_vars")  # which Jinja's compiler adds to a call
_COLLECTIONS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


class ChatSandbox(ImmutableSandboxedEnvironment):
    """An environment for one rendering of one template; it counts what that one does."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, now: datetime) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, _GenerationTag],
            finalize=self._write,
        )
        self._steps_left = MAX_STEPS
        self._chars_left = MAX_WRITTEN
        self._deadline = time.monotonic() + MAX_SECONDS
        self._own = (self.step, self.bounded, self.concatenate)
        filters = {**self.filters, "tojson": _to_json, "join": _join, "replace": _replace}
        self.filters = {
            name: self._counted(name, function)
            for name, function in filters.items()
            if name not in _DROPPED_FILTERS
        }
        del self.globals["lipsum"]
        self.globals.update(
            raise_exception=_raise_exception,
            strftime_now=now.strftime,
            dict=_make_dict,
            namespace=_ChatNamespace,
        )

    def compile_counted(self, source: str) -> Template:
        """Compile a template into one that counts its steps."""
        tree = _Counting().visit(self.parse(source))
        tree.set_environment(self)
        return self.from_string(tree)

    def step(self, num_chars: int = 0) -> None:
        """Count a step that writes so much of the template's own text."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")
        if time.monotonic() > self._deadline:
            raise SecurityError(f"it takes longer than {MAX_SECONDS:g} s")
        self._chars_left -= num_chars
        if self._chars_left < 0:
            raise SecurityError(f"it writes more than {MAX_WRITTEN} characters")

    def bounded(self, value: Any) -> Any:
        """Return the value, if it is not too large."""
        _require_size(_size_of(value))
        return value

    def concatenate(self, *values: Any) -> str:
        """Do the operator `~`."""
        self.step()
        _require_size(sum(map(_size_of, values)))
        return "".join(map(str, values))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, a macro or a method."""
        if function in self._own:
            return function(*args)
        self.step()
        # Jinja wraps `str.format`; what it wraps knows the text.
        method = getattr(function, "__wrapped__", function)
        receiver = getattr(method, "__self__", None)
        if isinstance(receiver, (str, bytes, int)):
            name = method.__name__
            if name in _REFUSED_METHODS:
                raise SecurityError(f"it calls {name!r}, which no chat needs")
            args = tuple(list(arg) if name == "join" else arg for arg in args)
            given = (value for key, value in kwargs.items() if key not in _SCOPE_ARGUMENTS)
            _require_growth(name, receiver, (*args, *given))
        return self.bounded(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Do an operation that can make a value much larger than the two it is given."""
        self.step()
        if operator == "%" and isinstance(left, (str, bytes)):
            values = right if isinstance(right, tuple) else (right,)
            _require_growth("format", left, values)
        elif operator == "*" and isinstance(left, int) != isinstance(right, int):
            count, value = (left, right) if isinstance(left, int) else (right, left)
            _require_size(abs(count) * _size_of(value))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _require_size(left.bit_length() * abs(right) // 3)
        return self.bounded(super().call_binop(context, operator, left, right))

    def _write(self, value: Any) -> Any:
        self.step(_size_of(value))
        return value

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        # A filter may take the environment or the context before the value.
        value_index = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def filter_(*args: Any, **kwargs: Any) -> Any:
            self.step()
            values = (*args[value_index + 1 :], *kwargs.values())
            _require_growth(name, args[value_index], values)
            return self.bounded(function(*args, **kwargs))

        return filter_


class _Counting(NodeTransformer):
    """Makes a template count what it does, by calls of `ChatSandbox`'s own methods."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named after the node
        num_chars = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        step = _call_own("step", [nodes.Const(num_chars)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2's name
        self.generic_visit(node)
        return _call_own("concatenate", node.nodes, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802 - jinja2's name
        self.generic_visit(node)
        return _call_own("bounded", [node], node.lineno)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802 - jinja2's name
        self.generic_visit(node)
        return _call_own("bounded", [node], node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - jinja2's name
        self.generic_visit(node)
        if node.ctx != "load":
            return node
        return _call_own("bounded", [node], node.lineno)


def _call_own(name: str, arguments: list[nodes.Expr], lineno: int) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
    call.set_lineno(lineno)
    return call


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`: renders what is in it."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(lineno)


class _ChatNamespace(Namespace):
    """`namespace(...)`. Its text is short, whatever it holds: it may hold itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        namespace, *others = args
        names = dict(*others, **kwargs)
        Namespace.__init__(namespace)
        for name, value in names.items():
            namespace[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        # Python would take such a name for one of its own.
        if str(name).startswith("_"):
            raise SecurityError(f"it sets {name!r} in a namespace, which is unsafe")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


def _size_of(value: Any, sizes: dict[int, int] | None = None, depth: int = 0) -> int:
    """How long a value is, written out. What is in it twice counts twice, and is sized once."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 3 + 1
    if not isinstance(value, (*_COLLECTIONS, dict)):
        return 1
    if depth > _MAX_DEPTH:
        raise SecurityError(f"it makes lists more than {_MAX_DEPTH} levels deep")
    sizes = {} if sizes is None else sizes
    if id(value) not in sizes:
        items = (*value, *value.values()) if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(1 + _size_of(item, sizes, depth + 1) for item in items)
    return sizes[id(value)]


def _require_size(size: int) -> None:
    if size > MAX_SIZE:
        raise SecurityError(f"it makes a value of size {size}; {MAX_SIZE} is the limit")


def _require_growth(name: str, value: Any, arguments: Iterable[Any]) -> None:
    """Size up what a method or filter of that name would make, if it may be much."""
    arguments = list(arguments)
    sizes = [abs(arg) if isinstance(arg, int) else _size_of(arg) for arg in arguments]
    largest = max([1, *sizes])
    if any(isinstance(arg, int) for arg in arguments):
        _require_size(largest)
    size = _size_of(value)
    if name in ("format", "format_map") and isinstance(value, (str, bytes)):
        text = value if isinstance(value, str) else value.decode("latin-1")
        widths = sum(map(int, re.findall(r"[0-9]{1,9}", text)))
        _require_size(size + widths + (text.count("%") + text.count("{")) * largest)
    elif name == "replace" and len(arguments) > 1:
        num_found = value.count(arguments[0]) if isinstance(value, (str, bytes)) else size
        _require_size(size + num_found * sizes[1])
    elif name == "join" and isinstance(value, (str, bytes)):
        _require_size(size * largest)
    elif name == "indent":
        num_lines = 1 + (value.count("\n") if isinstance(value, str) else 0)
        _require_size(size + num_lines * max(4, largest))


@pass_environment
def _join(
    environment: Environment, value: Iterable[Any], d: str = "", attribute: Any = None
) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    parts = [str(part) for part in value]
    _require_size(sum(map(len, parts)) + len(str(d)) * len(parts))
    return str(d).join(parts)


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    text = str(s)
    _require_growth("replace", text, (str(old), str(new)))
    return text.replace(str(old), str(new), -1 if count is None else count)


def _to_json(
    x: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - templates may give it by position
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - the filter's own signature
) -> str:
    _require_size(_size_of(x) * (1 + (indent or 0)))
    return json.dumps(
        x,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _make_dict(*args: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
