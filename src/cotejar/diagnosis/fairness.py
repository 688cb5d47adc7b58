"""May these two be diagnosed at all? Asked before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.parity.preconditions import Question, check_preconditions, find_naive_ratio
from cotejar.trace.forward_trace import BOTH_SCOPES, Scope
from cotejar.trace.site import CAPTURE_POINTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.diagnosis.observed import SideName
    from cotejar.diagnosis.result import WrongSide
    from cotejar.model.config import DecoderConfig
    from cotejar.model.language_model import LanguageModel
    from cotejar.parity.preconditions import Precondition
    from cotejar.trace.forward_trace import ForwardTrace, SiteRecord

WANTED = ("token-ids", "positions", "capture-points", "shapes", "sample-count", "ddof")
"""What a diagnosis insists on. Other weights, another configuration and numbers that are not
finite are what it is there to find; a site on one side alone is replayed on that side."""


def judge_preconditions(reference: ForwardTrace, candidate: ForwardTrace) -> list[Precondition]:
    """Every precondition of `WANTED`."""
    return check_preconditions(_question(*without_last_rows(reference, candidate)), WANTED)


def without_last_rows(
    reference: ForwardTrace, candidate: ForwardTrace
) -> tuple[ForwardTrace, ForwardTrace]:
    """Both, less the sites that either recorded of the last token alone, and both alike.

    Many programs compute the logits of no other. Such a site is replayed; it has nothing to
    be compared in the scope of all tokens.
    """
    alike = {
        name
        for name, record in reference.sites.items()
        if record.site.slot in LAST_ALONE
        and _is_last_alone(record)
        and (other := candidate.sites.get(name)) is not None
        and _is_last_alone(other)
        and other.shape == record.shape
    }
    if not alike:
        return reference, candidate
    return _without(reference, alike), _without(candidate, alike)


LAST_ALONE = ("final_norm", "logits")
"""Sites that a program may compute for the last token alone."""


def _is_last_alone(record: SiteRecord) -> bool:
    return record.shape[0] == 1 and set(record.stats) == {Scope.LAST}


def _without(trace: ForwardTrace, names: set[str]) -> ForwardTrace:
    return replace(
        trace,
        sites={name: record for name, record in trace.sites.items() if name not in names},
        arrays={name: array for name, array in trace.arrays.items() if name not in names},
    )


def _question(reference: ForwardTrace, candidate: ForwardTrace) -> Question:
    return Question(
        reference=reference, candidate=candidate, scopes=BOTH_SCOPES, required_slots=()
    )


def broken_preconditions(preconditions: Sequence[Precondition]) -> list[Precondition]:
    """Those that do not hold."""
    return [p for p in preconditions if not p.holds]


def naive_ratio(reference: ForwardTrace, candidate: ForwardTrace) -> str | None:
    """What a ratio over unequal samples would have claimed."""
    found = find_naive_ratio(_question(reference, candidate))
    return None if found is None else found.sentence


def wrong_fingerprint(side: SideName, trace: ForwardTrace, model: LanguageModel) -> str | None:
    """Why the weights are not those that the trace was recorded of."""
    ran = trace.model.fingerprint
    if not ran:
        return f"the {side} does not say which weights it ran, so none can be held against it"
    if ran == model.fingerprint:
        return None
    return (
        f"the {side} was recorded of other weights ({ran[:19]}) than those of "
        f"{model.name} ({model.fingerprint[:19]})"
    )


def wrong_shape(side: SideName, trace: ForwardTrace, config: DecoderConfig) -> str | None:
    """Why the arrays are not those of that model over these tokens, from position 0 on."""
    tokens = len(trace.token_ids)
    if trace.positions != tuple(range(tokens)):
        return (
            f"the {side} was recorded at positions {trace.positions[0]}.."
            f"{trace.positions[-1]}; what came before its first token is not there to be "
            "replayed"
        )
    bad = [i for i in trace.token_ids if not 0 <= i < config.vocab_size]
    if bad:
        return f"the {side} ran token {bad[0]}, and the model has {config.vocab_size} tokens"
    widths = slot_widths(config)
    for name, record in trace.sites.items():
        if name not in trace.arrays:
            continue
        expected = (tokens, widths[record.site.slot])
        is_layer = record.site.layer is None or record.site.layer < config.num_layers
        found = record.shape
        allowed = {expected}
        if record.site.slot in LAST_ALONE:
            allowed.add((1, expected[1]))
        if found not in allowed or not is_layer:
            last = found[0] == 1 < tokens and Scope.ALL not in record.stats
            return (
                f"{name} of the {side} has shape {found}, and of this model over these "
                f"tokens it has {expected if is_layer else 'no such layer'}"
                + (": it was recorded of the last token alone (scope last)" if last else "")
            )
    return None


def slot_widths(config: DecoderConfig) -> dict[str, int]:
    """Values a token at every slot."""
    q_size = config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    widths = dict.fromkeys(CAPTURE_POINTS, config.hidden_size)
    widths |= dict.fromkeys(("q", "q_rope", "attn_context"), q_size)
    widths |= dict.fromkeys(("k", "k_rope", "v"), kv_size)
    ffn = ("ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner")
    widths |= dict.fromkeys(ffn, config.ffn_size)
    return widths | {"qkv": q_size + 2 * kv_size, "logits": config.vocab_size}


def is_half_precision(trace: ForwardTrace) -> bool:
    """Were the arrays recorded as float16?"""
    name = next(iter(trace.arrays), None)
    return name is not None and trace.arrays[name].dtype == np.float16


def first_nonfinite(
    reference: ForwardTrace, candidate: ForwardTrace
) -> tuple[WrongSide, str, str] | None:
    """Side, or both, site and sentence of the first site with a NaN or an infinity."""
    found: list[tuple[tuple[int, int], SideName, str, int, int]] = []
    sides: tuple[tuple[SideName, ForwardTrace], ...] = (
        ("reference", reference),
        ("candidate", candidate),
    )
    for side, trace in sides:
        for name, record in trace.sites.items():
            bad = [s.nan_count + s.inf_count for s in record.stats.values()]
            if max(bad, default=0) > 0:
                count = max(s.count for s in record.stats.values())
                found.append((record.site.order, side, name, max(bad), count))
                break
    if not found:
        return None
    order, side, name, bad_count, count = min(found, key=lambda one: one[0])
    is_both = [other[0] for other in found].count(order) > 1
    where = "on both sides" if is_both else f"in the {side}"
    whose = f" of the {side}" if is_both else ""
    message = (
        f"the first numbers that are not finite are {where}: {bad_count:,} of "
        f"{count:,} values at {name}{whose} are NaN or infinite"
    )
    return "both" if is_both else side, name, message


def arrays_hint(side: SideName, trace: ForwardTrace) -> str:
    """Which capture to make, with the command."""
    engine = f"{trace.engine.name}+{trace.engine.numerics}"
    ids = ",".join(str(token) for token in trace.token_ids)
    return (
        f"capture every array of the {side}: `apr trace {engine}:PATH/{trace.model.name} "
        f"--tokens {ids} --capture all -o {side}.trace`"
    )
