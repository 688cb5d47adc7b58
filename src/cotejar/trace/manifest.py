"""The manifest of a trace file: from a trace to JSON, and back from strangers' JSON.

`docs/trace-file.md` has every key. A foreign trace may leave out what its program does not
know. That becomes unknown (an empty list, `UNKNOWN`, None), and never a default: what
compares traces leaves what rests on it undecided.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from cotejar.errors import TraceError, TraceSchemaError, UnknownSiteError
from cotejar.trace.forward_trace import UNKNOWN, EngineInfo, ModelInfo, Scope, SiteRecord
from cotejar.trace.recorded_arrays import RERECORD_HINT
from cotejar.trace.site import CAPTURE_POINTS, Site, current_capture_point, parse_site
from cotejar.trace.stats import FIELDS, stats_from_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from cotejar.trace.forward_trace import ForwardTrace

SCHEMA_VERSION = "1"
MANIFEST_KEY = "cotejar.trace"
UNKNOWN_SHAPE = (0, 0)
_MAX_DIGITS = 18
"""Of an integer in a manifest: JSON sets no limit, and sizes are multiplied here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedArray:
    """What the file's header says of one array."""

    shape: tuple[int, ...]
    dtype: str
    """numpy's name."""


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
            "product_types": list(trace.model.product_types),
        },
        "config": dict(trace.config),
        "token_ids": list(trace.token_ids),
        "positions": list(trace.positions),
        "prompt": trace.prompt,
        "passes": list(trace.passes),
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


class ManifestReader:
    """Reads a manifest from strangers: every field is checked before it is used."""

    def __init__(self, where: str) -> None:
        self._where = where

    def fail(self, part: str, expected: str, found: object) -> NoReturn:
        """Refuse the trace.

        Raises:
            TraceError: always.
        """
        raise TraceError(
            f"the trace does not hold together: {part}",
            where=self._where,
            expected=expected,
            found=f"{found!s:.120}",
            hint=RERECORD_HINT,
        )

    def parse(self, text: str | None) -> dict[str, Any]:
        """Read the JSON, without the keys whose value is null."""
        if text is None:
            self.fail("manifest", f"header metadata {MANIFEST_KEY}", "none")
        try:
            manifest = json.loads(text, parse_int=_read_int, parse_constant=_refuse_constant)
            # Half a surrogate pair can be escaped in JSON, and be written nowhere again.
            json.dumps(manifest, ensure_ascii=False).encode()
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
        return {key: value for key, value in manifest.items() if value is not None}

    def engine(self, manifest: dict[str, Any]) -> EngineInfo:
        """Who computed; what is left out is unknown."""
        engine = self.get(manifest, "engine", dict, default={})
        return EngineInfo(
            **{
                key: self.get(engine, key, str, "engine.", default=UNKNOWN)
                for key in ("name", "build", "numerics", "device")
            }
        )

    def model(self, manifest: dict[str, Any]) -> ModelInfo:
        """What was run; an unknown fingerprint is empty."""
        model = self.get(manifest, "model", dict, default={})
        return ModelInfo(
            fingerprint=self.get(model, "fingerprint", str, "model.", default=""),
            product_types=self._product_types(model),
            **{
                key: self.get(model, key, str, "model.", default=UNKNOWN)
                for key in ("name", "format", "architecture")
            },
        )

    def _product_types(self, model: dict[str, Any]) -> tuple[str, ...]:
        labels = self.get(model, "product_types", list, "model.", default=[])
        if not all(isinstance(label, str) for label in labels):
            self.fail("model.product_types", "names of block types", labels)
        return tuple(labels)

    def slots(self, manifest: dict[str, Any]) -> frozenset[str]:
        """The slots that the engine cannot observe."""
        names = manifest.get("not_observed", [])
        if not isinstance(names, list) or not all(n in CAPTURE_POINTS for n in map(str, names)):
            self.fail("not_observed", "names of slots", names)
        return frozenset(str(name) for name in names)

    def integers(self, manifest: dict[str, Any], key: str) -> tuple[int, ...]:
        """A list of them; of what is left out, none."""
        values = self.get(manifest, key, list, default=[])
        if not all(type(v) is int and 0 <= v < 1 << 31 for v in values):
            self.fail(key, "whole numbers in 0..2147483647", values)
        return tuple(values)

    def passes(self, manifest: dict[str, Any], num_tokens: int) -> tuple[int, ...]:
        """Tokens of each pass; of what is left out, none."""
        passes = self.integers(manifest, "passes")
        if passes and (0 in passes or sum(passes) != num_tokens):
            self.fail("passes", f"numbers above 0 that sum to {num_tokens} tokens", passes)
        return passes

    def ddof(self, manifest: dict[str, Any]) -> int | None:
        """None where it is left out."""
        value = manifest.get("ddof")
        if value is not None and not (type(value) is int and 0 <= value < 1 << 31):
            self.fail("ddof", "a whole number, or null", value)
        return value

    def sites(
        self, manifest: dict[str, Any], arrays: Mapping[str, RecordedArray]
    ) -> dict[str, SiteRecord]:
        """Every site, still without statistics, each of its scopes with none."""
        sites: dict[str, SiteRecord] = {}
        for entry in self.get(manifest, "sites", list):
            if not isinstance(entry, dict):
                self.fail("sites", "objects", entry)
            site = self._site(self.get(entry, "site", str, "sites."))
            if str(site) in sites:
                self.fail("sites", "each site once", f"{site} twice")
            sites[str(site)] = self._record(site, entry, arrays.get(str(site)))
        return sites

    def check_arrays(
        self, sites: Mapping[str, SiteRecord], arrays: Mapping[str, RecordedArray]
    ) -> None:
        """Each array is that of a site, in its shape."""
        for name, array in arrays.items():
            if name not in sites or array.shape != sites[name].shape:
                expected = sites[name].shape if name in sites else "a site of the manifest"
                self.fail(f"array {name}", str(expected), array.shape)

    def _site(self, name: str) -> Site:
        try:
            return parse_site(name)
        except UnknownSiteError as error:
            self.fail("sites", error.parts["expected"], name)

    def _record(
        self, site: Site, entry: dict[str, Any], array: RecordedArray | None
    ) -> SiteRecord:
        shape = entry.get("shape")
        scopes = self.scopes(site, entry)
        if shape is None:
            shape = list(UNKNOWN_SHAPE if array is None else array.shape)
        is_pair = isinstance(shape, list) and len(shape) == 2  # noqa: PLR2004 - a pair
        is_unknown = shape == list(UNKNOWN_SHAPE) and array is None
        if is_unknown and scopes != (Scope.UNKNOWN,):
            self.fail(f"{site}.shape", f"[tokens, width] for scope {scopes[0].value}", "none")
        if not (is_pair and all(type(n) is int and (n > 0 or is_unknown) for n in shape)):
            self.fail(f"{site}.shape", "[tokens, width]", shape)
        return SiteRecord(
            site=site,
            capture_point=current_capture_point(
                self.get(entry, "capture_point", str, f"{site}.", default=UNKNOWN)
            ),
            dtype=self.get(
                entry, "dtype", str, f"{site}.", default=array.dtype if array else UNKNOWN
            ),
            shape=(shape[0], shape[1]),
            stats={},
        )

    def scopes(self, site: Site, entry: dict[str, Any]) -> tuple[Scope, ...]:
        """The scopes of an entry; of none, unknown."""
        scopes = self.get(entry, "scopes", list, f"{site}.", default=["unknown"])
        if scopes == ["unknown"]:
            return (Scope.UNKNOWN,)
        if not scopes or any(s not in ("all", "last") for s in scopes):
            self.fail(f"{site}.scopes", "all, last", scopes)
        return tuple(map(Scope, scopes))

    def has_stats(self, manifest: dict[str, Any], stats: np.ndarray | None) -> bool:
        """Does the file hold statistics? One that holds none must hold every array."""
        return stats is not None or any(
            key in manifest for key in ("stats_rows", "stats_columns")
        )

    def with_stats(
        self,
        manifest: dict[str, Any],
        stats: np.ndarray | None,
        sites: dict[str, SiteRecord],
    ) -> dict[str, SiteRecord]:
        """The sites with the statistics that the file holds."""
        named = self._rows(manifest, stats)
        return {
            name: self._with_rows(record, named.get(name, {})) for name, record in sites.items()
        }

    def _rows(
        self, manifest: dict[str, Any], stats: np.ndarray | None
    ) -> dict[str, dict[Scope, list[float]]]:
        rows, columns = self.get(manifest, "stats_rows", list), manifest.get("stats_columns")
        if columns != list(FIELDS):
            self.fail("stats_columns", " ".join(FIELDS), columns)
        shape = (len(rows), len(FIELDS))
        if stats is None or stats.shape != shape:
            self.fail("stats", f"float64 {shape}", "none" if stats is None else stats.shape)
        wanted = {
            (entry["site"], scope.value)
            for entry in manifest["sites"]
            for scope in self.scopes(parse_site(entry["site"]), entry)
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

    def _with_rows(self, record: SiteRecord, rows: dict[Scope, list[float]]) -> SiteRecord:
        measured = {scope: stats_from_row(row) for scope, row in rows.items()}
        for scope, stats in measured.items():
            tokens = 1 if scope is Scope.LAST else record.shape[0]
            if record.shape != UNKNOWN_SHAPE and stats.count != tokens * record.shape[1]:
                self.fail(
                    f"{record.site} {scope.value}",
                    f"{tokens * record.shape[1]} values, {tokens} x {record.shape[1]}",
                    stats.count,
                )
        return replace(record, stats=measured)

    def get(
        self,
        holder: dict[str, Any],
        key: str,
        kind: type,
        path: str = "",
        *,
        default: Any = None,
    ) -> Any:
        """A value of that kind, or the default if it is left out and there is one."""
        value = holder.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fail(f"{path}{key}", kind.__name__, repr(value))
        return value


def _read_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
