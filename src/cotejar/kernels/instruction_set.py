"""Which instruction set and how many threads the kernels use.

`COTEJAR_ISA` forces one of `numpy`, `portable`, `avx2`, `avx512vnni`, `avx512bf16`, `amx`;
without it the best that this CPU runs is taken. The last two add to `avx512vnni` what the
products of `bf16` use, and `amx` what those of `w8a8` do. `amx-emulated` has the tile
instructions of `amx` in plain C++: slow, on every CPU, for tests. `COTEJAR_THREADS` is the
number of threads; without it, the CPUs that this process may use. Neither changes a bit of a
result.
"""

from __future__ import annotations

import functools
import os

from cotejar.errors import UsageError
from cotejar.kernels import _compiled

NUMPY = "numpy"
"""The implementation that the compiled ones are compared with; on no CPU the fastest."""

AMX_EMULATED = "amx-emulated"
"""On every CPU, and never chosen unless it is asked for."""

KNOWN_ISAS = (NUMPY, "portable", "avx2", "avx512vnni", "avx512bf16", "amx")
"""Of every build and CPU."""

MAX_THREADS = 1024


def runnable_isas() -> tuple[str, ...]:
    """What this build has and this CPU runs, best first."""
    return (*_compiled.isa_names(), NUMPY)


@functools.cache
def chosen_isa() -> str:
    """The instruction set in use; sets the number of threads as well, once.

    Raises:
        UsageError: `COTEJAR_ISA` or `COTEJAR_THREADS` asks for what there is not.
    """
    _compiled.set_num_threads(_wanted_threads())
    wanted = os.environ.get("COTEJAR_ISA", "")
    runnable = runnable_isas()
    if not wanted:
        return runnable[0]
    if wanted in (*runnable, AMX_EMULATED):
        return wanted
    raise UsageError(
        f"this CPU does not run {wanted}"
        if wanted in KNOWN_ISAS
        else f"there is no instruction set {wanted!r} here",
        where="environment variable COTEJAR_ISA",
        expected=", ".join(runnable),
        found=wanted,
        hint="unset it to use the best; `apr doctor` shows what the CPU has",
    )


def amx_state() -> str:
    """What became of AMX: `ready`, `absent`, or why it is not used on a CPU that has it.

    `refused`: the operating system gives this process no tile registers. `different`: small
    products, made before AMX is first used, had not the bits of the portable kernels.
    """
    return _compiled.amx_state()


def num_threads() -> int:
    """Threads that a product is split over."""
    chosen_isa()
    return _compiled.num_threads()


def use_threads(count: int) -> None:
    """Split products over so many threads, whatever `COTEJAR_THREADS` says.

    Raises:
        UsageError: `COTEJAR_ISA` or `COTEJAR_THREADS` asks for what there is not.
    """
    chosen_isa()
    _compiled.set_num_threads(count)


def _wanted_threads() -> int:
    text = os.environ.get("COTEJAR_THREADS", "")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= MAX_THREADS:
        return int(text)
    raise UsageError(
        f"{text!r} is no number of threads",
        where="environment variable COTEJAR_THREADS",
        expected=f"1..{MAX_THREADS}",
        found=text,
        hint="unset it to use every CPU that this process may use",
    )
