"""Of two causes that explain what is barely wrong, another layer tells the right one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis import corroboration
from cotejar.diagnosis.corroboration import corroborated
from cotejar.diagnosis.finding import Finding, look_into
from cotejar.diagnosis.replay import LocalError, replay_sides
from cotejar.diagnosis.search import Cause, Found

from .conftest import observe, run
from .planted import attend, attention_inputs

if TYPE_CHECKING:
    from .conftest import Models

CAUSAL = np.tril(np.ones((12, 12), bool))


def error(site: str, ratio: float) -> LocalError:
    """That much further off than honest arithmetic leaves."""
    ones = np.ones(3)
    return LocalError(
        site=site,
        side="candidate",
        exact=ratio * ones,
        left=ratio * ones,
        limits=ones,
        output_norm=ones,
        derived=(),
    )


def cause(id_: str, title: str) -> Cause:
    return Cause(
        id=id_, title=title, residual_before=1.0, residual_after=0.1, limit=0.2, parameters=0
    )


SHIFTED, HIDDEN = (
    cause("cache-shifted", "rows are shifted, in layer.0.attn_context"),
    cause("mask-key-hidden", "token 0 is hidden, in layer.0.attn_context"),
)
OUTPUTS = {SHIFTED.id: np.zeros((3, 1)), HIDDEN.id: np.ones((3, 1))}


def found(*causes: Cause) -> Found:
    return Found(
        causes=causes[:1],
        nearest=None,
        num_tried=2,
        explaining=tuple((one, OUTPUTS.get(one.id, np.zeros((3, 1)))) for one in causes),
    )


def finding(ratio: float, *causes: Cause) -> Finding:
    first = error("layer.0.attn_context", ratio)
    return Finding(error=first, case=None, found=found(*causes))  # type: ignore[arg-type]  # not asked for


@pytest.fixture
def clearly_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another layer's search says."""
    other = replace(HIDDEN, title=HIDDEN.title.replace("layer.0", "layer.4"))
    monkeypatch.setattr(
        corroboration,
        "look_into",
        lambda e, _: Finding(error=e, case=None, found=found(other)),  # type: ignore[arg-type]  # not asked for
    )


@pytest.mark.usefixtures("clearly_hidden")
def test_what_a_clearer_layer_says_too_comes_first() -> None:
    errors = [error("layer.0.attn_context", 2.0), error("layer.4.attn_context", 8.0)]

    told = corroborated(finding(2.0, SHIFTED, HIDDEN), errors, [])

    assert told.found.causes == (HIDDEN, SHIFTED)
    assert told.found.output is OUTPUTS[HIDDEN.id]


@pytest.mark.usefixtures("clearly_hidden")
@pytest.mark.parametrize(
    ("ratio", "causes", "others"),
    [
        (20.0, (SHIFTED, HIDDEN), [("layer.4.attn_context", 80.0)]),
        (2.0, (SHIFTED,), [("layer.4.attn_context", 80.0)]),
        (2.0, (SHIFTED, HIDDEN), [("layer.4.attn_context", 3.0)]),
        (2.0, (SHIFTED, HIDDEN), [("layer.4.ffn_out", 80.0)]),
        (2.0, (SHIFTED, cause("window", "a window")), [("layer.4.attn_context", 80.0)]),
    ],
    ids=["clear itself", "no rival", "no clearer", "another operation", "another cause there"],
)
def test_the_order_stays(
    ratio: float, causes: tuple[Cause, ...], others: list[tuple[str, float]]
) -> None:
    before = finding(ratio, *causes)

    told = corroborated(before, [error(*one) for one in others], [])

    assert told.found.causes == before.found.causes


def test_the_search_keeps_all_that_explains(models: Models) -> None:
    """Of which another layer may choose."""
    model = models("llama")
    trace = run(model, "f32")
    arrays = {name: np.asarray(values) for name, values in trace.arrays.items()}
    hidden = CAUSAL.copy()
    hidden[1:, 0] = False
    context = attend(*attention_inputs(arrays, 1), hidden)
    arrays["layer.1.attn_context"] = context.astype(np.float32)
    side = observe(replace(trace, arrays=arrays), model)
    wrong = next(e for e in replay_sides([side]) if e.site == "layer.1.attn_context")

    told = look_into(wrong, [side]).found

    explaining = {one.id: output for one, output in told.explaining}
    assert told.causes[0].id == "mask-key-hidden"
    assert told.output is explaining["mask-key-hidden"]
