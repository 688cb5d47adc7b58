"""The right values at the wrong place: channels, tokens, slices and ranks changed places.

What was recorded is matched, token by token or channel by channel, with what ought to have
come out elsewhere: another token's row, another projection of the same input, another
layer's buffer. On the input's side, where values are summed, the share of every slice of
the input is fitted, as if several ranks each held one: a slice that is lost, taken twice or
taken for another gives itself away as a whole number.

Shape letters: T tokens, W width, R rows (outputs), C columns (inputs), P parts of the input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Norm, Project, vector
from cotejar.diagnosis.products import multiply
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.operations import Operation

_FEWEST_TOKENS = 3
"""From fewer tokens a channel could be taken for any other."""

_NEAR = 64.0
"""Of an output's limit: two channels or rows that near each other are taken for the same."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any site."""
    yield from _moved_tokens(case)
    yield from _stale(case)
    if isinstance(case.operation.step, Project):
        yield from _other_projections(case)
        yield from _parts_of_input(case)
        yield from _cut_input(case)
        yield from _other_layers(case)
    elif isinstance(case.operation.step, Norm):
        yield from _part_normed(case, case.operation.step)


# --- tokens -------------------------------------------------------------------------


def _moved_tokens(case: Case) -> Iterator[Alternative]:
    """A wrong token's row is the right row of another token."""
    right, recorded = case.right, case.recorded
    wrong = np.flatnonzero(case.error.ratios > 1)
    if not len(wrong) or len(right) < 2:  # noqa: PLR2004 - there is no other token
        return
    square_T = (right**2).sum(axis=1)
    distance = square_T - 2 * recorded[wrong] @ right.T
    source = np.arange(len(right))
    source[wrong] = np.argmin(distance, axis=1)
    if (source == np.arange(len(right))).all():
        return
    yield Alternative(
        id="tokens-moved",
        title=_token_title(source),
        output=right[source],
        parameters=min(len(wrong), 3) if _is_named(source) else len(wrong),
    )


def _is_named(source: Int[np.ndarray, "T"]) -> bool:
    moved = np.flatnonzero(source != np.arange(len(source)))
    back = (source == np.arange(len(source))[::-1]).all()
    return bool(back) or len(moved) <= 2 or len(set(source[moved].tolist())) == 1  # noqa: PLR2004 - a pair


def _token_title(source: Int[np.ndarray, "T"]) -> str:
    tokens = len(source)
    moved = np.flatnonzero(source != np.arange(tokens))
    if (source == np.arange(tokens)[::-1]).all():
        return "tokens are in reverse order"
    first = int(moved[0])
    if len(moved) == 2 and source[moved[0]] == moved[1] and source[moved[1]] == moved[0]:  # noqa: PLR2004 - a pair
        return f"tokens {moved[0]} and {moved[1]} change places"
    if len(moved) == 1:
        return f"token {first} has the output of token {source[first]} (a stale buffer)"
    if len(set(source[moved].tolist())) == 1:
        return (
            f"{len(moved)} tokens, the first {first}, have the output of token {source[first]}"
        )
    return (
        f"{len(moved)} tokens have the output of another: token {first} that of token "
        f"{source[first]}"
    )


def _stale(case: Case) -> Iterator[Alternative]:
    """All tokens, or the wrong ones, hold what a site computed before this one holds."""
    site, layer = case.operation.site, case.operation.site.layer
    wrong = case.error.ratios > 1
    before = [Site(site.slot, layer - 1)] if layer else []
    before += [
        other.site
        for other in case.observed.truth.operations.values()
        if other.site.layer == layer
        and other.site.order < site.order  # what comes after it is made of it
        # A product of the same input is another's weight: `_other_projections` says so.
        and other.inputs != case.operation.inputs
    ]
    for other_site in before:
        if other_site in case.operation.inputs:
            continue  # an operation that was skipped has another name
        array = case.recorded_at(other_site)
        if array is None or array.shape != case.recorded.shape:
            continue
        output = np.where(wrong[:, None], array, case.right)
        count = int(wrong.sum())
        which = "the output is" if count == len(wrong) else f"{count} tokens' output is"
        yield Alternative(
            id="output-stale",
            title=f"{which} that of {other_site}: a stale or shared buffer",
            output=output,
            parameters=1,
        )


# --- channels of the output ------------------------------------------------------------


def _other_projections(case: Case) -> Iterator[Alternative]:
    """Outputs cut from the other products of the same input: a fused weight cut wrongly."""
    if len(case.recorded) < _FEWEST_TOKENS:
        return
    names = [case.operation.name]
    others = [
        other
        for other in case.observed.truth.operations.values()
        if isinstance(other.step, Project)
        and other.inputs == case.operation.inputs
        and other != case.operation
    ]
    if not others:
        return
    names += [other.name for other in others]
    # Rows of the weights alone may be others', or with each its bias.
    for with_bias in (True, False) if case.bias is not None else (True,):
        pool, added = [case.right], np.zeros((1, 1))
        if not with_bias:
            added = case.in_order(np.asarray(case.bias)[None])
            pool = [case.right - added]
        for other in others:
            used = other if with_bias else _without_bias(other)
            pool.append(replay(used, case.inputs, case.observed))
        whole = np.concatenate(pool, axis=1)
        source = _nearest_columns(case.recorded - added, whole)
        width = case.right.shape[1]
        if (source < width).all():
            continue  # an order of its own outputs, which `projection` names
        starts = np.cumsum([0, *(one.shape[1] for one in pool)])
        moved = np.flatnonzero(source != np.arange(width))
        id_, title, numbers = _name_groups(case, source, starts, names) or _name_cut(
            source, moved, starts, names, width
        )
        yield Alternative(
            id=id_, title=title, output=whole[:, source] + added, parameters=numbers
        )


def _without_bias(operation: Operation) -> Operation:
    step = operation.step
    return replace(
        operation, step=replace(step, bias=None) if isinstance(step, Project) else step
    )


def _name_groups(
    case: Case, source: Int[np.ndarray, "R"], starts: Int[np.ndarray, "n"], names: list[str]
) -> tuple[str, str, int] | None:
    """A fused q, k and v, by groups of heads, cut as if all of q came first; or reverse."""
    config, slots = case.observed.truth.config, [n.rsplit(".", 1)[-1] for n in names]
    if set(slots) != {"q", "k", "v"}:
        return None
    first = dict(zip(slots, starts.tolist(), strict=False))
    e, groups = config.head_dim, config.num_kv_heads
    kv_rows = config.num_kv_heads * e
    rows = {"q": config.num_heads * e, "k": kv_rows, "v": kv_rows}
    index = {slot: first[slot] + np.arange(rows[slot]) for slot in "qkv"}
    plain = np.concatenate([index[slot] for slot in "qkv"])
    by_group = np.concatenate(
        [index[slot].reshape(groups, -1) for slot in "qkv"], axis=1
    ).reshape(-1)
    begin = {"q": 0, "k": rows["q"], "v": rows["q"] + rows["k"]}[slots[0]]
    # Where each row of the plain order stands among the groups, and the way back.
    place = np.empty(len(plain), int)
    place[by_group] = np.arange(len(plain))
    for words, order in (
        ("stored group by group of heads and cut as if all of q came first", by_group),
        ("stored one after the other and cut as if group by group", plain[place[plain]]),
    ):
        if (source == order[begin : begin + len(source)]).all():
            return "fused-groups", f"the rows of q, k and v are {words}", 1
    return None


def _nearest_columns(
    recorded_TR: Float64[np.ndarray, "T R"], pool_TN: Float64[np.ndarray, "T N"]
) -> Int[np.ndarray, "R"]:
    """Which column of the pool each recorded one is nearest to, 256 at a time."""
    square_N = (pool_TN**2).sum(axis=0)
    found = np.empty(recorded_TR.shape[1], np.int64)
    for start in range(0, len(found), 256):
        part = recorded_TR[:, start : start + 256]
        found[start : start + 256] = np.argmin(square_N[:, None] - 2 * pool_TN.T @ part, axis=0)
    return found


def _name_cut(
    source: Int[np.ndarray, "R"],
    moved: Int[np.ndarray, "n"],
    starts: Int[np.ndarray, "n"],
    names: list[str],
    width: int,
) -> tuple[str, str, int]:
    """Id, title and numbers, by the runs of outputs that lie together."""
    breaks = np.flatnonzero(np.diff(source) != 1) + 1
    runs = [int(a) for a in (0, *breaks.tolist())]
    first = int(moved[0])
    which = int(np.searchsorted(starts, source[first], side="right")) - 1
    row = int(source[first] - starts[which])
    if len(runs) == 1 and row == 0 and width == starts[which + 1] - starts[which]:
        slots = {names[0].rsplit(".", 1)[-1], names[which].rsplit(".", 1)[-1]}
        ids = {
            frozenset({"k", "v"}): "key-value-swapped",
            frozenset({"ffn_gate", "ffn_up"}): "gate-up-swapped",
        }
        id_ = ids.get(frozenset(slots), "projection-swapped")
        return id_, f"weight and bias are those of {names[which]}: the two change places", 0
    two = starts[1] == width and len(starts) > 2 and starts[2] - starts[1] == width  # noqa: PLR2004 - two as wide
    for first_row in (0, 1):
        stored_in_halves = np.arange(width) * 2 + first_row
        for orders in (stored_in_halves, _interleaved(width, first=first_row)):
            # The other of the two may come first in the fused weight.
            for order in (orders, (orders + width) % (2 * width)):
                if two and (source == order).all():
                    return (
                        "fused-interleaved",
                        f"rows of {names[0]} and {names[1]} are stored in turn and read in "
                        "halves, or the reverse",
                        0,
                    )
    if len(runs) <= 4:  # noqa: PLR2004 - each run is a number that was fitted
        text = f"outputs from {first} on are outputs {row}.. of {names[which]}"
        return "fused-cut", f"a fused weight is cut at the wrong row: {text}", len(runs)
    text = f"output {first} is output {row} of {names[which]}"
    return "fused-cut", f"{len(moved)} outputs are another projection's: {text}", len(moved)


def _interleaved(width: int, *, first: int) -> Int[np.ndarray, "R"]:
    """Rows of two weights of that width, read from halves though stored in turn.

    Stored as rows 0 of both, 1 of both, ...: the half `first` holds 0 2 4 .. of the whole.
    """
    index = np.arange(width) + first * width
    return index // 2 + index % 2 * width


def _other_layers(case: Case) -> Iterator[Alternative]:
    """Weight and bias of the same product in another layer; without a bias, `weights` asks."""
    site = case.operation.site
    if case.bias is None:
        return
    for name, other in case.observed.truth.operations.items():
        if other.site.slot == site.slot and other.site != site:
            yield Alternative(
                id="other-layer",
                title=f"weight and bias are those of {name}",
                output=replay(other, case.inputs, case.observed),
            )


# --- parts of the input ------------------------------------------------------------------

_PARTS = (2, 3, 4, 6, 8)
"""Into so many equal parts an input may be cut, where its width allows."""
_SAMPLE_ROWS, _CUT_ROWS = 128, 8
_WHOLE = 0.02
"""A share that near a whole number is that number; an average over many values."""


def _parts_of_input(case: Case) -> Iterator[Alternative]:
    """The share of every part of the input in the product with every part of the weight."""
    bias_R = case.bias
    if case.project.softcap is not None:
        return
    rows = np.unique(np.linspace(0, case.matrix.rows - 1, _SAMPLE_ROWS).astype(int))
    weight_RC = np.concatenate(
        [case.matrix.decode_rows(int(r), int(r) + 1) for r in rows]
    ).astype(np.float64)
    recorded_TR = case.recorded_rows[:, rows]
    seen: set[bytes] = set()
    for given in case.givens:
        for parts in _PARTS:
            if case.matrix.columns % parts or recorded_TR.size < 4 * parts * parts:
                continue
            share_PP, times = _shares(given.values, weight_RC, recorded_TR, parts, bias_R, rows)
            whole_PP, whole_times = np.rint(share_PP), round(times)
            off = max(float(np.abs(share_PP - whole_PP).max()), abs(times - whole_times))
            if off > _WHOLE or (whole_PP == np.eye(parts)).all():
                continue
            if np.abs(whole_PP).max() > parts or whole_PP.tobytes() in seen:
                continue
            if (whole_PP == whole_PP[0, 0] * np.eye(parts)).all() and whole_times == 1:
                continue  # a gain of the product, which others name
            seen.add(whole_PP.tobytes())
            yield from _with_shares(case, given.values, whole_PP, whole_times)


def _shares(
    x_TC: Float64[np.ndarray, "T C"],
    weight_RC: Float64[np.ndarray, "R C"],
    recorded_TR: Float64[np.ndarray, "T R"],
    parts: int,
    bias_R: Float64[np.ndarray, "R"] | None,
    rows: Int[np.ndarray, "n"],
) -> tuple[Float64[np.ndarray, "P P"], float]:
    """Least squares: how often part i of x meets part j of the weight; and the bias."""
    x_PTC = x_TC.reshape(len(x_TC), parts, -1).swapaxes(0, 1)
    weight_PRC = weight_RC.reshape(len(weight_RC), parts, -1).swapaxes(0, 1)
    products = np.einsum("itc,jrc->ijtr", x_PTC, weight_PRC).reshape(parts * parts, -1)
    if bias_R is not None:
        added = np.broadcast_to(bias_R[rows], recorded_TR.shape).reshape(1, -1)
        products = np.concatenate([products, added])
    size_T1 = np.maximum(np.linalg.norm(recorded_TR, axis=1, keepdims=True), 1e-300)
    even = np.broadcast_to(1 / size_T1, recorded_TR.shape).reshape(-1)
    fitted = np.linalg.lstsq((products * even).T, recorded_TR.reshape(-1) * even, rcond=None)[0]
    times = float(fitted[parts * parts]) if bias_R is not None else 1.0
    return fitted[: parts * parts].reshape(parts, parts), times


def _with_shares(
    case: Case,
    rounded_TC: Float64[np.ndarray, "T C"],
    share_PP: Float64[np.ndarray, "P P"],
    times: int,
) -> Iterator[Alternative]:
    """The product of the input so cut and put together, of raw and of rounded values."""
    id_, title = _name_shares(share_PP)
    if times != 1:
        title += f", and the bias is added {times} times"
    extra = 0.0 if case.bias is None else case.in_order((times - 1) * case.bias[None])
    for values in (case.inputs[0], rounded_TC):
        cut = values.reshape(len(values), len(share_PP), -1)
        mixed = np.einsum("tic,ij->tjc", cut, share_PP).reshape(values.shape)
        rounded = case.round_input(mixed)
        for product_TR in multiply(case.matrix, rounded):
            yield Alternative(
                id=id_, title=title, output=case.finish(product_TR) + extra, parameters=1
            )


def _name_shares(share_PP: Float64[np.ndarray, "P P"]) -> tuple[str, str]:
    """Row i: what becomes of part i of the input. Column j: what part j of the weight meets."""
    parts = len(share_PP)
    own = np.diag(share_PP)
    if (share_PP == np.diag(own)).all():
        lost = np.flatnonzero(own == 0)
        if len(lost) and set(own.tolist()) <= {0.0, 1.0}:
            shown = " ".join(str(i) for i in lost)
            return (
                "input-part-lost",
                f"part {shown} of {parts} of the input is left out of the sum, as when the "
                f"ranks' shares are not added up",
            )
        shown = " ".join(f"{n:g}" for n in own)
        return (
            "input-part-weighted",
            f"the {parts} parts of the input count {shown} times",
        )
    is_order = (np.sort(share_PP, axis=0)[-1] == 1).all() and (share_PP.sum(axis=0) == 1).all()
    if is_order:
        order = " ".join(str(i) for i in share_PP.argmax(axis=0))
        again = len(set(share_PP.argmax(axis=0).tolist())) < parts
        words = "are taken for others" if again else "change places"
        return "input-parts-moved", f"the input's {parts} parts {words}: {order}"
    return "input-parts-mixed", f"the input's {parts} parts are mixed with each other"


def _cut_input(case: Case) -> Iterator[Alternative]:
    """The sum over the inputs ends early, or begins late: every place at once, for few rows."""
    sample = SampledProduct.of(case)
    if sample.softcap is not None:
        return
    wanted_TR, x_TC = sample.recorded - sample.bias, case.inputs[0]
    columns = x_TC.shape[1]
    left_C = np.zeros(columns + 1)
    late_C = np.zeros(columns + 1)
    for row, weight_C in enumerate(sample.weight[:_CUT_ROWS]):
        sums = np.zeros((len(x_TC), columns + 1))
        np.cumsum(x_TC * weight_C, axis=1, out=sums[:, 1:])
        left_C += ((wanted_TR[:, row : row + 1] - sums) ** 2).sum(axis=0)
        late_C += ((wanted_TR[:, row : row + 1] - (sums[:, -1:] - sums)) ** 2).sum(axis=0)
    index = np.arange(columns)
    end, start = int(left_C[:-1].argmin()), int(late_C[1:].argmin()) + 1
    for words, kept in (
        (f"only the first {end} of {columns} inputs are summed", index < end),
        (f"the first {start} of {columns} inputs are not summed", index >= start),
    ):
        if not kept.any() or not sample.is_worth(np.where(kept, x_TC, 0.0)):
            continue
        given = [replace(one, values=np.where(kept, one.values, 0.0)) for one in case.givens]
        for product_TR in multiply(case.matrix, given):
            yield Alternative(
                id="input-cut", title=words, output=case.finish(product_TR), parameters=1
            )


def _part_normed(case: Case, step: Norm) -> Iterator[Alternative]:
    """The mean square of a part of the channels; or every part by its own."""
    x_TW = case.inputs[0]
    width = x_TW.shape[1]
    weight_W = vector(case.observed.truth.weights, step.weight)
    for parts in _PARTS:
        if width % parts:
            continue
        cut = x_TW.reshape(len(x_TW), parts, -1)
        square_TP = (cut**2).mean(axis=2)
        for part in range(parts):
            root_T1 = np.sqrt(square_TP[:, part : part + 1] + step.eps)
            yield Alternative(
                id="norm-over-part",
                title=f"the mean square is that of part {part} of {parts} of the channels",
                output=x_TW / root_T1 * weight_W,
            )
        by_part = cut / np.sqrt(square_TP[:, :, None] + step.eps)
        yield Alternative(
            id="norm-over-part",
            title=f"each of {parts} parts of the channels is normed on its own",
            output=by_part.reshape(x_TW.shape) * weight_W,
        )
