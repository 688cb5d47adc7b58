"""What inputs that nobody recorded may add: enough for honest runs, and no more than that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.limits import flips_limit
from cotejar.diagnosis.replay import replay_sides
from cotejar.engines.native.engine import NativeEngine
from cotejar.model.language_model import open_language_model
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.trace.site import CONTRACT_SLOTS

from .conftest import observe

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel

OUTSIDE = {"embed", "final_norm", "logits"}
TEXT = (
    "The quick brown fox jumps over the lazy dog while 17 engineers compare two engines layer "
    "by layer."
)


@pytest.fixture(scope="module")
def smollm2(demo_model: Path) -> LanguageModel:
    return open_language_model(demo_model)


@pytest.mark.parametrize("numerics", ["q8", "q8-kvf16", "f32", "w8a8"])
def test_an_honest_run_of_which_little_was_recorded_has_nothing_wrong(
    smollm2: LanguageModel, numerics: str
) -> None:
    """The contract's ten slots, and outputs alone; in 8 bits some values round otherwise."""
    ids = smollm2.tokenizer.encode(TEXT)
    capture = Capture(array_slots=EVERY_ARRAY)
    whole = NativeEngine(smollm2, numerics=numerics).trace(ids, capture=capture)

    for slots in ({*CONTRACT_SLOTS, *OUTSIDE}, {"output", *OUTSIDE}):
        arrays = {n: a for n, a in whole.arrays.items() if n.rsplit(".", 1)[-1] in slots}
        sites = {name: whole.sites[name] for name in arrays}
        side = observe(replace(whole, sites=sites, arrays=arrays), smollm2)
        errors = replay_sides([side])
        assert len(errors) > len(slots)
        assert [error.site for error in errors if not error.explained] == []


def to_steps(x: np.ndarray) -> np.ndarray:
    """255 steps a block of 32, as `q8` has them; written for this test alone."""
    blocks = x.reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True) / 127
    return (np.rint(blocks / step) * step).reshape(x.shape)


@pytest.mark.parametrize("known", [1e-6, 1e-4, 1e-2])
def test_activations_in_the_next_step_stay_within_their_limit(known: float) -> None:
    """Of 200 draws the worst comes near it: a limit that nothing reaches would hide faults."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(96, 256))
    x = rng.normal(size=(200, 256))
    noise = rng.normal(size=x.shape)
    size = np.linalg.norm(x, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1)[:, None]
    product = to_steps(x) @ weight.T
    off = (to_steps(x + known * size * noise) @ weight.T) - product

    limit = flips_limit(
        x,
        known=known,
        block=32,
        column_squares_C=(weight**2).sum(axis=0),
        output_T=np.linalg.norm(product, axis=1),
    )

    share = np.linalg.norm(off, axis=1) / np.linalg.norm(product, axis=1) / limit
    # What the noise itself adds, `known` times some 1, has a limit of its own.
    assert (share * limit - 2 * known <= limit).all()
    assert share.max() > 1 / 8
