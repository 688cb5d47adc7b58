"""How far honest arithmetics lie apart: the figures behind the default gates.

    python benchmarks/gate_noise.py MODEL [MODEL ...] > benchmarks/results/gate-noise.md

For every model and prompt the same bytes are run by the float64 oracle, by `native+f32` and
by `native+q8`. Per slot the worst value over all layers, prompts and models is printed: of
the relative L2 of a site's worst token, and of its median token. The gates in
`cotejar.parity.gates` are these figures times the factors given there.
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
"""Ids that make no text: users trace such, too."""

PAIRS = (("oracle", "f32"), ("oracle", "q8"), ("f32", "q8"))
Logits = dict[tuple[str, str], list[tuple[float, float, float]]]
Noise = dict[tuple[str, str], dict[str, list[float]]]


def main() -> None:
    noise: Noise = {pair: {slot: [0.0, 0.0] for slot in CAPTURE_POINTS} for pair in PAIRS}
    first_norm = dict.fromkeys(PAIRS, 0.0)
    logits: Logits = {pair: [] for pair in PAIRS}
    for path in sys.argv[1:]:
        model = open_language_model(path)
        engines = {
            "oracle": OracleEngine(model),
            "f32": NativeEngine(model, numerics="f32"),
            "q8": NativeEngine(model, numerics="q8"),
        }
        random = np.random.default_rng(0).integers(
            0, model.config.vocab_size, NUM_RANDOM_TOKENS
        )
        lists = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
        lists += [[1, 2, 3], [0], [int(i) for i in random]]
        for ids in lists:
            capture = Capture(scopes=(Scope.ALL,), array_slots=EVERY_ARRAY)
            traces = {n: e.trace(ids, capture=capture) for n, e in engines.items()}
            print(f"{model.name}: {len(ids)} tokens, {ids[:8]}", file=sys.stderr)
            for pair in PAIRS:
                a, b = (traces[name] for name in pair)
                for site, array in a.arrays.items():
                    distance = measure_distance(array, b.arrays[site])
                    worst = noise[pair][site.rpartition(".")[2]]
                    worst[0] = max(worst[0], distance.rel_l2_max)
                    worst[1] = max(worst[1], distance.rel_l2_median)
                    if site == "layer.0.attn_norm":
                        first_norm[pair] = max(first_norm[pair], distance.rel_l2_max)
                found = measure_logits(a.arrays["logits"], b.arrays["logits"])
                equal = float(np.mean(found.top1_equal))
                logits[pair].append((float(found.kl.max()), found.flip_margin, equal))
    report(noise, first_norm, logits)


def report(
    noise: Noise,
    first_norm: dict[tuple[str, str], float],
    logits: Logits,
) -> None:
    print("# Measured noise behind the default gates\n")
    print(f"`python benchmarks/gate_noise.py {' '.join(Path(p).name for p in sys.argv[1:])}`\n")
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items())
    print(f"{host}; {len(PROMPTS)} prompts a model and 3 lists of ids that make no text.\n")
    print("Relative L2 of a site's worst token, then of its median token; worst over all.\n")
    head = " | ".join(f"{a} against {b}" for a, b in PAIRS)
    print(f"| slot | {head} |\n| --- | {' | '.join('---' for _ in PAIRS)} |")
    for slot in CAPTURE_POINTS:
        cells = [f"{noise[p][slot][0]:.2e}, {noise[p][slot][1]:.2e}" for p in PAIRS]
        print(f"| {slot} | {' | '.join(cells)} |")
    print()
    for pair in PAIRS:
        kl, flip = (max(v[i] for v in logits[pair]) for i in (0, 1))
        top1 = np.mean([v[2] for v in logits[pair]])
        print(
            f"- {pair[0]} against {pair[1]}: layer.0.attn_norm {first_norm[pair]:.2e}, "
            f"largest KL {kl:.3g} nats, largest margin of a flipped top-1 {flip:.3g}, "
            f"top-1 equal {top1:.2%}"
        )


if __name__ == "__main__":
    main()
