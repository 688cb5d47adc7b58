"""`pv`: validate, falsify, prove and score the contracts that say what must hold."""

from __future__ import annotations

import click

from cotejar.cli.lazy_group import LazyGroup, VerbTable

PV_VERBS: VerbTable = {
    "validate": (
        "cotejar.cli.pv.validate:validate",
        "Check contracts against the schema and every rule of it.",
    ),
    "lint": ("cotejar.cli.pv.lint:lint", "Judge contracts gate by gate."),
    "explain": ("cotejar.cli.pv.explain:explain", "Say why a rule is there; list every rule."),
    "status": ("cotejar.cli.pv.status:status", "Say what a contract holds."),
    "audit": (
        "cotejar.cli.pv.audit:audit",
        "Follow every name, from equation to code and from spec to contract.",
    ),
    "prove": ("cotejar.cli.pv.prove:prove", "Prove harnesses up to their bounds."),
    "diff": ("cotejar.cli.pv.diff:diff", "Compare two versions; suggest a version bump."),
    "coverage": ("cotejar.cli.pv.coverage:coverage", "Count what backs the obligations."),
    "graph": ("cotejar.cli.pv.graph:graph", "Draw which contract depends on which."),
    "equations": ("cotejar.cli.pv.equations:equations", "Write equations as text or LaTeX."),
    "score": ("cotejar.cli.pv.score:score", "Score how complete contracts are."),
    "scaffold": ("cotejar.cli.pv.scaffold:scaffold", "Write failing tests for the claims."),
    "falsify": ("cotejar.cli.pv.falsify:falsify", "Run the tests of contracts; record it."),
    "scoreboard": (
        "cotejar.cli.pv.scoreboard:scoreboard",
        "Say which obligations evidence and proofs discharge.",
    ),
}
"""Every verb of `pv`, in the order of its help."""


@click.group(cls=LazyGroup, verbs=PV_VERBS)
@click.version_option(package_name="cotejar", prog_name="pv")
def pv() -> None:
    """Validate and score the contracts that say what must hold.

    Every verb exits 0 when all is well, 1 when something failed, 2 on bad usage or bad
    input, and 3 when nothing was measured.
    """
