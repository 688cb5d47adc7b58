"""Other people's engines beside ours and the oracle, on real models: the bars.

    python benchmarks/engines.py [--quick] [--only PART] MODEL [MODEL ...]

float32     `native+f32` and `transformers+f32` against the oracle, every site and token
llamacpp    `native+q8` against llama.cpp, whose own variants say how far it lies from itself
timing      `apr parity` end to end on the last model, both engines loaded and traced

The tables are `benchmarks/results/engines.md`; `--quick`, which takes 8 tokens instead of 128,
prints them and writes nothing. Timings mean something on a quiet machine alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.formats.atomic import atomic_write_text
from cotejar.model.language_model import open_language_model
from cotejar.parity.metrics import measure_distance, measure_logits
from cotejar.parity.noise_measure import CAPTURE
from cotejar.parity.noise_prompts import token_lists
from cotejar.parity.noise_tally import NoiseTally, change_of_lead
from cotejar.trace.forward_trace import Capture, Scope, describe_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cotejar.model.language_model import LanguageModel

TABLE = Path("benchmarks/results/engines.md")
NUM_TOKENS, QUICK_TOKENS = 128, 8
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
LLAMACPP = {
    "default": ("llamacpp+q8-kvf16", {}),
    "flash": ("llamacpp+q8-kvf16-flash", {}),
    "ubatch 32": ("llamacpp+q8-kvf16", {"ubatch_tokens": 32}),
    "ubatch 8": ("llamacpp+q8-kvf16", {"ubatch_tokens": 8}),
    "float32 cache": ("llamacpp+q8", {}),
}
"""Ways in which llama.cpp computes the same; the first is what it does unasked."""
TIMED = (("native+f32", "transformers+f32", 15.0), ("native+q8", "llamacpp", 3.0))
"""Reference, candidate and the bar in seconds; the prompt is `apr parity`'s own, 7 tokens."""
TIMED_RUNS = 3
LOGITS = Capture(scopes=(Scope.ALL,), array_slots=frozenset({"logits"}))
_APR = "from cotejar.cli.apr.main import main; main()"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One promise, and what was found."""

    of: str
    bar: str
    found: str
    is_kept: bool


Part = tuple[list[Bar], list[str]]
"""Its bars, and the lines of its table."""


def main() -> None:
    options = _options()
    num_tokens = QUICK_TOKENS if options.quick else NUM_TOKENS
    parts: list[Part] = []
    for path in options.models:
        model = open_language_model(path)
        ids = model.tokenizer.encode(TEXT)[:num_tokens]
        if options.only in {None, "float32"}:
            parts.append(compare_float32(model, ids, is_quick=options.quick))
        if options.only in {None, "llamacpp"}:
            parts.append(compare_llamacpp(model, ids, is_quick=options.quick))
    if options.only in {None, "timing"}:
        parts.append(time_parity(options.models[-1], 1 if options.quick else TIMED_RUNS))
    text = _report(parts)
    if options.quick or options.only:
        print(text)
    else:
        atomic_write_text(TABLE, text, overwrite=True)
    raise SystemExit(not all(bar.is_kept for bars, _ in parts for bar in bars))


def compare_float32(model: LanguageModel, ids: list[int], *, is_quick: bool) -> Part:
    """The bar is on real text; the prompts of `apr noise` are shown beside it."""
    oracle = _engine("oracle", model)
    engines = {name: _engine(name, model) for name in FLOAT32}
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
                        is_kept=value <= MAX_F32,
                    )
                )
    head = ("model", "engine", "run over", "tokens", "worst site", "relative L2")
    return bars, [f"## Float32 against the oracle, {model.name}", "", *_table(head, rows)]


def lead_noise(model: LanguageModel, lists: Sequence[list[int]]) -> float:
    """By how much a lead may change from one to the other: both noises, as a profile has them.

    Over other texts than the one that is judged, or the bound would hold by itself.
    """
    oracle = _engine("oracle", model)
    engines = [_engine(name, model) for name in ("native+q8", LLAMACPP["default"][0])]
    tallies = [NoiseTally() for _ in engines]
    for token_ids in lists:
        exact = oracle.trace(token_ids, capture=LOGITS)
        for engine, tally in zip(engines, tallies, strict=True):
            tally.add(exact, engine.trace(token_ids, capture=LOGITS))
    return sum(t.sites["logits"][Scope.ALL]["top1_flip_margin"].value for t in tallies)


def compare_llamacpp(model: LanguageModel, ids: list[int], *, is_quick: bool) -> Part:
    """Distances of the logits, of every pair that a bar speaks of."""
    noise = lead_noise(model, token_lists(model)[: 2 if is_quick else None])
    exact, ours = (_logits(model, name, ids) for name in ("oracle", "native+q8"))
    theirs = {n: _logits(model, e, ids, options) for n, (e, options) in LLAMACPP.items()}
    own = [LogitsPair(f"{a}, {b}", theirs[a], theirs[b]) for a, b in combinations(theirs, 2)]
    to_ours = [LogitsPair(f"{n}, native+q8", logits, ours) for n, logits in theirs.items()]
    to_exact = [LogitsPair("oracle, native+q8", exact, ours)]
    to_exact += [LogitsPair(f"oracle, {n}", exact, logits) for n, logits in theirs.items()]
    what = f"{model.name}, {len(ids)} tokens"
    flip = to_ours[0].flip_margin
    bars = [
        Bar(
            of=f"native+q8 against llama.cpp, {what}",
            bar=f"top-1 equal wherever the lead exceeds {noise:.3g}, the noise of the two",
            found=f"{to_ours[0].top1:.1%} equal; the largest lead that is lost is {flip:.3g}",
            is_kept=flip <= noise,
        )
    ]
    bars += no_further(f"native+q8 against llama.cpp, {what}", to_ours[0], own)
    bars += no_further(f"native+q8 against the oracle, {what}", to_exact[0], to_exact[1:2])
    head = (
        "pair",
        "NMSE",
        "mean KL, nats",
        "top-1 equal",
        "lead lost",
        "lead changes by",
    )
    rows = [pair.row for pair in (*own, *to_ours, *to_exact)]
    return bars, [f"## Logits of {what}", "", *_table(head, rows)]


class LogitsPair:
    """How far two engines' logits lie apart, over all positions."""

    def __init__(self, name: str, reference_TV: np.ndarray, candidate_TV: np.ndarray) -> None:
        found = measure_logits(reference_TV, candidate_TV)
        self.name = name
        self.nmse = measure_distance(reference_TV, candidate_TV).nmse
        self.kl_T = found.kl
        self.top1 = float(found.top1_equal.mean())
        self.flip_margin = found.flip_margin
        self.lead = change_of_lead(reference_TV, candidate_TV)

    @property
    def kl(self) -> float:
        return float(self.kl_T.mean())

    @property
    def row(self) -> tuple[object, ...]:
        numbers = f"{self.nmse:.2e}", f"{self.kl:.2e}", f"{self.top1:.1%}"
        return (self.name, *numbers, f"{self.flip_margin:.3g}", f"{self.lead:.3g}")


def no_further(of: str, pair: LogitsPair, others: Sequence[LogitsPair]) -> list[Bar]:
    """NMSE and mean KL of a pair against the largest of others.

    A mean over few positions has an error: that of the difference of the two, position by
    position, is said beside it, and decides nothing.
    """
    nmse, kl = (max(others, key=lambda o: getattr(o, m)) for m in ("nmse", "kl"))
    more_T = pair.kl_T - kl.kl_T
    error = float(more_T.std(ddof=1) / np.sqrt(len(more_T)))
    return [
        Bar(
            of=of,
            bar=f"NMSE <= {nmse.nmse:.2e}, that of {nmse.name}",
            found=f"{pair.nmse:.2e}",
            is_kept=pair.nmse <= nmse.nmse,
        ),
        Bar(
            of=of,
            bar=f"mean KL <= {kl.kl:.2e} nats, that of {kl.name}",
            found=f"{pair.kl:.2e}: {more_T.mean():+.1e} +- {error:.0e} (standard error)",
            is_kept=pair.kl <= kl.kl,
        ),
    ]


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
                is_kept=passed and median < limit_s,
            )
        )
    return bars, ["## End to end", "", *_table(("command", "seconds, run by run"), rows)]


def _engine(name: str, model: LanguageModel, options: dict[str, Any] | None = None) -> Any:
    engine_name = parse_engine_name(f"{name}:{model.file.path}")
    return create_engine(engine_name, model, options=options)


def _logits(
    model: LanguageModel, name: str, ids: list[int], options: dict[str, Any] | None = None
) -> np.ndarray:
    engine = _engine(name, model, options)
    print(f"{model.name}: {name} {options or ''}", file=sys.stderr)
    logits_TV = np.array(engine.trace(ids, capture=LOGITS).arrays["logits"])
    if hasattr(engine, "close"):
        engine.close()
    return logits_TV


def _report(parts: Sequence[Part]) -> str:
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items() if value)
    command = f"python benchmarks/engines.py {' '.join(map(_bare, sys.argv[1:]))}"
    rows = [
        (bar.of, bar.bar, bar.found, "yes" if bar.is_kept else "**NO**")
        for bars, _ in parts
        for bar in bars
    ]
    lines = ["# Other people's engines", "", f"`{command}`", "", host, "", "## The bars", ""]
    lines += _table(("of", "bar", "found", "kept"), rows)
    for _, table in parts:
        lines += ["", *table]
    return "\n".join(lines) + "\n"


def _bare(argument: str) -> str:
    """An argument without the folders of this machine."""
    return Path(argument).name if "/" in argument else argument


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Other people's engines: the bars.")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--quick", action="store_true", help="8 tokens; write nothing")
    parser.add_argument("--only", choices=["float32", "llamacpp", "timing"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
