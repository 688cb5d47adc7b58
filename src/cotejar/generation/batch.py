"""Many prompts from a file, answered side by side, each answer written when it is done.

A line of the prompt file is a JSON object: `prompt` (or `messages`, for the chat template),
and if wanted `id`, `max_tokens`, `temperature` and `seed`. An answer is one line of the
output, in the order in which answers are done, with the number and the beginning of the
SHA-256 of its prompt's line.

The output is appended to, line by line. Started again it goes on: what is answered there is
not answered again, and a line that was torn off is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cotejar.errors import (
    CotejarError,
    MissingFileError,
    NothingMeasuredError,
    UsageError,
    WriteError,
)
from cotejar.generation.sampler import Sampler
from cotejar.generation.scheduler import DEFAULT_SLOTS, Finish, Job, Scheduler
from cotejar.generation.text_stream import TextStream
from cotejar.tokenizer.chat import encode_chat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from cotejar.engines.native.engine import NativeEngine
    from cotejar.generation.sampling_options import SamplingOptions

MAX_LINE_BYTES = 16 << 20
KEYS = frozenset({"id", "prompt", "messages", "max_tokens", "temperature", "seed"})


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """What is asked of `apr run --batch`."""

    prompts: Path
    output: Path
    max_tokens: int
    sampling: SamplingOptions
    raw: bool = False
    """Give prompts as they are, without the model's chat template."""
    slots: int = DEFAULT_SLOTS


@dataclass(kw_only=True, slots=True)
class BatchResult:
    """What became of the prompts of one run."""

    num_answered: int = 0
    num_before: int = 0
    """Answered by an earlier run."""
    num_tokens: int = 0
    failures: list[tuple[int, CotejarError]] = field(default_factory=list)
    """Line numbers, from 1, with what was wrong."""


def run_batch(
    engine: NativeEngine,
    request: BatchRequest,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> BatchResult:
    """Answer every prompt that the output does not answer yet.

    Args:
        engine: answers all of them.
        request: the files and the settings.
        on_progress: hears how many lines are done, of how many.

    Raises:
        MissingFileError, UsageError: a file that cannot be read, or an output that holds
            something else than answers to these prompts.
        NothingMeasuredError: the prompt file holds no line.
        WriteError: the output cannot be written.
    """
    lines = _read_lines(request.prompts)
    result, scheduler = BatchResult(), Scheduler(engine, slots=request.slots)
    with _open_output(request.output) as output:
        answered = _read_answered(output, request.output, lines)
        result.num_before = len(answered)
        done = result.num_before
        on_progress(done, len(lines))

        def write(record: Mapping[str, object]) -> None:
            nonlocal done
            _append(output, request.output, record)
            done += 1
            on_progress(done, len(lines))

        waiting = iter([n for n in lines if n not in answered])
        while True:
            # Few at a time: a file of a million prompts is not tokenized before the first.
            while scheduler.num_waiting < request.slots and (n := next(waiting, None)):
                _submit(scheduler, engine, request, n, lines[n], result, write)
            if not scheduler.num_jobs:
                return result
            scheduler.step()


def _submit(
    scheduler: Scheduler,
    engine: NativeEngine,
    request: BatchRequest,
    number: int,
    line: bytes,
    result: BatchResult,
    write: Callable[[Mapping[str, object]], None],
) -> None:
    where = f"{request.prompts}, line {number}"
    record: dict[str, object] = {"line": number, "sha256": _fingerprint(line)}

    def fail(error: CotejarError) -> None:
        result.failures.append((number, error))
        write(record | {"error": error.as_json()})

    try:
        asked = _read_prompt(line, where)
        record |= {"id": asked["id"]} if "id" in asked else {}
        job, pieces = _make_job(engine, request, asked, where)
    except CotejarError as error:
        fail(error)
        return

    def finish(job: Job) -> None:
        if job.error is not None:
            fail(job.error)
            return
        result.num_answered += 1
        result.num_tokens += len(job.token_ids)
        answer = {
            "text": pieces(),
            "tokens": job.token_ids,
            "prompt_tokens": len(job.prompt_ids),
            "finish_reason": (job.finish or Finish.ERROR).value,
        }
        write(record | answer)

    job.on_finish = finish
    scheduler.add(job)


def _make_job(
    engine: NativeEngine, request: BatchRequest, asked: Mapping[str, Any], where: str
) -> tuple[Job, Callable[[], str]]:
    """A job, and what gives its text once it is done."""
    tokenizer = engine.model.tokenizer
    if "messages" in asked:
        prompt_ids = encode_chat(tokenizer, asked["messages"])
    elif request.raw or not tokenizer.spec.chat_template:
        prompt_ids = tokenizer.encode(asked["prompt"])
    else:
        prompt_ids = encode_chat(tokenizer, [{"role": "user", "content": asked["prompt"]}])
    changes = {key: asked[key] for key in ("temperature", "seed") if key in asked}
    sampling = replace(request.sampling, **changes)
    stream, texts = TextStream(tokenizer), list[str]()

    def hear(token: int, _: object) -> bool:
        texts.append(stream.push(token))
        return False

    max_tokens = asked.get("max_tokens", request.max_tokens)
    if max_tokens < 1:
        raise _bad_line(where, "max_tokens of at least 1", str(max_tokens))
    job = Job(
        prompt_ids=prompt_ids,
        sampler=Sampler(sampling),
        max_tokens=max_tokens,
        end_ids=tokenizer.eos_ids,
        on_token=hear,
    )
    return job, lambda: "".join(texts) + stream.finish()


def _read_lines(path: Path) -> dict[int, bytes]:
    """Lines that hold something, by number from 1."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MissingFileError(
            "the prompts cannot be read",
            where=str(path),
            expected="a readable file, a JSON object a line",
            found=error.strerror or type(error).__name__,
            hint='a line is {"prompt": "..."}',
        ) from None
    lines = {n: line for n, line in enumerate(raw.split(b"\n"), 1) if line.strip()}
    if not lines:
        raise NothingMeasuredError(
            "there is no prompt",
            where=str(path),
            expected="one line or more",
            found="none",
            hint='a line is {"prompt": "..."}',
        )
    return lines


def _read_prompt(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise _bad_line(where, f"at most {MAX_LINE_BYTES} bytes", f"{len(line)} bytes")
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad_line(where, "a JSON object", str(error)[:200]) from None
    if not isinstance(asked, dict):
        raise _bad_line(where, "a JSON object", type(asked).__name__)
    unknown = sorted(set(asked) - KEYS)
    if unknown:
        raise _bad_line(where, f"keys of: {', '.join(sorted(KEYS))}", str(unknown[0])[:100])
    if ("prompt" in asked) == ("messages" in asked):
        raise _bad_line(where, "one of prompt and messages", "both or none")
    types = {"prompt": str, "messages": list, "max_tokens": int, "seed": int}
    for key, kind in types.items():
        if key in asked and (not isinstance(asked[key], kind) or isinstance(asked[key], bool)):
            raise _bad_line(where, f"{key}: {kind.__name__}", type(asked[key]).__name__)
    if type(asked.get("temperature", 0)) not in {int, float}:
        raise _bad_line(where, "temperature: a number", type(asked["temperature"]).__name__)
    if asked.get("prompt") == "":
        raise _bad_line(where, "a prompt of 1 character or more", "an empty one")
    return asked


def _bad_line(where: str, expected: str, found: str) -> UsageError:
    return UsageError(
        "the line cannot be answered",
        where=where,
        expected=expected,
        found=found,
        hint='a line is {"prompt": "..."} or {"messages": [...]}',
    )


def _open_output(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    except OSError as error:
        raise WriteError(
            "the output cannot be written",
            where=str(path),
            expected="a file that can be written",
            found=error.strerror or type(error).__name__,
            hint="choose another output with -o",
        ) from None


def _read_answered(output: BinaryIO, path: Path, lines: Mapping[int, bytes]) -> set[int]:
    """Lines that have an answer; what was torn off at the end is cut away."""
    answered: set[int] = set()
    whole = 0
    for record in _whole_lines(output):
        try:
            answer = json.loads(record)
            number, digest = answer["line"], answer["sha256"]
        except (ValueError, TypeError, KeyError, RecursionError):
            number, digest = None, None
        same = type(number) is int and number in lines and number not in answered
        if not same or digest != _fingerprint(lines[number]):
            raise UsageError(
                "the output is not of these prompts",
                where=f"{path}, byte {whole}",
                expected="answers to these prompts, each once",
                found=repr(record[:80]),
                hint="choose another output with -o, or remove this one",
            )
        answered.add(number)
        whole += len(record)
    output.seek(whole)
    output.truncate()
    return answered


def _fingerprint(line: bytes) -> str:
    """Of a prompt's line: an answer to another prompt is not taken for its."""
    return hashlib.sha256(line.strip()).hexdigest()[:16]


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    for record in file:
        if record.endswith(b"\n"):
            yield record


def _append(output: BinaryIO, path: Path, record: Mapping[str, object]) -> None:
    data = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    try:
        output.write(data)
        output.flush()
    except OSError as error:
        raise WriteError(
            "the output cannot be written",
            where=str(path),
            expected=f"room for {len(data)} bytes",
            found=error.strerror or type(error).__name__,
            hint="run it again with the same output: it goes on after the last whole line",
        ) from None
