"""What a contract says of itself, in a few lines; and why its gates mean what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.changelog import read_changelog
from cotejar.contracts.proof_level import declared_proof_level

if TYPE_CHECKING:
    from cotejar.contracts.changelog import ChangelogEntry
    from cotejar.contracts.schema import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The counts of one contract."""

    file: str
    description: str
    version: str
    kind: str
    num_equations: int
    num_obligations: int
    num_tests: int
    num_harnesses: int
    num_phases: int
    qa_gate: str | None
    """`name (id)`; None if there is none."""
    declared_level: str
    changelog: tuple[ChangelogEntry, ...]

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "file": self.file,
            "description": self.description,
            "version": self.version,
            "kind": self.kind,
            "equations": self.num_equations,
            "proof_obligations": self.num_obligations,
            "falsification_tests": self.num_tests,
            "kani_harnesses": self.num_harnesses,
            "kernel_phases": self.num_phases,
            "qa_gate": self.qa_gate,
            "declared_proof_level": self.declared_level,
            "changelog": [entry.as_json() for entry in self.changelog],
        }


def contract_status(contract: Contract) -> Status:
    """Count what a contract holds."""
    gate = contract.qa_gate
    return Status(
        file=contract.source.file,
        description=contract.metadata.description,
        version=contract.metadata.version,
        kind=contract.kind.value,
        num_equations=len(contract.equations),
        num_obligations=len(contract.obligations),
        num_tests=len(contract.tests),
        num_harnesses=len(contract.harnesses),
        num_phases=len(contract.phases or ()),
        qa_gate=None if gate is None else f"{gate.name} ({gate.id})",
        declared_level=declared_proof_level(contract).name,
        changelog=read_changelog(contract),
    )


def status_text(status: Status, *, why: bool = False) -> str:
    """Upstream's lines; with `why`, the questions behind each change of meaning too."""
    lines = [
        f"Contract: {status.description}",
        f"Version: {status.version}",
        f"Kind: {status.kind}",
        "",
        f"Equations: {status.num_equations}",
        f"Proof obligations: {status.num_obligations}",
        f"Falsification tests: {status.num_tests}",
        f"Kani harnesses: {status.num_harnesses}",
        f"Kernel phases: {status.num_phases}",
        f"QA gate: {status.qa_gate or 'not defined'}",
        f"Declared proof level: {status.declared_level} (by its own lists; nothing was run)",
    ]
    if why:
        lines += _why_lines(status)
    return "\n".join(lines)


def _why_lines(status: Status) -> list[str]:
    explained = [entry for entry in status.changelog if entry.five_whys]
    if not explained:
        return ["", "No change of this contract is explained by five whys."]
    lines: list[str] = []
    for entry in explained:
        dated = f" ({entry.date})" if entry.date else ""
        lines += ["", f"Why {entry.version}{dated}"]
        lines += [f"  - {change}" for change in entry.changes]
        for number, step in enumerate(entry.five_whys, start=1):
            is_root = number == len(entry.five_whys)
            lines.append(f"  {number}. {step.why}")
            lines.append(f"     {'Root cause: ' if is_root else ''}{step.because}")
    return lines
