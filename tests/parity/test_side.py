"""A side of a comparison: what two sides of one file share."""

from __future__ import annotations

from typing import Any

from cotejar.parity.side import open_side
from cotejar.testing.tiny_decoder import TinyDecoder


def test_two_sides_of_one_file_open_it_once(tiny: Any) -> None:
    path, other = (tiny(TinyDecoder(seed=seed)).file.path for seed in (0, 1))
    reference = open_side(f"native:{path}")

    same = open_side(f"oracle:{path}", beside=reference)
    faulty = open_side(f"native:{path}", fault="norm-eps", beside=reference)

    assert same.model is faulty.model is reference.model
    assert open_side(f"native:{other}", beside=reference).model is not reference.model
    assert open_side(f"native:{path}").model is not reference.model
