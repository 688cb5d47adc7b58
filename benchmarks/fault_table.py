"""From the lines of `faults.py` to the table that a reader sees."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.faults.catalogue import FAULTS
from cotejar.faults.published_gates import PUBLISHED_GATES
from cotejar.formats.atomic import atomic_write_text
from cotejar.trace.host import describe_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    Line = dict

# What `apr diagnose` calls the faults that it has another name for: a cause's id, or, where
# one id covers several, `id: words` with words that its title must have.
CAUSES: dict[str, tuple[str, ...]] = {
    "head-transposed": ("weight-transposed",),
    "decode-position-restart": ("decode-position: begins again",),
    "decode-stale": ("cache-stale: own keys and values are not written",),
    "decode-prompt-lost": ("cache-rows-lost: own keys and values alone",),
    # Behind a window the row that is overwritten leaves room for one further back.
    "decode-written-early": (
        "cache-rows-lost: of token",
        "cache-written-elsewhere: over those of the last prompt token",
    ),
    "decode-slot-empty": ("cache-slots-unwritten",),
    "decode-ring": ("cache-ring-off-by-one",),
    "decode-kv-f16": ("cache-rounded: to f16",),
    "decode-attention-scale": ("attention-scale: fed one at a time",),
    "attention-dropout": ("dropout: weights of attention",),
    "decode-bias-missing": ("bias-missing: fed one at a time",),
    "head-row-shift": ("rows-shifted",),
    "logit-softcap": ("softcap",),
    "logit-scale": ("rows-scaled", "output-scaled"),
    "embedding-row-shift": ("rows-shifted", "tokens: every token id is +1"),
    "embedding-transposed": ("weight-transposed",),
    "embedding-scale-missing": ("embedding-scale",),
    "norm-one-plus": ("norm-one-plus-weight",),
    "norm-mean": ("norm-centred",),
    "attn-norm-missing": ("norm-missing",),
    "ffn-norm-missing": ("norm-missing",),
    "final-norm-missing": ("norm-missing",),
    "attn-post-norm-missing": ("norm-missing",),
    "ffn-post-norm-missing": ("norm-missing",),
    "qk-norm-missing": ("head-norm-missing",),
    "qk-norm-after-rope": ("head-norm-after-rope",),
    "missing-bias": ("bias-missing",),
    "missing-key-bias": ("bias-missing",),
    "missing-value-bias": ("bias-missing",),
    "missing-output-bias": ("bias-missing",),
    "missing-ffn-bias": ("bias-missing",),
    "doubled-bias": ("bias-doubled",),
    "extra-bias": ("bias-extra", "bias-wrong"),
    "rope-scaling": ("rope-scaling", "rope-theta-scaling"),
    "rope-scaling-missing": ("rope-scaling", "rope-theta-scaling"),
    "rope-local-missing": ("rope-theta", "rope-other-layer"),
    "rope-offset": ("rope-position-offset",),
    "rope-query-offset": ("rope-position-offset",),
    "rope-keys-missing": ("rope-missing",),
    "attention-scale-missing": ("attention-scale",),
    "attention-scale-twice": ("attention-scale",),
    "attention-softcap": ("softcap",),
    "softmax-plus-one": ("attention-sink",),
    "gqa-head-order": ("head-order",),
    "gqa-head-reversed": ("head-order",),
    "heads-transposed": ("head-layout",),
    "window-extra": ("window",),
    "mask-strict": ("mask-off-by-one: itself",),
    "cache-keys-shifted": ("cache-shifted",),
    "cache-overwritten": ("cache-empty",),
    "cache-swapped": ("key-value-swapped",),
    "cache-before-rope": ("rope-unused",),
    "silu": ("activation: silu",),
    "gelu-tanh": ("activation: gelu",),
    "gelu-erf": ("activation: gelu",),
    "gelu-quick": ("activation: 1.702", "activation: gelu"),
    "relu": ("activation: relu",),
    "sigmoid": ("activation: sigmoid",),
    "activation-missing": ("activation: none at all",),
    "activation-on-up": ("gate-up-swapped",),
    "gate-added": ("product-sum",),
    "residual-attn-missing": ("residual-missing",),
    "residual-ffn-missing": ("residual-missing",),
    "residual-attn-doubled": ("residual-doubled",),
    "residual-ffn-doubled": ("residual-doubled",),
    "residual-scaled": ("branch-scaled",),
    "attn-dropped": ("branch-missing",),
    "ffn-dropped": ("branch-missing",),
    "layer-skipped": ("residual-other",),
    "residual-parallel": ("other-input", "residual-other"),
    "residual-from-norm": ("residual-other",),
    "norms-swapped": ("other-weight",),
    "layers-swapped": ("layer-swapped", "other-weight"),
    "layer-repeated": ("layer-swapped", "other-weight"),
    "rope-rows": ("rope-pairing", "head-order", "output-order"),
    "output-transposed": ("weight-transposed",),
    "down-transposed": ("weight-transposed",),
    "tiles-swapped": ("mis-tiled",),
    "tiles-as-rows": ("mis-tiled",),
    "weight-cut": ("rows-zero", "weight-cut"),
    "codes-wrap": ("code-offset: wrap",),
    "row-shift": ("rows-shifted",),
    "weight-int4": ("weights-rounded",),
    # Of codes with bits beside the nibble, a nibble of the other sign is one bit inverted.
    "nibble-sign": ("code-offset", "code-sign", "code-bits: bit 3 of each code inverted"),
    "block-minimum-missing": ("block-offset",),
    "sub-scale-bits": ("block-scale", "high-bits", "sub-scales"),
    "token-embedded-wrong": ("tokens: 1 of",),
    **{
        f"activations-{how}": ("input-rounded: " + word, "activations-rounded: " + word)
        for how, word in (("f16", "f16"), ("bf16", "bf16"), ("int8", "8"), ("int4", "4"))
    },
    **{
        f"kv-{how}": ("cache-rounded: " + word,)
        for how, word in (("f16", "f16"), ("bf16", "bf16"), ("int8", "8"), ("int4", "4"))
    },
    "residual-f16": ("output-rounded: f16",),
    "residual-bf16": ("output-rounded: bf16",),
    "logits-bf16": ("output-rounded: bf16",),
}

HEAD = """# Who sees a fault, and who names it

`make bench-faults`, which is `python benchmarks/faults.py`

{host}

{ran}

A pair is a sound engine and one with a fault from `apr faults` in it: `native+f32` against
the oracle, `native+q8` and `native+w8a8` against `native+f32`. A fault is **visible** where it
moves its first site further (relative L2 of the worst token) than the sound pair lies apart
there; faults of the tokens are always visible. With places `all` a fault is put into every
layer and into the middle one, and what is in the middle one into either side; with `one`, into
the candidate's middle layer alone. **parity** is `apr parity` by its default gates.
**diagnose** is `apr diagnose`, which is given the two traces and the sound model, and nothing
of the fault (an operation around which a pair has the bits of an engine without one is not
replayed twice): it is right about the site if it names one that the wrong operation gives,
about the side if it names the one with the fault in it, about the cause if its first one is the
fault.
"""


def write_table(path: Path, lines: Sequence[Line]) -> None:
    """Write the table of all lines."""
    ran = [line for line in lines if "gates" in line]
    pairs = [line for line in ran if line["fault"]]
    healthy = [line for line in ran if not line["fault"]]
    visible = [line for line in pairs if is_visible(line)]
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items() if value)
    parts = [
        HEAD.format(host=host, ran=_ran(ran)),
        "## All pairs with a fault",
        _summary(pairs),
        "## Gates: what each sees of the visible faults, and what it says of healthy pairs",
        _gates(visible, healthy),
        "## Healthy pairs",
        _healthy(healthy),
        "## Fault by fault: pairs in which it was seen, of those in which it is visible",
        _by_fault(visible),
        "## What was not right",
        _wrong(visible),
        "## What could not be run",
        _not_run(lines),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "\n\n".join(parts) + "\n", overwrite=True)


def _ran(lines: Sequence[Line]) -> str:
    """What was run, and of which commit: an interrupted run may go on with another."""
    titles = ["commit", "model", "numerics", "places", "pairs with a fault", "healthy pairs"]
    groups = _grouped(lines, lambda line: (line.get("commit", "-"), line["model"]))
    rows = []
    for group, found in groups.items():
        pairs = [line for line in found if line["fault"]]
        numerics = dict.fromkeys(_faulty_engine(line) for line in pairs)
        places = dict.fromkeys(line.get("places", "all") for line in pairs)
        cells = (", ".join(numerics) or "-", ", ".join(places) or "-")
        rows.append([*group, *cells, len(pairs), len(found) - len(pairs)])
    return _table(titles, rows)


def is_visible(line: Line) -> bool:
    """Does the fault do more at its site than honest arithmetic?"""
    return line["effect"] is None or line["effect"] > line["noise"]


def seen_by_parity(line: Line) -> bool:
    """Does the verdict say that something is wrong?"""
    return line["parity"]["verdict"] == (line.get("expected") or "FAIL")


def seen_by_diagnosis(line: Line) -> bool:
    """The same, of `apr diagnose`."""
    return line["diagnosis"]["verdict"] == (line.get("expected") or "FAIL")


def site_is_right(line: Line) -> bool:
    """Is the site one that the wrong operation gives? Of other tokens there is none."""
    if line["effect"] is None:
        return seen_by_diagnosis(line)
    return line["diagnosis"]["site"] in line["sites"]


def side_is_right(line: Line) -> bool:
    """Is the side the one with the fault in it? Of other tokens neither computes wrongly."""
    if line["effect"] is None:
        return seen_by_diagnosis(line)
    return line["diagnosis"]["wrong_side"] == line["faulty_side"]


def cause_is_right(line: Line) -> bool:
    """Is the first cause the fault?"""
    if line["effect"] is None:
        return seen_by_diagnosis(line)
    fault = line["fault"].partition("@")[0]
    if not line["diagnosis"]["causes"]:
        return False
    id_, title = line["diagnosis"]["causes"][0]
    names = (name.partition(": ") for name in (fault, *CAUSES.get(fault, ())))
    return any(id_ == name and words in title.lower() for name, _, words in names)


@dataclass(frozen=True)
class Measure:
    """A column: a title, and what is counted."""

    title: str
    holds: Callable[[Line], bool]


MEASURES = (
    Measure("parity", seen_by_parity),
    Measure("diagnose", seen_by_diagnosis),
    Measure("site", site_is_right),
    Measure("side", side_is_right),
    Measure("cause", cause_is_right),
)


def _share(measure: Measure, lines: Sequence[Line]) -> str:
    """`17/18`."""
    return f"{sum(map(measure.holds, lines))}/{len(lines)}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _grouped(lines: Iterable[Line], key: Callable[[Line], tuple[str, ...]]) -> dict:
    groups: dict[tuple[str, ...], list[Line]] = defaultdict(list)
    for line in lines:
        groups[key(line)].append(line)
    return groups


def _faulty_engine(line: Line) -> str:
    return line[line["faulty_side"]]


def _summary(pairs: Sequence[Line]) -> str:
    titles = ["model", "faulty engine", "pairs", "visible", *(m.title for m in MEASURES)]
    rows = []
    groups = _grouped(pairs, lambda line: (line["model"], _faulty_engine(line)))
    for group, lines in [*groups.items(), (("all", ""), list(pairs))]:
        visible = [line for line in lines if is_visible(line)]
        shares = [_share(measure, visible) for measure in MEASURES]
        rows.append([*group, len(lines), len(visible), *shares])
    return _table(titles, rows)


def _gates(visible: Sequence[Line], healthy: Sequence[Line]) -> str:
    faults = [line for line in visible if line["effect"] is not None]
    rows = []
    for gate in PUBLISHED_GATES:
        seen = sum(line["gates"][gate.id] is False for line in faults)
        alarms = sum(line["gates"][gate.id] is False for line in healthy)
        rows.append([gate.text, f"{seen}/{len(faults)}", f"{alarms}/{len(healthy)}"])
    alarms = sum(line["parity"]["verdict"] == "FAIL" for line in healthy)
    share = _share(MEASURES[0], faults)
    rows.append(["`apr parity`", share, f"{alarms}/{len(healthy)}"])
    alarms = sum(line["diagnosis"]["verdict"] == "FAIL" for line in healthy)
    share = _share(MEASURES[1], faults)
    rows.append(["`apr diagnose`", share, f"{alarms}/{len(healthy)}"])
    return _table(["gate", "faults seen", "false alarms"], rows)


def _healthy(healthy: Sequence[Line]) -> str:
    """Pairs that nobody has limits for are counted apart: they are no PASS."""
    titles = ["reference", "candidate", "pairs", "PASS", "FAIL", "INCOMPARABLE"]
    rows = []
    groups = _grouped(healthy, lambda line: (line["reference"], line["candidate"]))
    for group, lines in groups.items():
        verdicts = [line["parity"]["verdict"] for line in lines]
        rows.append([*group, len(lines), *(verdicts.count(verdict) for verdict in titles[3:])])
    return _table(titles, rows)


def _by_fault(visible: Sequence[Line]) -> str:
    titles = ["fault", "visible in", *(m.title for m in MEASURES)]
    titles += [gate.id for gate in PUBLISHED_GATES]
    groups = _grouped(visible, lambda line: (line["fault"].partition("@")[0],))
    rows = []
    for fault in FAULTS:
        lines = groups.get((fault,), [])
        if lines:
            gates = [
                sum(line["gates"][gate.id] is False for line in lines)
                for gate in PUBLISHED_GATES
            ]
            shares = [_share(measure, lines) for measure in MEASURES]
            rows.append([fault, len(lines), *shares, *gates])
    return _table(titles, rows)


def _wrong(visible: Sequence[Line]) -> str:
    rows = []
    for line in visible:
        wrong = [measure.title for measure in MEASURES if not measure.holds(line)]
        if wrong:
            said = line["diagnosis"]
            causes = [": ".join(cause) for cause in said["causes"][:2]]
            answer = (said["site"], said["wrong_side"], *causes)
            rows.append(
                [
                    line["model"],
                    _faulty_engine(line),
                    line["faulty_side"],
                    line["fault"],
                    ", ".join(wrong),
                    line["parity"]["site"] or "",
                    " ".join(str(part) for part in answer if part) or "-",
                ]
            )
    titles = ["model", "engine", "in", "fault", "not right", "parity says", "diagnose says"]
    return _table(titles, rows) if rows else "Nothing."


def _not_run(lines: Sequence[Line]) -> str:
    """A fault that a model has no place for is counted; an error is shown."""
    skipped = _grouped((x for x in lines if "skipped" in x), lambda line: (line["model"],))
    errors = [x for x in lines if "error" in x]
    said = [f"- {model}: {len(found)} pairs" for (model,), found in skipped.items()]
    said += [f"- `{line['key']}`: {line['error']}" for line in errors]
    return "\n".join(said) or "Nothing."
