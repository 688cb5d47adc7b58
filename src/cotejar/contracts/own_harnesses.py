"""Find the harnesses of our own contracts, for the verbs that ask what is registered."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from cotejar.contracts import harnesses
from cotejar.contracts.prove.harness import HARNESSES

if TYPE_CHECKING:
    from cotejar.contracts.prove.harness import Registry


def load_harnesses() -> Registry:
    """Import every module of `harnesses/`, each of which registers its claims."""
    for module in pkgutil.iter_modules(harnesses.__path__):
        importlib.import_module(f"{harnesses.__name__}.{module.name}")
    return HARNESSES
