"""`apr check`, `parity --generate` and `eval` on engines of others, in their own processes."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines import generating
from cotejar.engines.spec import ENGINES
from cotejar.evaluation.perplexity import measure_perplexity
from cotejar.parity.compare import Plan
from cotejar.parity.generation import GenerationRequest, Outcome, run_generation
from cotejar.parity.self_check import check_engine
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from cotejar.engines.transformers.session import TransformersSession

pytestmark = pytest.mark.cross
IDS = tuple((7 * i + 3) % 60 for i in range(18))
ROWS = ["cached", "uncached", "chunks-1", "chunks-7", "interleaved"]


def needs(engine: str) -> Any:
    packages = ENGINES[engine].packages
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


FOREIGN = [
    pytest.param("llamacpp", marks=needs("llamacpp")),
    pytest.param("transformers+f64", marks=needs("transformers")),
]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTEJAR_THREADS", "1")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("m") / "tiny.gguf", TinyDecoder())


@pytest.mark.parametrize("engine", FOREIGN)
def test_it_agrees_with_itself_within_what_was_measured(path: Path, engine: str) -> None:
    check = check_engine(f"{engine}:{path}", token_ids=IDS)

    assert [row.id for row in check.rows] == ROWS
    assert [row.num_positions for row in check.rows] == [18, 6, 18, 18, 18]
    assert check.verdict is Verdict.PASS
    assert "measured to lie from itself" in check.limit_origin
    assert {reason for _, reason in check.left_out} == {
        f"{engine.partition('+')[0]} offers it not through this interface"
    }


@needs("transformers")
def test_a_step_that_is_off_by_a_millionth_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotejar.engines.transformers import session
    from cotejar.engines.transformers.engine import TransformersEngine

    append = session.TransformersSession.append

    def off(self: TransformersSession, token_ids: list[int]) -> np.ndarray:
        logits_V = append(self, token_ids)
        return logits_V * (1 + 1e-6 * (self.num_tokens == 7))

    monkeypatch.setattr(session.TransformersSession, "append", off)
    # In this process: the defect would not reach a child.
    monkeypatch.setattr(
        generating,
        "create_engine",
        lambda name, model: TransformersEngine(model, numerics=name.numerics),
    )

    check = check_engine(f"transformers+f64:{path}", token_ids=IDS)

    rows = {row.id: row for row in check.rows}
    failed = {name for name, row in rows.items() if row.verdict is Verdict.FAIL}
    assert failed == {"cached", "interleaved"}
    assert rows["cached"].rel_l2_max == pytest.approx(1e-6)
    assert check.verdict is Verdict.FAIL


@needs("transformers")
def test_native_decodes_what_transformers_decodes(path: Path) -> None:
    request = GenerationRequest(
        reference=f"transformers+f64:{path}",
        candidate=f"native+f32:{path}",
        max_tokens=6,
        token_ids=IDS,
        plan=Plan(),
    )

    (prompt,) = run_generation(request).prompts

    assert len(prompt.steps) == 6
    assert prompt.outcome is Outcome.MATCH


@needs("llamacpp")
def test_a_text_is_as_likely_as_native_says(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab ba c abba " * 8)

    theirs = measure_perplexity(f"llamacpp:{path}", text, chunk_tokens=16)
    ours = measure_perplexity(f"native+f32:{path}", text, chunk_tokens=16)

    assert theirs.num_judged == ours.num_judged > 0
    # llama.cpp rounds to 8 bits: its logits, of size 1, lie within 1e-2 of ours.
    assert theirs.mean_nll == pytest.approx(ours.mean_nll, abs=2e-2)
