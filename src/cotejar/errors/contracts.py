"""Contracts that cannot be read at all."""

from __future__ import annotations

from cotejar.errors.error import CotejarError
from cotejar.verdict import Verdict


class ContractError(CotejarError):
    """A contract that cannot be read at all."""

    code = "PV-E001"


class ContractSyntaxError(ContractError):
    """The file is no YAML, or no UTF-8."""

    code = "PV-E002"


class ContractDocumentsError(ContractError):
    """The file holds no YAML document, or more than one."""

    code = "PV-E003"


class ContractLimitError(ContractError):
    """A file too large, nested too deep, or with aliases that expand too far."""

    code = "PV-E004"


class ContractSchemaError(ContractError):
    """YAML, but not of the schema: a missing key, a wrong type, an unknown word."""

    code = "PV-E005"


class NoContractsError(ContractError):
    """A folder that holds no contract: nothing was measured, so nothing passes."""

    code = "PV-E006"
    exit_code = Verdict.INCOMPARABLE.exit_code


class UnknownRuleError(ContractError):
    """A rule id, a gate or a severity that nothing has."""

    code = "PV-E007"


class SettingsError(ContractError):
    """The project's settings for runs are no TOML, or one of them means nothing."""

    code = "PV-E008"


class UnknownTestError(ContractError):
    """A test or harness id that no contract has."""

    code = "PV-E009"


class EvidenceError(ContractError):
    """A file of evidence that does not say what it must."""

    code = "PV-E010"
