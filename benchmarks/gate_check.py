"""Do the default gates hold what they promise, on prompts they were not measured on?

    python benchmarks/gate_check.py MODEL [MODEL ...] > benchmarks/results/gate-check.md

False alarms: honest arithmetics over `PROMPTS`, of which none is in `gate_noise.py` and
several are pathological; by the default gates, then by those of a noise profile of the model,
measured as `apr noise` does. Missed faults: every fault of the catalogue in `native+q8` against
the oracle; a fault counts as named if the first site that fails lies in its layer.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cotejar.errors import UsageError
from cotejar.faults.catalogue import FAULTS
from cotejar.faults.fault import Extent
from cotejar.parity.compare import Plan
from cotejar.parity.noise_measure import NoiseRequest, measure_noise
from cotejar.parity.run import Request, run_parity
from cotejar.trace.forward_trace import describe_host
from cotejar.verdict import Verdict

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
FAULT_PROMPTS = (PROMPTS[-1], "What is 2+2?")
PAIRS = (
    ("oracle:", "native+f32:"),
    ("native+f32:", "native+q8:"),
    ("oracle:", "native+q8:"),
    ("oracle:", "native+bf16:"),
)


def main() -> None:
    print("# The default gates, checked\n")
    print(f"`python benchmarks/gate_check.py {' '.join(Path(p).name for p in sys.argv[1:])}`\n")
    print(", ".join(f"{key} {value}" for key, value in describe_host().items()) + "\n")
    for model in sys.argv[1:]:
        print(f"## {Path(model).name}\n")
        plans = {
            "": Plan(),
            " --noise PROFILE": Plan(noise=measure_noise(NoiseRequest(model=model))),
        }
        for reference, candidate in PAIRS:
            for flag, plan in plans.items():
                alarms = find_alarms(reference + model, candidate + model, plan)
                names = f"{reference}MODEL {candidate}MODEL{flag}"
                found = f"{len(alarms)} false alarms of {len(PROMPTS)}"
                print(f"- `{names}`: {found}", *alarms, sep="; ")
        print("\n| fault at layer 3, `oracle:` against `native+q8:` | verdict | first site |")
        print("| --- | --- | --- |")
        for fault in FAULTS:
            for prompt in FAULT_PROMPTS:
                print(f"| {fault}, {prompt[:20]!r} | {find_fault(model, fault, prompt)} |")
        print(flush=True)


def find_alarms(reference: str, candidate: str, plan: Plan) -> list[str]:
    request = Request(reference=reference, candidate=candidate, prompts=PROMPTS, plan=plan)
    return [
        f"{prompt[:24]!r} at {c.first_divergence and c.first_divergence.site}"
        for prompt, c in zip(PROMPTS, run_parity(request).comparisons, strict=True)
        if c.verdict is not Verdict.PASS
    ]


def find_fault(model: str, fault: str, prompt: str) -> str:
    request = Request(
        reference=f"oracle:{model}",
        candidate=f"native+q8:{model}",
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
