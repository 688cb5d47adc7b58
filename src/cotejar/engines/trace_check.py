"""Is a trace that another process sent the one that was asked for?

A trace file that opens is whole in itself (`read_trace`); here it is held against the
request and the model: engine, tokens, sites, widths, arrays. Values that are not finite are
no error here: a model can make them, and the precondition `finite` judges them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.errors import EngineDataError
from cotejar.trace.forward_trace import Scope
from cotejar.trace.site import CONTRACT_SLOTS, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.engines.spec import EngineSpec
    from cotejar.model.config import DecoderConfig
    from cotejar.trace.forward_trace import Capture, EngineInfo, ForwardTrace, SiteRecord


def check_trace(
    trace: ForwardTrace,
    *,
    spec: EngineSpec,
    info: EngineInfo,
    config: DecoderConfig,
    token_ids: Sequence[int],
    num_steps: int = 0,
    capture: Capture,
) -> None:
    """Refuse a trace that is not of this run.

    Raises:
        EngineDataError: with the first thing that differs.
    """
    differences = (
        *_of_the_run(trace, spec, info, token_ids),
        *_of_the_steps(trace, num_steps),
        *_missing_sites(trace, spec, config, capture),
        *(d for r in trace.sites.values() for d in _of_a_site(r, trace, config, capture)),
        *_missing_arrays(trace, capture),
    )
    for what, expected, found in differences:
        raise EngineDataError(
            f"the engine sent another trace than it was asked for: {what}",
            where=f"engine {spec.name}",
            expected=expected,
            found=found,
            hint="nothing was measured; the fault is the engine's",
        )


def slot_width(slot: str, config: DecoderConfig) -> int:
    """Values a token at a slot."""
    q_size, kv_size = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    widths = {
        "logits": config.vocab_size,
        "qkv": q_size + 2 * kv_size,
        **dict.fromkeys(("q", "q_rope", "attn_context"), q_size),
        **dict.fromkeys(("k", "v", "k_rope"), kv_size),
        **dict.fromkeys(
            ("ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner"), config.ffn_size
        ),
    }
    return widths.get(slot, config.hidden_size)


Difference = tuple[str, str, str]
"""What, what was expected, what was found."""


def _of_the_run(
    trace: ForwardTrace, spec: EngineSpec, info: EngineInfo, token_ids: Sequence[int]
) -> Iterator[Difference]:
    if trace.engine != info:
        yield "its engine", str(info), str(trace.engine)
    if trace.token_ids != tuple(token_ids):
        yield "its tokens", f"the {len(token_ids)} asked for", f"{len(trace.token_ids)} others"
    if trace.positions != tuple(range(len(token_ids))):
        yield "its positions", f"0..{len(token_ids) - 1}", str(trace.positions)[:80]
    if not trace.not_observed <= spec.not_observed:
        more = ", ".join(sorted(trace.not_observed - spec.not_observed))
        yield "what it says it cannot observe", "no more than its spec says", more


def _of_the_steps(trace: ForwardTrace, num_steps: int) -> Iterator[Difference]:
    """A trace that says nothing of its passes is of one, as `trace` has to make it."""
    if trace.num_steps < num_steps:
        expected = f"the last {num_steps} tokens one at a time"
        yield "its passes", expected, str(list(trace.passes))[:80]


def _missing_sites(
    trace: ForwardTrace, spec: EngineSpec, config: DecoderConfig, capture: Capture
) -> Iterator[Difference]:
    """The ten slots of contracts, and what is outside the layers; a finer slot is a gift."""
    sites = [
        Site("embed"),
        *(Site(slot, n) for n in range(config.num_layers) for slot in CONTRACT_SLOTS),
        Site("final_norm"),
        Site("logits"),
    ]
    wanted = [s for s in sites if capture.wants_site(s) and s.slot not in spec.not_observed]
    missing = [str(site) for site in wanted if str(site) not in trace.sites]
    if missing:
        found = f"{len(missing)} are missing, the first is {missing[0]}"
        yield "its sites", f"{len(wanted)} sites", found


def _of_a_site(
    record: SiteRecord, trace: ForwardTrace, config: DecoderConfig, capture: Capture
) -> Iterator[Difference]:
    scopes, wanted = (
        ", ".join(sorted(s.value for s in some)) for some in (record.stats, capture.scopes)
    )
    if scopes != wanted:
        yield f"its scopes at {record.site}", wanted, scopes
    tokens = len(trace.token_ids) if Scope.ALL in record.stats else 1
    expected = (tokens, slot_width(record.site.slot, config))
    if record.shape != expected:
        yield str(record.site), f"shape {expected}", str(record.shape)
    if record.site.layer is not None and record.site.layer >= config.num_layers:
        yield str(record.site), f"layers below {config.num_layers}", "one more"


def _missing_arrays(trace: ForwardTrace, capture: Capture) -> Iterator[Difference]:
    wanted = [name for name, record in trace.sites.items() if capture.wants_array(record.site)]
    missing = [name for name in wanted if name not in trace.arrays]
    if missing:
        found = f"{len(missing)} are missing, the first is {missing[0]}"
        yield "its arrays", f"{len(wanted)} arrays", found
