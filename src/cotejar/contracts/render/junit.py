"""A validation report as JUnit XML: a test case a file, a failure an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from cotejar.contracts.findings import Severity
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.contracts.validate import FileReport, ValidationReport

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not."""


def junit_xml(report: ValidationReport) -> str:
    """One `testsuites` element; a file that no rule judges is skipped, never passed."""
    num_skipped = sum(file.verdict is Verdict.INCOMPARABLE for file in report.files)
    root = Element("testsuites", name="pv")
    suite = SubElement(
        root,
        "testsuite",
        name="pv validate",
        tests=str(len(report.files)),
        failures=str(report.num_failed),
        errors="0",
        skipped=str(num_skipped),
    )
    for file in report.files:
        _add_case(suite, file)
    return tostring(root, encoding="unicode", xml_declaration=True)


def _add_case(suite: Element, file: FileReport) -> None:
    case = SubElement(suite, "testcase", classname=file.kind.value, name=_clean(file.file))
    errors = [f for f in file.findings if f.severity is Severity.ERROR]
    if file.problem is not None:
        text = file.problem.text
        failure = SubElement(case, "failure", type=file.problem.facts["code"])
        failure.set("message", _clean(file.problem.facts["problem"]))
        failure.text = _clean(text)
    elif errors:
        failure = SubElement(case, "failure", type=errors[0].rule)
        failure.set("message", f"{len(errors)} error(s), {file.num_warnings} warning(s)")
        failure.text = _clean("\n".join(finding.as_text() for finding in errors))
    elif file.verdict is Verdict.INCOMPARABLE:
        SubElement(case, "skipped", message="no rule judges this kind of file")
    others = [finding.as_text() for finding in file.findings if finding not in errors]
    if others:
        SubElement(case, "system-out").text = _clean("\n".join(others))


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
