"""Every prompt of a file is answered once, as alone, whatever happens on the way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines.native.engine import NativeEngine
from cotejar.errors import (
    MissingFileError,
    NothingMeasuredError,
    UnknownEngineError,
    UsageError,
    WriteError,
)
from cotejar.generation.batch import BatchRequest, BatchResult, run_batch
from cotejar.generation.open_native import open_native
from cotejar.generation.run import RunRequest, run_prompt
from cotejar.generation.sampling_options import SamplingOptions
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path

LINES: list[dict[str, Any]] = [
    {"id": "first", "prompt": "a b c"},
    {"prompt": "b", "max_tokens": 3},
    {"prompt": "c d e f g", "temperature": 1.5, "seed": 7},
    {"id": 4, "prompt": "d"},
    {"prompt": "a b c d"},
]


class Batch:
    """A tiny model, a prompt file, an output."""

    def __init__(self, folder: Path) -> None:
        self.model = write_tiny_gguf(folder / "tiny.gguf")
        self.engine = NativeEngine(open_native(str(self.model)).model, numerics="q8")
        self.prompts, self.output = folder / "prompts.jsonl", folder / "answers.jsonl"
        self.write(LINES)

    def write(self, lines: list[Any]) -> None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        self.prompts.write_text("\n".join(texts) + "\n")

    def run(self, on_progress: Any = lambda *_: None, **more: Any) -> BatchResult:
        settings = {"max_tokens": 6, "sampling": SamplingOptions(), "slots": 2} | more
        request = BatchRequest(prompts=self.prompts, output=self.output, **settings)
        return run_batch(self.engine, request, on_progress)

    def answers(self) -> dict[int, dict[str, Any]]:
        records = [json.loads(line) for line in self.output.read_text().splitlines()]
        assert len({r["line"] for r in records}) == len(records), "no line twice"
        return {record["line"]: record for record in records}

    def alone(self, line: dict[str, Any]) -> str:
        sampling = SamplingOptions(
            **{key: line[key] for key in ("temperature", "seed") if key in line}
        )
        request = RunRequest(
            source=str(self.model),
            prompt=line["prompt"],
            max_tokens=line.get("max_tokens", 6),
            sampling=sampling,
            skip_contract=True,
        )
        return run_prompt(request).text


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


@pytest.mark.parametrize("slots", [1, 2, 9])
def test_each_prompt_has_the_answer_that_it_has_alone(batch: Batch, slots: int) -> None:
    result = batch.run(slots=slots)

    answers = batch.answers()
    assert {n: a["text"] for n, a in answers.items()} == {
        n: batch.alone(line) for n, line in enumerate(LINES, 1)
    }
    assert [answers[1]["id"], answers[4]["id"]] == ["first", 4]
    assert "id" not in answers[2]
    assert (result.num_answered, result.failures) == (5, [])


class StopError(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("after", range(5))
def test_interrupted_it_goes_on_and_loses_or_repeats_nothing(batch: Batch, after: int) -> None:
    def stop(done: int, _: int) -> None:
        if done == after:
            raise StopError

    with pytest.raises(StopError):
        batch.run(stop)

    result = batch.run()

    assert result.num_before == after
    assert result.num_answered == 5 - after
    assert {n: a["text"] for n, a in batch.answers().items()} == {
        n: batch.alone(line) for n, line in enumerate(LINES, 1)
    }


@pytest.mark.parametrize(
    "torn", ['{"line": 3', '{"line": 3, "sha256": "ab", "text": "x"}', "x"]
)
def test_a_line_that_was_torn_off_is_answered_again(batch: Batch, torn: str) -> None:
    batch.run()
    whole = batch.output.read_text()
    kept = whole.splitlines(keepends=True)[:2]
    batch.output.write_text("".join(kept) + torn)

    result = batch.run()

    assert result.num_before == 2
    assert sorted(batch.output.read_text().splitlines()) == sorted(whole.splitlines())


def test_all_answered_before_is_nothing_to_do(batch: Batch) -> None:
    batch.run()
    before = batch.output.read_bytes()

    result = batch.run()

    assert (result.num_before, result.num_answered) == (5, 0)
    assert batch.output.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[" * 100_000, "maximum recursion depth exceeded while decoding a JSON array"),
        ("[]", "list"),
        ({"prompt": "a", "top_k": 1}, "top_k"),
        ({}, "both or none"),
        ({"prompt": "a", "messages": []}, "both or none"),
        ({"prompt": 3}, "int"),
        ({"prompt": ""}, "an empty one"),
        ({"prompt": "a", "max_tokens": True}, "bool"),
        ({"prompt": "a", "max_tokens": 0}, "0"),
        ({"prompt": "a", "temperature": "hot"}, "str"),
        ({"prompt": "a", "temperature": -1}, "-1"),
        ({"prompt": "a " * 100}, "tokens"),
        ({"messages": [{"role": "king", "content": "a"}]}, "role 'king'"),
        ({"messages": ["a"]}, "str"),
        ({"messages": []}, "role 'None'"),
    ],
)
def test_one_bad_line_is_reported_by_its_number_and_the_rest_goes_on(
    batch: Batch, line: Any, found: str
) -> None:
    batch.write([LINES[0], line, LINES[3]])

    result = batch.run()

    answers = batch.answers()
    assert [number for number, _ in result.failures] == [2]
    assert found[:60] in answers[2]["error"]["found"]
    assert answers[1]["text"] == batch.alone(LINES[0])
    assert answers[3]["text"] == batch.alone(LINES[3])


def test_empty_lines_are_passed_over_and_counted(batch: Batch) -> None:
    batch.write([LINES[0], "", "   ", LINES[3]])

    assert batch.run().num_answered == 2
    assert set(batch.answers()) == {1, 4}


def test_answers_to_other_prompts_are_refused_and_left_alone(batch: Batch) -> None:
    batch.run()
    before = batch.output.read_bytes()
    batch.write([{"prompt": "other"}, *LINES[1:]])

    with pytest.raises(UsageError) as caught:
        batch.run()

    assert "the output is not of these prompts" in str(caught.value)
    assert batch.output.read_bytes() == before


@pytest.mark.parametrize(
    "content", ["text\n", '{"line": 9, "sha256": ""}\n', '{"line": "1"}\n']
)
def test_a_file_that_holds_no_answers_is_refused_and_left_alone(
    batch: Batch, content: str
) -> None:
    batch.output.write_text(content)

    with pytest.raises(UsageError, match="the output is not of these prompts"):
        batch.run()
    assert batch.output.read_text() == content


def test_a_file_without_a_prompt_is_no_success(batch: Batch) -> None:
    batch.prompts.write_text("\n\n")

    with pytest.raises(NothingMeasuredError, match="there is no prompt"):
        batch.run()


def test_files_that_are_not_there_are_one_error(batch: Batch, tmp_path: Path) -> None:
    batch.output = tmp_path / "no folder" / "answers.jsonl"
    with pytest.raises(WriteError, match="the output cannot be written"):
        batch.run()
    batch.prompts = tmp_path / "none.jsonl"
    with pytest.raises(MissingFileError, match="the prompts cannot be read"):
        batch.run()


def test_another_engine_is_refused() -> None:
    with pytest.raises(UnknownEngineError, match="oracle cannot grow several texts"):
        open_native("oracle:m.gguf")
