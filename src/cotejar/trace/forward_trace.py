"""A forward trace: what one run of one model over one list of tokens recorded."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from cotejar.errors import UsageError
from cotejar.trace.array_store import PART_BYTES, ArrayStore
from cotejar.trace.counted_step import CountedStep
from cotejar.trace.site import CAPTURE_POINTS, Site, known_site, parse_slot
from cotejar.trace.stats import (
    DDOF,
    ActivationStats,
    measure_in_kernel,
    measure_rows,
    measured_parts,
    read_stats,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from jaxtyping import Float

    from cotejar.trace.counted_step import StepLayout


UNKNOWN = "unknown"
"""What a recorded trace does not say. It equals nothing, not even itself."""


class Scope(enum.Enum):
    """Which token positions a statistic covers."""

    ALL = "all"
    LAST = "last"
    UNKNOWN = "unknown"
    """A recorded trace does not say. Nothing is compared in it."""

    # Enum's own hash runs in Python, which a trace of small layers feels.
    __hash__ = object.__hash__


BOTH_SCOPES = (Scope.ALL, Scope.LAST)


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Read `all`, `last` or `both`.

    Raises:
        UsageError: another word.
    """
    if text == "both":
        return BOTH_SCOPES
    if text in {"all", "last"}:
        return (Scope(text),)
    raise UsageError(
        f"{text!r} is no scope",
        where="scope",
        expected="all, last or both",
        found=text,
        hint="a scope says which token positions a statistic covers",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInfo:
    """Which program computed, and in which arithmetic."""

    name: str
    """`oracle`, `native`, `llamacpp`, ..."""
    build: str
    """Version of the engine and of the arithmetic under it."""
    numerics: str
    """`f64`, `f32`, `q8`, `bf16`, `w8a8`, ..."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """Which model was run."""

    name: str
    """The file's name, without its folder."""
    format: str
    architecture: str
    fingerprint: str
    """Of the weights, the same for every container that holds them; `sha256:...`."""
    product_types: tuple[str, ...] = ()
    """Block types of the weights in its matrix products: `Q4_K`; empty where nobody says."""


_ROUNDED_TO = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_COARSEST_FIRST = ("q8", "bf16", "f16", "f32")


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """What a run is asked to record."""

    scopes: tuple[Scope, ...] = BOTH_SCOPES
    array_slots: frozenset[str] = frozenset()
    """Slots whose arrays are kept, not only their statistics."""
    layers: frozenset[int] | None = None
    """Layers to record; None for all. Sites outside the layers are always recorded."""

    def wants_site(self, site: Site) -> bool:
        """Is this site recorded at all?"""
        return self.layers is None or site.layer is None or site.layer in self.layers

    def wants_array(self, site: Site) -> bool:
        """Is this site's array kept?"""
        return site.slot in self.array_slots


EVERY_ARRAY = frozenset(CAPTURE_POINTS)


def parse_capture(text: str) -> frozenset[str]:
    """Read `all`, or slots with commas between them, as `--capture` takes them.

    Raises:
        UnknownSiteError: a slot that does not exist.
        UsageError: no slot is named.
    """
    if text == "all":
        return EVERY_ARRAY
    whole = {"embed", "final_norm", "logits"}
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(
            "no array is named",
            where="--capture",
            expected=f"all, or of: {' '.join(CAPTURE_POINTS)}",
            found=repr(text[:80]),
            hint="leave --capture out to keep statistics only",
        )
    return frozenset(name if name in whole else parse_slot(name) for name in names)


def parse_layers(text: str, num_layers: int) -> frozenset[int]:
    """Read `3`, `0..4` (both ends included) or several of them with commas between.

    Raises:
        UsageError: no such layer, or no number.
    """
    wanted: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        ends = (first, last if dots else first)
        if not all(end.isascii() and end.isdigit() and len(end) < 7 for end in ends):  # noqa: PLR2004 - a million layers
            raise _no_layer(text, part, num_layers)
        start, stop = int(ends[0]), int(ends[1])
        if start > stop or stop >= num_layers:
            raise _no_layer(text, part, num_layers)
        wanted |= set(range(start, stop + 1))
    return frozenset(wanted)


def _no_layer(text: str, part: str, num_layers: int) -> UsageError:
    return UsageError(
        f"{part.strip()!r} names no layer of this model",
        where=f"--layer {text}",
        expected=f"N, A..B or several with commas, in 0..{num_layers - 1}",
        found=part.strip() or "nothing",
        hint="layers count from 0",
    )


# Not frozen, for the time that making one takes: see `ActivationStats`.
@dataclass(kw_only=True, slots=True)
class SiteRecord:
    """What is known of one site. Nobody changes one."""

    site: Site
    capture_point: str
    dtype: str
    """Of the values as the engine computed them."""
    shape: tuple[int, int]
    """(tokens, width) of what was recorded: with scope `last` alone, one token. (0, 0) where
    a recorded trace does not say."""
    stats: Mapping[Scope, ActivationStats]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForwardTrace:
    """All that one run recorded."""

    engine: EngineInfo
    model: ModelInfo
    config: Mapping[str, object]
    """`DecoderConfig.comparable()` of the model."""
    token_ids: tuple[int, ...]
    """Empty, as the positions, where a recorded trace does not say."""
    positions: tuple[int, ...]
    prompt: str | None
    """The text that the ids came from, where there was one."""
    passes: tuple[int, ...] = ()
    """How many tokens each pass took, in order: (4, 1, 1) are 4 at once and then 2 that each
    read those before it from the KV cache. Empty where a recorded trace does not say."""
    sites: Mapping[str, SiteRecord]
    """By name, in the order of the forward pass."""
    arrays: Mapping[str, Float[np.ndarray, "T W"]] = field(default_factory=dict)
    """The arrays that were asked for, by site name."""
    not_observed: frozenset[str] = frozenset()
    """Slots that this engine says it cannot observe: absent, and not for want of asking."""
    ddof: int | None = DDOF
    """Of every `std`; None where a recorded trace does not say."""
    host: Mapping[str, str] = field(default_factory=dict)

    @property
    def arithmetic(self) -> tuple[EngineInfo, Mapping[str, str], tuple[int, ...]] | None:
        """What decides the bits; None where a recorded trace does not say all of it."""
        engine = self.engine
        parts = (engine.name, engine.build, engine.numerics, engine.device)
        passes = self.passes or (len(self.token_ids),)
        return None if UNKNOWN in parts or not self.host else (engine, self.host, passes)

    @property
    def products(self) -> str:
        """What the matrix products round activations to: `q8`, `bf16`, `f16`, `f32` or `w8a8`.

        In the numerics `q8` that is as the weight has it, in ggml and here: blocks of 8 bits
        over quantised weights, and over those in floats their own type. The coarsest of a
        model's counts; `q8` where its types are not known. Of other numerics, their name:
        `w8a8` makes groups of 64 whatever the weight.
        """
        name = self.engine.numerics.partition("-")[0]
        if name != "q8" or not self.model.product_types:
            return name
        rounded = {_ROUNDED_TO.get(label, name) for label in self.model.product_types}
        return next(kind for kind in _COARSEST_FIRST if kind in rounded)

    @property
    def num_steps(self) -> int:
        """Tokens, the last ones, that were fed one at a time after the first pass."""
        steps = 0
        while steps < len(self.passes) - 1 and self.passes[-1 - steps] == 1:
            steps += 1
        return steps

    @property
    def num_layers(self) -> int:
        """As the configuration declares it; else as many as have a site."""
        declared = self.config.get("num_layers")
        if isinstance(declared, int):
            return declared
        layers = [r.site.layer for r in self.sites.values() if r.site.layer is not None]
        return 1 + max(layers, default=-1)


class TraceRecorder:
    """Takes statistics, and arrays if asked for, as an engine reaches each site.

    What kernels counted is kept as they gave it and named when `sites` is asked for: a pass
    makes a thousand, and the threads would wait for each.
    """

    def __init__(self, capture: Capture) -> None:
        if not capture.scopes:
            raise UsageError(
                "a trace without a scope records nothing",
                where="capture scopes",
                expected="all, last or both",
                found="none",
                hint="leave the scope out to record both",
            )
        self._capture = capture
        self._every_site = capture.layers is None
        self._takes_all_moments = Scope.ALL in capture.scopes and not capture.array_slots
        self._sites: dict[str, SiteRecord] = {}
        self._counted: list[_Counted | _Joined | CountedStep] = []
        self.arrays = ArrayStore()

    @property
    def sites(self) -> dict[str, SiteRecord]:
        """Every recorded site, by name."""
        counted, self._counted = self._counted, []
        for one in counted:
            if isinstance(one, _Joined):
                self._join(one)
                continue
            if isinstance(one, CountedStep):
                self._name_step(one)
                continue
            slots, moments, layer = one
            for slot, pair in zip(slots, read_stats(moments), strict=True):
                every, last = (stats.count for stats in pair)
                shape = (every // max(last, 1), last)
                stats = self._in_scopes(*pair)
                self._keep(known_site(slot, layer), "float32", shape, stats)
        return self._sites

    @sites.setter
    def sites(self, sites: dict[str, SiteRecord]) -> None:
        self._sites, self._counted = sites, []

    def record(
        self,
        slot: str,
        values_TW: Float[np.ndarray, "T W"],
        layer: int | None,
        *,
        arrange: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Record one site: its statistics in every scope, its array if wanted.

        Args:
            slot: where in the layer.
            values_TW: what the engine computed.
            layer: None for a site outside the layers.
            arrange: brings the array to canonical order, where the engine's own differs;
                statistics do not see the order.
        """
        site = known_site(slot, layer)
        if not self._wants(site):
            return
        if Scope.ALL not in self._capture.scopes:
            values_TW = values_TW[-1:]
        if (raw := measure_in_kernel(values_TW)) is not None:
            self._counted.append(((slot,), raw, layer))
        else:
            stats = self._in_scopes(*measure_rows(values_TW))
            # All that was counted before comes first.
            self.sites[str(site)] = _record_of(
                site, str(values_TW.dtype), values_TW.shape, stats
            )
        if self._capture.wants_array(site):
            arranged_TW = values_TW if arrange is None else arrange(values_TW)
            self.arrays[str(site)] = arranged_TW

    def record_parts(
        self,
        slot: str,
        parts: Iterable[Float[np.ndarray, "N W"]],
        shape: tuple[int, int],
        dtype: np.dtype,
    ) -> None:
        """Record a site outside the layers whose rows come by parts, which are not kept.

        Logits of a long prompt are larger than the model. All positions are in scope.
        """
        site = known_site(slot, None)
        measured: list[tuple[ActivationStats, ActivationStats]] = []
        rows = measured_parts(parts, measured)
        if self._capture.wants_array(site):
            self.arrays.write_rows(str(site), dtype, shape, rows)
        for _ in rows:
            pass
        every = reduce(ActivationStats.merged, (part[0] for part in measured))
        stats = self._in_scopes(every, measured[-1][1])
        self.sites[str(site)] = _record_of(site, str(dtype), shape, stats)

    def takes_parts(self, values_bytes: int) -> bool:
        """Is so large an array better recorded by parts?"""
        return values_bytes > PART_BYTES and Scope.ALL in self._capture.scopes

    @property
    def wants_arrays(self) -> bool:
        """Is any array kept?"""
        return bool(self._capture.array_slots)

    def takes_moments(self, slots: Sequence[str]) -> bool:
        """May these slots come by `record_moments`: no array, all positions?"""
        capture = self._capture
        return self._takes_all_moments or (
            Scope.ALL in capture.scopes and capture.array_slots.isdisjoint(slots)
        )

    def record_moments(
        self,
        slots: Sequence[str],
        moments: bytes,
        layer: int | None,
    ) -> None:
        """Record float32 sites of one layer whose values a kernel has measured on the way."""
        if self._every_site or layer is None or self._wants(known_site(slots[0], layer)):
            self._counted.append((slots, moments, layer))

    @property
    def takes_step(self) -> bool:
        """May a pass of one token come by `record_step`: no array, or the logits alone?"""
        return self._capture.array_slots <= {"logits"}

    def record_step(
        self, layout: StepLayout, moments: bytes, logits_1V: Float[np.ndarray, "1 V"]
    ) -> None:
        """Record all sites of a pass of one token, which a kernel has counted on the way."""
        self._counted.append(CountedStep(layout, moments))
        if self.wants_arrays:
            self.arrays["logits"] = logits_1V

    @property
    def step(self) -> CountedStep | None:
        """What `record_step` was given, if that is all that was recorded and not yet named."""
        if self._sites or len(self._counted) != 1:
            return None
        only = self._counted[0]
        return only if isinstance(only, CountedStep) else None

    def _name_step(self, step: CountedStep) -> None:
        stats = step.layout.read(step.moments).named()
        for (site, width), one in zip(step.layout.sites, stats, strict=True):
            if self._wants(site):
                self._keep(site, "float32", (1, width), self._in_scopes(one, one))

    def _wants(self, site: Site) -> bool:
        return self._every_site or self._capture.wants_site(site)

    def _in_scopes(
        self, every: ActivationStats, last: ActivationStats
    ) -> dict[Scope, ActivationStats]:
        if self._capture.scopes is BOTH_SCOPES:
            return {Scope.ALL: every, Scope.LAST: last}
        return {scope: every if scope is Scope.ALL else last for scope in self._capture.scopes}

    def record_joined(
        self,
        slot: str,
        parts: Sequence[str],
        layer: int | None,
        *,
        join: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Record a site that is others side by side: its statistics are theirs, merged.

        Args:
            slot: where in the layer.
            parts: the others' slots, recorded before, in order.
            layer: their layer.
            join: gives the array in canonical order, and is asked if that is wanted; who
                leaves it out has asked `takes_moments`.
        """
        if not self._every_site and not self._wants(known_site(slot, layer)):
            return
        self._counted.append(_Joined(slot, parts, layer))
        if join is not None and self._capture.wants_array(site := known_site(slot, layer)):
            joined_TW = join()
            if Scope.ALL not in self._capture.scopes:
                joined_TW = joined_TW[-1:]
            self.arrays[str(site)] = joined_TW

    def _join(self, joined: _Joined) -> None:
        records = [self._sites[str(known_site(part, joined.layer))] for part in joined.parts]
        stats = dict(records[0].stats)
        for record in records[1:]:
            stats = {scope: part.merged(record.stats[scope]) for scope, part in stats.items()}
        width = sum(record.shape[1] for record in records)
        site = known_site(joined.slot, joined.layer)
        self._keep(site, records[0].dtype, (records[0].shape[0], width), stats)

    def _keep(
        self,
        site: Site,
        dtype: str,
        shape: tuple[int, ...],
        stats: Mapping[Scope, ActivationStats],
    ) -> None:
        self._sites[str(site)] = _record_of(site, dtype, shape, stats)


# Plain, since to make a named one takes five times as long and the threads wait for it.
_Counted: TypeAlias = "tuple[Sequence[str], bytes, int | None]"
"""Sites of one layer as kernels counted them: their slots, their moments, the layer."""


class _Joined(NamedTuple):
    """A site that is others side by side."""

    slot: str
    parts: Sequence[str]
    layer: int | None


def _record_of(
    site: Site, dtype: str, shape: tuple[int, ...], stats: Mapping[Scope, ActivationStats]
) -> SiteRecord:
    tokens, width = shape
    return SiteRecord(
        site=site,
        capture_point=CAPTURE_POINTS[site.slot],
        dtype=dtype,
        shape=(tokens, width),
        stats=stats,
    )


def in_forward_order(records: Mapping[str, SiteRecord]) -> dict[str, SiteRecord]:
    """Sort records as a forward pass reaches them."""
    return dict(sorted(records.items(), key=lambda item: item[1].site.order))
