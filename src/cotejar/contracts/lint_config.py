"""The `[lint]` part of `.pv.toml`: other severities, and findings that do not count.

    [lint.rules]
    PV-AUD-002 = "off"          # or info, warning, error

    [[lint.suppress]]
    rule = "PV-AUD-004"
    contract = "silu-kernel-v1" # without it: in every contract
    reason = "the domain is in the paper"

A rule id that no rule has, and a suppression without a reason, are errors.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotejar.contracts.findings import Severity
from cotejar.contracts.read import read_text
from cotejar.contracts.rules.every_rule import find_rule
from cotejar.contracts.rules.lint_run import Suppression
from cotejar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIG_FILE = ".pv.toml"
OFF = "off"
COMMAND_LINE = "command line"


@dataclass(frozen=True, kw_only=True, slots=True)
class LintConfig:
    """What a project or a caller changes of the catalogue."""

    severities: Mapping[str, Severity | None]
    """By rule id; None switches the rule off."""
    suppressions: tuple[Suppression, ...]


def read_lint_config(
    path: str | None,
    *,
    rules: Sequence[str] = (),
    suppressed: Sequence[str] = (),
) -> LintConfig:
    """The file at `path` (None: `.pv.toml` here, if there is one), then the command line.

    `rules` are `ID=SEVERITY`; `suppressed` are `ID` or `ID:CONTRACT`.

    Raises:
        FileError: the named file cannot be read.
        UsageError: it is no TOML, or says something else than the above.
        UnknownRuleError: no rule has such an id.
    """
    file = path or (CONFIG_FILE if Path(CONFIG_FILE).is_file() else None)
    lint = {} if file is None else _read_table(file)
    severities = _severities(_table(lint.get("rules", {}), file, "lint.rules"), file or "")
    for pair in rules:
        rule, _, word = pair.partition("=")
        severities |= _severities({rule.strip(): word.strip()}, "--rule")
    suppressions = [_suppression(entry, file or "") for entry in _entries(lint, file)]
    for text in suppressed:
        rule, _, stem = text.partition(":")
        found = find_rule(rule).id
        reason, where = "asked for", COMMAND_LINE
        suppressions.append(
            Suppression(rule=found, stem=stem or None, reason=reason, file=where)
        )
    return LintConfig(severities=severities, suppressions=tuple(suppressions))


def _read_table(file: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise _bad(file, "TOML", str(error)) from None
    return _table(document.get("lint", {}), file, "lint")


def _table(value: object, file: str | None, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(file or "", f"a table [{name}]", repr(value))
    return value


def _entries(lint: dict[str, Any], file: str | None) -> list[Any]:
    entries = lint.get("suppress", [])
    if not isinstance(entries, list):
        raise _bad(file or "", "a list of [[lint.suppress]] tables", repr(entries))
    return entries


def _severities(table: Mapping[str, object], where: str) -> dict[str, Severity | None]:
    words = (OFF, *Severity)
    severities: dict[str, Severity | None] = {}
    for rule, word in table.items():
        if word not in words:
            raise _bad(where, f"{rule} = one of: {', '.join(words)}", repr(word))
        severities[find_rule(rule).id] = None if word == OFF else Severity(str(word))
    return severities


def _suppression(entry: object, file: str) -> Suppression:
    table = _table(entry, file, "[lint.suppress]")
    values = {key: table.get(key) for key in ("rule", "contract", "reason")}
    texts = [value for value in values.values() if value is not None]
    complete = values["rule"] is not None and values["reason"] is not None
    if not complete or not all(isinstance(text, str) and text.strip() for text in texts):
        raise _bad(file, "[[lint.suppress]] with a rule and a reason, as text", repr(table))
    return Suppression(
        rule=find_rule(str(values["rule"])).id,
        stem=None if values["contract"] is None else str(values["contract"]),
        reason=str(values["reason"]),
        file=file,
    )


def _bad(where: str, expected: str, found: str) -> UsageError:
    return UsageError(
        "the lint configuration cannot be understood",
        where=where,
        expected=expected,
        found=found,
        hint='[lint.rules] has lines such as PV-AUD-002 = "off"',
    )
