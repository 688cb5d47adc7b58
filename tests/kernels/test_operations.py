"""The operations between products: equal bits on every instruction set, and near the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.errors import TensorShapeError
from cotejar.kernels import _compiled
from cotejar.kernels.instruction_set import NUMPY, runnable_isas
from cotejar.kernels.numpy_operations import exponential
from cotejar.kernels.operations import (
    attend,
    attend_each,
    first_greatest,
    multiply_elements,
    rms_norm,
    rotate,
    silu,
)

F32 = np.float32
COMPILED = [isa for isa in runnable_isas() if isa != NUMPY]
SEEDS = st.integers(0, 2**32)


@pytest.fixture(params=COMPILED)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal bits; a NaN is a NaN."""
    is_nan = np.isnan(expected)
    found, expected = (np.where(is_nan & np.isnan(x), F32(0), x) for x in (found, expected))
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()


def every_exponent(num_each: int) -> np.ndarray:
    """Floats of both signs and every exponent, subnormals, infinities and NaN too."""
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 23, (512, num_each), dtype=np.uint32)
    bits |= np.arange(512, dtype=np.uint32)[:, None] << 23
    return bits.view(F32).reshape(-1)


@given(seed=SEEDS, width=st.integers(1, 3000), spread=st.sampled_from([1, 1000]))
@settings(max_examples=40, deadline=None)
def test_the_first_greatest_of_a_row_is_numpys(seed: int, width: int, spread: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different values, so that the greatest comes more than once; zeros of both signs.
    values = rng.integers(-spread, 2, (3, width)) * F32(0.5) * F32(-1.0 if seed % 2 else 1.0)
    expected = values.argmax(axis=1).tolist()

    for isa in (*COMPILED, NUMPY):
        assert first_greatest(values.astype(F32), isa=isa) == expected


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 15, 16, 1023, 1024, 2500])
def test_a_row_that_is_not_finite_has_no_greatest(broken: float, column: int) -> None:
    values = np.zeros((3, 2501), F32)
    values[:, 7] = 1
    values[1, column] = broken

    for isa in (*COMPILED, NUMPY):
        assert first_greatest(values, isa=isa) == [7, None, 7]


def test_exp_is_within_two_ulp() -> None:
    x = np.concatenate([np.linspace(-103, 88.7, 100_001).astype(F32), every_exponent(9)])
    x = x[np.abs(x) < 103]
    with np.errstate(over="ignore"):
        exact = np.exp(x.astype(np.float64))
        spacing = np.spacing(np.minimum(exact, 3e38).astype(F32)).astype(np.float64)
        error = np.abs(exponential(x).astype(np.float64) - exact) / spacing
    finite = exact < 3.4e38

    assert np.all(error[finite] <= 2)


def test_exp_of_what_overflows_underflows_or_is_no_number() -> None:
    with np.errstate(all="ignore"):
        found = exponential(np.array([89, np.inf, -104, -np.inf, np.nan, 0], F32))

    assert np.array_equal(
        found, np.array([np.inf, np.inf, 0, 0, np.nan, 1], F32), equal_nan=True
    )


@pytest.mark.parametrize("count", [1, 15, 16, 40_000])
def test_silu_has_the_bits_of_numpy(isa: str, count: int) -> None:
    values = np.resize(every_exponent(70), count + 5)[5:]

    assert same_bits(silu(values, isa=isa), silu(values, isa=NUMPY))
    assert same_bits(
        multiply_elements(values, values, isa=isa), multiply_elements(values, values, isa=NUMPY)
    )


def test_silu_is_x_times_sigmoid(isa: str) -> None:
    x = np.linspace(-80, 80, 4001).astype(F32)
    exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))

    # exp 2 ulp, the sum and the quotient half an ulp each: below 4 units of 2 ** -24 each way
    assert np.all(np.abs(silu(x, isa=isa) - exact) <= 6 * 2.0**-24 * np.abs(exact))


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 5), width=st.integers(1, 70), seed=SEEDS)
def test_rms_norm_has_the_bits_of_numpy(rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-30, 30)).astype(F32)
    weight = rng.standard_normal(width).astype(F32)
    expected = rms_norm(values, weight, 1e-5, isa=NUMPY)

    assert all(same_bits(rms_norm(values, weight, 1e-5, isa=i), expected) for i in COMPILED)


def test_rms_norm_is_the_formula(isa: str) -> None:
    values = np.random.default_rng(4).standard_normal((3, 4, 50)).astype(F32)
    weight = np.linspace(-2, 2, 50).astype(F32)
    wide = values.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + 0.1) * weight

    found = rms_norm(values, weight, 0.1, isa=isa)

    # three roundings to float32, of the scale and of two products
    assert np.all(np.abs(found - exact) <= 4 * 2.0**-24 * np.abs(exact))


@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize(("pairs", "head_size"), [(1, 2), (3, 8), (16, 32), (20, 64)])
def test_rotate_has_the_bits_of_numpy(
    isa: str, adjacent: bool, pairs: int, head_size: int
) -> None:
    rng = np.random.default_rng(pairs)
    values = rng.standard_normal((70, 3, head_size)).astype(F32)
    angles = rng.uniform(-3, 3, (70, pairs))
    tables = np.cos(angles).astype(F32), np.sin(angles).astype(F32)

    found = rotate(values, *tables, adjacent=adjacent, isa=isa)

    assert same_bits(found, rotate(values, *tables, adjacent=adjacent, isa=NUMPY))
    assert same_bits(found[..., 2 * pairs :], values[..., 2 * pairs :])


def test_rotate_puts_its_result_where_it_is_told(isa: str) -> None:
    values = np.random.default_rng(1).standard_normal((5, 3, 16)).astype(F32)
    tables = np.full((5, 8), 0.6, F32), np.full((5, 8), 0.8, F32)
    place = np.empty((7, 3, 16), F32)[1:6]

    found = rotate(values, *tables, adjacent=True, isa=isa, out=place)

    assert isa == NUMPY or found is place
    assert same_bits(found, rotate(values, *tables, adjacent=True, isa=isa))


def test_rotate_refuses_a_place_of_another_shape() -> None:
    values, table = np.zeros((5, 3, 16), F32), np.zeros((5, 8), F32)
    place = np.empty((4, 3, 16), F32)

    with pytest.raises(TensorShapeError) as caught:
        rotate(values, table, table, adjacent=True, isa=COMPILED[0], out=place)

    assert (caught.value.parts["expected"], caught.value.parts["found"]) == (
        "a result of (5, 3, 16)",
        "(4, 3, 16)",
    )


def attention_inputs(tokens: int, total: int, heads: int, kv_heads: int, size: int, seed: int):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((tokens, heads, size)).astype(F32) * F32(3)
    k, v = rng.standard_normal((2, total, kv_heads, size)).astype(F32)
    k[..., 0] += F32(40)  # the large bias that scores must not drown in
    return q, k, v


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 24),
    before=st.integers(0, 40),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 9),
    size=st.sampled_from([2, 16, 24, 64]),
    window=st.one_of(st.none(), st.integers(1, 30)),
    seed=SEEDS,
)
def test_attend_has_the_bits_of_numpy(
    tokens: int, before: int, kv_heads: int, group: int, size: int, window, seed: int
) -> None:
    q, k, v = attention_inputs(tokens, before + tokens, kv_heads * group, kv_heads, size, seed)
    expected = attend(q, k, v, window=window, isa=NUMPY)

    assert all(same_bits(attend(q, k, v, window=window, isa=i), expected) for i in COMPILED)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("in_float32", [False, True])
def test_attend_gives_a_token_the_same_bits_alone_and_in_a_prefill(
    isa: str, window: int | None, in_float32: bool
) -> None:
    q, k, v = attention_inputs(33, 33, 6, 2, 32, seed=5)
    options = {"window": window, "isa": isa, "in_float32": in_float32}
    whole = attend(q, k, v, **options)

    alone = [attend(q[t : t + 1], k[: t + 1], v[: t + 1], **options) for t in range(33)]

    assert same_bits(np.concatenate(alone), whole)


@pytest.mark.parametrize("window", [None, 7])
def test_attend_is_softmax_attention(isa: str, window: int | None) -> None:
    q, k, v = attention_inputs(20, 30, 4, 2, 16, seed=6)
    exact = np.empty((20, 4, 16))
    for t, h in np.ndindex(20, 4):
        first = max(0, 10 + t + 1 - window) if window else 0
        seen = slice(first, 10 + t + 1)
        scores = k[seen, h // 2].astype(np.float64) @ q[t, h].astype(np.float64) / 4
        weights = np.exp(scores - scores.max())
        exact[t, h] = weights @ v[seen, h // 2].astype(np.float64) / weights.sum()

    found = attend(q, k, v, window=window, isa=isa)

    # A score of at most 100 is rounded to 2**-18, its exp to 2 ulp; sums of at most 30 terms
    # below 4 in magnitude add 60 roundings.
    assert np.all(np.abs(found - exact) <= 4 * (2 * 2.0**-18 + 70 * 2.0**-24))


@pytest.mark.parametrize("defect", ["one position more", "one position less", "another head"])
@pytest.mark.parametrize("in_float32", [False, True])
def test_a_defect_of_attention_is_seen(isa: str, defect: str, in_float32: bool) -> None:
    q, k, v = attention_inputs(3, 9, 4, 2, 16, seed=7)
    sound = attend(q, k, v, isa=isa, in_float32=in_float32)
    if defect == "one position less":
        k, v = k[1:], v[1:]
    elif defect == "one position more":
        k, v = np.concatenate([k, k[-1:]]), np.concatenate([v, v[-1:]])
    else:
        q = q[:, [0, 2, 1, 3]]

    assert not same_bits(attend(q, k, v, isa=isa, in_float32=in_float32), sound)


@pytest.mark.parametrize("broken", ["q", "k", "v"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("in_float32", [False, True])
def test_a_broken_position_breaks_only_those_that_see_it(
    isa: str, broken: str, bad: float, in_float32: bool
) -> None:
    inputs = dict(zip("qkv", attention_inputs(6, 6, 2, 1, 16, seed=8), strict=True))
    clean = attend(**inputs_named(inputs), isa=isa, in_float32=in_float32)
    inputs[broken][3] = bad

    found = attend(**inputs_named(inputs), isa=isa, in_float32=in_float32)

    expected = attend(**inputs_named(inputs), isa=NUMPY, in_float32=in_float32)
    assert same_bits(found, expected)
    assert same_bits(found[:3], clean[:3])
    assert not np.isfinite(found[3]).any()


def inputs_named(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"q_THE": inputs["q"], "k_SKE": inputs["k"], "v_SKE": inputs["v"]}


def test_shapes_that_do_not_fit_are_refused() -> None:
    q, k, v = attention_inputs(3, 5, 4, 2, 16, seed=9)
    calls = [
        lambda: attend(q, k, v[:4]),
        lambda: attend(q, k[:, :, :8], v[:, :, :8]),
        lambda: attend(q[:, :3], k, v),
        lambda: attend(q, k[:2], v[:2]),
        lambda: rms_norm(q, np.ones(15, F32), 1e-5),
        lambda: rotate(q, np.ones((3, 9), F32), np.ones((3, 9), F32), adjacent=False),
        lambda: rotate(q, np.ones((2, 4), F32), np.ones((2, 4), F32), adjacent=False),
        lambda: rotate(q, np.ones((3, 4), F32), np.ones((3, 5), F32), adjacent=False),
        lambda: multiply_elements(q, k),
    ]
    for call in calls:
        with pytest.raises(TensorShapeError, match="the arrays do not fit each other"):
            call()


@pytest.mark.parametrize("isa", [*COMPILED, NUMPY])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("in_float32", [False, True])
def test_contexts_side_by_side_attend_as_each_alone(
    isa: str, window: int | None, in_float32: bool
) -> None:
    random = np.random.default_rng(5)
    lengths = [(1, 40), (7, 7), (20, 33), (1, 1)]

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(F32)

    q_THE = normal(sum(tokens for tokens, _ in lengths), 6, 16)
    contexts = [(t, normal(s, 2, 16), normal(s, 2, 16)) for t, s in lengths]

    options = {"window": window, "isa": isa, "in_float32": in_float32}
    found = attend_each(q_THE, contexts, **options)

    start = 0
    for tokens, keys, values in contexts:
        own = slice(start, start + tokens)
        alone = attend(q_THE[own], keys, values, **options)
        assert same_bits(found[own], alone)
        start += tokens


def test_the_message_names_both_shapes() -> None:
    with pytest.raises(TensorShapeError) as caught:
        rms_norm(np.ones((2, 16), F32), np.ones(15, F32), 1e-5)

    assert str(caught.value) == (
        "error[APR-F018]: the arrays do not fit each other\n"
        "  where     rms_norm\n"
        "  expected  a weight of (16,)\n"
        "  found     (15,)\n"
        "  try       a shape in the model's configuration or tensor table is wrong"
    )


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, F32)


def turned(values: list[np.ndarray], table: np.ndarray, out: list[np.ndarray]) -> None:
    _compiled.rotate("portable", values, table, table, False, out)


@pytest.mark.parametrize(
    "call",
    [
        lambda: _compiled.rms_norm("portable", zeros(2, 4), zeros(5), 0.1, zeros(2, 4)),
        lambda: _compiled.rms_norm("portable", zeros(2, 4), zeros(4), 0.1, zeros(1, 4)),
        lambda: _compiled.silu("portable", zeros(5), zeros(4)),
        lambda: _compiled.multiply("portable", zeros(5), zeros(4), zeros(5)),
        lambda: turned([zeros(1, 1, 4)], zeros(1, 3), [zeros(1, 1, 4)]),
        lambda: turned([zeros(2, 1, 4)], zeros(1, 2), [zeros(2, 1, 4)]),
        lambda: turned([zeros(2, 1, 4)] * 2, zeros(2, 2), [zeros(2, 1, 4)]),
        lambda: turned([zeros(2, 1, 4)] * 2, zeros(2, 2), [zeros(2, 1, 4), zeros(1, 1, 4)]),
        lambda: turned([zeros(2, 1, 4), zeros(3, 1, 4)], zeros(2, 2), [zeros(2, 1, 4)] * 2),
        lambda: turned([zeros(2, 1, 4)] * 3, zeros(2, 2), [zeros(2, 1, 4)] * 3),
        lambda: turned([], zeros(2, 2), []),
        lambda: _compiled.attend(
            "portable",
            zeros(2, 1, 4),
            [1],
            [zeros(2, 1, 4)],
            [zeros(2, 1, 4)],
            0,
            zeros(2, 1, 4),
        ),
        lambda: _compiled.attend(
            "portable",
            zeros(1, 1, 4),
            [-1, 2],
            [zeros(2, 1, 4)] * 2,
            [zeros(2, 1, 4)] * 2,
            0,
            zeros(1, 1, 4),
        ),
        lambda: _compiled.attend(
            "portable",
            zeros(1, 1, 4),
            [1],
            [zeros(2, 1, 4)] * 2,
            [zeros(2, 1, 4)],
            0,
            zeros(1, 1, 4),
        ),
        lambda: _compiled.attend(
            "portable",
            zeros(2, 1, 4),
            [2],
            [zeros(1, 1, 4)],
            [zeros(1, 1, 4)],
            0,
            zeros(2, 1, 4),
        ),
        lambda: _compiled.attend(
            "portable",
            zeros(1, 3, 4),
            [1],
            [zeros(1, 2, 4)],
            [zeros(1, 2, 4)],
            0,
            zeros(1, 3, 4),
        ),
        lambda: _compiled.attend(
            "portable",
            zeros(1, 2, 4),
            [1],
            [zeros(1, 0, 4)],
            [zeros(1, 0, 4)],
            0,
            zeros(1, 2, 4),
        ),
        lambda: _compiled.attend(
            "portable",
            zeros(1, 2, 4),
            [1],
            [zeros(1, 1, 4)],
            [zeros(1, 1, 4)],
            -1,
            zeros(1, 2, 4),
        ),
    ],
)
def test_the_extension_refuses_what_it_would_read_past(call) -> None:
    with pytest.raises(ValueError, match=r"."):
        call()
