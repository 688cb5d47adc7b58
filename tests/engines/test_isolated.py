"""An engine in a process of its own: it may fail in every way, and only it fails."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.isolated_session import IsolatedGenerator, open_isolated
from cotejar.engines.oracle import OracleEngine
from cotejar.engines.spec import EngineSpec
from cotejar.errors import (
    ConfigValueError,
    CotejarError,
    EngineCrashError,
    EngineDataError,
    EngineError,
    EngineProtocolError,
    EngineTimeoutError,
    TokenIdError,
    UsageError,
)
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel

IDS = [5, 77, 300]
EVERYTHING = Capture(array_slots=EVERY_ARRAY)
SPEC = EngineSpec(
    name="fake",
    target="fake_engine:FakeEngine",
    numerics=("f64",),
    generates=True,
    isolated=True,
)


@pytest.fixture(autouse=True)
def _child_finds_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def model(tiny: Any) -> LanguageModel:
    return tiny()


def isolated(model: LanguageModel, **options: Any) -> IsolatedGenerator:
    engine = open_isolated(SPEC, model, numerics="f64", options=options)
    assert isinstance(engine, IsolatedGenerator)
    return engine


def failure(engine: IsolatedGenerator) -> CotejarError:
    with pytest.raises(CotejarError) as caught:
        engine.trace(IDS, capture=EVERYTHING)
    return caught.value


def is_running(pid: int) -> bool:
    """Is there such a process, and not only its entry in the table?"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def session(pid: int) -> list[str]:
    """Every process of the session that `pid` began."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats.append(path.read_text())
    return [stat for stat in stats if stat.rpartition(")")[2].split()[3] == str(pid)]


def wait_until(holds: Any, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(holds())


def test_a_trace_is_the_engines_own(model: LanguageModel) -> None:
    engine = isolated(model)

    for prompt in ("one", "two"):  # it stays
        trace = engine.trace(IDS, capture=EVERYTHING, prompt=prompt)
        here = OracleEngine(model).trace(IDS, capture=EVERYTHING, prompt=prompt)

        assert (trace.engine.name, trace.engine.build) == ("fake", "fake 1")
        assert trace.engine == engine.info
        assert trace.model == here.model
        assert json.dumps(trace.config) == json.dumps(here.config)
        assert (trace.token_ids, trace.prompt) == (here.token_ids, prompt)
        assert [*trace.sites] == [*here.sites]
        assert {n: a.tobytes() for n, a in trace.arrays.items()} == {
            n: a.tobytes() for n, a in here.arrays.items()
        }


def test_only_what_is_asked_for_is_recorded(model: LanguageModel) -> None:
    capture = Capture(
        scopes=(Scope.LAST,), array_slots=frozenset({"ffn_up"}), layers=frozenset({1})
    )

    trace = isolated(model).trace(IDS, capture=capture)

    assert [*trace.arrays] == ["layer.1.ffn_up"]
    assert {r.site.layer for r in trace.sites.values()} == {None, 1}
    assert {scope for r in trace.sites.values() for scope in r.stats} == {Scope.LAST}


def test_a_text_grows_in_the_child(model: LanguageModel) -> None:
    engine = isolated(model)
    one, two = engine.start(), engine.start()

    logits_V = one.append([1, 2])
    assert (logits_V.shape, logits_V.dtype, logits_V[0]) == ((320,), np.float32, 2)
    assert two.append([1])[0] == 1
    assert one.append([3])[0] == 3
    assert (one.num_tokens, two.num_tokens) == (3, 1)


def test_a_context_that_nobody_needs_is_forgotten(model: LanguageModel) -> None:
    engine = isolated(model)
    session = engine.start()
    del session
    gc.collect()

    assert engine.ended_sessions == [0]
    kept = engine.start()
    assert (kept.num_tokens, engine.ended_sessions) == (0, [])


@pytest.mark.parametrize(
    ("fails", "kind", "found"),
    [
        ("crash", EngineCrashError, "signal 11, SIGSEGV; it said: about to fall"),
        ("exit", EngineCrashError, "exit code 7; it said: cannot go on"),
    ],
)
def test_a_crash_is_an_error_and_ends_nothing_else(
    model: LanguageModel, fails: str, kind: type[CotejarError], found: str
) -> None:
    engine = isolated(model, fails=fails)

    error = failure(engine)

    assert type(error) is kind
    assert str(error) == (
        "error[APR-E002]: the engine's process ended: fake, tracing 3 tokens\n"
        "  where     engine fake\n"
        "  expected  an answer\n"
        f"  found     {found}\n"
        "  try       nothing was measured; the fault is the engine's, or its installation's"
    )
    assert error.exit_code == 3


def test_a_crash_while_it_opens_is_the_same(model: LanguageModel) -> None:
    with pytest.raises(EngineCrashError) as caught:
        isolated(model, fails="open").start()

    assert caught.value.problem == "the engine's process ended: fake, opening the model"


def test_a_failed_engine_says_so_again(model: LanguageModel) -> None:
    engine = isolated(model, fails="crash")
    failure(engine)

    error = failure(engine)

    assert type(error) is EngineError
    assert error.problem == "the engine's process has ended before: fake, tracing 3 tokens"


def test_a_hang_ends_at_the_limit(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = isolated(model, fails="hang")
    pid = engine._child.pid
    assert engine.info.name == "fake"  # it is open
    monkeypatch.setenv("COTEJAR_ENGINE_TIMEOUT_S", "0.3")

    error = failure(engine)

    assert str(error) == (
        "error[APR-E003]: the engine did not answer in time: fake, tracing 3 tokens\n"
        "  where     engine fake\n"
        "  expected  an answer within 0.3 s\n"
        "  found     none; its process was ended; it said nothing\n"
        "  try       if it needs longer: COTEJAR_ENGINE_TIMEOUT_S=SECONDS"
    )
    assert type(error) is EngineTimeoutError
    assert not is_running(pid)


def test_the_limit_grows_with_the_work(model: LanguageModel) -> None:
    engine = isolated(model)

    assert engine.limit_s(1) > 60
    assert engine.limit_s(2000) - engine.limit_s(1000) == pytest.approx(
        1000 * (engine.limit_s(1) - engine.limit_s(0))
    )


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_a_limit_that_is_no_time_is_refused(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("COTEJAR_ENGINE_TIMEOUT_S", text)

    with pytest.raises(UsageError) as caught:
        isolated(model)

    assert caught.value.as_json() == {
        "code": "APR-U001",
        "problem": f"{text!r} is no time limit",
        "where": "environment variable COTEJAR_ENGINE_TIMEOUT_S",
        "expected": "a number of seconds above 0, at most 86400",
        "found": text,
        "try": "unset it for a limit that grows with the work",
    }


def test_an_exception_is_the_engines_own_words(model: LanguageModel) -> None:
    error = failure(isolated(model, fails="raise"))

    assert type(error) is EngineError
    assert error.problem == "the engine failed: fake, tracing 3 tokens"
    assert error.parts["found"] == "RuntimeError: no memory for the cache"


def test_an_error_of_ours_stays_what_it_was(model: LanguageModel) -> None:
    with pytest.raises(ConfigValueError) as caught:
        isolated(model, fails="refuse").start()

    assert caught.value.as_json() == {
        "code": "APR-M004",
        "problem": "no model of this kind",
        "where": "fake",
        "expected": "another",
        "found": "this one",
        "try": "none",
    }


@pytest.mark.parametrize("fails", ["print", "noise"])
def test_what_a_library_prints_is_no_answer(model: LanguageModel, fails: str) -> None:
    trace = isolated(model, fails=fails).trace(IDS, capture=EVERYTHING)

    assert len(trace.token_ids) == 3


@pytest.mark.parametrize(
    ("fails", "what", "expected", "found"),
    [
        ("short", "its tokens", "the 3 asked for", "2 others"),
        ("site", "its sites", "23 sites", "1 are missing, the first is layer.1.ffn_up"),
        ("last rows", "its scopes at embed", "all, last", "last"),
        ("arrays", "its arrays", None, "1 are missing, the first is logits"),
        (
            "unobserved",
            "what it says it cannot observe",
            "no more than its spec says",
            "ffn_up",
        ),
        ("engine", "its engine", None, None),
    ],
)
def test_another_trace_than_was_asked_for_is_refused(
    model: LanguageModel, fails: str, what: str, expected: str | None, found: str | None
) -> None:
    error = failure(isolated(model, fails=fails))

    assert type(error) is EngineDataError
    assert error.exit_code == 3
    if fails == "short":  # such a file does not even hold together
        assert error.problem == "the engine's trace cannot be read"
        return
    assert error.problem == f"the engine sent another trace than it was asked for: {what}"
    assert expected is None or error.parts["expected"] == expected
    assert found is None or error.parts["found"] == found


@pytest.mark.parametrize(
    ("fails", "expected", "found"),
    [
        ("short", "1280 bytes of logits, 4 a token id", "1276 bytes"),
        ("nan", "320 finite logits", "1 that are NaN or infinite"),
        ("forgets", "2 tokens in its context", "0"),
    ],
)
def test_logits_that_are_no_logits_are_refused(
    model: LanguageModel, fails: str, expected: str, found: str
) -> None:
    session = isolated(model, fails=fails).start()

    with pytest.raises(EngineDataError) as caught:
        session.append([1, 2])

    assert caught.value.as_json() == {
        "code": "APR-E005",
        "problem": "the engine sent other data than it was asked for",
        "where": "engine fake",
        "expected": expected,
        "found": found,
        "try": "nothing was measured; the fault is the engine's",
    }


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("[1]", "the engine's process gave no answer: fake, starting a text"),
        ("{}", "the engine's process left something out of its answer"),
        ('{"session": "0"}', "the engine's process left something out of its answer"),
        (
            '{"error": {"code": "APR-U001"}}',
            "the engine's process reported an error that is none of ours",
        ),
        ('{"error": 3}', "the engine's process reported an error that is none of ours"),
        ("{}\n{}", "the engine's process gave no answer: fake, starting a text"),
        ("x" * 1_100, "the engine's process gave no answer: fake, starting a text"),
    ],
)
def test_an_answer_that_is_none_is_refused(
    model: LanguageModel, answer: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a program in the worker's place that answers every request alike."""
    times = 1000 if answer.startswith("x") else 1
    engine = isolated(model)
    assert engine.info.name == "fake"  # the worker answered before
    liar = subprocess.Popen(
        [sys.executable, "-c", f"input(); print({answer!r} * {times}, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    monkeypatch.setattr(engine._child, "_process", liar)
    try:
        with pytest.raises(EngineProtocolError) as caught:
            engine.start()
        assert caught.value.problem == problem
    finally:
        liar.kill()
        liar.wait()
        for pipe in (liar.stdin, liar.stdout, liar.stderr):
            assert pipe is not None
            pipe.close()


def test_a_process_that_cannot_be_started_says_why(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = [*tmp_path.iterdir()]

    with pytest.raises(EngineError) as caught:
        isolated(model)

    assert caught.value.problem == "the engine's process cannot be started: fake"
    assert "no-python" in caught.value.parts["found"]
    assert [*tmp_path.iterdir()] == before


def test_a_request_longer_than_a_pipe_holds_is_sent(model: LanguageModel) -> None:
    """A pipe takes 64 KiB at once; the rest goes as the child reads."""
    engine = isolated(model)

    trace = engine.trace(IDS, capture=Capture(), prompt="x" * 300_000)

    assert trace.prompt == "x" * 300_000


def test_ids_are_refused_before_they_are_sent(model: LanguageModel) -> None:
    engine = isolated(model, fails="crash")

    with pytest.raises(TokenIdError):
        engine.trace([320], capture=EVERYTHING)
    with pytest.raises(TokenIdError):
        engine.start().append([-1])


def test_an_altered_model_is_refused(model: LanguageModel) -> None:
    altered = model.altered(config=replace(model.config, rms_eps=1.0))

    with pytest.raises(UsageError) as caught:
        isolated(altered)

    assert str(caught.value) == (
        "error[APR-U001]: a fault cannot be injected into fake\n"
        "  where     engine fake\n"
        "  expected  an engine that runs in this process: native, oracle\n"
        "  found     fake, which opens the file again and would not see the fault\n"
        "  try       inject it into the other side, or put it into a file of its own"
    )


def test_closing_ends_the_child_and_its_folder(model: LanguageModel) -> None:
    engine = isolated(model)
    pid, folder = engine._child.pid, engine._child.folder
    assert wait_until(lambda: len(session(pid)) == 2)  # and who cleans up after it
    assert folder.is_dir()

    engine.close()

    assert not is_running(pid)
    assert not folder.exists()
    assert wait_until(lambda: not session(pid))


def test_what_a_crashed_child_leaves_running_is_ended(model: LanguageModel) -> None:
    error = failure(isolated(model, fails="orphan"))

    pid = int(error.parts["found"].removeprefix("exit code 7; it said: "))
    assert wait_until(lambda: not is_running(pid))


def test_an_engine_that_nobody_holds_is_ended(model: LanguageModel) -> None:
    engine = isolated(model)
    pid = engine._child.pid
    del engine
    gc.collect()

    assert not is_running(pid)


def test_the_arrays_outlive_the_engine(model: LanguageModel) -> None:
    engine = isolated(model)
    trace = engine.trace(IDS, capture=EVERYTHING)
    engine.close()

    assert trace.arrays["logits"].shape == (3, 320)


PARENT = """
    import sys
    from cotejar.engines.isolated import IsolatedEngine
    from cotejar.engines.spec import EngineSpec
    from cotejar.model.language_model import open_language_model
    from cotejar.trace.forward_trace import Capture
    spec = EngineSpec(name="fake", target="fake_engine:FakeEngine", numerics=("f64",))
    engine = IsolatedEngine(
        spec, open_language_model(sys.argv[1]), numerics="f64", options={"fails": sys.argv[2]}
    )
    print(engine._child.pid, engine._child.folder, flush=True)
    engine.trace([1], capture=Capture())
"""


@pytest.mark.parametrize("fails", ["hang", "hold"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_child_and_its_folder_end_with_the_parent(
    model: LanguageModel, number: int, fails: str
) -> None:
    """Killed, it can do nothing about it; by Ctrl-C it says nothing of the child."""
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(model.file.path), fails],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    assert wait_until(Path(folder, "hangs").exists)

    os.kill(parent.pid, number)
    _, complaint = parent.communicate(timeout=10)

    assert wait_until(lambda: not is_running(int(pid)))
    assert wait_until(lambda: not Path(folder).exists())
    assert complaint.count("KeyboardInterrupt") == (number == signal.SIGINT)
    assert not re.search("Broken|Engine.*Error", complaint)
