"""The rule on the `parity:` block, of any kind of contract: PARITY-001. It is ours alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cotejar.contracts.findings import Finding
from cotejar.contracts.parity_syntax import find_parity_blocks, parity_problems
from cotejar.contracts.rules.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.schema import Contract
    from cotejar.errors import ContractSchemaError

_SUBJECT = re.compile(r"Failed to parse YAML: (\S+): (.*)", re.DOTALL)
_PLACE = re.compile(r":(\d+):(\d+)\Z")


class UnusableParityBlock(Rule):
    """PARITY-001: the `parity:` block holds what `apr parity --contract` refuses.

    Why:
        A gate that can never be met, judges no site or names no metric judges nothing, and
        shows it only on the day when somebody runs it.
    Bad:
        parity:
          gates: [{metric: kl_max, sites: ffn_gate, limit: .inf, origin: measured}]
    Good:
        parity:
          gates: [{metric: kl_max, sites: logits, limit: 0.25, origin: measured}]
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Read the block as `apr parity` does, and go on after what is wrong."""
        source = contract.source
        for _, block in find_parity_blocks(source):
            for error in parity_problems(block, source):
                yield self._as_finding(contract, error)

    def _as_finding(self, contract: Contract, error: ContractSchemaError) -> Finding:
        subject = _SUBJECT.fullmatch(error.problem)
        place = _PLACE.search(error.parts["where"])
        path, what = subject.groups() if subject else ("parity", error.problem)
        line, column = map(int, place.groups()) if place else (1, 1)
        expected, found = error.parts["expected"], error.parts["found"]
        return Finding(
            rule=self.id,
            severity=self.severity,
            message=f"{path}: {what}: expected {expected}, found {found}",
            file=contract.source.file,
            line=line,
            column=column,
            path=path,
        )
