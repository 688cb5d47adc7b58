"""How far honest arithmetics lie apart: the figures behind the default gates.

    python benchmarks/gate_noise.py MODEL [MODEL ...] [--section NAME ...]

For every model and prompt the same bytes are run by the float64 oracle, by `native` in f32, in
q8 (also with its cache in float16), in bf16 and in w8a8, by `llamacpp` in each of its numerics,
by `transformers` in float32. Per slot the worst value over all layers, prompts and models is
printed: of the relative L2 of a site's worst token, and of its median token. The gates in
`cotejar.parity` are these figures times the factors given there.

`results/gate-noise.md` has a section for each of `SECTIONS`; the ones that are measured are
written anew, and every other stays as it is.

It measures as `apr noise` does, which keeps every site of one model apart.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.model.language_model import open_language_model
from cotejar.parity.metrics import measure_logits
from cotejar.parity.noise_measure import CAPTURE
from cotejar.parity.noise_prompts import PROMPTS, token_lists
from cotejar.parity.noise_tally import NoiseTally
from cotejar.trace.forward_trace import Scope
from cotejar.trace.host import describe_host
from cotejar.trace.site import CAPTURE_POINTS

if TYPE_CHECKING:
    from cotejar.trace.forward_trace import ForwardTrace

    Pair = tuple[str, str]

RESULTS = Path(__file__).parent / "results/gate-noise.md"
TITLE = "# Measured noise behind the default gates"

NUM_LONE_TOKENS = 24
"""Ids that are run alone: the median over one token is as noisy as that token."""

ENGINES = {
    "oracle": "oracle",
    "f32": "native+f32",
    "q8": "native+q8",
    "q8-kvf16": "native+q8-kvf16",
    "bf16": "native+bf16",
    "w8a8": "native+w8a8",
    "llamacpp q8": "llamacpp+q8",
    "llamacpp q8-kvf16": "llamacpp+q8-kvf16",
    "llamacpp flash": "llamacpp+q8-kvf16-flash",
    "transformers f32": "transformers+f32",
}
SECTIONS: dict[str, tuple[Pair, ...]] = {
    "f32, q8 and llama.cpp": (
        ("oracle", "f32"),
        ("oracle", "q8"),
        ("f32", "q8"),
        ("oracle", "llamacpp q8"),
        ("oracle", "llamacpp q8-kvf16"),
        ("oracle", "llamacpp flash"),
        ("q8", "llamacpp q8-kvf16"),
    ),
    "bf16": (("oracle", "bf16"),),
    "w8a8": (("oracle", "w8a8"), ("q8", "w8a8")),
    "q8 with keys and values in float16": (
        ("oracle", "q8-kvf16"),
        ("q8-kvf16", "llamacpp q8-kvf16"),
    ),
    "transformers in float32": (("oracle", "transformers f32"),),
}


class PairNoise:
    """One pair over every model: a tally a model, and what became of the choices."""

    def __init__(self) -> None:
        self.tallies: list[NoiseTally] = []
        self.flip_margins: list[float] = []
        self.top1_equal: list[float] = []

    def add(self, reference: ForwardTrace, candidate: ForwardTrace) -> None:
        self.tallies[-1].add(reference, candidate)
        found = measure_logits(reference.arrays["logits"], candidate.arrays["logits"])
        self.flip_margins.append(found.flip_margin)
        self.top1_equal.append(float(np.mean(found.top1_equal)))

    def worst(self, where: str, metric: str) -> float | None:
        """Of a slot or a site; None for what a side cannot observe."""
        found = [
            noise.value
            for tally in self.tallies
            for name, site in tally.sites.items()
            if where in {name, name.rpartition(".")[2]}
            and (noise := site[Scope.ALL].get(metric)) is not None
        ]
        return max(found, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--section", action="append", choices=SECTIONS)
    arguments = parser.parse_args()
    text = RESULTS.read_text() if RESULTS.exists() else ""
    sections = sections_of(text)
    for name in arguments.section or SECTIONS:
        noises = measure(arguments.models, SECTIONS[name])
        sections[name] = report(noises, name, [Path(path).name for path in arguments.models])
    parts = [TITLE, *(f"## {name}\n\n{body}" for name, body in sections.items())]
    RESULTS.write_text("\n\n".join(parts) + "\n")


def sections_of(text: str) -> dict[str, str]:
    """What stands under each heading, in the file's order."""
    _, *parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], (body.strip() for body in parts[1::2]), strict=True))


def measure(paths: list[str], pairs: tuple[Pair, ...]) -> dict[Pair, PairNoise]:
    noises = {pair: PairNoise() for pair in pairs}
    wanted = {name for pair in pairs for name in pair}
    for path in paths:
        for noise in noises.values():
            noise.tallies.append(NoiseTally())
        model = open_language_model(path)
        engines = {
            name: create_engine(parse_engine_name(f"{engine}:{path}"), model)
            for name, engine in ENGINES.items()
            if name in wanted
        }
        lone = np.random.default_rng(1).integers(0, model.config.vocab_size, NUM_LONE_TOKENS)
        for ids in [*token_lists(model), *([int(token)] for token in lone)]:
            traces = {n: e.trace(ids, capture=CAPTURE) for n, e in engines.items()}
            print(f"{model.name}: {len(ids)} tokens, {ids[:8]}", file=sys.stderr)
            for pair, noise in noises.items():
                noise.add(*(traces[name] for name in pair))
    return noises


def report(noises: dict[Pair, PairNoise], name: str, models: list[str]) -> str:
    """The body of a section."""
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items())
    head = " | ".join(f"{a} against {b}" for a, b in noises)
    lines = [
        f'`python benchmarks/gate_noise.py {" ".join(models)} --section "{name}"`',
        "",
        f"{host}; {len(PROMPTS)} prompts a model, 3 lists of ids that make no text, and "
        f"{NUM_LONE_TOKENS} ids alone.",
        "",
        "Relative L2 of a site's worst token, then of its median token; worst over all.",
        "",
        f"| slot | {head} |",
        f"| --- | {' | '.join('---' for _ in noises)} |",
    ]
    for slot in CAPTURE_POINTS:
        cells = [cell(noise, slot) for noise in noises.values()]
        if any(found != "-" for found in cells):
            lines.append(f"| {slot} | {' | '.join(cells)} |")
    lines.append("")
    lines += [
        f"- {pair[0]} against {pair[1]}: "
        f"layer.0.attn_norm {noise.worst('layer.0.attn_norm', 'rel_l2_max'):.2e}, "
        f"largest KL {noise.worst('logits', 'kl_max'):.3g} nats, "
        f"largest margin of a flipped top-1 {max(noise.flip_margins):.3g}, "
        f"largest change of a lead {noise.worst('logits', 'top1_flip_margin'):.3g}, "
        f"top-1 equal {np.mean(noise.top1_equal):.2%}"
        for pair, noise in noises.items()
    ]
    return "\n".join(lines)


def cell(noise: PairNoise, slot: str) -> str:
    worst, median = (noise.worst(slot, metric) for metric in ("rel_l2_max", "rel_l2_median"))
    return "-" if worst is None or median is None else f"{worst:.2e}, {median:.2e}"


if __name__ == "__main__":
    main()
