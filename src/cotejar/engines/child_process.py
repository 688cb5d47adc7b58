"""A process of its own for code that may crash or hang: one request in, one answer out.

Requests and answers are JSON, one a line, on the child's stdin and stdout; what else a
library prints goes to its stderr, whose last lines tell why it ended. Data too long for a
line lie in files in a private folder. `cotejar.engines.child` is the other end.

Neither the child nor its folder outlives this process: they end when its stdin closes, which
the system does however this process ends. The child is in a session of its own, so that
Ctrl-C reaches this process alone, which then ends it.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any, NoReturn

from cotejar.engines.child import FOLDER_PREFIX
from cotejar.errors import (
    EngineCrashError,
    EngineError,
    EngineProtocolError,
    EngineTimeoutError,
    UsageError,
)

MAX_ANSWER_BYTES = 1 << 20
"""An answer is a few facts; data go into files."""
TIMEOUT_VARIABLE = "COTEJAR_ENGINE_TIMEOUT_S"
MAX_TIMEOUT_S = 24 * 3600.0
_STDERR_BYTES, _STDERR_LINES = 1 << 14, 6
_POLL_S = 0.5
_STREAMS = {
    "stdin": selectors.EVENT_WRITE,
    "stdout": selectors.EVENT_READ,
    "stderr": selectors.EVENT_READ,
}


class ChildProcess:
    """The child, until it is closed or fails once; nobody asks a failed one again."""

    def __init__(self, engine: str) -> None:
        """Start it.

        Args:
            engine: what errors call it.

        Raises:
            UsageError: `COTEJAR_ENGINE_TIMEOUT_S` is no time.
            EngineError: the system starts no process, or has no temporary folder.
        """
        timeout_from_environment()
        self.engine = engine
        folder = ""
        try:
            folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
            self._process = _start(Path(folder))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise EngineError(
                f"the engine's process cannot be started: {engine}",
                where=f"engine {engine}",
                expected="a new process, and a temporary folder for its data",
                found=str(error),
                hint="is there memory, and room in the folder that TMPDIR names?",
            ) from None
        self.folder = Path(folder)
        self.close = weakref.finalize(self, _end, self._process, self.folder)
        self._stderr = collections.deque[bytes](maxlen=_STDERR_LINES)
        self._stderr_rest = b""
        self._unsent = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, request: dict[str, Any], *, timeout_s: float, what: str) -> dict[str, Any]:
        """`send`, then `receive`."""
        self.send(request)
        return self.receive(timeout_s=timeout_s, what=what)

    def send(self, request: dict[str, Any]) -> None:
        """Hand over one request, as JSON, and go on; `receive` waits for the answer."""
        self._unsent = json.dumps(request).encode() + b"\n"
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
            with contextlib.suppress(BlockingIOError, BrokenPipeError):  # `receive` will see
                self._unsent = self._unsent[
                    os.write(self._process.stdin.fileno(), self._unsent) :
                ]

    def receive(self, *, timeout_s: float, what: str) -> dict[str, Any]:
        """Wait for the answer to the request that was sent.

        Args:
            timeout_s: how long to wait; `COTEJAR_ENGINE_TIMEOUT_S` overrules it.
            what: what the child was asked for, in errors.

        Raises:
            EngineCrashError, EngineTimeoutError, EngineProtocolError: it failed, and is ended.
            UsageError: the environment variable is no time.
        """
        try:
            limit_s = timeout_from_environment() or min(timeout_s, MAX_TIMEOUT_S)
            return self._parse(self._exchange(limit_s, what), what)
        except BaseException:  # Ctrl-C, too: an answer that nobody waits for would come next
            self.close()
            raise

    def _exchange(self, limit_s: float, what: str) -> bytes:
        deadline = time.monotonic() + limit_s
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            handles = self._register(selector)
            while not received.endswith(b"\n"):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    self._fail_timeout(limit_s, what)
                ready = {key.data for key, _ in selector.select(min(left_s, _POLL_S))}
                if not ready and self._process.poll() is not None:
                    self._fail_crash(what)
                if "stdin" in ready:
                    self._send_more(what)
                    if not self._unsent:
                        selector.unregister(handles["stdin"])
                if "stderr" in ready and not self._keep_stderr():
                    selector.unregister(handles["stderr"])
                if "stdout" in ready:
                    received += self._receive(what)
                if len(received) > MAX_ANSWER_BYTES or b"\n" in received[:-1]:
                    self._fail_protocol(bytes(received), what)
        return bytes(received)

    def _register(self, selector: selectors.BaseSelector) -> dict[str, int]:
        """Look out for all three streams; for stdin only while there is something to send."""
        handles = {name: getattr(self._process, name).fileno() for name in _STREAMS}
        for name, event in _STREAMS.items():
            os.set_blocking(handles[name], False)
            if name != "stdin" or self._unsent:
                selector.register(handles[name], event, name)
        return handles

    def _receive(self, what: str) -> bytes:
        assert self._process.stdout is not None, "a pipe"
        chunk = os.read(self._process.stdout.fileno(), 1 << 16)
        if not chunk:
            self._fail_crash(what)
        return chunk

    def _send_more(self, what: str) -> None:
        assert self._process.stdin is not None, "a pipe"
        try:
            num_sent = os.write(self._process.stdin.fileno(), self._unsent)
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._fail_crash(what)
        self._unsent = self._unsent[num_sent:]

    def _keep_stderr(self) -> bool:
        """Read what is there, keep the last lines; False at its end."""
        assert self._process.stderr is not None, "a pipe"
        try:
            chunk = os.read(self._process.stderr.fileno(), _STDERR_BYTES)
        except BlockingIOError:
            return False  # nothing more for now
        *lines, rest = (self._stderr_rest + chunk).split(b"\n")
        self._stderr += [line for line in lines if line.strip()]
        self._stderr_rest = rest[-_STDERR_BYTES:]
        return bool(chunk)

    def _last_words(self) -> str:
        """The last lines of stderr, for an error's `found`."""
        while self._keep_stderr():
            pass
        lines = [*self._stderr, self._stderr_rest][-_STDERR_LINES:]
        text = " | ".join(line.decode("utf-8", "replace").strip() for line in lines if line)
        return f"; it said: {text[-1000:]}" if text.strip() else "; it said nothing"

    def _parse(self, line: bytes, what: str) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self._fail_protocol(line, what)
        return answer

    def _fail_protocol(self, received: bytes, what: str) -> NoReturn:
        raise EngineProtocolError(
            f"the engine's process gave no answer: {self.engine}, {what}",
            where=f"engine {self.engine}",
            expected=f"one line of JSON, at most {MAX_ANSWER_BYTES} bytes",
            found=f"{len(received)} bytes that begin {received[:60]!r}",
            hint="an engine that prints must not print to file handle 1 of its process",
        )

    def _fail_timeout(self, limit_s: float, what: str) -> NoReturn:
        self._kill()
        raise EngineTimeoutError(
            f"the engine did not answer in time: {self.engine}, {what}",
            where=f"engine {self.engine}",
            expected=f"an answer within {limit_s:.3g} s",
            found=f"none; its process was ended{self._last_words()}",
            hint=f"if it needs longer: {TIMEOUT_VARIABLE}=SECONDS",
        )

    def _fail_crash(self, what: str) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_POLL_S)  # its pipes are closed: it is ending
        self._kill()
        code = self._process.returncode
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"signal {-code}, {signal.Signals(-code).name}"
        raise EngineCrashError(
            f"the engine's process ended: {self.engine}, {what}",
            where=f"engine {self.engine}",
            expected="an answer",
            found=f"{how}{self._last_words()}",
            hint="nothing was measured; the fault is the engine's, or its installation's",
        )

    def _kill(self) -> None:
        _kill_session(self._process)


def timeout_from_environment() -> float | None:
    """Seconds, as `COTEJAR_ENGINE_TIMEOUT_S` says; None where it is not set.

    Raises:
        UsageError: it is no positive number, or more than a day.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if 0 < seconds <= MAX_TIMEOUT_S:
        return seconds
    raise UsageError(
        f"{text[:80]!r} is no time limit",
        where=f"environment variable {TIMEOUT_VARIABLE}",
        expected=f"a number of seconds above 0, at most {MAX_TIMEOUT_S:.0f}",
        found=text[:80],
        hint="unset it for a limit that grows with the work",
    )


def _start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", "cotejar.engines.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        env=_environment(folder),
    )


def _environment(folder: Path) -> dict[str, str]:
    """The child's: what it must do otherwise than this process."""
    return {
        # Threads that spin while they wait starve each other where cores are shared: under load
        # a pass of llama.cpp took 3 to 6 times as long.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        # A temporary file that a crash leaves behind goes with the folder.
        "TMPDIR": str(folder),
        # ggml's abort handler would start a debugger.
        "GGML_NO_BACKTRACE": "1",
    }


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """The child and what it started, also where it has ended itself; waits until it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    _kill_session(process)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    shutil.rmtree(folder, ignore_errors=True)
