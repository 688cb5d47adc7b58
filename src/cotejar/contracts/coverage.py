"""How many obligations a set of contracts backs with tests, harnesses and code.

Upstream's heuristic, which counts and does not match: one test covers all obligations of
its contract, and each harness one. What really names what is in `pv audit`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.binding import BindingStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.corpus import Corpus
    from cotejar.contracts.schema import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class ContractCoverage:
    """One contract's counts."""

    stem: str
    num_equations: int
    num_obligations: int
    num_tests: int
    num_harnesses: int
    num_implemented: int
    """Equations whose binding is implemented; 0 without a registry."""
    num_partial: int
    by_type: Mapping[str, int]
    """Obligations by their type."""

    @property
    def num_falsification_covered(self) -> int:
        """All obligations if there is a test, else none."""
        return self.num_obligations if self.num_tests else 0

    @property
    def num_harness_covered(self) -> int:
        """One obligation a harness."""
        return min(self.num_harnesses, self.num_obligations)

    @property
    def num_covered(self) -> int:
        """The larger of the two."""
        return max(self.num_falsification_covered, self.num_harness_covered)

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "stem": self.stem,
            "equations": self.num_equations,
            "obligations": self.num_obligations,
            "falsification_tests": self.num_tests,
            "kani_harnesses": self.num_harnesses,
            "falsification_covered": self.num_falsification_covered,
            "kani_covered": self.num_harness_covered,
            "binding_implemented": self.num_implemented,
            "binding_partial": self.num_partial,
            "binding_missing": self.num_equations - self.num_implemented - self.num_partial,
            "by_type": dict(self.by_type),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class CoverageReport:
    """All contracts; never of none."""

    contracts: tuple[ContractCoverage, ...]

    @property
    def percent(self) -> float:
        """Covered over all obligations, in percent; 100 if there are no obligations."""
        obligations = sum(c.num_obligations for c in self.contracts)
        covered = sum(c.num_covered for c in self.contracts)
        return 100.0 * covered / obligations if obligations else 100.0

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        rows = [contract.as_json() for contract in self.contracts]
        counts = [key for key in rows[0] if key not in {"stem", "by_type"}]
        return {
            "percent": self.percent,
            "totals": {
                "contracts": len(rows),
                **{key: sum(row[key] for row in rows) for key in counts},
            },
            "contracts": rows,
        }


def measure_coverage(corpus: Corpus, bindings: BindingRegistry | None = None) -> CoverageReport:
    """Count every contract of the corpus."""
    return CoverageReport(contracts=tuple(_count(c, bindings) for c in corpus.contracts))


def coverage_text(report: CoverageReport) -> str:
    """Upstream's line a contract, the totals and the percentage."""
    lines = [
        f"{c.stem} eq={c.num_equations} ob={c.num_obligations} ft={c.num_tests} "
        f"kani={c.num_harnesses} impl={c.num_implemented}/{c.num_equations}"
        for c in report.contracts
    ]
    totals = report.as_json()["totals"]
    lines += [
        "",
        f"Contracts: {totals['contracts']}",
        f"Equations: {totals['equations']}",
        f"Obligations: {totals['obligations']}",
        f"Falsification tests: {totals['falsification_tests']}",
        f"Kani harnesses: {totals['kani_harnesses']}",
        f"Overall coverage: {report.percent:.1f}% (by counting; `pv audit` follows the names)",
    ]
    return "\n".join(lines)


def _count(contract: Contract, bindings: BindingRegistry | None) -> ContractCoverage:
    entries = [
        None if bindings is None else bindings.find(contract.stem, equation.name)
        for equation in contract.equations
    ]
    statuses = [entry.status for entry in entries if entry is not None]
    return ContractCoverage(
        stem=contract.stem,
        num_equations=len(contract.equations),
        num_obligations=len(contract.obligations),
        num_tests=len(contract.tests),
        num_harnesses=len(contract.harnesses),
        num_implemented=statuses.count(BindingStatus.IMPLEMENTED),
        num_partial=statuses.count(BindingStatus.PARTIAL),
        by_type=dict(sorted(Counter(o.type.value for o in contract.obligations).items())),
    )
