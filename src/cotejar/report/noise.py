"""A noise profile for people: how far each engine lies from exact, slot by slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.report.tables import (
    Column,
    counted,
    heading,
    output_width,
    render_table,
    render_text,
    visible,
)
from cotejar.trace.forward_trace import Scope
from cotejar.trace.site import CAPTURE_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.parity.noise import EngineNoise, NoiseProfile


def noise_lines(profile: NoiseProfile) -> Iterator[str]:
    """The text of `apr noise`."""
    yield (
        f"{visible(profile.model.name)}  {profile.model.fingerprint[:19]}  "
        f"{counted(len(profile.prompts), 'prompt')}, {counted(profile.num_tokens, 'token')}"
    )
    yield ""
    yield heading("relative L2 to the float64 oracle: worst token, median token; worst layer")
    columns = [
        Column("slot"),
        *(Column(visible(e.name), is_number=True) for e in profile.engines),
    ]
    rows = [
        [slot, *(_cell(engine, slot) for engine in profile.engines)]
        for slot in CAPTURE_POINTS
        if any(_worst(engine, slot, "rel_l2_max") is not None for engine in profile.engines)
    ]
    yield from render_table(columns, rows, output_width())
    yield ""
    for engine in profile.engines:
        logits = engine.sites.get("logits", {}).get(Scope.ALL, {})
        kl, lead = logits.get("kl_max"), logits.get("top1_flip_margin")
        if kl is not None and lead is not None:
            yield (
                f"{visible(engine.name)}  KL {kl.value:.2e} nats, a lead changes by "
                f"{lead.value:.2e} logits, at most"
            )
    for name, reason in profile.left_out:
        yield from render_text(f"left out: {visible(name)}: {visible(reason)}", output_width())


def _cell(engine: EngineNoise, slot: str) -> str:
    values = [_worst(engine, slot, metric) for metric in ("rel_l2_max", "rel_l2_median")]
    return ", ".join("-" if value is None else f"{value:.2e}" for value in values)


def _worst(engine: EngineNoise, slot: str, metric: str) -> float | None:
    """Over the layers; None for what the engine cannot observe."""
    found = [
        noise.value
        for name, site in engine.sites.items()
        if name.rpartition(".")[2] == slot
        and (noise := site.get(Scope.ALL, {}).get(metric)) is not None
    ]
    return max(found, default=None)
