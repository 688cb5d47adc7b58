"""The endpoint, as OpenAI's own client sees it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines.native.engine import NativeEngine
from cotejar.generation.open_native import open_native
from cotejar.generation.run import RunRequest, run_prompt
from cotejar.generation.scheduler import Scheduler
from cotejar.serving import engine_thread
from cotejar.serving.engine_thread import EngineThread
from cotejar.serving.run import _bind
from cotejar.trace.trace_file import read_trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
GREEDY = {"temperature": 0, "max_tokens": 12}


class Served:
    """A server in this process, and a client of it."""

    def __init__(self, source: str, **options: Any) -> None:
        from cotejar.serving.app import make_app

        self.source = source
        engine = open_native(source)
        self.thread = EngineThread(engine, **options)
        app = make_app(self.thread, engine.model)
        self._socket = _bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._runs = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._runs.start()
        self.client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60
        )

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._runs.join(20)
        self._socket.close()
        assert not self._runs.is_alive()

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(self.url + path, data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def served(demo_model: Path) -> Iterator[Served]:
    one = Served(str(demo_model))
    yield one
    one.close()


@pytest.fixture(scope="module")
def as_run(demo_model: Path) -> str:
    request = RunRequest(source=str(demo_model), prompt=QUESTION, max_tokens=12)
    return run_prompt(request).text


def streamed(served: Served, **more: Any) -> str:
    chunks = served.client.chat.completions.create(
        model="any", messages=MESSAGES, stream=True, **(GREEDY | more)
    )
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def test_a_chat_is_what_run_answers(served: Served, as_run: str) -> None:
    answer = served.client.chat.completions.create(model="any", messages=MESSAGES, **GREEDY)

    choice = answer.choices[0]
    assert choice.message.content == as_run
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_stream_is_the_same_text(served: Served, as_run: str) -> None:
    assert streamed(served) == as_run


def test_a_stream_counts_if_asked(served: Served) -> None:
    chunks = list(
        served.client.chat.completions.create(
            model="any",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            **GREEDY,
        )
    )

    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-2].choices[0].finish_reason == "length"


def test_a_completion_is_what_run_makes_of_the_raw_text(
    served: Served, demo_model: Path
) -> None:
    answer = served.client.completions.create(model="any", prompt="Once upon", **GREEDY)

    request = RunRequest(source=str(demo_model), prompt="Once upon", max_tokens=12, raw=True)
    assert answer.choices[0].text == run_prompt(request).text


def test_ids_are_taken_as_they_are(served: Served) -> None:
    ids = open_native(served.source).model.tokenizer.encode("Once upon")

    by_ids = served.client.completions.create(model="any", prompt=ids, **GREEDY)
    by_text = served.client.completions.create(model="any", prompt="Once upon", **GREEDY)

    assert by_ids.choices[0].text == by_text.choices[0].text


def test_a_stop_text_is_not_shown(served: Served, as_run: str) -> None:
    stop = as_run[4:9]

    text = streamed(served, stop=stop)

    assert text == as_run[: as_run.index(stop)]


def test_logprobs_are_those_of_the_model(served: Served) -> None:
    answer = served.client.chat.completions.create(
        model="any", messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY
    )

    content = answer.choices[0].logprobs.content
    assert len(content) == 12
    for one in content:
        assert one.logprob <= 0
        assert one.top_logprobs[0].token == one.token, "greedy takes the likeliest"
        assert one.top_logprobs[0].logprob == one.logprob
        assert len(one.top_logprobs) == 3
    assert bytes(b for one in content for b in one.bytes).decode(errors="replace")


def test_a_schema_is_kept(served: Served) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    answer = served.client.chat.completions.create(
        model="any",
        messages=MESSAGES,
        temperature=0,
        max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )

    assert json.loads(answer.choices[0].message.content)["city"] in {"Paris", "Rome"}


def test_the_model_is_listed(served: Served, demo_model: Path) -> None:
    assert [m.id for m in served.client.models.list().data] == [demo_model.name]


def test_many_at_once_have_the_text_of_one(served: Served, as_run: str) -> None:
    found: list[str] = []
    clients = [
        threading.Thread(target=lambda: found.append(streamed(served))) for _ in range(12)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(120)

    assert found == [as_run] * 12


def test_who_leaves_ends_only_his_own_text(served: Served, as_run: str) -> None:
    stream = served.client.chat.completions.create(
        model="any", messages=MESSAGES, stream=True, temperature=0, max_tokens=1500
    )
    next(iter(stream))
    stream.close()

    assert streamed(served) == as_run
    wait_until(lambda: served.thread.num_jobs == 0)


def test_who_leaves_without_a_stream_ends_his_text(served: Served) -> None:
    with pytest.raises(openai.APITimeoutError):
        served.client.with_options(timeout=0.5).chat.completions.create(
            model="any", messages=MESSAGES, temperature=0, max_tokens=1500
        )

    wait_until(lambda: served.thread.num_jobs == 0)


def wait_until(holds: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"temperature": -1}, "--temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "a"}]}, "message 0"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    served: Served, change: dict[str, Any], field: str
) -> None:
    body = {"messages": MESSAGES, "max_tokens": 2} | change

    status, answer = served.post("/v1/chat/completions", json.dumps(body).encode())

    assert status == 400
    assert answer["error"]["param"] == field
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_what_is_no_request_is_refused(served: Served, body: bytes) -> None:
    status, answer = served.post("/v1/chat/completions", body)

    assert status == 400
    assert answer["error"]["param"] == "body"


def test_a_body_without_end_is_refused(served: Served) -> None:
    status, _ = served.post("/v1/completions", b" " * (9 << 20))

    assert status == 413


def test_a_prompt_longer_than_the_context_is_the_clients_fault(served: Served) -> None:
    body = {"prompt": [5] * 10_000, "max_tokens": 1}

    for stream in (False, True):
        status, answer = served.post(
            "/v1/completions", json.dumps(body | {"stream": stream}).encode()
        )
        assert status == 400
        assert answer["error"]["code"] == "APR-U004"


def test_a_template_that_refuses_is_the_clients_fault_and_the_server_lives(
    served: Served, as_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = served.thread._engine.model.tokenizer
    refusing = replace(tokenizer.spec, chat_template="{{ raise_exception('no') }}")
    monkeypatch.setattr(tokenizer, "spec", refusing)

    for stream in (False, True):
        body = json.dumps({"messages": MESSAGES, "stream": stream}).encode()
        status, answer = served.post("/v1/chat/completions", body)
        assert (status, answer["error"]["code"]) == (400, "APR-T004")
    monkeypatch.undo()

    assert streamed(served) == as_run


def test_a_full_queue_is_busy(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_thread, "MAX_WAITING", 0)

    status, answer = served.post("/v1/completions", b'{"prompt": "a"}')

    assert status == 503
    assert answer["error"]["type"] == "server_error"


def test_a_pass_that_fails_is_told_and_the_server_lives(
    served: Served, as_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Scheduler) -> None:
        raise RuntimeError("a planted defect")

    monkeypatch.setattr(Scheduler, "step", fail)
    status, answer = served.post("/v1/completions", b'{"prompt": "a"}')
    monkeypatch.undo()

    assert status == 500
    assert "a planted defect" in answer["error"]["message"]
    assert streamed(served) == as_run


def test_every_nth_request_leaves_a_trace(demo_model: Path, tmp_path: Path) -> None:
    served = Served(str(demo_model), trace_folder=tmp_path, trace_every=2)
    try:
        for _ in range(4):
            served.client.completions.create(
                model="any", prompt="a b", max_tokens=2, temperature=0
            )
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        served.close()

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["request-000002.trace", "request-000004.trace"]
    trace = read_trace(tmp_path / names[0])
    ids = open_native(str(demo_model)).model.tokenizer.encode("a b")
    assert list(trace.token_ids[: len(ids)]) == ids
    assert len(trace.token_ids) == len(ids) + 1, "the last token is chosen and not run"


def test_memory_does_not_grow_with_requests(served: Served) -> None:
    def run_some() -> None:
        for i in range(30):
            served.client.completions.create(
                model="any", prompt=f"{i} a b c", max_tokens=2, temperature=0
            )

    run_some()
    engine = served.thread._scheduler
    assert len(engine._idle) + len(engine._running) <= 8
    assert not served.thread._finished


def test_the_engine_is_one_thread_and_answers_after_many(served: Served) -> None:
    assert isinstance(served.thread._engine, NativeEngine)
    names = [t.name for t in threading.enumerate()]
    assert names.count("engine") == 1
