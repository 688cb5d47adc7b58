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
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cotejar.errors import TraceError, TraceSchemaError, UnknownSiteError
from cotejar.formats.atomic import atomic_write
from cotejar.formats.mapped_file import open_mapped
from cotejar.trace.forward_trace import (
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    SiteRecord,
    in_forward_order,
)
from cotejar.trace.recorded_arrays import RERECORD_HINT, RecordedArrays
from cotejar.trace.site import CAPTURE_POINTS, Site, parse_site
from cotejar.trace.stats import FIELDS, stats_from_row

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = "1"
MANIFEST_KEY = "cotejar.trace"
STATS_TENSOR = "stats"
_MAX_DIGITS = 18
"""Of an integer in a manifest: JSON sets no limit, and sizes are multiplied here."""


def write_trace(path: Path, trace: ForwardTrace, *, overwrite: bool = False) -> None:
    """Write a trace, whole or not at all.

    Raises:
        FileError: the path cannot be written.
    """
    rows = [(name, scope) for name, record in trace.sites.items() for scope in record.stats]
    stats = np.array([trace.sites[n].stats[s].row() for n, s in rows]).reshape(-1, len(FIELDS))
    manifest = make_manifest(trace) | {
        "stats_rows": [f"{name} {scope.value}" for name, scope in rows],
        "stats_columns": list(FIELDS),
    }
    tensors = {STATS_TENSOR: stats}
    tensors |= {name: np.ascontiguousarray(array) for name, array in trace.arrays.items()}
    data = save(tensors, metadata={MANIFEST_KEY: json.dumps(manifest, ensure_ascii=False)})
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(data)


def make_manifest(trace: ForwardTrace) -> dict[str, object]:
    """The manifest, but for what describes the `stats` tensor."""
    return {
        "schema_version": SCHEMA_VERSION,
        "engine": {
            "name": trace.engine.name,
            "build": trace.engine.build,
            "numerics": trace.engine.numerics,
            "device": trace.engine.device,
        },
        "model": {
            "name": trace.model.name,
            "format": trace.model.format,
            "architecture": trace.model.architecture,
            "fingerprint": trace.model.fingerprint,
        },
        "config": dict(trace.config),
        "token_ids": list(trace.token_ids),
        "positions": list(trace.positions),
        "prompt": trace.prompt,
        "not_observed": sorted(trace.not_observed),
        "ddof": trace.ddof,
        "host": dict(trace.host),
        "sites": [
            {
                "site": name,
                "scopes": [scope.value for scope in record.stats],
                "capture_point": record.capture_point,
                "dtype": record.dtype,
                "shape": list(record.shape),
            }
            for name, record in trace.sites.items()
        ],
    }


def read_trace(path: Path) -> ForwardTrace:
    """Open a trace file; arrays are read when they are asked for.

    Raises:
        FileError: the file cannot be read.
        TraceError: it is no safetensors file, or its manifest is missing or does not fit.
        TraceSchemaError: a version of the manifest that we do not read.
    """
    open_mapped(path).close()  # missing, a folder, a pipe, empty: the usual clear errors
    reader = _Reader(str(path))
    try:
        with safe_open(path, framework="numpy") as file:
            manifest = reader.parse((file.metadata() or {}).get(MANIFEST_KEY))
            names = set(file.keys())
            stats = None
            if STATS_TENSOR in names:
                dtype = file.get_slice(STATS_TENSOR).get_dtype()
                if dtype != "F64":  # numpy has no name for some of the others
                    reader.fail("stats", "F64", dtype)
                stats = file.get_tensor(STATS_TENSOR)
            shapes = {}
            for name in names - {STATS_TENSOR}:
                view = file.get_slice(name)
                if view.get_dtype() not in {"F64", "F32", "F16"}:
                    reader.fail(f"array {name}", "F32, F64 or F16", view.get_dtype())
                shapes[name] = tuple(view.get_shape())
    except SafetensorError as error:
        raise TraceError(
            "this is no trace file",
            where=str(path),
            expected="a safetensors file with `cotejar.trace` in its header",
            found=str(error),
            hint=RERECORD_HINT,
        ) from None
    return reader.build(path, manifest, stats, shapes)


def _read_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class _Reader:
    """Reads a manifest from strangers: every field is checked before it is used."""

    def __init__(self, where: str) -> None:
        self._where = where

    def fail(self, part: str, expected: str, found: object) -> NoReturn:
        raise TraceError(
            f"the trace does not hold together: {part}",
            where=self._where,
            expected=expected,
            found=f"{found!s:.120}",
            hint=RERECORD_HINT,
        )

    def parse(self, text: str | None) -> dict[str, Any]:
        if text is None:
            self.fail("manifest", f"header metadata {MANIFEST_KEY}", "none")
        try:
            manifest = json.loads(text, parse_int=_read_int, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            self.fail("manifest", "JSON", error)
        if not isinstance(manifest, dict):
            self.fail("manifest", "a JSON object", type(manifest).__name__)
        version = manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            raise TraceSchemaError(
                "a trace of another schema version",
                where=self._where,
                expected=f"schema_version {SCHEMA_VERSION!r}",
                found=repr(version),
                hint=RERECORD_HINT,
            )
        return dict(manifest)

    def get(self, holder: dict[str, Any], key: str, kind: type, path: str = "") -> Any:
        value = holder.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fail(f"{path}{key}", kind.__name__, repr(value))
        return value

    def site(self, name: str) -> Site:
        try:
            return parse_site(name)
        except UnknownSiteError as error:
            self.fail("sites", error.parts["expected"], name)

    def slots(self, names: Any) -> frozenset[str]:
        """Names of slots; of anything else a TraceError."""
        if not isinstance(names, list) or not all(n in CAPTURE_POINTS for n in map(str, names)):
            self.fail("not_observed", "names of slots", names)
        return frozenset(str(name) for name in names)

    def integers(self, manifest: dict[str, Any], key: str) -> tuple[int, ...]:
        values = self.get(manifest, key, list)
        if not all(type(v) is int and 0 <= v < 1 << 31 for v in values):
            self.fail(key, "whole numbers in 0..2147483647", values)
        return tuple(values)

    def build(
        self,
        path: Path,
        manifest: dict[str, Any],
        stats: np.ndarray | None,
        shapes: dict[str, tuple[int, ...]],
    ) -> ForwardTrace:
        sites = self._sites(manifest)
        for name, rows in self._stats(manifest, stats).items():
            sites[name] = self._with_stats(sites[name], rows)
        for name, shape in shapes.items():
            if name not in sites or shape != sites[name].shape:
                expected = sites[name].shape if name in sites else "a site of the manifest"
                self.fail(f"array {name}", str(expected), shape)
        engine, model = self.get(manifest, "engine", dict), self.get(manifest, "model", dict)
        prompt = manifest.get("prompt")
        if prompt is not None and not isinstance(prompt, str):
            self.fail("prompt", "a string or null", prompt)
        token_ids = self.integers(manifest, "token_ids")
        positions = self.integers(manifest, "positions")
        if len(token_ids) != len(positions):
            self.fail("positions", f"{len(token_ids)}, one a token", len(positions))
        for record in sites.values():
            tokens = len(token_ids) if Scope.ALL in record.stats else 1
            if record.shape[0] != tokens:
                self.fail(f"{record.site}.shape", f"{tokens} tokens", record.shape)
        return ForwardTrace(
            engine=EngineInfo(
                **{
                    key: self.get(engine, key, str, "engine.")
                    for key in ("name", "build", "numerics", "device")
                }
            ),
            model=ModelInfo(
                **{
                    key: self.get(model, key, str, "model.")
                    for key in ("name", "format", "architecture", "fingerprint")
                }
            ),
            config=self.get(manifest, "config", dict),
            token_ids=token_ids,
            positions=positions,
            prompt=prompt,
            sites=in_forward_order(sites),
            arrays=RecordedArrays(path, {name: sites[name] for name in shapes}),
            not_observed=self.slots(manifest.get("not_observed", [])),
            ddof=self.get(manifest, "ddof", int),
            host=self.get(manifest, "host", dict),
        )

    def _sites(self, manifest: dict[str, Any]) -> dict[str, SiteRecord]:
        sites: dict[str, SiteRecord] = {}
        for entry in self.get(manifest, "sites", list):
            if not isinstance(entry, dict):
                self.fail("sites", "objects", entry)
            site = self.site(self.get(entry, "site", str, "sites."))
            shape = self.get(entry, "shape", list, f"{site}.")
            if len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):  # noqa: PLR2004 - a pair
                self.fail(f"{site}.shape", "[tokens, width]", shape)
            if str(site) in sites:
                self.fail("sites", "each site once", f"{site} twice")
            sites[str(site)] = SiteRecord(
                site=site,
                capture_point=self.get(entry, "capture_point", str, f"{site}."),
                dtype=self.get(entry, "dtype", str, f"{site}."),
                shape=(shape[0], shape[1]),
                stats={},
            )
            scopes = self.get(entry, "scopes", list, f"{site}.")
            if not scopes or any(s not in ("all", "last") for s in scopes):
                self.fail(f"{site}.scopes", "all, last", scopes)
        return sites

    def _stats(
        self,
        manifest: dict[str, Any],
        stats: np.ndarray | None,
    ) -> dict[str, dict[Scope, list[float]]]:
        rows, columns = self.get(manifest, "stats_rows", list), manifest.get("stats_columns")
        if columns != list(FIELDS):
            self.fail("stats_columns", " ".join(FIELDS), columns)
        shape = (len(rows), len(FIELDS))
        if stats is None or stats.shape != shape:
            self.fail("stats", f"float64 {shape}", "none" if stats is None else stats.shape)
        wanted = {
            (entry["site"], scope) for entry in manifest["sites"] for scope in entry["scopes"]
        }
        named: dict[str, dict[Scope, list[float]]] = {}
        for row, values in zip(rows, stats, strict=True):
            site, _, scope = row.partition(" ") if isinstance(row, str) else ("", "", "")
            if (site, scope) not in wanted:
                self.fail("stats_rows", "each site and scope of `sites` once", row)
            wanted.remove((site, scope))
            self._check_row(row, dict(zip(FIELDS, values.tolist(), strict=True)))
            named.setdefault(str(parse_site(site)), {})[Scope(scope)] = values.tolist()
        if wanted:
            self.fail("stats_rows", "each site and scope of `sites` once", f"no {wanted.pop()}")
        return named

    def _check_row(self, row: str, values: dict[str, float]) -> None:
        """Refuse statistics that no values can have."""
        counts = [values[name] for name in FIELDS[:4]]
        if not all(v.is_integer() and v >= 0 for v in counts):
            self.fail(f"stats of {row}", "counts: whole numbers of at least 0", counts)
        count, nan_count, inf_count, zero_count = counts
        finite = count - nan_count - inf_count
        if not zero_count <= finite:
            self.fail(f"stats of {row}", f"at most {count:.0f} values in all", counts)
        if not (math.isfinite(values["mean"]) and values["std"] >= 0 and values["rms"] >= 0):
            self.fail(f"stats of {row}", "a finite mean, and std and rms of at least 0", values)
        if finite and not values["min"] <= values["max"]:
            self.fail(f"stats of {row}", "a minimum that is no more than the maximum", values)

    def _with_stats(self, record: SiteRecord, rows: dict[Scope, list[float]]) -> SiteRecord:
        measured = {scope: stats_from_row(row) for scope, row in rows.items()}
        for scope, stats in measured.items():
            tokens = record.shape[0] if scope is Scope.ALL else 1
            if stats.count != tokens * record.shape[1]:
                self.fail(
                    f"{record.site} {scope.value}",
                    f"{tokens * record.shape[1]} values, {tokens} x {record.shape[1]}",
                    stats.count,
                )
        return SiteRecord(
            site=record.site,
            capture_point=record.capture_point,
            dtype=record.dtype,
            shape=record.shape,
            stats=measured,
        )
