"""`native+q8` beside llama.cpp over windows of real text: logits, and every slot.

Rounding to 8 bits makes two runs part at the first value that falls the other way, and a window
of 128 tokens is one draw of that: its mean KL is known to a tenth. So the same pairs are
measured over many windows, and two pairs are compared window by window: the mean of the
differences has a standard error, and Student's interval of 95 % says `nearer`, `further`,
`equal within 10 %`, or that the windows are too few.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from engines_table import Bar, table, yes_or_no
from generation_parts import ROOT, TEXTS

from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.parity.metrics import measure_logits
from cotejar.parity.noise_measure import CAPTURE
from cotejar.parity.noise_prompts import token_lists
from cotejar.parity.noise_tally import NoiseTally, change_of_lead
from cotejar.trace.forward_trace import Capture, Scope
from cotejar.trace.site import SLOTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engines_table import Part

    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

LLAMACPP = {
    "llama.cpp": "llamacpp+q8-kvf16",
    "flash attention": "llamacpp+q8-kvf16-flash",
    "float32 cache": "llamacpp+q8",
}
"""Ways in which llama.cpp computes the same."""
DEFAULT = "llama.cpp"
"""What it does unasked."""
UBATCHES = (32, 8)
"""Batch sizes, each of which gives the first's bits: shown on the first window."""
OURS, EXACT = "native+q8", "oracle"
WINDOW_TOKENS = 128
EQUAL_WITHIN = 0.1
"""Of the larger mean: an interval inside it counts as equal."""
CONFIDENCE = 0.95
LOGITS = Capture(scopes=(Scope.ALL,), array_slots=frozenset({"logits"}))


def compare_llamacpp(model: LanguageModel, num_windows: int, *, num_noise: int | None) -> Part:
    """Every pair that a bar speaks of, over the windows; then slot by slot.

    Args:
        model: what is run.
        num_windows: at least 2, half of them English, half code.
        num_noise: texts that the noise is taken over; None for all.
    """
    noise = lead_noise(model, token_lists(model)[:num_noise])
    windows = text_windows(model, num_windows)
    own = [LogitsPair(a, b) for a, b in combinations(LLAMACPP, 2)]
    to_ours = LogitsPair(DEFAULT, OURS)
    to_exact = [LogitsPair(EXACT, name) for name in (OURS, *LLAMACPP)]
    pairs = [*own, to_ours, *to_exact]
    slots = run_windows(model, windows, pairs)
    what = f"{model.name}, {num_windows} windows of {WINDOW_TOKENS} tokens"
    bars = [
        Bar(
            of=f"native+q8 against llama.cpp, {what}",
            bar=f"top-1 equal wherever the lead exceeds {noise:.3g}, the noise of the two",
            found=f"{to_ours.top1:.1%} equal; the largest lead that is lost is "
            f"{to_ours.flip_margin:.3g}",
            kept=yes_or_no(to_ours.flip_margin <= noise),
        ),
        *no_further(f"native+q8 against llama.cpp, {what}", to_ours, own),
        *no_further(f"native+q8 against the oracle, {what}", to_exact[0], to_exact[1:2]),
    ]
    head = ("pair", "NMSE", "mean KL, nats", "top-1 equal", "lead lost", "lead changes by")
    lines = [
        f"## Logits of {what}",
        "",
        "Means over the windows with their standard errors; leads are the largest.",
        "",
        *table(head, [pair.row for pair in pairs]),
        "",
        *same_bits_in_ubatches(model, windows[0]),
        "",
        *slots.lines(model.name),
    ]
    return bars, lines


def run_windows(
    model: LanguageModel, windows: Sequence[list[int]], pairs: Sequence[LogitsPair]
) -> SlotRatios:
    """Every engine over every window: the pairs take the logits, the ratios all slots."""
    engines = {name: open_engine(model, name) for name in (EXACT, OURS)}
    engines |= {title: open_engine(model, name) for title, name in LLAMACPP.items()}
    slots, with_slots = SlotRatios(), (EXACT, OURS, DEFAULT)
    for number, ids in enumerate(windows, 1):
        print(f"{model.name}: window {number} of {len(windows)}", file=sys.stderr)
        traces = {
            name: engine.trace(ids, capture=CAPTURE if name in with_slots else LOGITS)
            for name, engine in engines.items()
        }
        logits = {name: np.asarray(trace.arrays["logits"]) for name, trace in traces.items()}
        for pair in pairs:
            pair.add(logits)
        slots.add(*(traces[name] for name in with_slots))
    for engine in engines.values():
        getattr(engine, "close", lambda: None)()
    return slots


def text_windows(model: LanguageModel, num_windows: int) -> list[list[int]]:
    """Ids from the texts of the perplexity benchmark, spread evenly over each of them."""
    found = []
    for index, names in enumerate(TEXTS.values()):
        text = "\n".join((ROOT / name).read_text() for name in names)
        ids = model.tokenizer.encode(text)
        count = (num_windows + 1 - index) // len(TEXTS)
        starts = np.linspace(0, len(ids) - WINDOW_TOKENS, count).astype(int)
        if count > 1 and starts[1] < WINDOW_TOKENS:
            raise SystemExit(f"{count} windows of {WINDOW_TOKENS} tokens overlap: ask for less")
        found += [ids[start : start + WINDOW_TOKENS] for start in starts]
    return found


def lead_noise(model: LanguageModel, lists: Sequence[list[int]]) -> float:
    """By how much a lead may change from one to the other: both noises, as a profile has them.

    Over other texts than the one that is judged, or the bound would hold by itself.
    """
    oracle = open_engine(model, EXACT)
    engines = [open_engine(model, name) for name in (OURS, LLAMACPP[DEFAULT])]
    tallies = [NoiseTally() for _ in engines]
    for token_ids in lists:
        exact = oracle.trace(token_ids, capture=LOGITS)
        for engine, tally in zip(engines, tallies, strict=True):
            tally.add(exact, engine.trace(token_ids, capture=LOGITS))
    return sum(t.sites["logits"][Scope.ALL]["top1_flip_margin"].value for t in tallies)


def same_bits_in_ubatches(model: LanguageModel, ids: Sequence[int]) -> list[str]:
    """A line a batch size: how far it lies from llama.cpp's own choice, on one window."""
    lines, name = [], LLAMACPP[DEFAULT]
    default_TV = open_engine(model, name).trace(ids, capture=LOGITS).arrays["logits"]
    for size in UBATCHES:
        engine = open_engine(model, name, {"ubatch_tokens": size})
        pair = LogitsPair("default", "ubatch")
        pair.add(
            {
                "default": default_TV,
                "ubatch": engine.trace(ids, capture=LOGITS).arrays["logits"],
            }
        )
        engine.close()
        found = "the same bits" if pair.nmse_W[0] == 0 else f"NMSE {pair.nmse_W[0]:.2e}"
        lines.append(f"llama.cpp in batches of {size} against all at once: {found}.")
    return lines


class LogitsPair:
    """How far two engines' logits lie apart, window by window."""

    def __init__(self, reference: str, candidate: str) -> None:
        self.reference, self.candidate = reference, candidate
        self.nmse_W: list[float] = []
        self.kl_W: list[float] = []
        """Mean over a window's tokens."""
        self._num_tokens = self._num_equal = 0
        self.flip_margin = self.lead = 0.0

    def add(self, logits: Mapping[str, np.ndarray]) -> None:
        """One window, both of shape (tokens, vocabulary)."""
        reference_TV, candidate_TV = logits[self.reference], logits[self.candidate]
        found = measure_logits(reference_TV, candidate_TV)
        self.nmse_W.append(nmse(reference_TV, candidate_TV))
        self.kl_W.append(float(found.kl.mean()))
        self._num_tokens += len(found.kl)
        self._num_equal += int(found.top1_equal.sum())
        self.flip_margin = max(self.flip_margin, found.flip_margin)
        self.lead = max(self.lead, change_of_lead(reference_TV, candidate_TV))

    @property
    def name(self) -> str:
        return f"{self.reference}, {self.candidate}"

    @property
    def top1(self) -> float:
        """Share of tokens with the same most likely next one."""
        return self._num_equal / self._num_tokens

    @property
    def row(self) -> tuple[object, ...]:
        means = (
            f"{np.mean(x):.2e} +- {standard_error(x):.0e}" for x in (self.nmse_W, self.kl_W)
        )
        return (
            self.name,
            *means,
            f"{self.top1:.1%}",
            f"{self.flip_margin:.3g}",
            f"{self.lead:.3g}",
        )


def nmse(reference_TW: np.ndarray, candidate_TW: np.ndarray) -> float:
    """Sum of squared errors over the sum of squares of the reference, in float64."""
    reference = reference_TW.astype(np.float64)
    error = candidate_TW - reference
    return float((error * error).sum() / (reference * reference).sum())


def standard_error(values_W: Sequence[float]) -> float:
    """Of the mean of independent values."""
    return float(np.std(values_W, ddof=1) / math.sqrt(len(values_W)))


def student(num_values: int) -> float:
    """The two-sided quantile of Student's t at `CONFIDENCE`, with one less degrees of freedom.

    Four terms of the expansion around the normal one, Abramowitz and Stegun 26.7.5: low by a
    hundredth at 4 values, and by less than a thousandth from 8 on.
    """
    z, free = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), num_values - 1
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / free**power for power, term in enumerate(terms, 1))


def no_further(of: str, pair: LogitsPair, others: Sequence[LogitsPair]) -> list[Bar]:
    """NMSE and mean KL of a pair against the largest of others, window by window."""
    bars = []
    for metric, title in (("nmse_W", "NMSE"), ("kl_W", "mean KL in nats")):
        other = max(others, key=lambda o: np.mean(getattr(o, metric)))
        own_W, other_W = (np.array(getattr(p, metric)) for p in (pair, other))
        more_W = own_W - other_W
        half = student(len(more_W)) * standard_error(more_W)
        kept, word = judge(float(more_W.mean()), half, max(own_W.mean(), other_W.mean()))
        bars.append(
            Bar(
                of=of,
                bar=f"{title} at most {other_W.mean():.2e}, that of {other.name}",
                found=f"{own_W.mean():.2e}: {more_W.mean():+.1e}, 95 % within +- {half:.1e}: "
                f"{word}",
                kept=kept,
            )
        )
    return bars


def judge(more: float, half: float, size: float) -> tuple[str, str]:
    """What a difference of means says, and in words: `more` with its half interval of 95 %."""
    if more + half < 0:
        return "yes", "nearer"
    if more - half > 0:
        return "NO", "further"
    if not abs(more) + half <= EQUAL_WITHIN * size:
        return "undecided", "more windows would decide"
    return "equal", f"equal within {EQUAL_WITHIN:.0%}"


class SlotRatios:
    """Our squared distance from exact over llama.cpp's, slot by slot, layers taken together."""

    def __init__(self) -> None:
        self._logs: dict[str, list[float]] = defaultdict(list)

    def add(self, exact: ForwardTrace, ours: ForwardTrace, theirs: ForwardTrace) -> None:
        """One window: of each slot the mean over the layers of the ratio's logarithm."""
        logs: dict[str, list[float]] = defaultdict(list)
        for site, exact_TW in exact.arrays.items():
            if site not in theirs.arrays:
                continue
            pair = [nmse(exact_TW, np.asarray(t.arrays[site])) for t in (ours, theirs)]
            if min(pair) > 0:  # embeddings are exact in both
                logs[site.rpartition(".")[2]].append(math.log(pair[0] / pair[1]))
        for slot, found in logs.items():
            self._logs[slot].append(float(np.mean(found)))

    def lines(self, model: str) -> list[str]:
        """A ratio above 1 is a slot at which we lie further from exact."""
        rows = []
        for slot in (*SLOTS, "final_norm", "logits"):
            if slot not in self._logs:
                continue
            mean, half = np.mean(self._logs[slot]), standard_error(self._logs[slot])
            half *= student(len(self._logs[slot]))
            low, high = math.exp(mean - half), math.exp(mean + half)
            word = "further" if low > 1 else "nearer" if high < 1 else "no difference"
            rows.append((slot, f"{math.exp(mean):.3f}", f"{low:.3f}..{high:.3f}", word))
        return [
            f"## Distance from the oracle, slot by slot: native+q8 over llama.cpp, {model}",
            "",
            "NMSE over NMSE, geometric mean over layers and windows; a slot whose interval of "
            "95 % holds 1 shows no difference, and one in twenty misses it by chance.",
            "",
            *table(("slot", "ratio", "95 %", "native+q8 is"), rows),
        ]


def open_engine(model: LanguageModel, name: str, options: dict[str, Any] | None = None) -> Any:
    """An engine by `ENGINE[+numerics]`, on a model that is open."""
    return create_engine(parse_engine_name(f"{name}:{model.file.path}"), model, options=options)
