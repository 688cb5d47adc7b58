"""`pv audit FILE|DIR`."""

from __future__ import annotations

import click

from cotejar.cli.pv.report_corpus import report_corpus


@click.command("audit")
@click.argument("path", metavar="FILE|DIR", type=click.Path())
@click.option("--binding", type=click.Path(), help="A registry of equations and functions.")
@click.option(
    "--against",
    metavar="OLD|git:REV",
    help="The version before: ask for five whys where a gate's meaning changed.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def audit(path: str, binding: str | None, against: str | None, *, as_json: bool) -> None:
    """Follow every name: equation, obligation, test, harness, code; spec section and back.

    With --against the versions before are looked at too: a file, a folder, or a revision in
    git, such as git:HEAD~1. A change of what a gate means must then be explained by five
    whys in the changelog.

    Exits 0 when nothing is broken (warnings do not fail), 1 when something is, 2 when the
    path cannot be read, 3 when a folder holds no contract.
    """
    from cotejar.contracts.audit import audit_corpus, audit_text
    from cotejar.contracts.corpus import read_corpus, read_optional_bindings
    from cotejar.contracts.own_harnesses import load_harnesses
    from cotejar.contracts.previous import PreviousVersions

    corpus = read_corpus(path)
    report = audit_corpus(
        corpus,
        read_optional_bindings(binding),
        harnesses=load_harnesses(),
        against=None if against is None else PreviousVersions(against, path),
    )
    report_corpus(corpus, audit_text(report), report.as_json(), as_json=as_json)
    raise SystemExit(report.verdict.exit_code)
