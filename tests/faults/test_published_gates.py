"""The gates of others, each at its limit; NaN passes none of them."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.faults.published_gates import PUBLISHED_GATES

GATES = {gate.id: gate.passes for gate in PUBLISHED_GATES}
X = np.random.default_rng(0).standard_normal((5, 400))


def judge(gate: str, candidate: np.ndarray, reference: np.ndarray = X) -> bool | None:
    """Sites and logits are the same array here."""
    return GATES[gate](
        {"embed": reference, "logits": reference}, {"embed": candidate, "logits": candidate}
    )


@pytest.mark.parametrize("gate", GATES)
def test_the_same_numbers_pass(gate: str) -> None:
    assert judge(gate, X.astype(np.float32).astype(np.float64), X.astype(np.float32)) is True


@pytest.mark.parametrize("gate", [g for g in GATES if g != "top-1"])
def test_a_nan_does_not(gate: str) -> None:
    broken = X.copy()
    broken[-1, 3] = np.nan

    assert judge(gate, broken) is False


@pytest.mark.parametrize(
    ("gate", "least", "most"),
    [
        # A factor f: std by f; error (f - 1)^2 of about the variance, whose mean is near 0;
        # 1 - 2f / (1 + f^2); |f - 1| against rtol.
        ("std-ratio", 1.99, 2.01),
        ("nmse", 1.098, 1.102),
        ("relative", 1.0457, 1.0458),
        ("allclose", 1 + 0.9e-5, 1 + 1.1e-5),
    ],
)
def test_a_factor_at_the_limit(gate: str, least: float, most: float) -> None:
    assert judge(gate, X * least) is True
    assert judge(gate, X * most) is False


def test_cosine_sees_a_direction_and_no_factor() -> None:
    along = X[-1]
    across = np.roll(along, 1)
    across = across - (across @ along) / (along @ along) * along
    across *= np.linalg.norm(along) / np.linalg.norm(across)

    assert judge("cosine", 7 * X) is True
    # cos = 1 / sqrt(1 + t^2): 0.99 at t = 0.1425
    assert judge("cosine", X + 0.142 * across) is True
    assert judge("cosine", X + 0.143 * across) is False


def test_kl_of_two_coins() -> None:
    fair, biased = (np.log([[p, 1 - p]]) for p in (0.5, 0.57))
    slightly = np.log([[0.569, 1 - 0.569]])

    # KL(0.5 || q) = -ln(4 q (1 - q)) / 2: 0.00989 at 0.57 and 0.01003 at 0.5705
    assert judge("kl", biased, fair) is True
    assert judge("kl", slightly, fair) is True
    assert judge("kl", np.log([[0.5705, 0.4295]]), fair) is False


def test_top_1_is_of_the_last_position() -> None:
    earlier, last = X.copy(), X.copy()
    earlier[0, 7], last[-1, 7] = 99, 99

    assert judge("top-1", earlier) is True
    assert judge("top-1", last) is False


@pytest.mark.parametrize("gate", ["relative", "allclose", "allclose-1e-3"])
def test_other_shapes_cannot_be_compared_element_by_element(gate: str) -> None:
    assert judge(gate, X[1:]) is None


def test_the_ratio_compares_samples_of_any_size() -> None:
    assert judge("std-ratio", X[1:]) is True


def test_every_gate_has_a_name_of_its_own() -> None:
    assert len(GATES) == len(PUBLISHED_GATES) == 8
