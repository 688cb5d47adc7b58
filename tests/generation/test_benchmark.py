"""What benchmarks/generation.py calls kept was kept: its judgements, with defects planted."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.generation.sampler import Sampler
from cotejar.generation.scheduler import Finish, Job

if TYPE_CHECKING:
    from types import ModuleType

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
END = 3


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`bench("serve_soak")` imports a module of the benchmark."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("generation_parts", "generation_table", "serve_soak", "generation_prompts"):
        sys.modules.pop(name, None)


class Reference:
    """A session that leads from 0 to 1 to 2 to the end, each by a margin of 2."""

    def append(self, token_ids: list[int]) -> np.ndarray:
        logits_V = np.zeros(4, np.float32)
        logits_V[(token_ids[-1] + 1) % 4] = 2
        return logits_V


class Model:
    class tokenizer:  # noqa: N801 - an attribute, as a model has it
        eos_ids = frozenset({END})


def compare(bench: Any, said: list[int], finish: Finish, limit: float) -> dict[str, Any]:
    parts = bench("generation_parts")
    job = Job(
        prompt_ids=[0],
        sampler=Sampler(),
        max_tokens=9,
        end_ids={END},
        on_token=lambda *_: False,
        token_ids=said,
        finish=finish,
    )
    prompt = parts.PROMPTS[0]
    line: dict[str, Any] = parts._compare(
        prompt, [0], job, Reference(), Model, limit, step_by_step=True
    )
    return line


@pytest.mark.parametrize(
    ("said", "finish", "limit", "found"),
    [
        ([1, 2], Finish.STOP, 0.0, ("MATCH", None, None)),
        ([1, 2], Finish.LENGTH, 0.0, ("MATCH", None, None)),
        ([1, 1], Finish.LENGTH, 2.0, ("TIE-FLIP", 1, 2.0)),
        ([1, 1], Finish.LENGTH, 1.99, ("WRONG", 1, 2.0)),
        ([1], Finish.STOP, 1.0, ("WRONG", 1, 2.0)),
        ([1, 2, 0], Finish.LENGTH, 1.0, ("WRONG", 2, 2.0)),
        ([1, 1], Finish.LENGTH, math.nan, ("WRONG", 1, 2.0)),
        ([], Finish.LENGTH, 9.0, ("WRONG", None, None)),
    ],
)
def test_the_first_difference_is_judged_by_the_references_lead(
    bench: Any, said: list[int], finish: Finish, limit: float, found: tuple[Any, ...]
) -> None:
    line = compare(bench, said, finish, limit)

    assert (line["outcome"], line["step"], line["margin"]) == found


SOUND = {"answered": 50, "killed": 10, "resident_bytes": [200 << 20] * 10}


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"answered": 0}, False),
        ({"killed": 0}, False),
        ({"errors": ["OSError: reset"]}, False),
        ({"other_texts": 1}, False),
        ({"resident_bytes": [200 << 20] * 8 + [216 << 20] * 2}, True),
        ({"resident_bytes": [200 << 20] * 8 + [217 << 20] * 2}, False),
        ({"resident_bytes": [1]}, False),
    ],
)
def test_a_soak_holds_only_without_a_fault(
    bench: Any, change: dict[str, Any], holds: bool
) -> None:
    soak = bench("serve_soak")

    line = soak._line(soak.Tally(**(SOUND | change)), 10.0, alive=True)

    assert line["holds"] is holds
    assert soak._line(soak.Tally(**SOUND), 10.0, alive=False)["holds"] is False
    json.dumps(line)


def test_the_table_has_every_bar_and_every_prompt(bench: Any, tmp_path: Path) -> None:
    prompt = {"kind": "SQL", "chat": True, "tokens": 9, "outcome": "TIE-FLIP"}
    line = {"key": "texts m a against b", "bar": "20", "found": "1 TIE-FLIP", "holds": True}
    check = {"key": "check m native+q8", "bar": "all", "found": "0 of 1", "holds": False}
    lines = [
        line | {"limit": 1.15, "prompts": [prompt | {"step": 4, "margin": 0.25}]},
        check | {"rows": {"cached": 0.125}},
    ]
    path = tmp_path / "table.md"

    bench("generation_table").write_table(path, lines, command="python it.py")

    text = path.read_text()
    assert "| texts m a against b | 20 | yes | 1 TIE-FLIP |" in text
    assert "| check m native+q8 | all | **NO** | 0 of 1 |" in text
    assert "| SQL, templated | TIE-FLIP | 9 | 4 | 0.25 |" in text
    assert "| m native+q8 | 0.125 |" in text
