"""The noise of `q8` where the weights are floats: no product is rounded to 8 bits there.

    python benchmarks/float_noise.py MODEL [MODEL ...] [--engine ENGINE]

Over weights in F16 ggml rounds activations to float16, over BF16 to bfloat16. Each model is
written anew with all of its matrices in that type, and `apr noise` is taken of `native+q8` and
of llama.cpp, the worst of its numerics, on the prompts that it brings. The largest of all are
the columns of `cotejar.parity.float_noise`; they go to `benchmarks/results/float-noise.md`.
With `--engine` another one is measured so, `native+w8a8` say, which rounds such weights too: it
gets a section of its own there, and the rest stays.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engines_table import table

from cotejar.files.tensor_values import open_values
from cotejar.formats.atomic import atomic_write_text
from cotejar.formats.gguf.reader import GgufFile, open_gguf
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.parity.noise_measure import NoiseRequest, measure_noise
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode
from cotejar.trace.forward_trace import Scope
from cotejar.trace.host import describe_host

if TYPE_CHECKING:
    from cotejar.formats.model_file import TensorEntry

TABLE = Path("benchmarks/results/float-noise.md")
ENGINES = ("native+q8", "llamacpp+q8-kvf16", "llamacpp+q8-kvf16-flash", "llamacpp+q8")
TYPES = (BlockType.F16, BlockType.BF16)
METRICS = ("rel_l2_max", "rel_l2_median")
OF_LOGITS = ("kl_max", "top1_flip_margin")
FIRST_NORM = "layer.0.attn_norm"

Column = dict[str, dict[str, float]]
"""By slot and metric; `layer.0.attn_norm` stands for itself."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--engine")
    options = parser.parse_args()
    engines = (options.engine,) if options.engine else ENGINES
    columns: dict[str, Column] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in TYPES:
            for model in options.models:
                path = Path(folder) / f"{kind.label}-{Path(model).name}"
                write_in_floats(model, path, kind)
                add_noise(columns, kind.label, path, engines)
                path.unlink()
    first, *sections = (TABLE.read_text() if TABLE.exists() else "").split("\n## ")
    title = options.engine or "# Noise over weights in floats"
    body = "\n".join([title, "", *_head(options.models, options.engine), *_lines(columns)])
    print(body)
    if options.engine:
        kept = [one for one in sections if one.partition("\n")[0] != title]
        sections = [*kept, f"{body}\n"]
    else:
        first = f"{body}\n"
    atomic_write_text(TABLE, "\n## ".join([first, *sections]), overwrite=True)


def write_in_floats(source: str, target: Path, kind: BlockType) -> None:
    """A GGUF with every matrix in `kind`; what is a vector stays as it is."""
    with open_gguf(source) as file:
        tensors = [
            GgufTensor(
                name=entry.name,
                block_type=kind if len(entry.shape) > 1 else entry.decodable_type(file.path),
                shape=entry.shape,
                data=lambda entry=entry: _encoded(file, entry, kind),
            )
            for entry in file.tensors.values()
        ]
        write_gguf(target, metadata=file.typed_metadata, tensors=tensors)


def _encoded(file: GgufFile, entry: TensorEntry, kind: BlockType) -> object:
    if len(entry.shape) == 1:
        return file.read_bytes(entry.name)
    values = open_values(file, entry)
    return encode(kind, values.rows(0, values.num_rows).reshape(-1))


def add_noise(
    columns: dict[str, Column], kind: str, path: Path, engines: tuple[str, ...]
) -> None:
    """Keep the largest of each slot, over engines, layers and models."""
    request = NoiseRequest(model=str(path), engines=engines)
    profile = measure_noise(request, lambda text: print(text, file=sys.stderr))
    for engine in profile.engines:
        column = columns.setdefault(f"{engine.engine.name} over {kind}", {})
        for site, scopes in engine.sites.items():
            slot = site if site == FIRST_NORM else site.rpartition(".")[2]
            for metric in (*METRICS, *(OF_LOGITS if site == "logits" else ())):
                noise = scopes[Scope.ALL].get(metric)
                value = float("inf") if noise is None else noise.value
                found = column.setdefault(slot, {})
                found[metric] = max(found.get(metric, 0.0), value)


def _head(paths: list[str], engine: str | None) -> list[str]:
    host = ", ".join(f"{key} {value}" for key, value in describe_host().items() if value)
    models = " ".join(Path(path).name for path in paths)
    option = f" --engine {engine}" if engine else ""
    return [
        f"`python benchmarks/float_noise.py {models}{option}`",
        "",
        host,
        "",
        "Relative L2 of a site's worst token, then of its median token; worst over layers, "
        "prompts and models, against the oracle on the same bytes.",
        "",
    ]


def _lines(columns: dict[str, Column]) -> list[str]:
    slots = list(next(iter(columns.values())))
    rows = [
        (
            slot,
            *(
                ", ".join(f"{c[slot][m]:.2e}" if slot in c else "not observed" for m in METRICS)
                for c in columns.values()
            ),
        )
        for slot in slots
    ]
    lines = table(("slot", *columns), rows)
    for name, column in columns.items():
        kl, lead = (column["logits"][metric] for metric in OF_LOGITS)
        lines += [
            "",
            f"{name}: KL at most {kl:.3g} nats; a lead changes by at most {lead:.3g}.",
        ]
    return lines


if __name__ == "__main__":
    main()
