"""`apr serve` under 16 streaming clients, one of which is killed every second.

Each client asks, reads its stream to the end, compares the text with what `apr run` answers,
and asks again. A killed client's connection is closed in the middle of its stream, without a
word, as the system does for a process that is killed. Memory is the server's resident set.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLIENTS = 16
MAX_TOKENS = 24
QUESTIONS = (
    "What is the capital of France?",
    "Write a line of Python that adds two numbers.",
    "Name three colours.",
    "Why is the sea salt?",
)
MAX_GROWTH_BYTES = 16 << 20
"""Between the second and the last fifth of the time. One KV cache of 64 tokens of SmolLM2 that
every killed client left behind would be 60 * 2.9 MB a minute."""
APR = [sys.executable, "-c", "from cotejar.cli.apr.main import main; main()"]


@dataclass
class Tally:
    """What the clients saw."""

    answered: int = 0
    killed: int = 0
    errors: list[str] = field(default_factory=list)
    other_texts: int = 0
    resident_bytes: list[int] = field(default_factory=list)
    """One a second."""


def measure_soak(model: str, seconds: float) -> dict[str, Any]:
    """Serve, ask and kill for so long; return one line of results."""
    expected = {question: _run_text(model, question) for question in QUESTIONS}
    server = subprocess.Popen(
        [*APR, "serve", model, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = urlsplit(server.stdout.readline().split(" at ")[1].split()[0])
        tally = asyncio.run(
            _soak(address.hostname, address.port, server.pid, expected, seconds)
        )
        alive = server.poll() is None
    finally:
        server.kill()
        server.wait()
    return _line(tally, seconds, alive=alive)


def _line(tally: Tally, seconds: float, *, alive: bool) -> dict[str, Any]:
    fifth = len(tally.resident_bytes) // 5
    growth = math.nan
    if fifth:
        early = statistics.median(tally.resident_bytes[fifth : 2 * fifth])
        growth = statistics.median(tally.resident_bytes[-fifth:]) - early
    faults = len(tally.errors) + tally.other_texts
    return {
        "bar": f"{CLIENTS} clients, {seconds:g} s, 1 killed a second: no error, same text, "
        f"growth <= {MAX_GROWTH_BYTES >> 20} MiB",
        "errors": tally.errors[:5],
        "found": f"{tally.answered} answers, {tally.killed} killed, "
        f"{len(tally.errors)} errors, {tally.other_texts} other texts, "
        f"memory {growth / (1 << 20):+.1f} MiB, "
        f"{max(tally.resident_bytes, default=0) >> 20} MiB at most",
        "holds": alive
        and faults == 0
        and tally.answered > 0
        and tally.killed > 0
        and growth <= MAX_GROWTH_BYTES,
    }


async def _soak(
    host: Any, port: Any, pid: int, expected: dict[str, str], seconds: float
) -> Tally:
    tally, chance = Tally(), random.Random(0)
    clients: list[asyncio.Task[None]] = []

    def begin(number: int) -> asyncio.Task[None]:
        return asyncio.create_task(_client(host, port, number, expected, tally))

    clients = [begin(number) for number in range(CLIENTS)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(1)
        index = chance.randrange(CLIENTS)
        await _stop(clients[index])
        tally.killed += 1
        clients[index] = begin(index)
        tally.resident_bytes.append(_resident_bytes(pid))
    for client in clients:
        await _stop(client)
    return tally


async def _stop(client: asyncio.Task[None]) -> None:
    client.cancel()
    with suppress(asyncio.CancelledError):
        await client


async def _client(
    host: Any, port: Any, number: int, expected: dict[str, str], tally: Tally
) -> None:
    while True:
        question = QUESTIONS[number % len(QUESTIONS)]
        number += 1
        try:
            text = await _ask(host, port, question)
        except (OSError, ValueError, LookupError, EOFError) as error:
            tally.errors.append(f"{type(error).__name__}: {error}"[:200])
            await asyncio.sleep(1)
            continue
        tally.answered += 1
        tally.other_texts += text != expected[question]


async def _ask(host: Any, port: Any, question: str) -> str:
    """One streamed chat completion; its connection is closed if this is cancelled."""
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "stream": True,
        }
    ).encode()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        pieces, ended = [], False
        async for data in _events(reader):
            if data == b"[DONE]":
                ended = True
                break
            delta = json.loads(data)["choices"][0]["delta"]
            pieces.append(delta.get("content") or "")
        if not ended:
            raise EOFError("the stream ended before [DONE]")
        return "".join(pieces)
    finally:
        writer.transport.abort()


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What stands after `data: `, of an HTTP answer in chunks."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ValueError(head.split(b"\r\n")[0].decode("latin-1"))
    rest = b""
    while size := int(await reader.readline(), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *events, rest = rest.split(b"\n\n")
        for event in events:
            yield event.removeprefix(b"data: ").strip()


def _run_text(model: str, question: str) -> str:
    """What `apr run` answers."""
    done = subprocess.run(
        [*APR, "run", model, question, "-n", str(MAX_TOKENS), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    text: str = json.loads(done.stdout)["text"]
    return text


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
