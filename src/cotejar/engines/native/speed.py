"""How fast the native engine runs one model here: what `apr bench` measures."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.native.cache import KVCache
from cotejar.engines.native.engine import MULTIPLY, NativeEngine
from cotejar.engines.native.fused import FusedPass
from cotejar.errors import UsageError
from cotejar.kernels.instruction_set import chosen_isa, num_threads, use_threads
from cotejar.model.language_model import open_language_model
from cotejar.trace.forward_trace import Capture, TraceRecorder

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A figure measured several times."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """One numerics on one model."""

    numerics: str
    isa: str
    threads: int
    prefill_tokens: int
    decode_tokens: int
    prefill_tokens_per_s: Spread
    traced_prefill_tokens_per_s: Spread
    """All sites, both scopes, statistics only."""
    decode_tokens_per_s: Spread
    open_ms: Spread
    """From the path to a model that can be run."""
    first_token_ms: Spread
    """Opening and the logits after one token."""
    peak_rss_bytes: int
    """Of a process that prefills and decodes once, and nothing else."""


def measure_speed(
    path: str | Path, *, numerics: str, prefill: int, decode: int, repeats: int
) -> Speed:
    """Measure; one run before the others is not counted.

    Raises:
        UsageError: a number below 1, or more tokens than the model's context.
        FileError, ModelError: as opening the model finds.
    """
    model = open_language_model(path)
    _check(model, prefill=prefill, decode=decode, repeats=repeats)
    token_ids = _token_ids(model, prefill + decode)
    runs = [_run_once(path, model, numerics, token_ids, prefill) for _ in range(repeats + 1)][
        1:
    ]
    figures = {name: _spread([run[name] for run in runs]) for name in runs[0]}
    return Speed(
        numerics=numerics,
        isa=chosen_isa(),
        threads=num_threads(),
        prefill_tokens=prefill,
        decode_tokens=decode,
        peak_rss_bytes=_peak_of_a_run(path, numerics, token_ids, prefill),
        **figures,
    )


def _run_once(
    path: str | Path,
    model: LanguageModel,
    numerics: str,
    token_ids: list[int],
    prefill: int,
) -> dict[str, float]:
    start = time.perf_counter()
    opened = open_language_model(path)
    open_seconds = time.perf_counter() - start
    NativeEngine(opened, numerics=numerics).start().append(token_ids[:1])
    first_seconds = time.perf_counter() - start
    opened.file.close()

    session = NativeEngine(model, numerics=numerics).start()
    start = time.perf_counter()
    session.append(token_ids[:prefill])
    prefill_seconds = time.perf_counter() - start
    start = time.perf_counter()
    for token in token_ids[prefill:]:
        session.append([token])
    decode_seconds = time.perf_counter() - start

    recorder = TraceRecorder(Capture())
    step = FusedPass(model, MULTIPLY[numerics], KVCache(model.config), recorder)
    start = time.perf_counter()
    with np.errstate(all="ignore"):
        step.run(token_ids[:prefill], last_only=True)
    traced_seconds = time.perf_counter() - start
    return {
        "prefill_tokens_per_s": prefill / prefill_seconds,
        "traced_prefill_tokens_per_s": prefill / traced_seconds,
        "decode_tokens_per_s": (len(token_ids) - prefill) / decode_seconds,
        "open_ms": 1000 * open_seconds,
        "first_token_ms": 1000 * first_seconds,
    }


def _token_ids(model: LanguageModel, count: int) -> list[int]:
    """Ids spread over the vocabulary; the same on every run."""
    return [(7919 * index + 101) % model.config.vocab_size for index in range(count)]


def _spread(values: list[float]) -> Spread:
    return Spread(median=statistics.median(values), min=min(values), max=max(values))


def _check(model: LanguageModel, *, prefill: int, decode: int, repeats: int) -> None:
    room = model.config.context_length
    if min(prefill, decode, repeats) >= 1 and prefill + decode <= room:
        return
    raise UsageError(
        "there is nothing to measure so",
        where="--prefill, --decode, --repeats",
        expected=f"at least 1 each, and {room} tokens together, the model's context",
        found=f"{prefill} and {decode} tokens, {repeats} times",
        hint="apr bench MODEL --prefill 128 --decode 64",
    )


def _peak_of_a_run(path: str | Path, numerics: str, token_ids: list[int], prefill: int) -> int:
    """Peak memory of a fresh process, so that one measurement does not see another's."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh) as pool:
        run = pool.submit(_run_and_look, str(path), numerics, token_ids, prefill, num_threads())
        return run.result()


def _run_and_look(
    path: str, numerics: str, token_ids: list[int], prefill: int, threads: int
) -> int:
    use_threads(threads)
    session = NativeEngine(open_language_model(path), numerics=numerics).start()
    session.append(token_ids[:prefill])
    for token in token_ids[prefill:]:
        session.append([token])
    return peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Of this process; what it shares with the file cache included."""
    # Linux keeps in `ru_maxrss` what the process that started this one had.
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
