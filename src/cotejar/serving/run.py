"""Bind, say where, serve until Ctrl-C."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import MissingExtraError, UsageError
from cotejar.generation.open_native import open_native
from cotejar.generation.scheduler import DEFAULT_SLOTS
from cotejar.serving.engine_thread import EngineThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOOPBACK = "127.0.0.1"
MAX_PORT = 65535
_SECONDS_TO_END = 5
"""What open connections are given after Ctrl-C."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeRequest:
    """What is asked of `apr serve`."""

    source: str
    """`[native[+numerics]:]PATH`."""
    host: str = LOOPBACK
    port: int = 8080
    """0 takes a free one."""
    slots: int = DEFAULT_SLOTS
    trace_folder: Path | None = None
    trace_every: int = 1


def serve_model(request: ServeRequest, on_ready: Callable[[str], None]) -> None:
    """Serve until the process is told to end; `on_ready` hears the address.

    Raises:
        MissingExtraError: the HTTP server is not installed.
        UsageError: the address cannot be bound, or a number means nothing.
        CotejarError: as opening the model finds.
    """
    try:
        import uvicorn

        from cotejar.serving.app import make_app
    except ImportError as error:
        raise MissingExtraError(
            "serving needs packages that are not installed",
            where="apr serve",
            expected="the packages starlette and uvicorn",
            found=str(error),
            hint="pip install 'cotejar[serve]'",
        ) from None
    if request.trace_every < 1:
        raise UsageError(
            "no request can be traced so",
            where="--trace-every",
            expected="at least 1",
            found=str(request.trace_every),
            hint="1 traces every request",
        )
    if request.trace_folder is not None:
        _require_folder(request.trace_folder)
    with _bind(request.host, request.port) as listening:
        engine = open_native(request.source)
        thread = EngineThread(
            engine,
            slots=request.slots,
            trace_folder=request.trace_folder,
            trace_every=request.trace_every,
        )
        config = uvicorn.Config(
            make_app(thread, engine.model),
            log_level="warning",
            timeout_graceful_shutdown=_SECONDS_TO_END,
        )
        host, port = listening.getsockname()[:2]
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        uvicorn.Server(config).run(sockets=[listening])


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port <= MAX_PORT:
        raise _unservable(host, port, "no such port")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise _unservable(host, port, error.strerror or str(error)) from None
    return listening


def _unservable(host: str, port: int, why: str) -> UsageError:
    return UsageError(
        "the address cannot be served",
        where="--host, --port",
        expected="an address of this machine, and a free port",
        found=f"{host}:{port}: {why}",
        hint="--port 0 takes a free one",
    )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(
            "traces cannot go there",
            where="--trace-dir",
            expected="a folder",
            found=f"{folder}: no such folder",
            hint="make it first",
        )
