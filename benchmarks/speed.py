"""How fast `native` runs and traces, beside llama.cpp in the same processes: `make bench`.

    python benchmarks/speed.py [--quick] [--only SmolLM2] [MODEL.gguf ...]

llama.cpp is what llama-cpp-python 0.3.36 builds from source, its extra buffers off; it runs in
turn with us, so that a busy machine slows both. Ratios are of the two figures of one round;
median, least and greatest are over rounds. Writes `benchmarks/results/speed.md`.

Worker processes do the measuring: one an instruction set, and fresh ones where opening, memory
or the oracle are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from cotejar.engines.llamacpp.binding import load_library
from cotejar.engines.llamacpp.context import Context, Options
from cotejar.engines.llamacpp.context import Model as LlamaModel
from cotejar.engines.llamacpp.watch import Watch
from cotejar.engines.native.cache import KVCache
from cotejar.engines.native.engine import NativeEngine, NativeSession
from cotejar.engines.native.fused import FusedPass
from cotejar.engines.native.speed import peak_rss_bytes
from cotejar.engines.oracle import OracleEngine
from cotejar.engines.tracing import join_recorders
from cotejar.kernels.instruction_set import chosen_isa, num_threads
from cotejar.kernels.products import multiply_q8
from cotejar.model.language_model import open_language_model
from cotejar.trace.forward_trace import Capture, TraceRecorder

THREADS = 2
DECODE_TOKENS = 64
PAIRS = {128: 20, 512: 8}
"""Traced and untraced prefills of so many tokens in a round, whose ratio is near 1."""
RESULT = Path(__file__).parent / "results" / "speed.md"
BARS = {  # (measure, model or "") -> (least or most, bar)
    "decode / llama.cpp": ("least", {"": 2.2}),
    "decode, share of DRAM bandwidth": ("least", {"Qwen": 0.8}),
    "prefill 128 q8 / llama.cpp": ("least", {"": 3.0}),
    "prefill 512 q8 / llama.cpp": ("least", {"": 3.0}),
    "prefill 128 avx2 / llama.cpp": ("least", {"": 0.8}),
    "prefill 128, best numerics / llama.cpp": ("least", {"Qwen": 5.0, "SmolLM2": 8.0}),
    "prefill 512, best numerics / llama.cpp": ("least", {"Qwen": 5.0, "SmolLM2": 8.0}),
    "traced / untraced, 128": ("most", {"": 1.05}),
    "traced / untraced, 512": ("most", {"": 1.05}),
    "traced / untraced, decode": ("most", {"": 1.05}),
    "traced / llama.cpp with a callback, 128": ("most", {"": 0.2}),
    "open + first token / llama.cpp": ("most", {"Qwen": 0.5}),
    "peak memory / file size": ("most", {"Qwen": 1.25}),
    "oracle, 7 tokens, seconds": ("most", {"Qwen": 10.0}),
    "oracle, 7 tokens, peak GiB": ("most", {"Qwen": 3.0}),
}


# --- workers ---------------------------------------------------------------------------


class NumpyRecorder:
    """What a user would write: mean, std, min and max of every array, over all and the last."""

    def __init__(self) -> None:
        self.sites: dict[str, list[float]] = {}

    def record(self, slot: str, values_TW: Any, layer: int | None, *, arrange: Any) -> None:
        del arrange  # statistics do not see the order
        name = slot if layer is None else f"layer.{layer}.{slot}"
        self.sites[name] = [
            float(getattr(part, reduce)())
            for part in (values_TW, values_TW[-1])
            for reduce in ("mean", "std", "min", "max")
        ]


class Llama:
    """llama.cpp on one model, as its defaults have it."""

    def __init__(self, path: Path) -> None:
        self.library = load_library()
        self.model = LlamaModel(self.library, path, name=path.name)
        self.options = Options(
            flash_attention=True, kv_type="f16", ubatch_tokens=512, threads=THREADS
        )
        self.context = self.new_context()

    def new_context(self, on_node: Any = None) -> Context:
        return Context(self.library, self.model, self.options, capacity=640, on_node=on_node)

    def forget(self, context: Context) -> None:
        api = self.library.api
        api.llama_memory_clear(api.llama_get_memory(context.handle), True)  # noqa: FBT003
        context.num_tokens = 0

    def prefill(self, ids: list[int]) -> float:
        self.forget(self.context)
        start = time.perf_counter()
        self.context.decode(ids, all_logits=False)
        return time.perf_counter() - start

    def decode(self, ids: list[int]) -> float:
        start = time.perf_counter()
        for token in ids:
            self.context.decode([token], all_logits=False)
        return time.perf_counter() - start

    def traced(self, ids: list[int], watch: Watch, context: Context) -> float:
        self.forget(context)
        start = time.perf_counter()
        watch.begin(NumpyRecorder(), len(ids))  # type: ignore[arg-type]
        context.decode(ids, all_logits=False)
        return time.perf_counter() - start


class EveryRow(FusedPass):
    """Untraced, with all that a trace needs computed: the last layer of every row."""

    def _asking_rows(self, layer: int, x_TD: Any) -> Any:  # noqa: ARG002
        return x_TD


def timed_prefill(engine: NativeEngine, ids: list[int]) -> tuple[NativeSession, float]:
    session = engine.start()
    start = time.perf_counter()
    session.append(ids)
    return session, time.perf_counter() - start


def timed_pass(make: Any, model: Any, ids: list[int], recorder: Any) -> float:
    step = make(model, multiply_q8, KVCache(model.config), recorder)
    start = time.perf_counter()
    with np.errstate(all="ignore"):
        step.run(ids, last_only=True)
    return time.perf_counter() - start


def timed_steps(
    session: NativeSession, ids: list[int]
) -> tuple[list[float], list[float], float]:
    """Steps untraced, traced over the same positions, and what joining the recorders takes.

    Each step is taken both ways, first one and then the other, before the next is, so that
    both see the same machine.
    """
    recorders = [TraceRecorder(Capture()) for _ in ids]
    seconds: tuple[list[float], list[float]] = ([], [])
    num_before = session.num_tokens
    for index, (token, recorder) in enumerate(zip(ids, recorders, strict=True)):
        for way in ((0, 1), (1, 0))[index % 2]:
            session.truncate(num_before + index)
            start = time.perf_counter()
            if way:
                session.append_traced([token], recorder)
            else:
                session.append([token])
            seconds[way].append(time.perf_counter() - start)
    start = time.perf_counter()
    join_recorders(recorders, Capture())
    return *seconds, time.perf_counter() - start


def read_bandwidth() -> float:
    """Bytes a second that two threads read from 1 GiB, numpy's sum, best of three."""
    from concurrent.futures import ThreadPoolExecutor

    halves = np.split(np.ones(1 << 27, np.uint64), THREADS)
    seconds = []
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(4):
            start = time.perf_counter()
            list(pool.map(np.sum, halves))
            seconds.append(time.perf_counter() - start)
    return (1 << 30) / min(seconds)


def token_ids(count: int) -> list[int]:
    return [(7919 * index) % 40000 + 100 for index in range(count)]


def weight_bytes(model: Any) -> int:
    """What one token of decoding reads."""
    matrices = [w for name, w in model.weights.items() if w.rows > 1 and "embed" not in name]
    head = model.weights.lm_head
    return sum(w.raw.size for w in matrices if w is not head) + int(head.raw.size)


def measure_speed(path: Path, rounds: int, *, whole: bool) -> dict[str, Any]:
    model = open_language_model(path)
    engine, llama = NativeEngine(model, numerics="q8"), Llama(path)
    # Of the ten slots of a contract, those that llama.cpp has.
    watch = Watch(llama.library.ggml, model.config, Capture())
    watched = llama.new_context(watch) if whole else None
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for turn in range(rounds + 1):
        if turn == 1:
            found.clear()  # the first is not counted
        for size in (512, 128) if whole else (128,):
            ids = token_ids(size)
            theirs = llama.prefill(ids)
            session, ours = timed_prefill(engine, ids)
            note(f"llama.cpp prefill {size}, tokens/s", size / theirs)
            note(f"native prefill {size}, tokens/s", size / ours)
            note(f"prefill {size} {chosen_isa()} / llama.cpp", theirs / ours)
            _, in_bf16 = timed_prefill(NativeEngine(model, numerics="bf16"), ids)
            _, in_w8a8 = timed_prefill(NativeEngine(model, numerics="w8a8"), ids)
            tiles = " by AMX" if chosen_isa() == "amx" else ""
            note(f"prefill {size} bf16{tiles} / llama.cpp", theirs / in_bf16)
            note(f"prefill {size} w8a8 / llama.cpp", theirs / in_w8a8)
            best = min(ours, in_bf16, in_w8a8)
            note(f"prefill {size}, best numerics / llama.cpp", theirs / best)
            if whole:
                for pair in range(PAIRS[size]):
                    recorder = TraceRecorder(Capture())
                    took: dict[bool, float] = {}
                    for is_traced in (pair % 2 == 0, pair % 2 == 1):
                        make = FusedPass if is_traced else EveryRow
                        kept = recorder if is_traced else None
                        took[is_traced] = timed_pass(make, model, ids, kept)
                    note(f"traced / untraced, {size}", took[True] / took[False])
                start = time.perf_counter()
                num_sites = len(recorder.sites)
                naming = time.perf_counter() - start
                note(f"naming what {num_sites} sites counted, ms", 1000 * naming)
            if watched is not None and size == 128:
                reduced = llama.traced(ids, watch, watched)
                note("traced / llama.cpp with a callback, 128", took[True] / reduced)
        after = token_ids(DECODE_TOKENS)
        theirs = llama.decode(after)
        steps, traced_steps, joining = timed_steps(session, after)
        ours = sum(steps)
        note("llama.cpp decode, tokens/s", DECODE_TOKENS / theirs)
        note("native decode, tokens/s", DECODE_TOKENS / ours)
        note(
            "decode / llama.cpp" if whole else f"decode {chosen_isa()} / llama.cpp",
            theirs / ours,
        )
        if whole:
            typical = statistics.median(traced_steps) / statistics.median(steps)
            note("traced / untraced, decode", typical)
            note(f"joining and naming {DECODE_TOKENS} traced steps, ms", 1000 * joining)
            bandwidth, read = read_bandwidth(), weight_bytes(model) * DECODE_TOKENS / ours
            note("DRAM read, GB/s", bandwidth / 1e9)
            note("decode, share of DRAM bandwidth", read / bandwidth)
    return {"isa": chosen_isa(), "threads": num_threads(), "found": found}


def measure_open(path: Path, engine: str) -> float:
    """From the path to the logits after one token, in a process that has imported all."""
    if engine == "llamacpp":
        library = load_library()
        start = time.perf_counter()
        model = LlamaModel(library, path, name=path.name)
        options = Options(
            flash_attention=True, kv_type="f16", ubatch_tokens=512, threads=THREADS
        )
        Context(library, model, options, capacity=640).decode([100], all_logits=False)
    else:
        start = time.perf_counter()
        NativeEngine(open_language_model(path), numerics="q8").start().append([100])
    return time.perf_counter() - start


def measure_memory(path: Path) -> float:
    """Peak memory of a 512-token prefill and 64 tokens after it, over the file's size."""
    session = NativeEngine(open_language_model(path), numerics="q8").start()
    session.append(token_ids(512))
    for token in token_ids(DECODE_TOKENS):
        session.append([token])
    return peak_rss_bytes() / path.stat().st_size


def measure_oracle(path: Path) -> tuple[float, float]:
    model = open_language_model(path)
    start = time.perf_counter()
    OracleEngine(model).trace(token_ids(7), capture=Capture())
    return time.perf_counter() - start, peak_rss_bytes() / 2**30


WORKERS = {
    "whole": lambda path, rounds: measure_speed(path, rounds, whole=True),
    "short": lambda path, rounds: measure_speed(path, rounds, whole=False),
    "open-native": lambda path, _: measure_open(path, "native"),
    "open-llamacpp": lambda path, _: measure_open(path, "llamacpp"),
    "memory": lambda path, _: measure_memory(path),
    "oracle": lambda path, _: measure_oracle(path),
}


def work(kind: str, path: Path, rounds: int, isa: str = "") -> Any:
    """Run one worker in a process of its own."""
    environment = dict(os.environ, COTEJAR_THREADS=str(THREADS))
    environment.pop("COTEJAR_ISA", None)
    if isa:
        environment["COTEJAR_ISA"] = isa
    command = [sys.executable, __file__, "--worker", kind, "--rounds", str(rounds), str(path)]
    print(f"  {kind} {isa or 'best'} {path.name} ...", file=sys.stderr)
    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(run.stdout)


# --- the comparison ---------------------------------------------------------------------


def compare(path: Path, *, quick: bool) -> dict[str, list[float]]:
    rounds = 2 if quick else 5
    whole = work("whole", path, rounds)
    found: dict[str, list[float]] = {}
    for name, values in whole["found"].items():
        found[name.replace(f" {whole['isa']} / ", " q8 / ")] = values
    for isa in () if quick else ("avx2",):
        short = work("short", path, rounds, isa)["found"]
        found |= {name: values for name, values in short.items() if f" {isa} / " in name}
    pairs = [
        (work("open-native", path, 1), work("open-llamacpp", path, 1)) for _ in range(rounds)
    ]
    found["open + first token, ms"] = [1000 * ours for ours, _ in pairs]
    found["open + first token / llama.cpp"] = [ours / theirs for ours, theirs in pairs]
    found["peak memory / file size"] = [work("memory", path, 1)]
    seconds, peak = work("oracle", path, 1)
    found["oracle, 7 tokens, seconds"], found["oracle, 7 tokens, peak GiB"] = [seconds], [peak]
    return found


def verdict(name: str, model: str, median: float) -> str:
    """Met or not, where there is a bar."""
    which, bars = BARS.get(name, ("", {}))
    for part, bar in bars.items():
        if part in model:
            met = median >= bar if which == "least" else median <= bar
            return (
                f"{'>=' if which == 'least' else '<='} {bar:g}: {'met' if met else 'not met'}"
            )
    return ""


def report(results: dict[str, dict[str, list[float]]], command: str) -> str:
    import llama_cpp

    import cotejar

    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    lines = [
        "# Speed, beside llama.cpp",
        "",
        f"`{command}`: cotejar {cotejar.__version__}, `q8`, {THREADS} threads; "
        f"llama-cpp-python {llama_cpp.__version__}, extra buffers off; numpy {np.__version__}; "
        f"Python {platform.python_version()}; {cpu}, {os.cpu_count()} cores; "
        f"kernels: {chosen_isa()}.",
        "",
        "Traced is all sites, both scopes, statistics, as the kernels give them; naming them "
        "is done when they are read. Untraced computes the same rows. "
        "Without a trace the last layer has one row alone, as in the prefill figures. "
        "Of a decode, traced and not, the median steps of a round are compared. "
        "A ratio is of two figures of one round.",
    ]
    for model, found in results.items():
        lines += ["", f"## {model}", "", "| | median | least | greatest | bar |"]
        lines += ["| --- | ---: | ---: | ---: | --- |"]
        for name, values in found.items():
            median = statistics.median(values)
            ends = f"{min(values):.3g} | {max(values):.3g}"
            lines.append(f"| {name} | {median:.3g} | {ends} | {verdict(name, model, median)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true", help="2 rounds, best set alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.models[0], options.rounds)))
        return
    models = options.models or sorted(Path(os.environ["COTEJAR_MODELS"]).glob("*.gguf"))
    results = {path.name: compare(path, quick=options.quick) for path in models}
    text = report(results, "make bench" + (" QUICK=--quick" if options.quick else ""))
    print(text)
    if not options.quick:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
