"""A folder of contracts: which files belong to it, and what they say together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.binding import BindingRegistry, read_bindings
from cotejar.contracts.read import read_contract
from cotejar.errors import CotejarError, NoContractsError, UnreadableFileError

if TYPE_CHECKING:
    from cotejar.contracts.schema import Contract

NO_CONTRACTS = frozenset(
    {"binding.yaml", "binding.yml", "external-corpora.yaml", "ontology.yaml"}
)
"""File names that upstream keeps beside contracts and that are none."""
NO_CONTRACT_FOLDERS = frozenset({"kaizen", "legacy", "pipelines", "publish-manifests"})


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedFile:
    """A file of the folder that is no readable contract."""

    file: str
    error: CotejarError


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Contracts that are looked at together; at least one."""

    target: str
    """The path as the user gave it."""
    contracts: tuple[Contract, ...]
    skipped: tuple[SkippedFile, ...]


def read_corpus(path: str | os.PathLike[str]) -> Corpus:
    """Read one contract, or every contract under a folder.

    In a folder a file that does not parse is kept in `skipped`; named alone it raises.

    Raises:
        FileError: the path is missing or cannot be read.
        ContractError: the one file is no contract.
        NoContractsError: no contract could be read.
    """
    target = os.fspath(path)
    if not is_folder(target):
        return Corpus(target=target, contracts=(read_contract(target),), skipped=())
    contracts: list[Contract] = []
    skipped: list[SkippedFile] = []
    for file in find_contract_files(target):
        try:
            contracts.append(read_contract(file))
        except CotejarError as error:
            skipped.append(SkippedFile(file=file, error=error))
    if not contracts:
        raise no_contracts(target, f"{len(skipped)} files, none of which parses")
    return Corpus(target=target, contracts=tuple(contracts), skipped=tuple(skipped))


def read_optional_bindings(path: str | None) -> BindingRegistry | None:
    """The registry at `path`; None if there is no path."""
    return None if path is None else read_bindings(path)


def find_contract_files(folder: str) -> list[str]:
    """Every YAML file under `folder` that upstream's walkers take for a contract, sorted.

    Raises:
        UnreadableFileError: a folder cannot be listed.
        NoContractsError: there is none.
    """
    found = []
    for file in find_yaml_files(folder):
        parts = Path(file).relative_to(folder).parts
        if parts[-1] not in NO_CONTRACTS and not NO_CONTRACT_FOLDERS.intersection(parts[:-1]):
            found.append(file)
    if not found:
        raise no_contracts(folder, "only files that are no contracts")
    return found


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Is there a folder? Of a path that the system refuses, False: it has no folder."""
    return os.path.isdir(path)  # noqa: PTH112 - unlike Path.is_dir, it never raises


def is_contract_name(path: Path) -> bool:
    """Is it the name of a YAML file that may be a contract?"""
    return path.suffix in {".yaml", ".yml"} and path.name not in NO_CONTRACTS


def find_yaml_files(folder: str | os.PathLike[str]) -> list[str]:
    """Every `.yaml` and `.yml` file under `folder`, sorted; hidden names are skipped.

    Raises:
        UnreadableFileError: a folder cannot be listed.
        NoContractsError: there is none.
    """

    def refuse(error: OSError) -> None:
        raise UnreadableFileError(
            "Failed to read a folder: the system refuses",
            where=os.fspath(error.filename or folder),
            expected="a folder that this user may list",
            found=error.strerror or str(error),
            hint="check its permissions",
        )

    found: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(parent, name)  # noqa: PTH118 - a Path would drop a leading `./`
            for name in names
            if name.endswith((".yaml", ".yml")) and not name.startswith(".")
        ]
    if not found:
        raise no_contracts(os.fspath(folder), "none")
    return sorted(found)


def no_contracts(folder: str, found: str) -> NoContractsError:
    """Nothing to judge is never a pass."""
    return NoContractsError(
        f"decline: 0 contracts under {folder}",
        where=folder,
        expected="at least one contract, a .yaml or .yml file",
        found=found,
        hint="name the folder that holds the contracts; nothing was checked",
    )
