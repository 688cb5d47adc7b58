"""Trace files: whole after a round trip, open to all, and refused when they do not hold."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from cotejar.errors import (
    CotejarError,
    MissingFileError,
    OutputExistsError,
    TraceError,
    TraceSchemaError,
    TruncatedError,
    WriteError,
)
from cotejar.trace.forward_trace import (
    BOTH_SCOPES,
    EVERY_ARRAY,
    Capture,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    TraceRecorder,
    in_forward_order,
)
from cotejar.trace.manifest import MANIFEST_KEY
from cotejar.trace.site import CAPTURE_POINTS, SLOTS
from cotejar.trace.trace_file import encode_trace, read_trace, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.trace.forward_trace import SiteRecord

ROWS = 2 * (2 + 2 * len(SLOTS))
"""Of `make_trace`: two scopes of two sites outside the layers, and of every slot of two."""
HINT = "record it again with `apr trace MODEL --payload -o run.trace`"


def make_trace(*, scopes: tuple[Scope, ...] = BOTH_SCOPES, seed: int = 0) -> ForwardTrace:
    """A trace of 5 tokens and 2 layers, every array kept, one of them with NaN and Inf."""
    rng = np.random.default_rng(seed)
    recorder = TraceRecorder(Capture(scopes=scopes, array_slots=EVERY_ARRAY))
    recorder.record("embed", rng.normal(size=(5, 8)).astype(np.float32), None)
    for layer in range(2):
        for slot in SLOTS:
            recorder.record(slot, rng.normal(size=(5, 8)), layer)
    broken = rng.normal(size=(5, 11)).astype(np.float16)
    broken[4, 3:6] = np.nan, np.inf, -np.inf
    recorder.record("logits", broken, None)
    return ForwardTrace(
        engine=EngineInfo(name="native", build="cotejar 0.1.0", numerics="q8"),
        model=ModelInfo(
            name="tiny.gguf",
            format="gguf",
            architecture="llama",
            fingerprint="sha256:12ab",
            product_types=("Q4_K", "Q6_K"),
        ),
        config={"num_layers": 2, "rms_eps": 1e-5, "rope_frequency_divisors": (1.0, 8.0)},
        token_ids=(3838, 374, 220, 17, 30),
        positions=(0, 1, 2, 3, 4),
        prompt="¿Qué es «2+2»?",
        sites=in_forward_order(recorder.sites),
        arrays=recorder.arrays,
        not_observed=frozenset({"k_rope", "attn_context"}),
        host={"machine": "x86_64"},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


def facts(record: SiteRecord) -> tuple[object, ...]:
    return record.site, record.capture_point, record.dtype, record.shape


def test_what_was_written_is_read(path: Path) -> None:
    trace = make_trace()

    write_trace(path, trace)
    back = read_trace(path)

    assert (back.engine, back.model, back.prompt) == (trace.engine, trace.model, trace.prompt)
    assert (back.token_ids, back.positions) == (trace.token_ids, trace.positions)
    assert (back.ddof, back.host, back.num_layers) == (1, trace.host, 2)
    assert back.not_observed == trace.not_observed
    assert back.config == {**trace.config, "rope_frequency_divisors": [1.0, 8.0]}
    assert list(back.sites) == list(trace.sites)
    for name, record in trace.sites.items():
        assert facts(back.sites[name]) == facts(record)


def test_statistics_are_read_to_the_last_bits(path: Path) -> None:
    trace = make_trace()

    write_trace(path, trace)
    back = read_trace(path)

    for name, record in trace.sites.items():
        assert list(back.sites[name].stats) == list(record.stats)
        for scope, stats in record.stats.items():
            found = back.sites[name].stats[scope].row()
            assert found[:7] == stats.row()[:7]
            # std is stored, its square's sum is not: 6 roundings of 2^-53 lie between.
            assert found[7:] == pytest.approx(stats.row()[7:], rel=6 * 2.0**-53)


def test_arrays_are_read_bit_for_bit_when_they_are_asked_for(path: Path) -> None:
    trace = make_trace()

    write_trace(path, trace)
    back = read_trace(path)

    assert set(back.arrays) == set(trace.arrays)
    for name, array in trace.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].tobytes() == array.tobytes()
    with pytest.raises(KeyError):
        back.arrays["stats"]


@pytest.mark.parametrize("scope", BOTH_SCOPES)
def test_one_scope_alone_is_read(path: Path, scope: Scope) -> None:
    write_trace(path, make_trace(scopes=(scope,)))

    record = read_trace(path).sites["layer.1.ffn_gate"]

    assert list(record.stats) == [scope]
    assert record.stats[scope].count == {Scope.ALL: 40, Scope.LAST: 8}[scope]


def test_anyone_can_open_one(path: Path) -> None:
    """By the safetensors library and json alone, as the design promises."""
    trace = make_trace()
    write_trace(path, trace)

    with safe_open(path, framework="numpy") as file:
        manifest = json.loads(file.metadata()["cotejar.trace"])
        stats = file.get_tensor("stats")
        gate = file.get_tensor("layer.1.ffn_gate")

    assert manifest["schema_version"] == "1"
    assert manifest["token_ids"] == [3838, 374, 220, 17, 30]
    assert manifest["positions"] == [0, 1, 2, 3, 4]
    assert manifest["not_observed"] == ["attn_context", "k_rope"]
    assert manifest["sites"][1] == {
        "site": "layer.0.attn_norm",
        "scopes": ["all", "last"],
        "capture_point": "after the RMSNorm before attention, times its weight",
        "dtype": "float64",
        "shape": [5, 8],
    }
    row = manifest["stats_rows"].index("layer.1.ffn_gate last")
    column = manifest["stats_columns"].index("mean")
    assert stats.dtype == np.float64
    assert stats[row, column] == pytest.approx(gate[-1].mean())


def test_anyone_can_write_one(path: Path) -> None:
    """With numpy and the safetensors library, from the design's words."""
    gate = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    row = [12, 0, 0, 0, gate.min(), gate.max(), gate.mean(), gate.std(ddof=1), 0.6]
    site = {
        "site": "layer.0.ffn_gate",
        "scopes": ["all"],
        "capture_point": "before SiLU",
        "dtype": "bfloat16",
        "shape": [3, 4],
    }
    manifest = {
        "schema_version": "1",
        "engine": {"name": "mine", "build": "1", "numerics": "bf16", "device": "tpu"},
        "model": {"name": "m", "format": "x", "architecture": "llama", "fingerprint": ""},
        "config": {},
        "token_ids": [1, 2, 3],
        "positions": [0, 1, 2],
        "prompt": None,
        "ddof": 1,
        "host": {},
        "sites": [site],
        "stats_rows": ["layer.0.ffn_gate all"],
        "stats_columns": [
            *("count", "nan_count", "inf_count", "zero_count"),
            *("min", "max", "mean", "std", "rms"),
        ],
    }
    tensors = {"stats": np.array([row], np.float64), "layer.0.ffn_gate": gate}
    save_file(tensors, path, metadata={"cotejar.trace": json.dumps(manifest)})

    trace = read_trace(path)

    assert trace.engine.device == "tpu"
    assert trace.not_observed == frozenset()  # which is what no word of it means
    assert trace.sites["layer.0.ffn_gate"].stats[Scope.ALL].count == 12
    np.testing.assert_array_equal(trace.arrays["layer.0.ffn_gate"], gate)


def test_an_older_file_is_kept_unless_asked(path: Path) -> None:
    write_trace(path, make_trace(seed=0))
    before = path.read_bytes()

    with pytest.raises(OutputExistsError):
        write_trace(path, make_trace(seed=1))

    assert path.read_bytes() == before
    write_trace(path, make_trace(seed=1), overwrite=True)
    assert path.read_bytes() != before


def test_a_full_disk_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(WriteError):
        write_trace(path, make_trace())

    assert list(path.parent.iterdir()) == []


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_trace(path)


@pytest.mark.parametrize("length", [1, 7, 8, 100, 2000, -1])
def test_a_file_cut_short_is_no_trace(path: Path, length: int) -> None:
    write_trace(path, make_trace())
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(TraceError) as caught:
        read_trace(path)

    assert re.fullmatch(
        r"error\[APR-R001\]: this is no trace file\n"
        rf"  where     {re.escape(str(path))}\n"
        r"  expected  a safetensors file with `cotejar.trace` in its header\n"
        r"  found     .+\n"
        rf"  try       {re.escape(HINT)}",
        str(caught.value),
    )


def test_an_empty_file_is_no_trace(path: Path) -> None:
    path.touch()

    with pytest.raises((TraceError, TruncatedError)):
        read_trace(path)


def test_the_bytes_are_those_that_the_library_writes(path: Path) -> None:
    """Ours are written one array at a time, so that a trace need not fit into memory."""
    trace = make_trace()
    write_trace(path, trace)

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()

    assert b"".join(encode_trace(trace)) == path.read_bytes()
    assert path.read_bytes() == save(load_file(path), metadata=metadata)


def test_other_safetensors_are_no_trace(path: Path) -> None:
    save_file({"stats": np.zeros((1, 9))}, path)

    with pytest.raises(TraceError) as caught:
        read_trace(path)

    assert str(caught.value) == (
        "error[APR-R001]: the trace does not hold together: manifest\n"
        f"  where     {path}\n"
        "  expected  header metadata cotejar.trace\n"
        "  found     none\n"
        f"  try       {HINT}"
    )


Manifest = dict[str, Any]
Tensors = dict[str, np.ndarray]


def rewrite(path: Path, change: Callable[[Manifest, Tensors], object]) -> None:
    """Write a good trace, change its manifest and tensors in place, and store it again."""
    write_trace(path, make_trace(), overwrite=True)
    with safe_open(path, framework="numpy") as file:
        manifest = json.loads(file.metadata()[MANIFEST_KEY])
    tensors = load_file(path)
    change(manifest, tensors)
    save_file(tensors, path, metadata={MANIFEST_KEY: json.dumps(manifest)})


def put(*keys: str | int, value: object) -> Callable[[Manifest, Tensors], object]:
    """Set `manifest[key][key]... = value`."""

    def change(manifest: Any, _tensors: Tensors) -> None:
        *outer, last = keys
        for key in outer:
            manifest = manifest[key]
        manifest[last] = value

    return change


def put_stat(column: str, value: float) -> Callable[[Manifest, Tensors], object]:
    def change(manifest: Manifest, tensors: Tensors) -> None:
        tensors["stats"][1, manifest["stats_columns"].index(column)] = value

    return change


def scale_shape(manifest: Manifest, _tensors: Tensors) -> None:
    manifest["sites"][0]["shape"] = [6, 8]


def drop(key: str) -> Callable[[Manifest, Tensors], object]:
    return lambda manifest, _tensors: manifest.pop(key)


HOSTILE: dict[str, tuple[Callable[[Manifest, Tensors], object], str, str, str]] = {
    "no sites": (drop("sites"), "sites", "list", "None"),
    "no rows": (drop("stats_rows"), "stats_rows", "list", "None"),
    "engine a list": (put("engine", value=[]), "engine", "dict", "[]"),
    "build a number": (put("engine", "build", value=1), "engine.build", "str", "1"),
    "prompt a number": (put("prompt", value=7), "prompt", "a string or null", "7"),
    "ddof true": (put("ddof", value=True), "ddof", "a whole number, or null", "True"),
    "ddof below 0": (put("ddof", value=-1), "ddof", "a whole number, or null", "-1"),
    "a scope beside unknown": (
        put("sites", 0, "scopes", value=["unknown", "all"]),
        "embed.scopes",
        "all, last",
        "['unknown', 'all']",
    ),
    "ids a string": (put("token_ids", value="123"), "token_ids", "list", "'123'"),
    "an id below 0": (
        put("token_ids", value=[1, 2, 3, 4, -1]),
        "token_ids",
        "whole numbers in 0..2147483647",
        "[1, 2, 3, 4, -1]",
    ),
    "an id of 2^31": (
        put("token_ids", value=[1, 2, 3, 4, 1 << 31]),
        "token_ids",
        "whole numbers in 0..2147483647",
        "[1, 2, 3, 4, 2147483648]",
    ),
    "a position short": (
        put("positions", value=[0, 1, 2, 3]),
        "positions",
        "5, one a token",
        "4",
    ),
    "a token too few": (
        lambda m, _t: (m["token_ids"].pop(), m["positions"].pop()),
        "embed.shape",
        "4 tokens",
        "(5, 8)",
    ),
    "more tokens than its scope": (
        lambda m, t: (
            m["sites"][0].update(scopes=["last"]),
            m["stats_rows"].pop(0),
            t.update(stats=t["stats"][1:].copy()),
        ),
        "embed.shape",
        "1 tokens",
        "(5, 8)",
    ),
    "a type of a product that is a number": (
        put("model", "product_types", value=["F16", 1]),
        "model.product_types",
        "names of block types",
        "['F16', 1]",
    ),
    "slots a text": (
        put("not_observed", value="attn_context"),
        "not_observed",
        "names of slots",
        "attn_context",
    ),
    "a slot that is none": (
        put("not_observed", value=["attn_context", "ffn_gat"]),
        "not_observed",
        "names of slots",
        "['attn_context', 'ffn_gat']",
    ),
    "a slot that is a list": (
        put("not_observed", value=[["q"]]),
        "not_observed",
        "names of slots",
        "[['q']]",
    ),
    "an unknown site": (
        put("sites", 0, "site", value="layer.0.ffn_gat"),
        "sites",
        " ".join(SLOTS),
        "layer.0.ffn_gat",
    ),
    "a site twice": (
        put("sites", 1, "site", value="embed"),
        "sites",
        "each site once",
        "embed twice",
    ),
    "a site that is no object": (put("sites", 0, value=3), "sites", "objects", "3"),
    "no scope": (put("sites", 0, "scopes", value=[]), "embed.scopes", "all, last", "[]"),
    "a scope that is a list": (
        put("sites", 0, "scopes", value=[["all"]]),
        "embed.scopes",
        "all, last",
        "[['all']]",
    ),
    "a shape of 3": (
        put("sites", 0, "shape", value=[5, 8, 1]),
        "embed.shape",
        "[tokens, width]",
        "[5, 8, 1]",
    ),
    "a shape with 0": (
        put("sites", 0, "shape", value=[0, 8]),
        "embed.shape",
        "[tokens, width]",
        "[0, 8]",
    ),
    "a count that lies": (
        put_stat("count", 40),
        "embed last",
        "8 values, 1 x 8",
        "40",
    ),
    "a shape that lies": (scale_shape, "embed all", "48 values, 6 x 8", "40"),
    "a count of a half": (
        put_stat("count", 8.5),
        "stats of embed last",
        "counts: whole numbers of at least 0",
        "[8.5, 0.0, 0.0, 0.0]",
    ),
    "a count of nan": (
        put_stat("nan_count", np.nan),
        "stats of embed last",
        "counts: whole numbers of at least 0",
        "[8.0, nan, 0.0, 0.0]",
    ),
    "more nan than values": (
        put_stat("nan_count", 9),
        "stats of embed last",
        "at most 8 values in all",
        "[8.0, 9.0, 0.0, 0.0]",
    ),
    "more zeros than finite values": (
        lambda m, t: (put_stat("inf_count", 4)(m, t), put_stat("zero_count", 5)(m, t)),
        "stats of embed last",
        "at most 8 values in all",
        "[8.0, 0.0, 4.0, 5.0]",
    ),
    "a row too many": (
        lambda m, t: (
            m["stats_rows"].append("embed all"),
            t.update(stats=t["stats"][[*range(ROWS), 0]]),
        ),
        "stats_rows",
        "each site and scope of `sites` once",
        "embed all",
    ),
    "a row too few": (
        lambda m, t: (m["stats_rows"].pop(0), t.update(stats=t["stats"][1:].copy())),
        "stats_rows",
        "each site and scope of `sites` once",
        "no ('embed', 'all')",
    ),
    "a row that is no text": (
        put("stats_rows", 0, value=None),
        "stats_rows",
        "each site and scope of `sites` once",
        "None",
    ),
    "other columns": (
        put("stats_columns", value=["count"]),
        "stats_columns",
        "count nan_count inf_count zero_count min max mean std rms",
        "['count']",
    ),
    "statistics in float32": (
        lambda _m, t: t.update(stats=t["stats"].astype(np.float32)),
        "stats",
        "F64",
        "F32",
    ),
    "statistics of another shape": (
        lambda _m, t: t.update(stats=t["stats"].T.copy()),
        "stats",
        f"float64 ({ROWS}, 9)",
        f"(9, {ROWS})",
    ),
    "no statistics": (lambda _m, t: t.pop("stats"), "stats", f"float64 ({ROWS}, 9)", "none"),
    "an array of another shape": (
        lambda _m, t: t.update(logits=np.zeros((5, 12), np.float32)),
        "array logits",
        "(5, 11)",
        "(5, 12)",
    ),
    "an array of no site": (
        lambda _m, t: t.update({"layer.9.ffn_gate": np.zeros((5, 8), np.float32)}),
        "array layer.9.ffn_gate",
        "a site of the manifest",
        "(5, 8)",
    ),
    "an array of integers": (
        lambda _m, t: t.update(logits=np.zeros((5, 11), np.int32)),
        "array logits",
        "F32, F64 or F16",
        "I32",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_trace_that_does_not_hold_together_is_refused(path: Path, name: str) -> None:
    change, part, expected, found = HOSTILE[name]
    rewrite(path, change)

    with pytest.raises(TraceError) as caught:
        read_trace(path)

    assert str(caught.value) == (
        f"error[APR-R001]: the trace does not hold together: {part}\n"
        f"  where     {path}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        f"  try       {HINT}"
    )


@pytest.mark.parametrize(
    "change",
    [
        *(put_stat("mean", np.inf), put_stat("mean", np.nan), put_stat("std", -1.0)),
        *(put_stat("std", np.nan), put_stat("rms", -0.5), put_stat("min", 99.0)),
        put_stat("max", np.nan),
    ],
)
def test_statistics_that_no_values_have_are_refused(
    path: Path, change: Callable[[Manifest, Tensors], object]
) -> None:
    rewrite(path, change)

    with pytest.raises(
        TraceError, match="the trace does not hold together: stats of embed last"
    ):
        read_trace(path)


def test_a_former_text_of_a_capture_point_is_read_as_todays(path: Path) -> None:
    former = "rows of the embedding table, one a token"
    assert former != CAPTURE_POINTS["embed"]

    rewrite(path, put("sites", 0, "capture_point", value=former))
    assert read_trace(path).sites["embed"].capture_point == CAPTURE_POINTS["embed"]

    rewrite(path, put("sites", 0, "capture_point", value="elsewhere"))
    assert read_trace(path).sites["embed"].capture_point == "elsewhere"


def test_statistics_too_large_to_square_are_read(path: Path) -> None:
    rewrite(path, put_stat("std", 1e200))

    stats = read_trace(path).sites["embed"].stats[Scope.LAST]

    assert (stats.std, stats.rms) == (np.inf, np.inf)


@pytest.mark.parametrize("version", [None, 1, "2", ["1"]])
def test_another_schema_version_is_named(path: Path, version: object) -> None:
    rewrite(path, put("schema_version", value=version))

    with pytest.raises(TraceSchemaError) as caught:
        read_trace(path)

    assert str(caught.value) == (
        "error[APR-R002]: a trace of another schema version\n"
        f"  where     {path}\n"
        "  expected  schema_version '1'\n"
        f"  found     {version!r}\n"
        f"  try       {HINT}"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "NaN", '{"schema_version": NaN}', "[" * 100_000),
        '{"schema_version": ' + "1" * 5000 + "}",
        '{"schema_version": "1", "ddof": ' + "9" * 400 + "}",
        '{"prompt": "\\ud800", "schema_version": "1"}',
    ],
    ids=lambda text: text[:24],
)
def test_a_manifest_that_is_no_manifest_is_refused(path: Path, text: str) -> None:
    save_file({"stats": np.zeros((1, 9))}, path, metadata={MANIFEST_KEY: text})

    with pytest.raises(TraceError, match="the trace does not hold together: manifest"):
        read_trace(path)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "BOOL", "I64", "C64", "XYZ"])
@pytest.mark.parametrize("tensor", ["stats", "logits"])
def test_a_tensor_type_that_numpy_may_lack_is_refused(
    path: Path, dtype: str, tensor: str
) -> None:
    write_trace(path, make_trace())
    data = path.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + length])
    begin, end = header[tensor]["data_offsets"]
    width = {"BF16": 2, "I64": 8, "C64": 8}.get(dtype, 1)
    header[tensor] |= {"dtype": dtype, "shape": [(end - begin) // width]}
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :])

    with pytest.raises(TraceError):
        read_trace(path)


@given(st.data())
def test_any_damage_gives_a_clear_error_or_a_trace(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes of the header changed, and values of the manifest replaced: no other exception."""
    path = tmp_path_factory.getbasetemp() / "damaged.trace"
    odd = st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        *(st.just([]), st.just({}), st.just([[]]), st.just([10**17])),
    )
    manifest, tensors = copy.deepcopy(GOOD_MANIFEST), dict(GOOD_TENSORS)
    holder: Any = manifest
    while isinstance(holder, (dict, list)) and holder:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(holder[key], (dict, list)) or data.draw(st.booleans()):
            holder[key] = data.draw(odd)
            break
        holder = holder[key]
    save_file(tensors, path, metadata={MANIFEST_KEY: json.dumps(manifest)})
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, min(len(whole), 4000) - 1))
        whole[at] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)

    with contextlib.suppress(CotejarError):
        trace = read_trace(path)
        assert {name: trace.arrays[name].shape for name in trace.arrays} == {
            name: trace.sites[name].shape for name in trace.arrays
        }


def _good() -> tuple[Manifest, Tensors]:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "good.trace"
        write_trace(path, make_trace())
        with safe_open(path, framework="numpy") as file:
            return json.loads(file.metadata()[MANIFEST_KEY]), load_file(path)


GOOD_MANIFEST, GOOD_TENSORS = _good()


# --- what a foreign trace leaves out ---------------------------------------------------------


def foreign(path: Path, *left_out: str, site: dict[str, Any] | None = None) -> ForwardTrace:
    """A trace of two sites as another program writes it, without some of its keys."""
    arrays = {
        "embed": np.arange(12, dtype=np.float32).reshape(3, 4),
        "logits": np.arange(15, dtype=np.float64).reshape(3, 5),
    }
    manifest: dict[str, Any] = {
        "schema_version": "1",
        "engine": dict.fromkeys(("name", "build", "numerics", "device"), "theirs"),
        "model": dict.fromkeys(("name", "format", "architecture", "fingerprint"), "theirs"),
        "config": {"num_layers": 0},
        "token_ids": [7, 8, 9],
        "positions": [0, 1, 2],
        "ddof": 1,
        "host": {"machine": "theirs"},
        "sites": [
            {"site": name, "scopes": ["all"], "capture_point": "there"} | (site or {})
            for name in arrays
        ],
    }
    for key in left_out:
        holder, _, last = key.rpartition(".")
        for one in manifest["sites"] if holder == "sites" else [manifest.get(holder, manifest)]:
            del one[last]
    save_file(arrays, path, metadata={MANIFEST_KEY: json.dumps(manifest)})
    return read_trace(path)


def test_statistics_that_are_left_out_are_taken_of_the_arrays(path: Path) -> None:
    trace = foreign(path)

    assert trace.model.product_types == ()
    (scope,) = trace.sites["embed"].stats
    stats = trace.sites["embed"].stats[scope]
    assert (scope, stats.count, stats.zero_count) == (Scope.ALL, 12, 1)
    assert (stats.mean, stats.std) == (5.5, pytest.approx(np.arange(12).std(ddof=1), rel=1e-15))
    assert (trace.sites["embed"].shape, trace.sites["embed"].dtype) == ((3, 4), "float32")
    assert trace.ddof == 1
    assert trace.arrays["embed"][2, 3] == 11.0


@pytest.mark.parametrize(
    ("key", "field", "unknown"),
    [
        ("token_ids", lambda t: t.token_ids, ()),
        ("positions", lambda t: t.positions, ()),
        ("config", lambda t: t.config, {}),
        ("host", lambda t: t.host, {}),
        ("engine", lambda t: t.engine.build, "unknown"),
        ("engine.numerics", lambda t: t.engine.numerics, "unknown"),
        ("model", lambda t: t.model.fingerprint, ""),
        ("model.fingerprint", lambda t: t.model.fingerprint, ""),
        ("sites.capture_point", lambda t: t.sites["embed"].capture_point, "unknown"),
        ("sites.scopes", lambda t: list(t.sites["embed"].stats), [Scope.UNKNOWN]),
    ],
)
def test_what_is_left_out_is_unknown(
    path: Path, key: str, field: Callable[[ForwardTrace], object], unknown: object
) -> None:
    assert field(foreign(path, key, *(["positions"] if key == "token_ids" else []))) == unknown


def test_a_trace_that_leaves_things_out_is_written_and_read_again(
    path: Path, tmp_path: Path
) -> None:
    trace = foreign(path, "token_ids", "positions", "engine", "sites.scopes", "config")

    write_trace(tmp_path / "again.trace", trace)
    again = read_trace(tmp_path / "again.trace")

    for name, record in trace.sites.items():
        assert facts(again.sites[name]) == facts(record)
        assert list(again.sites[name].stats) == [Scope.UNKNOWN]
    assert (again.engine, again.token_ids, again.config) == (trace.engine, (), {})


def test_a_ddof_that_is_null_with_statistics_is_unknown(path: Path) -> None:
    def change(manifest: Manifest, _tensors: Tensors) -> None:
        manifest["ddof"] = None

    rewrite(path, change)

    trace = read_trace(path)
    assert trace.ddof is None
    # The array cannot be held against a std of unknown ddof, and is against all the rest.
    assert trace.arrays["embed"].shape == (5, 8)


@pytest.mark.parametrize("ddof", [0, 1])
def test_an_array_is_held_against_the_std_of_the_ddof_that_is_stated(
    path: Path, ddof: int
) -> None:
    def change(manifest: Manifest, tensors: Tensors) -> None:
        manifest["ddof"] = ddof
        embed = tensors["embed"].astype(np.float64)
        for name, values in (("embed all", embed), ("embed last", embed[-1:])):
            row = manifest["stats_rows"].index(name)
            tensors["stats"][row, 7] = values.std(ddof=0)

    rewrite(path, change)

    if ddof == 0:
        assert read_trace(path).arrays["embed"].shape == (5, 8)
        return
    with pytest.raises(TraceError, match="not what its statistics say"):
        read_trace(path).arrays["embed"]


def test_neither_statistics_nor_an_array_is_refused(path: Path) -> None:
    foreign(path)
    with safe_open(path, framework="numpy") as file:
        manifest = file.metadata()
    save_file({"embed": np.ones((3, 4))}, path, metadata=manifest)

    with pytest.raises(TraceError) as caught:
        read_trace(path)

    assert caught.value.parts["expected"] == "[tokens, width] for scope all"


def test_unknown_scope_with_neither_shape_nor_array_needs_statistics(path: Path) -> None:
    foreign(path, site={"scopes": ["unknown"]})
    with safe_open(path, framework="numpy") as file:
        manifest = file.metadata()
    save_file({"embed": np.ones((3, 4))}, path, metadata=manifest)

    with pytest.raises(TraceError) as caught:
        read_trace(path)

    assert caught.value.problem == "the trace does not hold together: logits"
    assert caught.value.parts["expected"] == "statistics, or the array to take them of"
