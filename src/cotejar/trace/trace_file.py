"""The trace file: one safetensors file, its manifest in the header.

Header metadata `cotejar.trace` holds JSON: schema version, engine and build, model and
fingerprint, configuration, token ids, positions, prompt, ddof, host, and for every site its
scopes, capture point, dtype and shape. Tensors: `stats`, float64, a row a (site, scope) pair
as `stats_rows` lists them and a column a statistic as `stats_columns` does; and, where it
was captured, one array a site under the site's name (`layer.3.ffn_gate`: tokens x width).

Anyone can open one with the safetensors library, and any other program can write one.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cotejar.errors import TraceError
from cotejar.formats.atomic import atomic_write
from cotejar.formats.mapped_file import open_mapped, release_pages
from cotejar.trace.array_store import by_rows
from cotejar.trace.forward_trace import ForwardTrace, Scope, SiteRecord, in_forward_order
from cotejar.trace.manifest import MANIFEST_KEY, ManifestReader, RecordedArray, make_manifest
from cotejar.trace.recorded_arrays import RERECORD_HINT, RecordedArrays
from cotejar.trace.stats import DDOF, FIELDS, measure_stats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

STATS_TENSOR = "stats"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16"}
"""Of an array, by safetensors' name; numpy has no name for some of the others."""


def write_trace(path: Path, trace: ForwardTrace, *, overwrite: bool = False) -> None:
    """Write a trace, whole or not at all.

    Raises:
        FileError: the path cannot be written.
    """
    with atomic_write(path, overwrite=overwrite) as file:
        for part in encode_trace(trace):
            file.write(part)


def encode_trace(trace: ForwardTrace) -> Iterator[bytes | memoryview]:
    """The bytes of a trace's file, part by part: an array is held at a time."""
    rows = [(name, scope) for name, record in trace.sites.items() for scope in record.stats]
    stats = np.array([trace.sites[n].stats[s].row() for n, s in rows]).reshape(-1, len(FIELDS))
    manifest = make_manifest(trace) | {
        "stats_rows": [f"{name} {scope.value}" for name, scope in rows],
        "stats_columns": list(FIELDS),
    }
    kinds = {
        name: (trace.arrays[name].dtype, trace.arrays[name].shape) for name in trace.arrays
    }
    kinds[STATS_TENSOR] = (stats.dtype, stats.shape)
    # Wider types first: so every array begins at a multiple of its own width.
    names = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))
    yield _encode_header(manifest, {name: kinds[name] for name in names})
    for name in names:
        whole = stats if name == STATS_TENSOR else trace.arrays[name]
        for part in by_rows(whole):
            stored = np.ascontiguousarray(part, part.dtype.newbyteorder("<"))
            yield stored.reshape(-1).view(np.uint8).data
        release_pages(whole)


def _encode_header(
    manifest: Mapping[str, Any], kinds: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
) -> bytes:
    """Length and JSON, as `formats.safetensors.header` reads them; spaces up to 8 bytes."""
    said = json.dumps(manifest, ensure_ascii=False)
    header: dict[str, Any] = {"__metadata__": {MANIFEST_KEY: said}}
    end = 0
    for name, (dtype, shape) in kinds.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {
            "dtype": f"F{8 * dtype.itemsize}",
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_trace(path: Path) -> ForwardTrace:
    """Open a trace file; arrays are read when they are asked for.

    A file without statistics is measured here, from its arrays, one at a time.

    Raises:
        FileError: the file cannot be read.
        TraceError: it is no safetensors file, or its manifest is missing or does not fit.
        TraceSchemaError: a version of the manifest that we do not read.
    """
    open_mapped(path).close()  # missing, a folder, a pipe, empty: the usual clear errors
    reader = ManifestReader(str(path))
    try:
        with safe_open(path, framework="numpy") as file:
            manifest = reader.parse((file.metadata() or {}).get(MANIFEST_KEY))
            names = set(file.keys())
            stats = None
            if STATS_TENSOR in names:
                dtype = file.get_slice(STATS_TENSOR).get_dtype()
                if dtype != "F64":
                    reader.fail("stats", "F64", dtype)
                stats = file.get_tensor(STATS_TENSOR)
            arrays = {}
            for name in sorted(names - {STATS_TENSOR}):
                view = file.get_slice(name)
                if view.get_dtype() not in _DTYPES:
                    reader.fail(f"array {name}", "F32, F64 or F16", view.get_dtype())
                arrays[name] = RecordedArray(
                    shape=tuple(view.get_shape()), dtype=_DTYPES[view.get_dtype()]
                )
            return _build(reader, path, manifest, arrays, stats, file)
    except SafetensorError as error:
        raise TraceError(
            "this is no trace file",
            where=str(path),
            expected="a safetensors file with `cotejar.trace` in its header",
            found=str(error),
            hint=RERECORD_HINT,
        ) from None


def _build(
    reader: ManifestReader,
    path: Path,
    manifest: dict[str, Any],
    arrays: Mapping[str, RecordedArray],
    stats: np.ndarray | None,
    file: Any,
) -> ForwardTrace:
    sites = reader.sites(manifest, arrays)
    ddof = reader.ddof(manifest)
    if reader.has_stats(manifest, stats):
        sites = reader.with_stats(manifest, stats, sites)
        reader.check_arrays(sites, arrays)
    else:
        reader.check_arrays(sites, arrays)
        sites = _measure(reader, manifest, sites, arrays, file)
        ddof = DDOF  # of what was measured here
    prompt = manifest.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        reader.fail("prompt", "a string or null", prompt)
    token_ids = reader.integers(manifest, "token_ids")
    positions = reader.integers(manifest, "positions")
    if positions and len(token_ids) != len(positions):
        reader.fail("positions", f"{len(token_ids)}, one a token", len(positions))
    _check_tokens(reader, sites, len(token_ids))
    records = {name: sites[name] for name in arrays}
    return ForwardTrace(
        engine=reader.engine(manifest),
        model=reader.model(manifest),
        config=reader.get(manifest, "config", dict, default={}),
        token_ids=token_ids,
        positions=positions,
        prompt=prompt,
        passes=reader.passes(manifest, len(token_ids)),
        sites=in_forward_order(sites),
        arrays=RecordedArrays(path, records, ddof=ddof),
        not_observed=reader.slots(manifest),
        ddof=ddof,
        host=reader.get(manifest, "host", dict, default={}),
    )


def _measure(
    reader: ManifestReader,
    manifest: dict[str, Any],
    sites: dict[str, SiteRecord],
    arrays: Mapping[str, RecordedArray],
    file: Any,
) -> dict[str, SiteRecord]:
    """The sites with the statistics of their arrays, in the scopes that the file names."""
    measured = {}
    scopes = {
        str(record.site): reader.scopes(record.site, entry)
        for record, entry in zip(sites.values(), manifest["sites"], strict=True)
    }
    for name, record in sites.items():
        if name not in arrays:
            reader.fail(f"{name}", "statistics, or the array to take them of", "neither")
        array = file.get_tensor(name)
        stats = {
            scope: measure_stats(array[-1:] if scope is Scope.LAST else array)
            for scope in scopes[name]
        }
        measured[name] = replace(record, stats=stats)
    return measured


def _check_tokens(
    reader: ManifestReader, sites: Mapping[str, SiteRecord], num_tokens: int
) -> None:
    """Hold each site's tokens against the trace's, where both are known."""
    for record in sites.values():
        if Scope.UNKNOWN in record.stats:
            continue
        tokens = num_tokens if Scope.ALL in record.stats else 1
        is_known = num_tokens > 0 or Scope.ALL not in record.stats
        if is_known and record.shape[0] != tokens:
            reader.fail(f"{record.site}.shape", f"{tokens} tokens", record.shape)
