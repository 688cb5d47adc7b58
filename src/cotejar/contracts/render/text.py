"""A validation report as upstream's text lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.contracts.validate import FileReport, ValidationReport


def validation_text(report: ValidationReport) -> tuple[str, str]:
    """What goes to stdout and what goes to stderr; each ends without a newline."""
    if report.is_folder:
        return _folder_text(report), ""
    return _file_text(report.files[0])


def _file_text(file: FileReport) -> tuple[str, str]:
    if file.problem is not None:
        return "", file.problem.text
    noun = file.kind.value.capitalize()
    lines = [finding.as_text() for finding in file.findings]
    lines += ["", f"{file.num_errors} error(s), {file.num_warnings} warning(s)"]
    if file.verdict is Verdict.PASS:
        return "\n".join([*lines, f"{noun} is valid."]), ""
    if file.verdict is Verdict.INCOMPARABLE:
        return "", f"decline: {file.file}: an {file.kind.value}; no rule judges it"
    return "\n".join(lines), f"error: {noun} has {file.num_errors} validation error(s)"


def _folder_text(report: ValidationReport) -> str:
    lines: list[str] = []
    for file in report.files:
        lines.append(f"== {file.file}")
        if file.problem is not None:
            lines.append(file.problem.text)
        if file.verdict is Verdict.INCOMPARABLE:
            lines.append(f"not checked: an {file.kind.value}; no rule judges it")
        lines += [finding.as_text() for finding in file.findings]
    total = f"{len(report.files)} artifact(s) under {report.target}"
    return "\n".join([*lines, "", f"{total}, {report.num_failed} failed"])
