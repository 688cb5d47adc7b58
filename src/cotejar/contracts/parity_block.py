"""The `parity:` block of a contract, ready to be run: what `apr parity --contract FILE` runs.

How it is written, and what is refused, is in `parity_syntax`; here what it leaves out is
filled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.contracts.parity_syntax import find_parity_blocks, parse_parity
from cotejar.contracts.read import read_source
from cotejar.errors import ContractError
from cotejar.parity.compare import Plan
from cotejar.trace.forward_trace import Scope
from cotejar.trace.site import CONTRACT_SLOTS

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityBlock:
    """One contract's comparison."""

    reference: str | None
    candidate: str | None
    prompts: tuple[str, ...]
    plan: Plan


def read_parity_block(path: Path) -> ParityBlock:
    """Read a contract's `parity:` block.

    Raises:
        FileError: there is no such file, or it cannot be read.
        ContractError: no YAML, no such block, or a value in it that means nothing.
    """
    source = read_source(path)
    blocks = find_parity_blocks(source)
    if len(blocks) != 1:
        raise ContractError(
            "the contract does not say what to compare",
            where=f"{path}:{blocks[1][0].place.line}" if blocks else str(path),
            expected="one top-level block `parity:`",
            found=f"{len(blocks)} of them",
            hint="contracts/apr-vs-gguf-forward-parity-v1.yaml shows one",
        )
    written = parse_parity(blocks[0][1], source)
    return ParityBlock(
        reference=written.reference,
        candidate=written.candidate,
        prompts=written.prompts,
        plan=Plan(
            gates=written.gates,
            scopes=tuple(map(Scope, written.scopes)) or (Scope.ALL, Scope.LAST),
            required_slots=written.required_slots or CONTRACT_SLOTS,
            preconditions=written.preconditions,
        ),
    )
