"""`apr serve` says where it is, ends on Ctrl-C, and refuses what cannot be served."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import UsageError
from cotejar.serving.run import ServeRequest, serve_model
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("uvicorn")


def test_it_says_where_it_is_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    code = "from cotejar.cli.apr.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(model), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].split()[0]
        with urllib.request.urlopen(f"{url}/models", timeout=30) as answer:
            assert json.loads(answer.read())["data"][0]["id"] == "tiny.gguf"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()

    assert "Traceback" not in errors
    assert process.returncode in {0, 130}


def test_a_port_that_is_taken_is_refused_before_the_model_is_opened() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(UsageError) as caught:
            serve_model(ServeRequest(source="no such file", port=port), print)

    assert str(caught.value) == (
        "error[APR-U001]: the address cannot be served\n"
        "  where     --host, --port\n"
        "  expected  an address of this machine, and a free port\n"
        f"  found     127.0.0.1:{port}: Address already in use\n"
        "  try       --port 0 takes a free one"
    )


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match="the address cannot be served"):
        serve_model(ServeRequest(source="no such file", port=port), print)


def test_a_trace_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    request = ServeRequest(source="x", port=0, trace_folder=tmp_path / "none")

    with pytest.raises(UsageError, match="traces cannot go there"):
        serve_model(request, print)
