"""A product with the right weight: bias, order of outputs, gain a row, another input.

Shape letters: T tokens, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice, search_number
from cotejar.diagnosis.hypotheses.weight.order_names import order_words, paired_for
from cotejar.diagnosis.observed import cap
from cotejar.diagnosis.operations import Project, vector
from cotejar.diagnosis.products import multiply
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Case

_UNSEEN, _SAME = 64, 1e-4
"""Tokens that are looked at, and the relative distance within which their logits are right."""
_FEWEST_TOKENS = 3
"""From fewer tokens a number an output could be read off anything."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product."""
    if not isinstance(case.operation.step, Project):
        return
    for product_TR in case.products:
        yield from _bias(case, product_TR)
        yield from _order(case, product_TR)
        if len(product_TR) >= _FEWEST_TOKENS:
            yield from _row_gains(case, product_TR)
        yield from _softcap(case, product_TR)
    yield from _other_inputs(case)
    yield from _repeated(case)


def _repeated(case: Case) -> Iterator[Alternative]:
    """Logits of the ids that were seen: over a number if positive, times it if negative.

    Source of the formula: Keskar et al., 2019 (arXiv:1909.05858).
    """
    if case.operation.site.slot != "logits":
        return
    ids, right = case.observed.trace.token_ids, case.right
    tokens = np.arange(len(ids))[-len(right) :] if case.rows is None else case.rows
    others = np.setdiff1d(np.linspace(0, right.shape[1] - 1, _UNSEEN).astype(int), ids)
    off_T = np.linalg.norm(case.recorded[:, others] - right[:, others], axis=1)
    if not (off_T <= _SAME * np.linalg.norm(right[:, others], axis=1)).all():
        return  # tokens that nobody has seen are wrong as well
    for words, seen in (
        ("so far", [sorted(set(ids[: t + 1])) for t in tokens]),
        ("in the whole prompt", [sorted(set(ids))] * len(right)),
    ):
        values = np.concatenate([right[row, some] for row, some in enumerate(seen)])
        found = np.concatenate([case.recorded[row, some] for row, some in enumerate(seen)])
        with np.errstate(all="ignore"):
            ratio = np.where(values > 0, values / found, found / values)
        penalty = float(np.median(ratio))
        if not np.isfinite(penalty) or penalty == 1:
            continue
        for value in dict.fromkeys((nice(penalty), nice(penalty, 4), penalty)):
            output = right.copy()
            for row, some in enumerate(seen):
                part = right[row, some]
                output[row, some] = np.where(part > 0, part / value, part * value)
            yield Alternative(
                id="repetition-penalty",
                title=f"logits of the tokens {words} are under a repetition penalty of "
                f"{value:.4g}",
                output=output,
                parameters=1,
            )


def _bias(case: Case, product_TR: Float64[np.ndarray, "T R"]) -> Iterator[Alternative]:
    weights, bias_R = case.observed.truth.weights, case.bias
    if bias_R is not None:
        for id_, title, factor in (
            ("bias-missing", "is left out", 0.0),
            ("bias-doubled", "is added twice", 2.0),
            ("bias-sign", "is subtracted", -1.0),
        ):
            yield Alternative(
                id=id_,
                title=f"the bias {case.project.bias} {title}",
                output=_capped(case, product_TR + factor * bias_R),
            )
        if case.project.row_order is not None:
            # The rows are reordered, and the bias is not.
            yield Alternative(
                id="bias-order",
                title="the bias is in another order than the weight's rows",
                output=case.in_order(product_TR) + bias_R,
            )
    if bias_R is not None:
        yield from _bias_of_other_pairing(case, product_TR, bias_R)
    for name, matrix in weights.items():
        same = matrix.rows == 1 and matrix.columns == product_TR.shape[1]
        if same and name != case.project.bias:
            other = "ought to be " + case.project.bias if case.project.bias else "is none"
            id_ = "bias-extra" if case.project.bias is None else "bias-other"
            yield Alternative(
                id=id_,
                title=f"{name} is added as a bias, and the bias {other}",
                output=_capped(case, product_TR + vector(weights, name)),
            )
    if fits_bias(case):
        yield from _fitted_bias(case, product_TR)


def _fitted_bias(case: Case, product_TR: Float64[np.ndarray, "T R"]) -> Iterator[Alternative]:
    """What was added to each output, the same in every token."""
    bias_R = case.bias
    added_R = (case.recorded_rows - product_TR).mean(axis=0)
    changed = added_R if bias_R is None else added_R - bias_R
    wrong = int((np.abs(changed) > 1e-3 * np.abs(added_R).max()).sum())
    same = bool(np.allclose(changed, changed[0], rtol=1e-3))
    if bias_R is None:
        what = (
            f"{changed[0]:.4g} everywhere" if same else f"another in {wrong} of {len(changed)}"
        )
        title = f"there is a bias and ought to be none: {what}"
    elif same:
        title = f"the bias is {changed[0]:.4g} more everywhere"
    else:
        title = f"the bias is another in {wrong} of {len(changed)} outputs"
    if bias_R is not None:
        yield from _bias_in_other_order(case, product_TR, bias_R, added_R)
    id_ = "bias-extra" if bias_R is None else "bias-wrong"
    if 0 < wrong <= _SINGLE_BIASES:
        large = np.flatnonzero(np.abs(changed) > 1e-3 * np.abs(added_R).max())
        only_R = np.zeros_like(added_R)
        only_R[large] = changed[large]
        shown = np.flatnonzero(case.in_order(only_R[None])[0])
        values = ", ".join(f"{number:.4g}" for number in changed[large])
        yield Alternative(
            id=id_,
            title=f"output {' and '.join(map(str, shown))} of {len(changed)} has {values} "
            "added in every token",
            output=case.finish(product_TR + only_R),
            parameters=wrong,
        )
    yield Alternative(
        id=id_,
        title=title,
        output=case.in_order(product_TR + added_R),
        parameters=1 if same else len(added_R),
    )


def _bias_in_other_order(
    case: Case,
    product_TR: Float64[np.ndarray, "T R"],
    bias_R: Float64[np.ndarray, "R"],
    added_R: Float64[np.ndarray, "R"],
) -> Iterator[Alternative]:
    """The right numbers in other places, where that order has a name."""
    order_R = np.argsort(bias_R)[np.argsort(np.argsort(added_R))]
    words = order_words(order_R)
    if words is not None:
        yield Alternative(
            id="bias-order",
            title=f"the bias is in another order: {words}",
            output=case.finish(product_TR - bias_R + bias_R[order_R]),
            parameters=1,
        )


_SINGLE_BIASES = 3
"""Outputs with a number added, of which each is named."""


def fits_bias(case: Case) -> bool:
    """Are there tokens enough to fit a bias to, and nothing behind it?"""
    return len(case.recorded) >= _FEWEST_TOKENS and case.project.softcap is None


def _bias_of_other_pairing(
    case: Case, product_TR: Float64[np.ndarray, "T R"], bias_R: Float64[np.ndarray, "R"]
) -> Iterator[Alternative]:
    """The rows of the weight are in the right order, and the bias in the other pairing's."""
    config = case.observed.truth.config
    if len(bias_R) % config.head_dim:
        return
    order = exact.half_split_order(config.head_dim, config.rope.dim)
    heads = bias_R.reshape(-1, config.head_dim)
    for moved in (order, np.argsort(order)):
        yield Alternative(
            id="bias-order",
            title="the bias is in the order of the other RoPE pairing (neighbours for halves, "
            "or the reverse)",
            output=_capped(case, product_TR + heads[:, moved].reshape(-1)),
        )


def _capped(case: Case, output_TR: Float64[np.ndarray, "T R"]) -> Float64[np.ndarray, "T R"]:
    return case.in_order(cap(output_TR, case.project.softcap))


def _order(case: Case, product_TR: Float64[np.ndarray, "T R"]) -> Iterator[Alternative]:
    """Outputs that are all there, in another order."""
    step = case.project
    right = case.finish(product_TR)
    if _in_turned_heads(case, right.shape[1]):
        # Neighbouring pairs for halves, or the reverse, in what is computed or captured.
        config = case.observed.truth.config
        order = exact.half_split_order(config.head_dim, config.rope.dim)
        heads = exact.split_heads(right, config.head_dim)
        product = exact.split_heads(case.in_order(product_TR), config.head_dim)
        bias = 0.0 if case.bias is None else case.in_order(case.bias[None])
        for moved in (order, np.argsort(order)):
            for output in (
                exact.join_heads(heads[..., moved]),
                exact.join_heads(product[..., moved]) + bias,
            ):
                yield Alternative(
                    id="rope-pairing",
                    title="values of a head are in the order of the other RoPE pairing "
                    "(neighbours for halves, or the reverse)",
                    output=output,
                )
    if step.row_order is None and len(right) < _FEWEST_TOKENS:
        return
    if case.project.softcap is not None:
        return
    bias = np.zeros((1, 1)) if case.bias is None else case.in_order(case.bias[None])
    plain = case.in_order(product_TR)
    # The whole output moved, or the weight's rows and not the bias.
    for found, added in ((right, np.zeros((1, 1))), (plain, bias)):
        matched = match_outputs(case.recorded - added, found)
        if matched is not None:
            id_, title = _name_order(matched, case)
            output = found[:, matched] + added
            yield Alternative(id=id_, title=title, output=output, parameters=2)


def _in_turned_heads(case: Case, outputs: int) -> bool:
    """Are these heads that RoPE turns? Some rows of a weight need not be whole ones."""
    is_turned = case.operation.site.slot in {"q", "k"}
    return is_turned and outputs % case.observed.truth.config.head_dim == 0


def match_outputs(
    recorded_TR: Float64[np.ndarray, "T R"], right_TR: Float64[np.ndarray, "T R"]
) -> Int[np.ndarray, "R"] | None:
    """Which right output each recorded one is; None where they are no permutation.

    Outputs, as vectors over tokens, are sorted by a random projection: equal ones meet.
    """
    rng = np.random.default_rng(0)
    key_T = rng.standard_normal(len(right_TR))
    right_keys, recorded_keys = key_T @ right_TR, key_T @ recorded_TR
    by_key = np.argsort(right_keys, kind="stable")
    place = np.searchsorted(right_keys[by_key], recorded_keys)
    best = np.full(recorded_TR.shape[1], -1)
    least = np.full(recorded_TR.shape[1], np.inf)
    for step in (-2, -1, 0, 1):
        index = by_key[np.clip(place + step, 0, len(by_key) - 1)]
        distance = ((recorded_TR - right_TR[:, index]) ** 2).sum(axis=0)
        nearer = distance < least
        best[nearer], least[nearer] = index[nearer], distance[nearer]
    is_order = len(np.unique(best)) == len(best) and not (best == np.arange(len(best))).all()
    return best if is_order else None


def _name_order(order: Int[np.ndarray, "R"], case: Case) -> tuple[str, str]:
    size, e = len(order), case.observed.truth.config.head_dim
    moved = int((order != np.arange(size)).sum())
    step = int(order[0])
    heads = _head_order(order, case)
    if heads is not None and len(heads) > 1:
        what = "heads" if case.operation.site.slot in _OF_HEADS else f"parts of {e} rows"
        shown = " ".join(str(h) for h in heads[:8])
        more = " ..." if len(heads) > 8 else ""  # noqa: PLR2004 - as many as are shown
        id_ = "head-order" if what == "heads" else "output-order"
        if what == "heads" or not _is_rolled(order):
            return id_, f"{what} are in another order: {shown}{more}"
    if _is_rolled(order):
        return (
            "rows-shifted",
            f"outputs are shifted by {step if step < size / 2 else step - size}",
        )
    if _in_turned_heads(case, size):
        paired = paired_for(order, size // e)
        if paired is not None:
            return "rope-pairing", _pairs_of(paired, size // e, case)
    words = order_words(order)
    if words is not None:
        return "output-order", f"outputs are in another order: {words}"
    title = f"{moved} of {size} outputs are in another order"
    in_rows, what = order, "those"
    if case.project.row_order is not None:
        rows = np.array(case.project.row_order)
        in_rows, what = np.empty_like(order), "in the file's order those"
        in_rows[rows] = rows[order]
    first, last = (int(i) for i in np.flatnonzero(in_rows != np.arange(size))[[0, -1]])
    part = in_rows[first : last + 1] - first
    if _is_rolled(part):
        step, count = int(part[0]), len(part)
        step = step if step < count / 2 else step - count
        far = f"{abs(step)} {'early' if step > 0 else 'late'}"
        return (
            "rows-shifted",
            f"{title}: {first}..{last} are {what} of the rows {far}, in a ring",
        )
    return "output-order", title


def _pairs_of(count: int, right: int, case: Case) -> str:
    config = case.observed.truth.config
    also = ""
    if config.num_heads != config.num_kv_heads and {count, right} == {
        config.num_heads,
        config.num_kv_heads,
    }:
        also = f" (as many as of {'queries' if count == config.num_heads else 'keys'})"
    return f"rows stand in RoPE's pairs of {count} heads{also}, and ought to be of {right}"


_OF_HEADS = frozenset({"q", "k", "v", "qkv"})


def _is_rolled(order: Int[np.ndarray, "R"]) -> bool:
    return bool((order == (np.arange(len(order)) + order[0]) % len(order)).all())


def _head_order(order: Int[np.ndarray, "R"], case: Case) -> list[int] | None:
    """Which head stands in the place of each, if whole heads moved."""
    e = case.observed.truth.config.head_dim
    if len(order) % e:
        return None
    heads = order.reshape(-1, e)
    whole = (heads - heads[:, :1] == np.arange(e)).all() and (heads[:, 0] % e == 0).all()
    return (heads[:, 0] // e).tolist() if whole else None


_GAIN_KNOWN = 1e-4
"""An output's gain is known better than that in float32; elsewhere to two limits."""


def _row_gains(case: Case, product_TR: Float64[np.ndarray, "T R"]) -> Iterator[Alternative]:
    """Every output times a number of its own: scales of rows, rows of zeros."""
    right = case.finish(product_TR)
    squares_R = (right * right).sum(axis=0)
    gain_R = np.ones(right.shape[1])
    np.divide((case.recorded * right).sum(axis=0), squares_R, out=gain_R, where=squares_R > 0)
    known = max(_GAIN_KNOWN, 2 * float(np.median(case.error.limits)))
    is_wrong = np.abs(gain_R - 1) > known
    wrong = np.flatnonzero(is_wrong)
    if not len(wrong):
        return
    values = gain_R[wrong]
    if np.allclose(values, values[0], rtol=max(1e-3, known), atol=1e-6):
        gain_R[~is_wrong] = 1.0
        if len(wrong) == len(gain_R):
            return  # a gain of the whole output, which `plain` names
        zero = abs(values[0]) < 1e-6  # noqa: PLR2004 - a row of zeros
        gain_R[wrong] = 0.0 if zero else values.mean()
        what = "are 0" if zero else f"are multiplied by {factor_text(float(values.mean()))}"
        yield Alternative(
            id="rows-zero" if zero else "rows-scaled",
            title=f"outputs {wrong[0]}..{wrong[-1]} ({len(wrong)}) {what}",
            output=right * gain_R,
            parameters=2,
        )
        return
    yield Alternative(
        id="rows-scaled",
        title=f"{len(wrong)} of {len(gain_R)} outputs are scaled, by {values.min():.3g} to "
        f"{values.max():.3g}",
        output=right * gain_R,
        parameters=len(wrong),
    )


def _softcap(case: Case, product_TR: Float64[np.ndarray, "T R"]) -> Iterator[Alternative]:
    """Cap * tanh(y / cap), which gemma2's logits have."""
    if case.operation.site.slot != "logits":
        return
    right = case.in_order(product_TR if case.bias is None else product_TR + case.bias)
    if case.project.softcap is not None:
        yield Alternative(
            id="softcap-missing", title="the softcap of the logits is left out", output=right
        )
    cap_ = case.project.softcap
    if cap_ is not None:  # scaled before it is bounded
        inside = cap_ * np.arctanh(np.clip(case.recorded / cap_, -1 + 1e-12, 1 - 1e-12))
        steep = np.abs(case.recorded) < _FLAT * cap_
        gain = float(
            (inside[steep] * right[steep]).sum() / max((right[steep] ** 2).sum(), 1e-300)
        )
        for value in dict.fromkeys((nice(gain, 3), gain)):
            yield Alternative(
                id="product-scaled",
                title=f"logits are multiplied by {factor_text(value)} before they are bounded",
                output=cap(value * right, cap_),
                parameters=1,
            )
    befores = [("", right)]
    if cap_ is not None:
        befores.append((" a second time, by a softcap", case.finish(product_TR)))
    for again, before in befores:
        for bound in dict.fromkeys(
            (30.0, 50.0, 15.0, 20.0, 10.0, 100.0, *_fitted_bound(case, before))
        ):
            yield Alternative(
                id="softcap",
                title=f"logits are bounded{again or ' by a softcap'} of {bound:g}",
                output=bound * np.tanh(before / bound),
                parameters=1,
            )


_SAMPLED_LOGITS = 4096
_FLAT = 0.9
"""Share of a bound beyond which a logit says little about what it was before."""


def _fitted_bound(case: Case, before_TR: Float64[np.ndarray, "T R"]) -> Iterator[float]:
    """From the largest logits, which a bound bends most."""
    flat = before_TR.reshape(-1)
    count = min(_SAMPLED_LOGITS, flat.size)
    largest = np.argpartition(-np.abs(np.nan_to_num(flat)), count - 1)[:count]
    x, y = flat[largest], case.recorded.reshape(-1)[largest]
    found = search_number(
        lambda bound: float(np.linalg.norm(y - bound * np.tanh(x / bound))), 0.5, 4096
    )
    yield nice(found)
    yield nice(found, 4)


_WRONG_INPUTS = {
    "q": ("input",),
    "k": ("input",),
    "v": ("input",),
    "attn_out": ("v", "q_rope", "attn_norm"),
    "ffn_gate": ("attn_residual", "attn_norm", "input"),
    "ffn_up": ("attn_residual", "attn_norm", "input"),
    "ffn_out": ("ffn_silu_gate", "ffn_up", "ffn_gate"),
    "logits": ("last output",),
}


def _other_inputs(case: Case) -> Iterator[Alternative]:
    """The product of what another site holds, or of another token's values."""
    site = case.operation.site
    found: list[tuple[str, str, np.ndarray]] = []
    for name in _WRONG_INPUTS.get(site.slot, ()):
        other = _site_named(name, site, case)
        array = case.recorded_at(other)
        if array is not None and array.shape == case.inputs[0].shape:
            found.append(
                ("other-input", f"the input is {other}, not {case.operation.inputs[0]}", array)
            )
    x_TC = case.inputs[0]
    if len(x_TC) > 1:
        late = x_TC[np.maximum(np.arange(len(x_TC)) - 1, 0)]
        found.append(("token-shifted", "each token gets the one before's values", late))
    for id_, title, array in found:
        for product_TR in multiply(case.matrix, case.round_input(array)):
            for words, output in case.finishes(product_TR):
                yield Alternative(id=id_, title=f"{title}{words}", output=output)


def _site_named(name: str, site: Site, case: Case) -> Site:
    if name == "last output":
        return Site("output", case.observed.truth.config.num_layers - 1)
    if name == "input":
        layer = site.layer or 0
        return Site("output", layer - 1) if layer else Site("embed")
    return Site(name, site.layer)
