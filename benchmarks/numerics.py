"""What each numerics of `native` costs: its logits against those of `native+f32`.

    python benchmarks/numerics.py MODEL [MODEL ...] [--windows N]

Over windows of text, as `benchmarks/engines.py` has them, which also says how near `native+f32`
lies to the float64 oracle. The table is `benchmarks/results/numerics.md`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from engines_logits import LOGITS, WINDOW_TOKENS, LogitsPair, open_engine, text_windows
from engines_table import table

from cotejar.formats.atomic import atomic_write_text
from cotejar.model.language_model import open_language_model
from cotejar.trace.host import describe_host

TABLE = Path("benchmarks/results/numerics.md")
REFERENCE = "native+f32"
NUMERICS = ("bf16", "q8", "q8-kvf16", "w8a8", "w8a8-kvf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--windows", type=int, default=12)
    options = parser.parse_args()
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items() if value)
    names = " ".join(Path(path).name for path in options.models)
    lines = [
        "# What each numerics costs",
        "",
        f"`python benchmarks/numerics.py {names} --windows {options.windows}`",
        "",
        host,
        "",
        f"Logits over {options.windows} windows of {WINDOW_TOKENS} tokens, half English, half "
        "code: means over the windows with their standard errors; leads are the largest.",
    ]
    for path in options.models:
        lines += ["", f"## {Path(path).name}", "", *_rows(path, options.windows)]
    text = "\n".join(lines) + "\n"
    print(text)
    atomic_write_text(TABLE, text, overwrite=True)


def _rows(path: str, num_windows: int) -> list[str]:
    model = open_language_model(path)
    pairs = [LogitsPair(REFERENCE, f"native+{numerics}") for numerics in NUMERICS]
    pairs.append(LogitsPair("native+q8", "native+w8a8"))
    engines = {
        name: open_engine(model, name)
        for name in dict.fromkeys(n for pair in pairs for n in (pair.reference, pair.candidate))
    }
    for number, ids in enumerate(text_windows(model, num_windows), 1):
        print(f"{model.name}: window {number} of {num_windows}", file=sys.stderr)
        logits = {
            name: np.asarray(engine.trace(ids, capture=LOGITS).arrays["logits"])
            for name, engine in engines.items()
        }
        for pair in pairs:
            pair.add(logits)
    head = ("pair", "NMSE", "mean KL, nats", "top-1 equal", "lead lost", "lead changes by")
    return table(head, [pair.row for pair in pairs])


if __name__ == "__main__":
    main()
