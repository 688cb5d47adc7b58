"""Engines of other distributions, by the entry points of the group `cotejar.engines`.

    [project.entry-points."cotejar.engines"]
    echo = "cotejar_echo:SPEC"          # an EngineSpec named echo

What is installed is read from metadata; a plugin's module is imported when its engine is
named, or by `apr doctor`, and never by `--help`. One that is broken breaks nothing but
itself. A name of ours cannot be taken, nor one that two distributions offer be used.

A plugin's engine runs in a process of its own, whatever its spec says.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

from cotejar.engines.spec import DEMO, ENGINES, RECORDED, EngineSpec
from cotejar.errors import PluginError
from cotejar.trace.site import CAPTURE_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP = "cotejar.engines"
_IMPORT_S = 60.0
_NAME = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)
_SETTING = re.compile(r"[^\s+@:/]{1,64}")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
_WORDS = {"numerics": _SETTING, "devices": _SETTING, "packages": re.compile(r"\w[\w.]*")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """An entry point, before anything of it is imported."""

    name: str
    """Of the engine."""
    target: str
    """`module:attribute` of its spec."""
    distribution: str
    """Who offers it, with the version: `cotejar-echo 1.0`."""


def find_plugins() -> tuple[Plugin, ...]:
    """Every installed plugin, in the order of names; nothing is imported."""
    found: dict[str, list[Plugin]] = {}
    for distribution in importlib.metadata.distributions():
        plugins = list(_plugins_of(distribution))
        if plugins:
            # One that is twice on the path, in two versions say, is imported from the first.
            name = plugins[0].distribution.partition(" ")[0]
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), plugins)
    each = (plugin for plugins in found.values() for plugin in plugins)
    return tuple(sorted(each, key=lambda p: (p.name, p.distribution)))


def find_plugin(name: str) -> EngineSpec | None:
    """The spec of the plugin of that name; None where nobody offers it.

    Raises:
        PluginError: a plugin of that name is broken.
    """
    plugins = [plugin for plugin in find_plugins() if plugin.name == name]
    return load_spec(plugins[0], plugins) if plugins else None


def load_spec(plugin: Plugin, rivals: list[Plugin] | tuple[Plugin, ...] = ()) -> EngineSpec:
    """Import a plugin's spec and check it.

    Args:
        plugin: whose.
        rivals: every plugin of that name.

    Raises:
        PluginError: it cannot be imported, is no spec, or its name is taken.
    """
    if plugin.name in {*ENGINES, RECORDED, DEMO}:
        _refuse(plugin, "a name of its own", f"{plugin.name!r}, which is ours")
    others = [p.distribution for p in rivals if p != plugin]
    if others:
        _refuse(plugin, "a name of its own", f"{plugin.name!r} in {', '.join(others)} too")
    if not _TARGET.fullmatch(plugin.target):
        _refuse(plugin, "an entry point `module:SPEC`", repr(plugin.target)[:80])
    module, _, attribute = plugin.target.partition(":")
    try:
        spec: Any = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's module may raise anything
        _refuse(plugin, f"{plugin.target}, which can be imported", _brief(error))
    if not isinstance(spec, EngineSpec):
        _refuse(plugin, "a cotejar.engines.spec.EngineSpec", type(spec).__name__)
    _check_fields(plugin, spec)
    checked: EngineSpec = replace(spec, isolated=True)
    return checked


def plugin_facts() -> list[dict[str, object]]:
    """Every plugin as `apr doctor` shows it: `problem` is null for one that can be used.

    Each is imported in a process of its own, which it may end.
    """
    return [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "problem": _problem_in_child(plugin),
        }
        for plugin in find_plugins()
    ]


def _problem_in_child(plugin: Plugin) -> str | None:
    """What is wrong with a plugin; the last line that the child prints says it, as JSON."""
    command = [sys.executable, "-P", "-m", __name__, plugin.name, plugin.distribution]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=False,
            timeout=_IMPORT_S,
        )
    except subprocess.TimeoutExpired:
        return f"expected a module that is imported within {_IMPORT_S:g} s, found none"
    try:
        problem: str | None = json.loads(done.stdout.splitlines()[-1])["problem"]
    except (IndexError, KeyError, TypeError, ValueError):
        ended = f"a process that ended, code {done.returncode}"
        return f"expected a module that can be imported, found {ended}"
    return problem


def main() -> None:
    """Print what is wrong with the plugin of this name and distribution, as JSON."""
    name, distribution = sys.argv[1:]
    plugins = [plugin for plugin in find_plugins() if plugin.name == name]
    problem = None
    try:
        load_spec(next(p for p in plugins if p.distribution == distribution), plugins)
    except PluginError as error:
        problem = f"expected {error.parts['expected']}, found {error.parts['found']}"
    sys.stdout.write(f"\n{json.dumps({'problem': problem})}\n")


def _plugins_of(distribution: importlib.metadata.Distribution) -> Iterator[Plugin]:
    try:
        entries = [entry for entry in distribution.entry_points if entry.group == GROUP]
        who = f"{distribution.metadata['Name']} {distribution.version}" if entries else ""
    except Exception:  # noqa: BLE001 - metadata that nobody can read offer nothing
        return
    for entry in entries:
        yield Plugin(name=entry.name, target=entry.value, distribution=who)


def _check_fields(plugin: Plugin, spec: Any) -> None:
    """Refuse a spec whose fields are not what they are declared to be: nobody checked them."""
    if spec.name != plugin.name or not _NAME.fullmatch(spec.name):
        _refuse(plugin, f"a spec named {plugin.name!r}, of letters and digits", repr(spec.name))
    if not (isinstance(spec.target, str) and _TARGET.fullmatch(spec.target)):
        _refuse(plugin, "target: `module:Class`", repr(spec.target))
    for name, pattern in _WORDS.items():
        value = getattr(spec, name)
        is_words = isinstance(value, tuple) and all(
            isinstance(word, str) and pattern.fullmatch(word) for word in value
        )
        if not is_words or (name != "packages" and not value):
            _refuse(plugin, f"{name}: a tuple of words, ('f32',)", repr(value))
    slots = spec.not_observed
    if not (isinstance(slots, frozenset) and slots <= set(CAPTURE_POINTS)):
        _refuse(plugin, "not_observed: a frozenset of slots", repr(slots))
    if spec.extra is not None and not isinstance(spec.extra, str):
        _refuse(plugin, "extra: a text, or None", repr(spec.extra))
    for field in fields(spec):
        if field.type == "bool" and not isinstance(getattr(spec, field.name), bool):
            _refuse(plugin, f"{field.name}: True or False", repr(getattr(spec, field.name)))


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _refuse(plugin: Plugin, expected: str, found: str) -> NoReturn:
    raise PluginError(
        f"the plugin {plugin.name!r} of {plugin.distribution} cannot be used",
        where=f"entry point {plugin.name} = {plugin.target}, group {GROUP}",
        expected=expected,
        found=found[:200],
        hint=f"correct or uninstall {plugin.distribution}; other engines are not affected",
    )


if __name__ == "__main__":
    main()
