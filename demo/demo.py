"""A short narrated run on a real model: `make demo` runs it.

Every command that it shows is really run, and its exit code is held against the one that
the story tells; if they differ, the demo fails.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

OUT = Path("demo-out")
APR = str(Path(sys.executable).with_name("apr"))
COPY, ALL, LAST = (str(OUT / name) for name in ("smollm2.apr", "all.trace", "last.trace"))

PASS, FAIL, INCOMPARABLE = 0, 1, 3

STORY = (
    (
        "A real model, SmolLM2-135M-Instruct (Q4_1 and Q8_0), is imported from GGUF to .apr.",
        ["import", "demo:smollm2", "-o", COPY, "--force"],
        PASS,
    ),
    (
        "Is the copy the same? Every site of every layer, bit for bit.",
        ["parity", "demo:smollm2", COPY, "--brief"],
        PASS,
    ),
    (
        "Two arithmetics on the same bytes: float32, and activations rounded to 8 bits as\n"
        "ggml does. They differ, and by how much is known; that is no bug.",
        ["parity", "native+f32:demo:smollm2", "native+q8:demo:smollm2"],
        PASS,
    ),
    (
        "The mistake that this project began with: one side recorded all tokens ...",
        [
            "trace",
            "demo:smollm2",
            "--scope",
            "all",
            "--capture",
            "all",
            "-o",
            ALL,
            "--force",
            "--brief",
        ],
        PASS,
    ),
    (
        "... and the other the last token only.",
        [
            "trace",
            COPY,
            "--scope",
            "last",
            "--capture",
            "all",
            "-o",
            LAST,
            "--force",
            "--brief",
        ],
        PASS,
    ),
    (
        "Same model, same weights. Compared all the same, a standard deviation would be off\n"
        "by a large factor, and somebody would go looking for a bug in a kernel.",
        ["parity", f"recorded:{ALL}", f"recorded:{LAST}", "--brief"],
        INCOMPARABLE,
    ),
    (
        "A real bug: in layer 3 of the copy, one weight's 4-bit codes are read in the wrong\n"
        "order. The first place where it shows is named.",
        ["parity", "demo:smollm2", COPY, "--fault", "nibble-order@3", "--brief"],
        FAIL,
    ),
    (
        "Which operation is it, on which side, and why? Every operation is done again in\n"
        "float64 on the input that each side recorded.",
        ["diagnose", "demo:smollm2", COPY, "--fault", "nibble-order@3"],
        FAIL,
    ),
    (
        "A forward pass that agrees proves no text yet: token by token, in chunks, beside\n"
        "other texts, from a saved state, the logits must be the same.",
        ["check", "demo:smollm2"],
        PASS,
    ),
)


def main() -> int:
    """Run the story; 1 if a command ends otherwise than it tells."""
    OUT.mkdir(exist_ok=True)
    start = time.perf_counter()
    for step, (text, arguments, expected) in enumerate(STORY, 1):
        print(f"\n[{step}/{len(STORY)}] {text}\n")
        print(f"$ apr {' '.join(arguments)}", flush=True)
        done = subprocess.run([APR, *arguments], check=False).returncode
        print(f"(exit {done})", flush=True)
        if done != expected:
            print(f"\nthe demo expected exit {expected}", file=sys.stderr)
            return 1
    print(f"\nDone in {time.perf_counter() - start:.0f} s. What was written lies in {OUT}/.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
