"""Which records still speak of what is there.

A record is stale when the contract, the test, the code or a model is no longer what it was
when it was made. A model that is no longer there cannot be compared, so it counts as
changed. A stale record counts as not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.evidence.fingerprint import contract_hash

if TYPE_CHECKING:
    from cotejar.contracts.evidence.fingerprint import Fingerprints
    from cotejar.contracts.evidence.record import EvidenceRecord
    from cotejar.contracts.schema import Contract


def stale_reasons(
    record: EvidenceRecord,
    contract: Contract,
    fingerprints: Fingerprints,
) -> tuple[str, ...]:
    """What changed since the record was made; empty if it is fresh.

    Args:
        record: one of this contract's.
        contract: as it is now.
        fingerprints: of the contract's project as it is now.
    """
    stamp = record.stamp
    reasons = []
    if stamp.contract_hash != contract_hash(contract):
        reasons.append("the contract changed")
    if stamp.test_hash != fingerprints.test(stamp.words):
        reasons.append("the test changed")
    if stamp.code_hash != fingerprints.code():
        reasons.append("the code changed")
    for name, recorded in stamp.models.items():
        found = fingerprints.model(name)
        if found is None:
            reasons.append(f"the model {name} is not there to compare")
        elif found != recorded:
            reasons.append(f"the model {name} changed")
    return tuple(reasons)
