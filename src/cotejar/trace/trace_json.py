"""The JSON of `apr trace --json --payload`, upstream's and ours, read as a recorded trace.

Each site has `min max mean std_dev nan_count inf_count zero_count count`. Upstream's says
neither which tokens the statistics cover, nor the ddof, nor where a site was read: unknown.
Ours has `scopes`, `ddof`, `capture_point` and `shape` beside them, and its manifest, which
are read where they are there.

There are no arrays. The root mean square, which the JSON of upstream's does not have, is
derived from mean and standard deviation as if that had ddof 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

from cotejar.errors import TraceError
from cotejar.formats.json_object import MAX_JSON_BYTES, parse_json_object
from cotejar.formats.mapped_file import open_mapped
from cotejar.model.config import MAX_LAYERS
from cotejar.trace.forward_trace import (
    UNKNOWN,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    SiteRecord,
    in_forward_order,
)
from cotejar.trace.manifest import UNKNOWN_SHAPE, ManifestReader
from cotejar.trace.site import CONTRACT_SLOTS, SLOT_ALIASES, SLOTS, Site, current_capture_point
from cotejar.trace.stats import DDOF, FIELDS, ActivationStats

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG_KEYS = {
    "architecture": "architecture",
    "num_layers": "num_layers",
    "hidden_dim": "hidden_size",
    "vocab_size": "vocab_size",
    "num_heads": "num_heads",
    "num_kv_heads": "num_kv_heads",
}
"""Keys of the JSON, and those of a trace's configuration."""
_OUTSIDE = {"embedding": "embed", "final_norm": "final_norm", "logits_stats": "logits"}
_NO_KEY = frozenset(SLOTS) - set(CONTRACT_SLOTS)
"""Slots for which upstream's JSON has no key."""
_MAX_COUNT = 1 << 53
"""Beyond it a count is no whole number of float64 any more."""
_HINT = "write it again: `apr trace MODEL --payload --json > trace.json`"


def read_trace_json(path: Path) -> ForwardTrace:
    """Read a trace's JSON.

    Raises:
        FileError: the file cannot be read.
        MetadataError: it is no JSON object.
        TraceError: it holds no statistics, or ones that no values can have; a layer twice.
    """
    with open_mapped(path) as mapped:
        if mapped.size_bytes > MAX_JSON_BYTES:
            _Json(path).fail("size", f"at most {MAX_JSON_BYTES} bytes", mapped.size_bytes)
        data = mapped.bytes(0, mapped.size_bytes, "the JSON")
    return _Json(path).trace(parse_json_object(data, where=str(path), unique=True))


class _Json:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._ddofs: set[int | None] = set()

    def fail(self, part: str, expected: str, found: object) -> NoReturn:
        raise TraceError(
            f"the JSON is no trace: {part}",
            where=str(self._path),
            expected=expected,
            found=f"{found!s:.120}",
            hint=_HINT,
        )

    def trace(self, content: dict[str, Any]) -> ForwardTrace:
        sites = {}
        for key, slot in _OUTSIDE.items():
            if content.get(key) is not None:
                site = Site(slot)
                sites[str(site)] = self._record(site, content[key])
        sites |= self._layers(content.get("layers"))
        if not sites:
            self.fail("sites", "statistics of at least one", "none: was it run with --payload?")
        # Ours holds the manifest of the trace file; of upstream's, all in it is unknown.
        manifest = content.get("manifest")
        manifest = manifest if isinstance(manifest, dict) else {}
        reader = ManifestReader(str(self._path))
        ours = bool(manifest)
        token_ids = reader.integers(
            {"encoded_tokens": content.get("encoded_tokens")}, "encoded_tokens"
        )
        prompt = content.get("prompt")
        if prompt is not None and not isinstance(prompt, str):
            self.fail("prompt", "a string or null", prompt)
        ddofs = self._ddofs
        return ForwardTrace(
            engine=reader.engine(manifest)
            if ours
            else EngineInfo(name="upstream", build=UNKNOWN, numerics=UNKNOWN, device=UNKNOWN),
            model=reader.model(manifest)
            if ours
            else ModelInfo(
                name=self._path.name,
                format=str(content.get("format") or UNKNOWN)[:80],
                architecture=str(content.get("architecture") or UNKNOWN)[:80],
                fingerprint="",
            ),
            config=reader.get(manifest, "config", dict) if ours else self._config(content),
            token_ids=token_ids,
            positions=reader.integers(manifest, "positions"),
            prompt=prompt,
            passes=reader.passes(manifest, len(token_ids)),
            sites=in_forward_order(sites),
            not_observed=reader.slots(manifest) if ours else _NO_KEY,
            ddof=next(iter(ddofs)) if len(ddofs) == 1 else None,
            host=reader.get(manifest, "host", dict, default={}),
        )

    def _config(self, content: dict[str, Any]) -> dict[str, object]:
        found = {}
        for theirs, ours in _CONFIG_KEYS.items():
            value = content.get(theirs)
            if value is None:
                continue
            is_text = ours == "architecture"
            if not (isinstance(value, str) if is_text else type(value) is int and value > 0):
                self.fail(theirs, "a text" if is_text else "a whole number above 0", value)
            found[ours] = value
        return found

    def _layers(self, layers: object) -> dict[str, SiteRecord]:
        if layers is None:
            return {}
        if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
            self.fail("layers", f"a list of at most {MAX_LAYERS}", f"{layers!s:.40}")
        sites: dict[str, SiteRecord] = {}
        seen: set[int] = set()
        for entry in layers:
            index = entry.get("layer_idx") if isinstance(entry, dict) else None
            if type(index) is not int or not 0 <= index < MAX_LAYERS:
                self.fail("layers", "objects with a layer_idx from 0", f"{entry!s:.40}")
            if index in seen:
                self.fail("layers", "each layer once", f"layer {index} twice")
            seen.add(index)
            for key, value in entry.items():
                slot = SLOT_ALIASES.get(key, key)
                if slot not in SLOTS or value is None:
                    continue
                site = Site(slot, index)
                if str(site) in sites:
                    self.fail("sites", "each site once", f"{site} twice")
                sites[str(site)] = self._record(site, value)
        return sites

    def _record(self, site: Site, value: object) -> SiteRecord:
        if not isinstance(value, dict):
            self.fail(str(site), "an object of statistics", value)
        scopes = value.get("scopes", {f"{value.get('scope', 'unknown')}": value})
        if not isinstance(scopes, dict) or not set(scopes) <= {s.value for s in Scope}:
            self.fail(f"{site}.scopes", "all, last", f"{scopes!s:.40}")
        if not scopes:
            self.fail(f"{site}.scopes", "at least one", "none")
        shape = self._shape(site, value)
        ddof = value.get("ddof")
        if ddof is not None and type(ddof) is not int:
            self.fail(f"{site}.ddof", "a whole number", ddof)
        self._ddofs.add(ddof)
        capture_point = value.get("capture_point", UNKNOWN)
        if not isinstance(capture_point, str):
            self.fail(f"{site}.capture_point", "a text", capture_point)
        capture_point = current_capture_point(capture_point)
        stats = {Scope(s): self._stats(f"{site} {s}", of) for s, of in scopes.items()}
        for scope, measured in stats.items():
            tokens = 1 if scope is Scope.LAST else shape[0]
            if shape != UNKNOWN_SHAPE and measured.count != tokens * shape[1]:
                self.fail(
                    f"{site} {scope.value}", f"{tokens * shape[1]} values", measured.count
                )
        return SiteRecord(
            site=site, capture_point=capture_point, dtype=UNKNOWN, shape=shape, stats=stats
        )

    def _shape(self, site: Site, value: dict[str, Any]) -> tuple[int, int]:
        shape = value.get("shape", list(UNKNOWN_SHAPE))
        if not isinstance(shape, list) or [type(n) for n in shape] != [int, int]:
            self.fail(f"{site}.shape", "[tokens, width]", shape)
        if min(shape) <= 0 and tuple(shape) != UNKNOWN_SHAPE:
            self.fail(f"{site}.shape", "[tokens, width], both above 0", shape)
        return (shape[0], shape[1])

    def _stats(self, part: str, value: object) -> ActivationStats:
        if not isinstance(value, dict):
            self.fail(part, "an object of statistics", value)
        counts = {key: self._count(part, value, key) for key in FIELDS[:4]}
        finite = counts["count"] - counts["nan_count"] - counts["inf_count"]
        if not 0 <= counts["zero_count"] <= finite or counts["count"] == 0:
            self.fail(part, "counts of at least one value", counts)
        if finite == 0:
            least, greatest, mean, std = math.inf, -math.inf, 0.0, 0.0
        else:
            least, greatest, mean, std = (
                self._number(part, value, key) for key in ("min", "max", "mean", "std_dev")
            )
        if finite and not (least <= greatest and std >= 0):
            self.fail(part, "a minimum no more than the maximum, a std of at least 0", value)
        return ActivationStats(
            **counts,
            min=least,
            max=greatest,
            mean=mean,
            sum_squared_deviations=std * std * max(finite - DDOF, 0),
        )

    def _count(self, part: str, value: dict[str, Any], key: str) -> int:
        count = value.get(key)
        if type(count) is not int or not 0 <= count < _MAX_COUNT:
            self.fail(f"{part}.{key}", "a whole number of at least 0", count)
        return count

    def _number(self, part: str, value: dict[str, Any], key: str) -> float:
        number = value.get(key)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            self.fail(f"{part}.{key}", "a finite number", number)
        try:
            return float(number)
        except OverflowError:
            self.fail(f"{part}.{key}", "a finite number", f"{number!s:.40}")
