"""Does agreement survive generation? Texts, caches, perplexity, batches and serving.

    python benchmarks/generation.py [--model NAME] [--part NAME] [--quick] [--fresh]

One line a measurement goes to `build/bench-generation.jsonl`; a run that was interrupted goes
on where it stopped (`--fresh` begins anew). The table is `benchmarks/results/generation.md`,
of all lines there are. `--quick` does a little of everything and writes into `build/` alone.

`smollm2` is `demo:smollm2`; `qwen` is there where COTEJAR_MODELS names its folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generation_parts import (
    QUICK,
    Sizes,
    measure_batching,
    measure_check,
    measure_oracle,
    measure_text,
    measure_texts,
)
from generation_table import write_table
from serve_soak import measure_soak

from cotejar.formats.open_model import resolve_model_path

if TYPE_CHECKING:
    from collections.abc import Callable

BUILD = Path("build")
TABLE = Path("benchmarks/results/generation.md")
QWEN = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"
CHECKED = (
    "native+q8",
    "native+f32",
    "native+f32-kvf16",
    "native+f32-kvq8",
    "llamacpp+q8-kvf16",
    "llamacpp+q8-kvf16-flash",
    "llamacpp+q8",
    "transformers+f32",
    "transformers+f64",
    "transformers+bf16",
)
"""Engines that `apr check` is run on."""
CHECKED_IN_QWEN = ("native+q8", "llamacpp+q8-kvf16", "transformers+f32")
"""The others take minutes each there, and SmolLM2 has them."""
TEXTS = (("native+q8", "llamacpp"), ("native+f32", "transformers"))
"""Who continues the prompts, and who is asked about it."""
SERVED = "smollm2"


def main() -> None:
    options = _options()
    sizes = QUICK if options.quick else Sizes()
    name = "bench-generation-quick" if options.quick else "bench-generation"
    lines, table = BUILD / f"{name}.jsonl", BUILD / f"{name}.md" if options.quick else TABLE
    BUILD.mkdir(exist_ok=True)
    if options.fresh:
        lines.unlink(missing_ok=True)
    cases = [
        (key, case)
        for model, path in _models(options.model).items()
        for key, case in _cases(model, path, sizes).items()
        if not options.part or key.split()[0] in options.part
    ]
    done = {line["key"] for line in read_lines(lines)}
    left = [(key, case) for key, case in cases if key not in done]
    print(f"{len(cases)} measurements, {len(cases) - len(left)} done", file=sys.stderr)
    for number, (key, case) in enumerate(left, 1):
        print(f"{number}/{len(left)}  {key} ...", end="", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        line = {"key": key, **case(), "seconds": round(time.perf_counter() - begun, 1)}
        with lines.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(f"  {_word(line)}: {line['found']}  {line['seconds']} s", file=sys.stderr)
    found = read_lines(lines)
    write_table(table, found, command=_command(options))
    print(f"wrote {table}", file=sys.stderr)
    raise SystemExit(0 if found and all(line["holds"] for line in found) else 1)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _word(line: dict[str, Any]) -> str:
    return "kept" if line["holds"] else "NOT KEPT"


PARTS = ("check", "texts", "oracle", "perplexity", "batching", "serve")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", choices=["smollm2", "qwen"], default=[])
    parser.add_argument("--part", action="append", choices=PARTS, default=[])
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    return "python benchmarks/generation.py" + " --quick" * options.quick


def _models(wanted: list[str]) -> dict[str, str]:
    models = {"smollm2": str(resolve_model_path("demo:smollm2"))}
    folder = os.environ.get("COTEJAR_MODELS")
    if folder and (Path(folder) / QWEN).is_file():
        models["qwen"] = str(Path(folder) / QWEN)
    missing = set(wanted) - models.keys()
    if missing:
        sys.exit(f"{', '.join(missing)}: no such model here; COTEJAR_MODELS names the folder")
    return {name: path for name, path in models.items() if not wanted or name in wanted}


def _cases(model: str, path: str, sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    """By key: part, model, and what of it."""
    cases: dict[str, Callable[[], dict[str, Any]]] = {}
    for candidate, reference in TEXTS:
        key = f"texts {model} {candidate} against {reference}"
        cases[key] = partial(measure_texts, path, candidate, reference, sizes)
    cases[f"oracle {model} native+f32 cached"] = partial(measure_oracle, path, sizes)
    cases[f"perplexity {model} native+q8"] = partial(measure_text, path, sizes)
    cases[f"batching {model} native+q8"] = partial(measure_batching, path, sizes)
    for engine in CHECKED if model == "smollm2" else CHECKED_IN_QWEN:
        cases[f"check {model} {engine}"] = partial(measure_check, path, engine, sizes)
    if model == SERVED:
        cases[f"serve {model} native+q8"] = partial(measure_soak, path, sizes.soak_s)
    return cases


if __name__ == "__main__":
    main()
