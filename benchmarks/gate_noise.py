"""How far honest arithmetics lie apart: the figures behind the default gates.

    python benchmarks/gate_noise.py MODEL [MODEL ...] > benchmarks/results/gate-noise.md

For every model and prompt the same bytes are run by the float64 oracle, by `native+f32` and
by `native+q8`. Per slot the worst value over all layers, tokens, prompts and models is
printed. The gates in `cotejar.parity.gates` are these figures times the factor given there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.model.language_model import open_language_model
from cotejar.parity.metrics import measure_distance, measure_logits
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope, describe_host
from cotejar.trace.site import CAPTURE_POINTS

PROMPTS = (
    "What is 2+2?",
    "The capital of France is a city known for",
    "def fib(n):\n    if n < 2:\n        return n\n",
    "Q: 12345 * 6789 = ?\nA: 12345 times 6789 equals 83810205.",
    "Die Würde des Menschen ist unantastbar.",
    "北京是中华人民共和国的首都，也是一座历史悠久的城市。",
    "🙂🙃 emoji, combining ñ é, and   many    spaces",
    "import numpy as np\nfor i in range(10):\n\tprint(i ** 2)  # tabs",
    "Hello",
    "SELECT name, COUNT(*) FROM users WHERE age > 30 GROUP BY name ORDER BY 2 DESC LIMIT 10;",
    "Once upon a time there was a small village at the foot of a mountain. Every morning the "
    "baker lit his oven before the sun came up, and the smell of bread woke the children. "
    "One day a stranger came along the road with a letter that nobody in the village could "
    "read, for it was written in a language that they had only heard in songs.",
)

NUM_RANDOM_TOKENS = 24
"""Ids that make no text: users trace such, and noise is larger there."""

PAIRS = (("oracle", "f32"), ("oracle", "q8"), ("f32", "q8"))


def main() -> None:
    rel_l2: dict[tuple[str, str], dict[str, float]] = {pair: {} for pair in PAIRS}
    nmse: dict[tuple[str, str], dict[str, float]] = {pair: {} for pair in PAIRS}
    logits: dict[tuple[str, str], list[tuple[float, float]]] = {pair: [] for pair in PAIRS}
    for path in sys.argv[1:]:
        model = open_language_model(path)
        engines = {
            "oracle": OracleEngine(model),
            "f32": NativeEngine(model, numerics="f32"),
            "q8": NativeEngine(model, numerics="q8"),
        }
        random = np.random.default_rng(0).integers(0, model.config.vocab_size, NUM_RANDOM_TOKENS)
        lists = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
        lists += [[1, 2, 3], [0], [int(i) for i in random], [int(random[0])] * 12]
        for ids in lists:
            capture = Capture(scopes=(Scope.ALL,), array_slots=EVERY_ARRAY)
            traces = {n: e.trace(ids, capture=capture) for n, e in engines.items()}
            print(f"{model.name}: {len(ids)} tokens, {ids[:8]}", file=sys.stderr)
            for pair in PAIRS:
                a, b = (traces[name] for name in pair)
                for site, array in a.arrays.items():
                    slot = site.rpartition(".")[2]
                    d = measure_distance(array, b.arrays[site])
                    rel_l2[pair][slot] = max(rel_l2[pair].get(slot, 0.0), d.rel_l2_max)
                    nmse[pair][slot] = max(nmse[pair].get(slot, 0.0), d.nmse)
                found = measure_logits(a.arrays["logits"], b.arrays["logits"])
                logits[pair].append((float(found.kl.max()), float(np.mean(found.top1_equal))))
    print("# Measured noise behind the default gates\n")
    print(f"`python benchmarks/gate_noise.py {' '.join(Path(p).name for p in sys.argv[1:])}`\n")
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items())
    print(f"{host}; {len(PROMPTS)} prompts a model and 4 lists of ids that make no text. Worst over all of them.\n")
    head = " | ".join(f"{a} {b}: rel L2, nmse" for a, b in PAIRS)
    print(f"| slot | {head} |\n| --- | {' | '.join('---' for _ in PAIRS)} |")
    for slot in CAPTURE_POINTS:
        cells = [f"{rel_l2[p][slot]:.2e}, {nmse[p][slot]:.2e}" for p in PAIRS]
        print(f"| {slot} | {' | '.join(cells)} |")
    print()
    for pair in PAIRS:
        kl = max(v for v, _ in logits[pair])
        top1 = np.mean([v for _, v in logits[pair]])
        print(
            f"- {pair[0]} against {pair[1]}: largest KL {kl:.3g} nats, top-1 equal {top1:.2%}"
        )


if __name__ == "__main__":
    main()
