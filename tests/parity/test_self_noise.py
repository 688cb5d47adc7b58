"""A limit on how far an engine may lie from itself says where it comes from."""

from __future__ import annotations

import pytest

from cotejar.engines.spec import ENGINES
from cotejar.parity.self_noise import SELF_NOISE, self_limit


def test_native_may_not_differ_at_all() -> None:
    expected = (0.0, "every product and sum has one order: nothing may differ")

    assert {self_limit("native", name) for name in ENGINES["native"].numerics} == {expected}


def test_every_numerics_of_an_engine_that_generates_has_been_measured() -> None:
    generating = {name for name, spec in ENGINES.items() if spec.generates}

    assert generating == {"native", *SELF_NOISE}
    for engine, noise in SELF_NOISE.items():
        assert noise.keys() == set(ENGINES[engine].numerics)


def test_the_origin_has_the_figure_and_where_it_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SELF_NOISE, "transformers", {"f32": 1e-6})

    assert self_limit("transformers", "f32") == (
        3e-6,
        "3 x 1e-06, how far transformers+f32 was measured to lie from itself in "
        "benchmarks/results/generation.md",
    )


@pytest.mark.parametrize(("engine", "numerics"), [("echo", "f32"), ("transformers", "f8")])
def test_what_nobody_has_measured_has_no_limit(engine: str, numerics: str) -> None:
    assert self_limit(engine, numerics) == (
        None,
        f"nobody has measured the noise of {engine}+{numerics}; give --limit",
    )
