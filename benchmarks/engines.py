"""Other people's engines beside ours and the oracle, on real models: the bars.

    python benchmarks/engines.py [--quick] [--only PART] [--windows N] MODEL [MODEL ...]

float32     `native+f32` and `transformers+f32` against the oracle, every site and token
float64     transformers in float64 against the oracle, and what its float32 steps cost
llamacpp    `native+q8` against llama.cpp over N windows of text, and llama.cpp against itself
timing      `apr parity` end to end on the last model, both engines loaded and traced

The tables are `benchmarks/results/engines.md`; `--quick`, which takes 8 tokens instead of 128
and two windows, prints them and writes nothing; so does `--only`. Timings mean something on a
quiet machine alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from engines_logits import compare_llamacpp, open_engine
from engines_table import Bar, table, yes_or_no

from cotejar.formats.atomic import atomic_write_text
from cotejar.model.language_model import open_language_model
from cotejar.parity.noise_measure import CAPTURE
from cotejar.parity.noise_prompts import token_lists
from cotejar.parity.noise_tally import NoiseTally
from cotejar.trace.forward_trace import Scope
from cotejar.trace.host import describe_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engines_table import Part

    from cotejar.model.language_model import LanguageModel

TABLE = Path("benchmarks/results/engines.md")
NUM_TOKENS, QUICK_TOKENS = 128, 8
NUM_WINDOWS, QUICK_WINDOWS = 16, 2
QUICK_NOISE = 2
PARTS = ("float32", "float64", "llamacpp", "timing")
TEXT = """\
The harbour of the old town has two walls. The outer one was built of granite blocks that \
came by sea, and it took thirty years; the inner one is made of brick, and nobody remembers \
who paid for it. In winter the fishermen leave before five in the morning and come back with \
the tide. Their children wait at the second wall, because the first is closed when the wind \
blows from the north. A boy called Anton counted the waves one day and said that every ninth \
was larger than the others. His grandfather, who had counted them for sixty years, answered \
that it depends on where you begin to count. Since then the two of them keep a notebook in \
the kitchen, with a line for every day and a column for each of them, and they compare their \
numbers on Sundays.
"""
"""Prose of about 160 tokens, cut to `NUM_TOKENS`."""

MAX_F32 = 2e-5
"""Relative L2 of any token at any site, float32 against float64."""
FLOAT32 = ("native+f32", "transformers+f32")
TIMED = (("native+f32", "transformers+f32", 15.0), ("native+q8", "llamacpp", 3.0))
"""Reference, candidate and the bar in seconds; the prompt is `apr parity`'s own, 7 tokens."""
TIMED_RUNS = 3
_APR = "from cotejar.cli.apr.main import main; main()"


def main() -> None:
    options = _options()
    is_quick = options.quick
    parts: list[Part] = []
    for path in options.models:
        model = open_language_model(path)
        ids = model.tokenizer.encode(TEXT)[: QUICK_TOKENS if is_quick else NUM_TOKENS]
        if options.only in {None, "float32"}:
            parts.append(compare_float32(model, ids, is_quick=is_quick))
        if options.only in {None, "float64"}:
            from engines_float64 import compare_float64  # torch, which the rest can do without

            parts.append(compare_float64(model, ids))
        if options.only in {None, "llamacpp"}:
            num_noise = QUICK_NOISE if is_quick else None
            parts.append(compare_llamacpp(model, options.windows, num_noise=num_noise))
    if options.only in {None, "timing"}:
        parts.append(time_parity(options.models[-1], 1 if is_quick else TIMED_RUNS))
    text = _report(parts)
    if is_quick or options.only:
        print(text)
    else:
        atomic_write_text(TABLE, text, overwrite=True)
    raise SystemExit(not all(bar.holds for bars, _ in parts for bar in bars))


def compare_float32(model: LanguageModel, ids: list[int], *, is_quick: bool) -> Part:
    """The bar is on real text; the prompts of `apr noise` are shown beside it."""
    oracle = open_engine(model, "oracle")
    engines = {name: open_engine(model, name) for name in FLOAT32}
    rows, bars = [], []
    for title, lists in (("text", [ids]), ("varied", [] if is_quick else token_lists(model))):
        tallies = {name: NoiseTally() for name in engines}
        for token_ids in lists:
            exact = oracle.trace(token_ids, capture=CAPTURE)
            for name, engine in engines.items():
                tallies[name].add(exact, engine.trace(token_ids, capture=CAPTURE))
        for name, tally in tallies.items():
            if not tally.num_tokens:
                continue
            value, site = max(
                (found[Scope.ALL]["rel_l2_max"].value, site)
                for site, found in tally.sites.items()
            )
            rows.append((model.name, name, title, tally.num_tokens, site, f"{value:.2e}"))
            if title == "text":
                bars.append(
                    Bar(
                        of=f"oracle against {name}, {model.name}, {tally.num_tokens} tokens",
                        bar=f"relative L2 <= {MAX_F32:.0e} at every site and token",
                        found=f"{value:.2e} at {site}",
                        kept=yes_or_no(value <= MAX_F32),
                    )
                )
    head = ("model", "engine", "run over", "tokens", "worst site", "relative L2")
    return bars, [f"## Float32 against the oracle, {model.name}", "", *table(head, rows)]


def time_parity(path: str, num_runs: int) -> Part:
    """Wall-clock seconds of whole commands, Python's start included."""
    rows, bars = [], []
    for reference, candidate, limit_s in TIMED:
        arguments = ["parity", f"{reference}:{path}", f"{candidate}:{path}", "--brief"]
        seconds, passed = [], True
        for _ in range(num_runs):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", _APR, *arguments],
                capture_output=True,
                text=True,
                check=False,
            )
            seconds.append(time.perf_counter() - start)
            if done.returncode != 0:
                passed = False
                last = (done.stdout + done.stderr).strip().splitlines()[-1:]
                print(f"exit {done.returncode}: {last}", file=sys.stderr)
        name = Path(path).name
        median = float(np.median(seconds))
        all_runs = ", ".join(f"{s:.2f}" for s in seconds)
        rows.append((f"`apr parity {reference}:{name} {candidate}:{name}`", all_runs))
        bars.append(
            Bar(
                of=f"apr parity {reference} {candidate}, {name}",
                bar=f"PASS in under {limit_s:g} s end to end",
                found=f"{median:.2f} s, the median of {num_runs}"
                + ("" if passed else "; no PASS"),
                kept=yes_or_no(passed and median < limit_s),
            )
        )
    return bars, ["## End to end", "", *table(("command", "seconds, run by run"), rows)]


def _report(parts: Sequence[Part]) -> str:
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items() if value)
    command = f"python benchmarks/engines.py {' '.join(map(_bare, sys.argv[1:]))}"
    rows = [bar.row for bars, _ in parts for bar in bars]
    lines = ["# Other people's engines", "", f"`{command}`", "", host, "", "## The bars", ""]
    lines += table(("of", "bar", "found", "kept"), rows)
    for _, part_lines in parts:
        lines += ["", *part_lines]
    return "\n".join(lines) + "\n"


def _bare(argument: str) -> str:
    """An argument without the folders of this machine."""
    return Path(argument).name if "/" in argument else argument


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Other people's engines: the bars.")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--quick", action="store_true", help="a little of all; write nothing")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--windows", type=int, metavar="N", help=f"of text; {NUM_WINDOWS}")
    options = parser.parse_args()
    if options.windows is None:
        options.windows = QUICK_WINDOWS if options.quick else NUM_WINDOWS
    if options.windows < QUICK_WINDOWS:
        parser.error(f"--windows: at least {QUICK_WINDOWS}, or there is no standard error")
    return options


if __name__ == "__main__":
    main()
