"""The child process of `child_process`: `worker`, and somebody who cleans up after it.

    python -m cotejar.engines.child

Two processes come of it. The first becomes the worker. The second waits for the end of stdin,
which the system brings however the parent ends; then it kills the first, with all that it
started, and removes the folder of its data. It does so whatever the worker's libraries hold
or hang in, and also where nobody else is left to do it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from pathlib import Path

FOLDER_PREFIX = "cotejar-engine-"
"""Of the folder that `TMPDIR` names in the child; no other is removed."""
_POLL_S = 0.01


def main() -> None:
    """Fork before numpy and its threads are there, then work until stdin ends."""
    worker = os.getpid()
    if os.fork() == 0:
        try:
            _clean_up_after(worker)
        finally:
            os._exit(0)
    from cotejar.engines.worker import answer_requests

    answer_requests()


def _clean_up_after(worker: int) -> None:
    os.setpgid(0, 0)  # who kills the worker's group leaves this process
    os.close(1)  # the parent takes their end for the worker's
    os.close(2)
    stdin = select.poll()
    stdin.register(0, 0)  # requests are the worker's to read: nothing but a hang-up counts
    stdin.poll()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    while os.getppid() == worker:
        time.sleep(_POLL_S)  # it writes nothing once it is gone
    folder = Path(os.environ.get("TMPDIR", ""))
    if folder.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
