"""Each row of `apr check` sees the smallest way to break what it stands for, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.native.cache import KVCache, LayerCache
from cotejar.engines.native.engine import NUMERICS, NativeEngine, NativeSession
from cotejar.engines.native.packed import PackedPass
from cotejar.errors import UsageError
from cotejar.kernels import instruction_set
from cotejar.parity import self_check
from cotejar.parity.self_check import SelfCheck, check_engine
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

IDS = tuple((7 * i + 3) % 60 for i in range(40))
EVERY_ROW = [
    "cached",
    "uncached",
    "chunks-1",
    "chunks-7",
    "chunks-32",
    "interleaved",
    "batch-first",
    "batch-last",
    "threads",
    "save-restore",
    "prefix-reuse",
    "context-edge",
    "window-edge",
]


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("m") / "windowed.gguf"
    return write_tiny_gguf(path, TinyDecoder(sliding_window=20))


def failing(check: SelfCheck) -> set[str]:
    return {row.id for row in check.rows if row.verdict is not Verdict.PASS}


def run(path: Path, **options: Any) -> SelfCheck:
    return check_engine(str(path), token_ids=IDS, **options)


@pytest.mark.parametrize("numerics", NUMERICS)
def test_the_native_engine_agrees_with_itself_to_the_bit(windowed: Path, numerics: str) -> None:
    check = check_engine(f"native+{numerics}:{windowed}", token_ids=IDS)

    assert [row.id for row in check.rows] == EVERY_ROW
    assert all(row.bit_identical and row.num_positions for row in check.rows)
    assert all(row.first_difference is None for row in check.rows)
    assert check.verdict is Verdict.PASS
    assert check.left_out == ()


def test_a_model_without_a_window_leaves_that_row_out(tmp_path: Path) -> None:
    check = run(write_tiny_gguf(tmp_path / "tiny.gguf"))

    assert "window-edge" not in [row.id for row in check.rows]
    assert check.left_out == (("window-edge", "the model has no sliding window"),)


def test_a_position_that_stands_still_fails_what_goes_step_by_step(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = KVCache.advance

    def stuck(cache: KVCache, num_tokens: int) -> None:
        # One place too few, once: at the step after the tenth token.
        advance(cache, num_tokens - (cache.num_tokens == 10 and num_tokens == 1))

    monkeypatch.setattr(KVCache, "advance", stuck)

    check = run(windowed)

    rows = {row.id: row for row in check.rows}
    assert {"cached", "chunks-1", "interleaved"} <= failing(check)
    assert rows["cached"].first_difference == 11
    assert rows["cached"].rel_l2_max > 0
    assert check.verdict is Verdict.FAIL


def test_values_that_neighbours_blot_out_fail_the_batches_alone(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend = PackedPass.extend_cache

    def blank(self: PackedPass, layer: int, k: np.ndarray, v: np.ndarray) -> Any:
        pair = extend(self, layer, k, v)
        self._kept = [(keys, 0 * values) for keys, values in self._kept]
        return pair

    monkeypatch.setattr(PackedPass, "extend_cache", blank)

    assert failing(run(windowed)) == {"batch-first", "batch-last"}


def test_a_sum_that_hangs_on_the_threads_fails_that_row_alone(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = NativeEngine.trace

    def hanging(self: NativeEngine, *args: Any, **more: Any) -> Any:
        made = trace(self, *args, **more)
        if instruction_set.num_threads() == 1:
            made.arrays["logits"][5, 0] = np.nextafter(made.arrays["logits"][5, 0], 1e9)
        return made

    monkeypatch.setattr(NativeEngine, "trace", hanging)
    before = instruction_set.num_threads()
    instruction_set.use_threads(2)
    try:
        check = run(windowed)
    finally:
        instruction_set.use_threads(before)

    row = next(row for row in check.rows if row.id == "threads")
    assert failing(check) == {"threads"}
    assert row.first_difference == 5


def test_a_state_that_loses_a_bit_fails_that_row_alone(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = KVCache.state

    def lossy(cache: KVCache) -> dict[str, np.ndarray]:
        kept = state(cache)
        kept["layer.0.keys"][-1, 0] = np.nextafter(kept["layer.0.keys"][-1, 0], 1e9)
        return kept

    monkeypatch.setattr(KVCache, "state", lossy)

    assert failing(run(windowed)) == {"save-restore"}


def test_a_prefix_taken_for_longer_than_it_is_fails_that_row_alone(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = NativeSession.keep_common_prefix

    def stale(self: NativeSession, token_ids: list[int]) -> int:
        kept = keep(self, token_ids)
        self.token_ids.append(0)
        self._pass.cache.num_tokens += 1
        return kept + 1

    monkeypatch.setattr(NativeSession, "keep_common_prefix", stale)

    assert failing(run(windowed)) == {"prefix-reuse"}


def test_a_context_that_runs_over_its_edge_fails_that_row_alone(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotejar.engines.native.engine._check", lambda *_: None)

    check = run(windowed)

    row = next(row for row in check.rows if row.id == "context-edge")
    assert failing(check) == {"context-edge"}
    assert row.error == "it gave logits at other positions than were asked for"


def test_a_window_one_too_short_in_the_cache_fails_what_moves_past_it(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_seen = LayerCache._first_seen

    def too_late(self: LayerCache, num_tokens: int) -> int:
        seen = first_seen(self, num_tokens)
        return seen + 1 if seen else seen

    monkeypatch.setattr(LayerCache, "_first_seen", too_late)
    monkeypatch.setattr("cotejar.engines.native.cache.FIRST_CAPACITY_TOKENS", 1)

    assert "window-edge" in failing(run(windowed))


def test_a_limit_of_ones_own_is_the_limit(windowed: Path) -> None:
    check = run(windowed, limit=1e-3)

    assert (check.limit, check.limit_origin) == (1e-3, "given")


def test_a_difference_that_nobody_has_measured_is_no_pass(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "self_limit", lambda *_: (None, "nobody"))
    assert run(windowed).verdict is Verdict.PASS, "equal bits need no limit"
    append = NativeSession.append

    def off(self: NativeSession, token_ids: list[int]) -> np.ndarray:
        return np.nextafter(append(self, token_ids), np.float32(1e9))

    monkeypatch.setattr(NativeSession, "append", off)

    check = run(windowed)

    assert check.verdict is Verdict.INCOMPARABLE
    row = check.rows[0]
    assert (row.verdict, row.bit_identical, row.first_difference) == (
        Verdict.INCOMPARABLE,
        False,
        0,
    )


def test_logits_that_are_no_numbers_fail(
    windowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = NativeSession.append

    def nan(self: NativeSession, token_ids: list[int]) -> np.ndarray:
        return append(self, token_ids) * np.float32("nan")

    monkeypatch.setattr(NativeSession, "append", nan)

    assert run(windowed, limit=1e9).verdict is Verdict.FAIL


def test_a_short_text_is_refused(windowed: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_engine(str(windowed), token_ids=IDS[:7])

    assert str(caught.value) == (
        "error[APR-U001]: the text is too short to be cut up\n"
        "  where     --tokens\n"
        "  expected  at least 8 tokens\n"
        "  found     7 tokens\n"
        "  try       leave it out for a text of every kind"
    )


def test_an_engine_that_only_traces_is_refused() -> None:
    with pytest.raises(UsageError, match="oracle cannot continue a text"):
        check_engine("oracle:m.gguf")


def test_the_demo_model_agrees_with_itself(demo_model: Path) -> None:
    check = check_engine(str(demo_model))

    assert check.num_tokens > 80
    assert check.verdict is Verdict.PASS
    assert all(row.bit_identical for row in check.rows)


@pytest.mark.qwen
def test_qwen_agrees_with_itself(qwen_model: Path) -> None:
    assert all(row.bit_identical for row in check_engine(str(qwen_model)).rows)
