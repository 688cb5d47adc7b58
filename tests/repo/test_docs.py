"""What the documentation says in tables is what the code does."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import save_file

from cotejar.cli.apr.group import APR_VERBS, apr
from cotejar.cli.pv.group import PV_VERBS, pv
from cotejar.engines.native.engine import MULTIPLY
from cotejar.engines.run_trace import TraceRequest, run_trace
from cotejar.formats.open_model import open_model
from cotejar.formats.tensor_names import stated_architecture, to_hugging_face
from cotejar.kernels.instruction_set import AMX_EMULATED, KNOWN_ISAS
from cotejar.parity.compare import compare_traces
from cotejar.parity.gates import LOGITS_METRICS, METRICS
from cotejar.parity.preconditions import ALWAYS_JUDGED, CHECKS, WAIVABLE
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import Capture
from cotejar.trace.site import CAPTURE_POINTS
from cotejar.trace.trace_file import read_trace, write_trace
from cotejar.verdict import Verdict

REPOSITORY = Path(__file__).parents[2]


def read(document: str) -> str:
    return (REPOSITORY / document).read_text(encoding="utf-8")


def table_of(document: str, heading: str) -> list[list[str]]:
    """The cells of the table whose first column is headed so."""
    pattern = rf"^\| {re.escape(heading)} \|.*\n\| ---.*\n((?:\|.*\n)+)"
    rows = re.search(pattern, read(document), re.MULTILINE)
    assert rows, f"{document} has no table of {heading}"
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        for row in rows[1].splitlines()
    ]


def code(cell: str) -> str:
    """What stands between the backticks."""
    return cell.strip("`")


def test_engines_lists_what_native_computes_in_and_by() -> None:
    numerics = [
        code(row[0].partition(" ")[0]) for row in table_of("docs/engines.md", "numerics")
    ]
    isas = [code(row[0]) for row in table_of("docs/engines.md", "`COTEJAR_ISA`")]

    assert sorted(numerics) == sorted(MULTIPLY)
    assert sorted(isas) == sorted((*KNOWN_ISAS, AMX_EMULATED))


def test_parity_lists_every_precondition() -> None:
    rows = table_of("docs/parity.md", "id")

    assert [code(row[0]) for row in rows] == list(CHECKS)
    assert {code(row[0]) for row in rows if row[2] == "yes"} == ALWAYS_JUDGED
    assert tuple(code(row[0]) for row in rows if row[3] == "yes") == WAIVABLE


def test_parity_lists_every_metric() -> None:
    rows = table_of("docs/parity.md", "metric")

    assert tuple(code(row[0]) for row in rows) == METRICS
    assert tuple(code(row[0]) for row in rows if row[1] == "logits") == LOGITS_METRICS


# --- the trace file ------------------------------------------------------------------------


def test_the_trace_file_gives_every_capture_point_to_the_letter() -> None:
    rows = table_of("docs/trace-file.md", "slot")

    assert [(code(slot), text) for slot, text in rows] == list(CAPTURE_POINTS.items())


def test_the_trace_file_gives_every_key_of_the_configuration(tiny: Any) -> None:
    cells = [row[0] for row in table_of("docs/trace-file.md", "key of `config`")]

    keys = [code(key) for cell in cells for key in cell.split()]
    assert sorted(keys) == sorted(tiny().config.comparable())


def test_the_trace_file_gives_every_key_that_few_models_have(tiny: Any) -> None:
    rows = table_of("docs/trace-file.md", "key of `config`, left out")
    every = TinyDecoder(
        architecture="gemma3",
        num_layers=3,
        sliding_window=5,
        sliding_window_pattern=2,
        query_scalar=20,
        final_softcap=3.0,
    )

    keys = [code(key) for row in rows for key in row[0].split()]
    config = tiny(every, "safetensors").config
    assert sorted(keys) == sorted(
        config.comparable().keys() - tiny().config.comparable().keys()
    )


def test_the_trace_file_gives_every_key_of_the_header(tiny: Any, tmp_path: Path) -> None:
    request = TraceRequest(source=str(tiny().file.path), token_ids=(5,), capture=Capture())
    write_trace(tmp_path / "run.trace", run_trace(request).trace)

    with safe_open(tmp_path / "run.trace", framework="numpy") as file:
        manifest = json.loads(file.metadata()["cotejar.trace"])

    cells = [row[0] for row in table_of("docs/trace-file.md", "key")]
    keys = [code(key).removesuffix("[]") for cell in cells for key in cell.split(", ")]
    assert sorted(keys) == sorted(manifest)


def fingerprint_as_documented(
    path: Path, *, adjacent: bool, head_dim: int, less_one: bool = False
) -> str:
    """Section 4 of the trace file, step by step, from the bytes of a file."""
    digests: dict[str, bytes] = {}
    with open_model(path) as file:
        for stored, tensor in file.tensors.items():
            name = stored
            if file.format == "gguf":
                name = str(to_hugging_face(stored, stated_architecture(file)))
            rows, columns = (1, *tensor.shape)[-2:]
            raw = np.array(file.read_bytes(stored))
            if adjacent and re.search(r"[qk]_proj", name):
                heads = raw.reshape(tensor.shape[0] // head_dim, head_dim, -1)
                raw = np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1)
            label = tensor.block_type.label
            if less_one and file.format == "safetensors" and name.endswith("norm.weight"):
                label, raw = "F32", (np.float32(1) + raw.view(np.float32)).view(np.uint8)
            line = f"{label} {rows} {columns}\n".encode()
            digests[name] = hashlib.sha256(line + raw.tobytes()).digest()
    digests.setdefault("lm_head.weight", digests["model.embed_tokens.weight"])
    whole = b"".join(f"{name}\n".encode() + digests[name] for name in sorted(digests))
    return f"sha256:{hashlib.sha256(whole).hexdigest()}"


@pytest.mark.parametrize("kind", ["gguf", "apr", "safetensors"])
@pytest.mark.parametrize(
    "decoder",
    [
        TinyDecoder(attention_bias=True),
        TinyDecoder(architecture="qwen2", tied_embeddings=True),
        TinyDecoder(architecture="qwen3"),
        TinyDecoder(architecture="gemma3", tied_embeddings=True),
    ],
    ids=lambda decoder: decoder.architecture,
)
def test_a_fingerprint_is_made_as_the_trace_file_says(
    tiny: Any, decoder: TinyDecoder, kind: str
) -> None:
    model = tiny(decoder, kind)
    gguf = tiny(decoder, "gguf")

    found = fingerprint_as_documented(
        model.file.path,
        adjacent=decoder.architecture == "llama" and kind == "gguf",
        head_dim=model.config.head_dim,
        less_one=decoder.architecture == "gemma3",
    )

    assert found == model.fingerprint == gguf.fingerprint


def test_a_trace_that_another_program_writes_can_be_compared(tiny: Any, tmp_path: Path) -> None:
    """With nothing but the safetensors library, numpy and what the document says."""
    model = tiny()
    request = TraceRequest(
        source=f"native+f32:{model.file.path}",
        token_ids=(5, 6, 7),
        capture=Capture(array_slots=frozenset(CAPTURE_POINTS)),
    )
    ours = run_trace(request).trace
    points = {code(slot): text for slot, text in table_of("docs/trace-file.md", "slot")}
    arrays = {name: array.astype(np.float64) for name, array in ours.arrays.items()}
    rows = {f"{n} {s}": a if s == "all" else a[-1:] for n, a in arrays.items() for s in SCOPES}
    manifest = {
        "schema_version": "1",
        "engine": dict.fromkeys(("name", "build", "device"), "theirs") | {"numerics": "f32"},
        "model": {
            **dict.fromkeys(("name", "format", "architecture"), "theirs"),
            "fingerprint": fingerprint_as_documented(
                model.file.path, adjacent=True, head_dim=model.config.head_dim
            ),
        },
        "config": model.config.comparable(),
        "token_ids": [5, 6, 7],
        "positions": [0, 1, 2],
        "prompt": None,
        "ddof": 1,
        "host": {},
        "sites": [
            {
                "site": name,
                "scopes": SCOPES,
                "capture_point": points[name.rpartition(".")[2]],
                "dtype": "float64",
                "shape": array.shape,
            }
            for name, array in arrays.items()
        ],
        "stats_rows": list(rows),
        "stats_columns": COLUMNS,
    }
    arrays["stats"] = np.array([statistics_of(values) for values in rows.values()])
    path = tmp_path / "theirs.trace"
    save_file(arrays, path, {"cotejar.trace": json.dumps(manifest)})

    theirs = compare_traces(ours, read_trace(path))

    assert [p.message for p in theirs.preconditions if not p.holds] == []
    assert theirs.verdict is Verdict.PASS


SCOPES = ["all", "last"]
COLUMNS = ["count", "nan_count", "inf_count", "zero_count", "min", "max", "mean", "std", "rms"]


def statistics_of(values: np.ndarray) -> list[float]:
    """Of finite values, in the order of `COLUMNS`."""
    moments = [values.mean(), values.std(ddof=1), np.sqrt((values**2).mean())]
    return [values.size, 0, 0, (values == 0).sum(), values.min(), values.max(), *moments]


# --- the README and CONTRIBUTING -----------------------------------------------------------


@pytest.mark.parametrize(("group", "verbs"), [(apr, APR_VERBS), (pv, PV_VERBS)])
def test_the_readme_lists_every_verb(group: click.Group, verbs: dict[str, object]) -> None:
    cells = " ".join(row[0] for row in table_of("README.md", f"`{group.name}`"))

    assert sorted(re.findall(rf"`{group.name} (\w+)", cells)) == sorted(verbs)


def prints_json(group: click.Group, verb: str) -> bool:
    """A group of verbs does if each of them does."""
    command = group.get_command(click.Context(group), verb)
    if isinstance(command, click.Group):
        return all(prints_json(command, name) for name in command.commands)
    return "--json" in CliRunner().invoke(group, [verb, "--help"]).stdout


def test_every_verb_but_those_that_the_readme_names_prints_json() -> None:
    without = [
        f"{group.name} {verb}"
        for group, verbs in ((apr, APR_VERBS), (pv, PV_VERBS))
        for verb in verbs
        if not prints_json(group, verb)
    ]

    assert without == ["apr chat", "apr serve", "pv scaffold"]
    assert "every verb but `apr chat`, `apr serve` and `pv scaffold`" in " ".join(
        read("README.md").split()
    )


def test_the_readme_leads_to_documents_that_are_there() -> None:
    named = re.findall(r"`((?:docs/)?[\w-]+\.md)`", read("README.md"))

    assert len(named) > 5
    assert [name for name in named if not (REPOSITORY / name).is_file()] == []
    assert {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")} <= {*named}


def test_contributing_lists_every_room_from_above_to_below() -> None:
    config = tomllib.loads(read("pyproject.toml"))
    (layers,) = [
        c["layers"] for c in config["tool"]["importlinter"]["contracts"] if "layers" in c
    ]
    source = REPOSITORY / "src" / "cotejar"
    rooms = {path.stem for path in source.iterdir()} - {"__init__", "__pycache__", "py"}
    cells = " ".join(row[0] for row in table_of("CONTRIBUTING.md", "room"))

    listed = [code(cell).strip("/") for cell in cells.split()]
    assert [f"cotejar.{room}" for room in listed] == layers[::-1]
    assert sorted(listed) == sorted(rooms)
