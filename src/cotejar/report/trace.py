"""A forward trace for people, and as the JSON object that other tools rely on.

The JSON keeps upstream's keys (`layers[].attn_norm.std_dev` and so on) for the first scope
of a trace, and adds to every slot its scope, ddof, capture point, and all scopes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.report.tables import visible
from cotejar.trace.forward_trace import UNKNOWN
from cotejar.trace.site import CONTRACT_SLOTS, SLOTS, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Float

    from cotejar.engines.run_trace import TraceResult
    from cotejar.model.config import DecoderConfig
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace, SiteRecord
    from cotejar.trace.stats import ActivationStats

TOP_PREDICTIONS = 5


def trace_lines(result: TraceResult, *, brief: bool = False) -> Iterator[str]:
    """The text of `apr trace --payload`: ten lines a layer, for every format."""
    trace, model = result.trace, result.model
    if brief:
        yield from _summary_lines(trace)
        return
    yield "Traced Inference (APR-TRACE-001)"
    yield ""
    yield visible(f"Format: {trace.model.format}   Model: {trace.model.name}")
    yield visible(f"Weights: {trace.model.fingerprint or UNKNOWN}")
    yield visible(
        f"Engine: {trace.engine.name}+{trace.engine.numerics}  ({trace.engine.build})"
    )
    if trace.model.product_types:
        yield visible(
            f"Products: weights in {', '.join(trace.model.product_types)}; activations in "
            f"{trace.products}"
        )
    if model is not None:
        yield from architecture_lines(model.declared.config)
    prompt = "(token ids)" if trace.prompt is None else visible(trace.prompt)
    yield f"Test prompt: {prompt}"
    yield f"Encoded tokens: {list(trace.token_ids) or UNKNOWN}"
    yield ""
    yield "FORWARD PASS (with layer tracing):"
    yield from _site_lines(trace, "EMBEDDING", "embed")
    yield ""
    yield "LAYER-BY-LAYER ACTIVATIONS:"
    for layer in sorted(
        {r.site.layer for r in trace.sites.values() if r.site.layer is not None}
    ):
        yield from _layer_lines(trace, layer)
    yield ""
    yield from _site_lines(trace, "FINAL LAYER NORM", "final_norm")
    yield from _site_lines(trace, "LM_HEAD", "logits")
    yield from _prediction_lines(result)
    yield ""
    yield from _summary_lines(trace)


def architecture_lines(config: DecoderConfig) -> Iterator[str]:
    """A configuration for people."""
    yield (
        f"Architecture: {config.architecture}, {config.num_layers} layers, hidden "
        f"{config.hidden_size}, {config.num_heads} heads, {config.num_kv_heads} kv heads, "
        f"head size {config.head_dim}, ffn {config.ffn_size}, vocab {config.vocab_size}"
    )
    yield (
        f"RoPE theta {config.rope.theta:g}, pairs {config.rope.pairing}; "
        f"norm eps {config.rms_eps:.3g}; context {config.context_length}"
    )


def _layer_lines(trace: ForwardTrace, layer: int) -> Iterator[str]:
    records = {slot: trace.sites.get(str(Site(slot, layer))) for slot in CONTRACT_SLOTS}
    bad = any(
        s.nan_count or s.inf_count for r in records.values() if r for s in r.stats.values()
    )
    yield f"Layer {layer:>2}/{trace.num_layers} [{'ANOMALY' if bad else 'OK'}]"
    for slot, record in records.items():
        yield f"    {slot + ':':<17} {_stats_text(record) if record else 'not observed'}"


def _stats_text(record: SiteRecord) -> str:
    return " | ".join(
        f"{scope.value} n={s.count} mean={s.mean:8.4f} std={s.std:8.4f}{_non_finite(s)}"
        for scope, s in record.stats.items()
    )


def _non_finite(stats: ActivationStats) -> str:
    text = f" NaN:{stats.nan_count}" if stats.nan_count else ""
    return text + (f" Inf:{stats.inf_count}" if stats.inf_count else "")


def _site_lines(trace: ForwardTrace, title: str, name: str) -> Iterator[str]:
    record = trace.sites.get(name)
    if record is None:
        yield f"{title}: not observed"
        return
    for scope, s in record.stats.items():
        yield (
            f"{title} ({scope.value}): range=[{s.min:.4f}, {s.max:.4f}] mean={s.mean:.4f} "
            f"std={s.std:.4f}{_non_finite(s)}"
        )


def _prediction_lines(result: TraceResult) -> Iterator[str]:
    if result.last_logits is None:
        return
    yield f"Top {TOP_PREDICTIONS} predictions:"
    for rank, (token, logit) in enumerate(top_logits(result.last_logits), 1):
        text = "" if result.model is None else _token_text(result.model, token)
        yield f"  {rank}. token_id={token}, logit={logit:.4f}{text}"


def _token_text(model: LanguageModel, token: int) -> str:
    from cotejar.errors import TokenizerError, UsageError

    try:
        return f"  {model.tokenizer.token_text(token)!r}"
    except (TokenizerError, UsageError):
        return ""  # a model without a tokenizer, or an id that pads the vocabulary


def top_logits(
    logits_V: Float[np.ndarray, "V"], count: int = TOP_PREDICTIONS
) -> list[tuple[int, float]]:
    """(token id, logit) of the largest finite logits; of equals the lowest id first."""
    order = np.argsort(-logits_V, kind="stable")
    finite = order[np.isfinite(logits_V[order])][:count]
    return [(int(i), float(logits_V[i])) for i in finite]


def _tokens_text(trace: ForwardTrace) -> str:
    return f"{len(trace.token_ids) or 'an unknown number of'} tokens{steps_text(trace)}"


def steps_text(trace: ForwardTrace) -> str:
    """How they were fed, where that was not all at once: behind a number of tokens."""
    if not trace.num_steps:
        return ""
    return f", the last {trace.num_steps} one at a time through the KV cache"


def _summary_lines(trace: ForwardTrace) -> Iterator[str]:
    bad = [
        name
        for name, record in trace.sites.items()
        if any(s.nan_count + s.inf_count for s in record.stats.values())
    ]
    scopes = next(iter(trace.sites.values())).stats if trace.sites else {}
    yield "TRACE SUMMARY"
    yield (
        f"  {visible(trace.model.name)}, {visible(trace.engine.name)}"
        f"+{visible(trace.engine.numerics)}: "
        f"{len(trace.sites)} sites, scope {' and '.join(s.value for s in scopes)}, "
        f"{_tokens_text(trace)}, std with "
        f"{'an unknown ddof' if trace.ddof is None else f'ddof {trace.ddof}'}"
    )
    if bad:
        yield f"  NaN or infinite at {len(bad)} sites; the first is {bad[0]}"
    else:
        yield "  every value is finite"


def trace_json(result: TraceResult) -> dict[str, object]:
    """The object of `apr trace --payload --json`, the same for every format and recorded."""
    from cotejar.trace.manifest import make_manifest

    trace = result.trace
    declared: Mapping[str, object] = trace.config
    layers = sorted({r.site.layer for r in trace.sites.values() if r.site.layer is not None})
    return {
        "format": trace.model.format,
        "architecture": trace.model.architecture,
        "num_layers": declared.get("num_layers"),
        "hidden_dim": declared.get("hidden_size"),
        "vocab_size": declared.get("vocab_size"),
        "num_heads": declared.get("num_heads"),
        "num_kv_heads": declared.get("num_kv_heads"),
        "rope_theta": declared.get("rope_theta"),
        "stats_source": "forward-pass",
        "prompt": trace.prompt,
        "encoded_tokens": list(trace.token_ids),
        "embedding": _slot_json(trace, "embed"),
        "layers": [
            {"layer_idx": n} | {s: _slot_json(trace, str(Site(s, n))) for s in SLOTS}
            for n in layers
        ],
        "final_norm": _slot_json(trace, "final_norm"),
        "logits_stats": _slot_json(trace, "logits"),
        "logits": _logits_json(result.last_logits),
        "manifest": make_manifest(trace),
    }


def _slot_json(trace: ForwardTrace, name: str) -> dict[str, object] | None:
    record = trace.sites.get(name)
    if record is None:
        return None
    scopes = {scope.value: _stats_json(stats) for scope, stats in record.stats.items()}
    first = next(iter(scopes))
    return scopes[first] | {
        "scope": first,
        "ddof": trace.ddof,
        "capture_point": record.capture_point,
        "shape": list(record.shape),
        "scopes": scopes,
    }


def _stats_json(stats: ActivationStats) -> dict[str, object]:
    return {
        "min": stats.min,
        "max": stats.max,
        "mean": stats.mean,
        "std_dev": stats.std,
        "rms": stats.rms,
        "nan_count": stats.nan_count,
        "inf_count": stats.inf_count,
        "zero_count": stats.zero_count,
        "count": stats.count,
    }


def _logits_json(last: Float[np.ndarray, "V"] | None) -> dict[str, object] | None:
    """Of the last position, as upstream has it; null where a recorded trace has no logits."""
    if last is None:
        return None
    return {
        "vocab_size": int(last.size),
        "l2_norm": float(np.linalg.norm(last.astype(np.float64))),
        "top_k": [{"token_id": t, "logit": v} for t, v in top_logits(last)],
    }


def metadata_json(model: LanguageModel) -> dict[str, object]:
    """The object of `apr trace --json` without `--payload`: no statistic, and it says so."""
    config = model.declared.config
    return {
        "format": model.file.format,
        "architecture": config.architecture,
        "num_layers": config.num_layers,
        "hidden_dim": config.hidden_size,
        "vocab_size": config.vocab_size,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "rope_theta": config.rope.theta,
        "stats_source": "metadata-only",
        "prompt": None,
        "encoded_tokens": None,
        "embedding": None,
        "layers": [{"layer_idx": n} | dict.fromkeys(SLOTS) for n in range(config.num_layers)],
        "final_norm": None,
        "logits_stats": None,
        "logits": None,
    }
