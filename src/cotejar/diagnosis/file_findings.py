"""Both engines are right about their own file: which difference of the files matters, and how?

What an operation computed with the candidate's own configuration and tensors is right, so a
key that differs, or a tensor that one file alone has, explains it wholly where the operation
is made of it: no search is needed. What a changed tensor has become is searched.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from cotejar.diagnosis.file_difference import (
    as_reference,
    change_of,
    compare_files,
    held_against,
    is_any,
    measure_change,
)
from cotejar.diagnosis.finding import look_into
from cotejar.diagnosis.operations import Embed, Norm, Project, Rotate, model_operations
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import FEW_PARAMETERS, Cause, Found
from cotejar.diagnosis.tensor_causes import explain_tensor, find_not_finite
from cotejar.model.config import OPTIONAL_PARTS, DecoderConfig
from cotejar.model.inventory import LM_HEAD
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.diagnosis.file_difference import FileDifference
    from cotejar.diagnosis.observed import Observed, Truth
    from cotejar.diagnosis.operations import Operation, Step
    from cotejar.diagnosis.replay import LocalError
    from cotejar.diagnosis.result import Diagnosis

_IDS = {
    "rms_eps": "norm-eps",
    "rope_theta": "rope-theta",
    "local_rope_theta": "rope-theta",
    "rope_dim": "rope-partial",
    "local_rope_dim": "rope-partial",
    "rope_frequency_divisors": "rope-scaling",
    "local_rope_frequency_divisors": "rope-scaling",
    "sliding_window": "window",
    "global_layers": "window",
    "query_scalar": "attention-scale",
    "num_heads": "head-order",
    "num_kv_heads": "head-order",
    "head_dim": "head-order",
    "final_softcap": "softcap",
    "embedding_scale": "embedding-scale",
    "activation": "activation",
}
"""By configuration key, the cause that an engine would have which computed so."""

_SAY_LESS = frozenset({"weight-changed", "output-order"})
"""What two tensors show, and the search says better where it says anything: it has an order in
the order of the values of a head."""
_MANY_NUMBERS = frozenset(
    {"weight-low-rank", "rows-scaled", "columns-scaled", "block-scale", "block-offset"}
)
"""What two tensors show with a number a row, a column or a block: one wrong element is of
rank 1, too, and the search's few numbers say more."""

_SHOWN = 3
"""Names that a sentence holds; then it says how many more there are."""


def judge_files(result: Diagnosis, observed: Sequence[Observed]) -> Diagnosis:
    """Hold the candidate's file against the reference's.

    PASS only where nothing but the tensors' types differs; what differs and shows nowhere is
    INCOMPARABLE.
    """
    reference, candidate = (side.truth for side in observed)
    difference = compare_files(reference, candidate)
    if difference.reshaped or "num_layers" in difference.config_keys:
        return replace(
            result,
            summary="each side is right about its own file, and the two files are of models "
            f"of different shapes: {_shapes(difference)}",
            next_step="compare two files of one model; `apr diff` lists their tensors",
        )
    if not difference.is_finding:
        return replace(
            result,
            verdict=Verdict.PASS,
            summary=f"each side is right about its own file; {len(difference.requantised)} "
            "tensors are of another type, within that type's rounding",
            next_step="nothing to mend; `apr diff` lists the types",
        )
    held = held_against(observed[1], as_reference(reference, candidate, difference), reference)
    wrong = [error for error in replay_sides([held]) if not error.explained]
    what = f"the files differ in {_listed(difference.parts)}"
    if not wrong:
        return replace(
            result,
            summary=f"{what}; with these tokens no operation shows it",
            next_step="try a longer prompt; `apr diff` shows what the files hold",
        )
    return _explain(result, wrong[0], held, observed, difference, what)


def _explain(
    result: Diagnosis,
    error: LocalError,
    held: Observed,
    observed: Sequence[Observed],
    difference: FileDifference,
    what: str,
) -> Diagnosis:
    """From the first operation that the reference's file would have made otherwise."""
    reference, candidate = (side.truth for side in observed)
    right = next(
        (e for e in result.errors if e.side == "candidate" and e.site == error.site), None
    )
    found = _find(error, right, held, (reference, candidate), difference)
    said = found.causes[0].title if found.causes else "no known way to be wrong explains it"
    return replace(
        result,
        verdict=Verdict.FAIL,
        errors=(*result.errors, error),
        site=error.site,
        wrong_side="candidate",
        summary=f"each engine is right about its own file, and {what}. One of the two is "
        "wrong: held against the reference's file the candidate is, at "
        f"{error.site}: {said}",
        next_step="convert the candidate's file again; `apr diff` shows what the files hold",
        causes=found.causes,
        nearest=found.nearest,
        num_tried=found.num_tried,
        looks_like=found.looks_like,
    )


def _find(
    error: LocalError,
    right: LocalError | None,
    held: Observed,
    truths: tuple[Truth, Truth],
    difference: FileDifference,
) -> Found:
    """What the files' difference explains; else what the search finds, and the two tensors."""
    reference, candidate = truths
    changed = [
        name
        for name in _tensors_of(held.truth.operations[error.site].step)
        if name in difference.changed
        and (name != LM_HEAD or not _one_has_a_head(reference, candidate))
    ]
    if right is None:
        return look_into(error, [held]).found
    named = list(_named(error.site, reference, candidate, difference))
    if not named and changed and not any(is_any(candidate, name) for name in changed):
        named = [
            ("weight-zero", f"{name} is all zeros in the candidate's file: was it written?")
            for name in changed
        ]
    elif named:
        named += [("", f"{name} is another") for name in changed]
    if named:
        id_ = "+".join(dict.fromkeys(id_ for id_, _ in named if id_))
        cause = _cause(id_, "; ".join(title for _, title in named), error, right)
        return Found(causes=(cause,), nearest=None, num_tried=0)
    found = look_into(error, [held]).found
    if not changed or (found.causes and _is_simple(found.causes[0])):
        return found
    told = [_what_became(name, reference, candidate) for name in changed]
    ids = dict.fromkeys(id_ for id_, _ in told)
    id_ = "+".join(ids)
    if found.causes and _explains(found.causes[0]):
        is_short = found.causes[0].parameters <= FEW_PARAMETERS
        if ids.keys() <= _SAY_LESS or (id_ in _MANY_NUMBERS and is_short):
            return found
    cause = _cause(id_, "; ".join(title for _, title in told), error, right)
    rest = tuple(one for one in found.causes if one.id != id_)
    return replace(found, causes=(cause, *rest))


def find_nonfinite_tensor(site: str, side: str, observed: Sequence[Observed]) -> Cause | None:
    """A tensor that brings NaN or infinity into an operation, held against the other file's."""
    own = next(one for one in observed if one.side == side).truth
    other = next(one for one in observed if one.side != side).truth
    slots = [f"{site[:-3]}{one}" for one in "qkv"] if site.endswith(".qkv") else [site]
    for slot in slots:
        operation = own.operations.get(slot)
        for name in [] if operation is None else _tensors_of(operation.step):
            found = find_not_finite(name, own.weights[name])
            if found is None:
                continue
            if name in other.weights and other is not own:
                changed = change_of(name, other, own)
                found = (changed and explain_tensor(changed)) or found
            return Cause(
                id=found[0],
                title=found[1],
                residual_before=1.0,
                residual_after=0.0,
                limit=0.0,
                parameters=0,
            )
    return None


def _cause(id_: str, title: str, error: LocalError, right: LocalError) -> Cause:
    return Cause(
        id=id_,
        title=title,
        residual_before=error.rel_l2,
        residual_after=float(right.left[error.worst_token]),
        limit=float(right.limits[error.worst_token]),
        parameters=0,
    )


def _explains(cause: Cause) -> bool:
    return cause.residual_after < cause.residual_before


def _is_simple(cause: Cause) -> bool:
    """Does it explain anything, with nothing fitted? Else the two tensors say more."""
    return _explains(cause) and cause.parameters == 0


def _what_became(name: str, reference: Truth, candidate: Truth) -> tuple[str, str]:
    """Id and title of a tensor's difference."""
    changed = change_of(name, reference, candidate)
    found = None if changed is None else explain_tensor(changed)
    return found or ("weight-changed", _how_changed(name, reference, candidate))


def _named(
    site: str, reference: Truth, candidate: Truth, difference: FileDifference
) -> Iterator[tuple[str, str]]:
    """Id and title of each difference, changed tensors aside, that makes this operation."""
    own = candidate.operations.get(site)
    meant = reference.operations[site]
    for key in difference.config_keys:
        if own is not None and _governs(key, own, reference, candidate):
            ours, theirs = (_value(t.config, key) for t in (reference, candidate))
            yield _key_id(key, ours, theirs), _key_title(key, ours, theirs)
    if own is not None:
        for step, names, is_lost in (
            (meant.step, difference.lost, True),
            (own.step, difference.added, False),
        ):
            here = [name for name in names if name in _tensors_of(step)]
            if here:
                yield _lost_id(step, is_lost=is_lost), _lost_title(here, names, is_lost=is_lost)
    heads = [LM_HEAD in truth.weights for truth in (reference, candidate)]
    if site == "logits" and LM_HEAD in difference.changed and heads[0] != heads[1]:
        if heads[1]:
            yield (
                "head-untied",
                "the candidate's file has an LM head of its own that is not the embedding "
                "table, and the reference's head is that table",
            )
        else:
            yield (
                "head-tied",
                "the candidate's file has no LM head and takes the embedding table; the "
                "reference's file has one that is another",
            )


def _one_has_a_head(reference: Truth, candidate: Truth) -> bool:
    return (LM_HEAD in reference.weights) != (LM_HEAD in candidate.weights)


def _governs(key: str, own: Operation, reference: Truth, candidate: Truth) -> bool:
    """Would the candidate's operation be another with the reference's value of a key?"""
    config = _with_key(candidate.config, reference.config, key)
    other = model_operations(config, candidate.weights).get(own.name)
    return other is None or _but_for_order(other.step) != _but_for_order(own.step)


def _but_for_order(step: Step) -> Step:
    return replace(step, row_order=None) if isinstance(step, Project) else step


def _with_key(config: DecoderConfig, source: DecoderConfig, key: str) -> DecoderConfig:
    """A configuration with one key of another; see `DecoderConfig.comparable`."""
    if key in {field.name for field in fields(DecoderConfig)}:
        return replace(config, **{key: getattr(source, key)})
    name = "local_rope" if key.startswith("local_rope_") else "rope"
    ours, theirs = getattr(config, name), getattr(source, name)
    if ours is None or theirs is None:
        return replace(config, **{name: theirs})
    part = key.removeprefix(f"{name}_")
    return replace(config, **{name: replace(ours, **{part: getattr(theirs, part)})})


def _value(config: DecoderConfig, key: str) -> object:
    known = config.comparable()
    return known[key] if key in known else OPTIONAL_PARTS.get(key)


def _key_id(key: str, meant: object, found: object) -> str:
    if key in {"sliding_window", "final_softcap"} and found is None:
        return f"{_IDS[key]}-missing"
    if key == "sliding_window" and isinstance(meant, int) and isinstance(found, int):
        return "window-off-by-one" if abs(meant - found) == 1 else "window"
    return _IDS.get(key, "configuration")


def _key_title(key: str, meant: object, found: object) -> str:
    if isinstance(meant, tuple) and isinstance(found, tuple) and len(meant) == len(found):
        off = [i for i, (a, b) in enumerate(zip(meant, found, strict=True)) if a != b]
        last = off[-1]
        return (
            f"{key} {last} is {_text(found[last])} and ought to be {_text(meant[last])}, and "
            f"{len(off)} of {len(meant)} are others"
        )
    return f"{key} is {_value_text(key, found)} and ought to be {_value_text(key, meant)}"


def _value_text(key: str, value: object) -> str:
    """As the model's file would say it, where our own key says it in another way."""
    if key == "query_scalar" and value is None:
        return "the size of a head"
    if key == "rope_frequency_divisors" and isinstance(value, tuple) and len(set(value)) == 1:
        return f"{_text(value[0])} everywhere (positions are scaled by 1/{_text(value[0])})"
    return _text(value)


def _text(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, tuple) and len(set(value)) == 1:
        return f"{_text(value[0])} everywhere"
    if isinstance(value, tuple):
        return _listed([_text(one) for one in value])
    return str(value)


def _tensors_of(step: Step) -> list[str]:
    """The tensors that an operation reads."""
    match step:
        case Project():
            return [step.weight, *([] if step.bias is None else [step.bias])]
        case Norm():
            return [step.weight]
        case Rotate():
            return [] if step.norm is None else [step.norm.weight]
        case _:
            return [step.weight] if isinstance(step, Embed) else []


def _lost_id(step: Step, *, is_lost: bool) -> str:
    kinds: dict[type, str] = {Project: "bias", Rotate: "head-norm", Norm: "norm"}
    kind = kinds.get(type(step), "tensor")
    return f"{kind}-{'missing' if is_lost else 'extra'}"


def _lost_title(here: Sequence[str], names: Sequence[str], *, is_lost: bool) -> str:
    rest = [name for name in names if name not in here]
    others = f"; so {'is' if len(rest) == 1 else 'are'} {_listed(rest)}" if rest else ""
    one, both = len(here) == 1, " and ".join(here)
    if is_lost:
        return f"{both} {'is' if one else 'are'} missing in the candidate's file{others}"
    return f"{both} {'is' if one else 'are'} in the candidate's file alone{others}"


def _how_changed(name: str, reference: Truth, candidate: Truth) -> str:
    """How far a tensor of the candidate's file is from the reference's, in plain numbers."""
    change = measure_change(name, reference, candidate)
    where = f" in {change.wrong_rows:,} of {change.rows:,} rows" if change.rows > 1 else ""
    said = f"{name} is another{where}, {change.distance:.3g} of its size away"
    if change.is_unrelated:
        said += ", and has nothing in common with the right one: one that was never loaded?"
    return said


def _shapes(difference: FileDifference) -> str:
    if difference.reshaped:
        name, ours, theirs = difference.reshaped[0]
        more = len(difference.reshaped) - 1
        also = f", and {more} more" if more else ""
        return (
            f"{name} is {_shape(ours)} in the reference and {_shape(theirs)} in the "
            f"candidate{also}"
        )
    side, names = (
        ("reference", difference.lost) if difference.lost else ("candidate", difference.added)
    )
    return f"the {side}'s file alone has {_listed(names)}"


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
