"""Do the default gates hold what they promise, on prompts they were not measured on?

    python benchmarks/gate_check.py MODEL [MODEL ...] > benchmarks/results/gate-check.md

False alarms: honest arithmetics over `PROMPTS`, of which none is in `gate_noise.py` and
several are pathological; by the default gates, then by those of a noise profile of the model,
measured as `apr noise` does. `FRESH_PROMPTS` are for what was measured anew after a false
alarm of the others. Missed faults: every fault of the catalogue in the candidates of
`FAULT_PAIRS`; a fault counts as named if the first site that fails lies in its layer.

`--pair REFERENCE CANDIDATE`, `--prompts fresh`, `--fault ID`, `--no-faults` and `--no-profile`
do part of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.errors import UsageError
from cotejar.faults.catalogue import FAULTS
from cotejar.faults.fault import Extent
from cotejar.parity.compare import Plan
from cotejar.parity.noise_measure import NoiseRequest, measure_noise
from cotejar.parity.run import Request, run_parity
from cotejar.trace.host import describe_host
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPTS = (
    "a",
    "\n",
    "!" * 40,
    "the " * 12,
    "0 " * 15,
    "日本語のテキスト",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "    \t\t\t   ",
    "def f(x):\n    return x\n" * 8,
    "https://a.b/c?d=e&f=%20",
    "{}{}{}[[[(((",
    " " * 64,
    "1+1=2\n2+2=4\n3+3=",
    "é" * 30,
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
)
FRESH_PROMPTS = (
    "Z",
    "?",
    "the",
    "7",
    " ",
    "no no no no no no no no no no",
    "=" * 48,
    "Мама мыла раму, а папа читал газету.",
    "안녕하세요 세계",
    "<div class='x'><p>1</p></div>",
    "SELECT * FROM t WHERE a = 1 AND b = 2;",
    "\t\tif (x == 0) {\n\t\t\treturn;\n\t\t}",
    "3.14159265358979323846264338327950288",
    "Dear Sir or Madam, I am writing to you about the bill that I received last week.",
    "abc" * 20,
)
FAULT_PROMPTS = (PROMPTS[-1], "What is 2+2?")
PAIRS = (
    ("oracle:", "native+f32:"),
    ("native+f32:", "native+q8:"),
    ("oracle:", "native+q8:"),
    ("oracle:", "native+bf16:"),
    ("oracle:", "native+q8-kvf16:"),
    ("llamacpp+q8-kvf16:", "native+q8-kvf16:"),
    ("oracle:", "native+w8a8:"),
    ("native+f32:", "native+w8a8:"),
    ("native+q8:", "native+w8a8:"),
    ("llamacpp+q8-kvf16:", "native+w8a8:"),
)
FAULT_PAIRS = (
    ("oracle:", "native+q8:"),
    ("llamacpp+q8-kvf16:", "native+q8-kvf16:"),
    ("oracle:", "native+w8a8:"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--pair", nargs=2, action="append", metavar=("REFERENCE", "CANDIDATE"))
    parser.add_argument("--prompts", choices=("all", "fresh"), default="all")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="these alone")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--no-profile", action="store_true", help="by the default gates alone")
    options = parser.parse_args()
    print("# The default gates, checked\n")
    print(f"`python benchmarks/gate_check.py {' '.join(map(_shown, sys.argv[1:]))}`\n")
    print(", ".join(f"{key} {value}" for key, value in describe_host().items()) + "\n")
    pairs = [tuple(pair) for pair in options.pair or PAIRS]
    prompts = FRESH_PROMPTS if options.prompts == "fresh" else PROMPTS
    for model in options.models:
        print(f"## {Path(model).name}\n")
        plans = {"": Plan()}
        if not options.no_profile:
            engines = NoiseRequest(model=model)
            plans[" --noise PROFILE"] = Plan(noise=measure_noise(engines))
        for reference, candidate in pairs:
            for flag, plan in plans.items():
                alarms = find_alarms(reference + model, candidate + model, plan, prompts)
                names = f"{reference}MODEL {candidate}MODEL{flag}"
                found = f"{len(alarms)} false alarms of {len(prompts)}"
                print(f"- `{names}`: {found}", *alarms, sep="; ", flush=True)
        for pair in () if options.no_faults else FAULT_PAIRS:
            if pair in pairs:
                show_faults(model, *pair, options.fault or tuple(FAULTS))
        print(flush=True)


def _shown(word: str) -> str:
    return Path(word).name if "/" in word else word


def show_faults(model: str, reference: str, candidate: str, faults: Sequence[str]) -> None:
    print(f"\n| fault at layer 3, `{reference}` against `{candidate}` | verdict | first site |")
    print("| --- | --- | --- |")
    for fault in faults:
        for prompt in FAULT_PROMPTS:
            found = find_fault(reference + model, candidate + model, fault, prompt)
            print(f"| {fault}, {prompt[:20]!r} | {found} |", flush=True)


def find_alarms(
    reference: str, candidate: str, plan: Plan, prompts: tuple[str, ...]
) -> list[str]:
    request = Request(reference=reference, candidate=candidate, prompts=prompts, plan=plan)
    return [
        f"{prompt[:24]!r} at {c.first_divergence and c.first_divergence.site}"
        for prompt, c in zip(prompts, run_parity(request).comparisons, strict=True)
        if c.verdict is not Verdict.PASS
    ]


def find_fault(reference: str, candidate: str, fault: str, prompt: str) -> str:
    request = Request(
        reference=reference,
        candidate=candidate,
        prompts=(prompt,),
        fault=fault if FAULTS[fault].extent is Extent.OUTSIDE else f"{fault}@3",
    )
    try:
        report = run_parity(request)
    except UsageError:
        return "nothing to break in this model |"
    first = report.first_divergence
    return f"{report.verdict.value} | {first.site if first else 'none'}"


if __name__ == "__main__":
    main()
