"""The library itself: found, checked, and described.

`llama_cpp` is imported here and nowhere else, and only when an engine is made.
"""

from __future__ import annotations

import collections
import functools
import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.engines.llamacpp.tensor import check_tensor_layout, declare_functions
from cotejar.errors import MissingExtraError

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterable

_WARNING, _CONTINUED = 3, 5
"""`GGML_LOG_LEVEL_WARN`, and the level of a line's later parts."""
_KEPT_LINES = 8


@dataclass(frozen=True, eq=False)
class Library:
    """llama-cpp-python's C interface, and the same library with ggml's functions."""

    api: Any
    """The module `llama_cpp`."""
    ggml: ctypes.CDLL
    complaints: collections.deque[str]
    """The last warnings and errors that llama.cpp printed."""
    log_callback: Any
    """Held, or ctypes would free what llama.cpp goes on calling."""

    @property
    def description(self) -> str:
        """Versions, the CPU features of this build and its backends."""
        version, commit = (self.ggml.ggml_version(), self.ggml.ggml_commit())
        features = re.findall(r"(\w+) = 1", self.api.llama_print_system_info().decode())
        count = self.ggml.ggml_backend_reg_count()
        backends = [
            self.ggml.ggml_backend_reg_name(self.ggml.ggml_backend_reg_get(i)).decode()
            for i in range(count)
        ]
        return (
            f"llama-cpp-python {self.api.__version__}, ggml {version.decode()} "
            f"{commit.decode()}, {' '.join(features)}, backends {_listed(backends)}"
        )


@functools.cache
def load_library() -> Library:
    """Import llama-cpp-python once a process.

    Raises:
        MissingExtraError: it is not installed, or cannot be loaded.
        EngineBuildError: a tensor of this build has another layout than the mirror's.
    """
    try:
        api = importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:  # the last two: a broken library
        raise MissingExtraError(
            "llama.cpp is not installed",
            where="engine llamacpp",
            expected="the package llama-cpp-python",
            found=f"{type(error).__name__}: {error}",
            hint="pip install 'cotejar[llamacpp]'",
        ) from None
    # libllama's own handle also finds what it is linked to, ggml among it.
    ggml: ctypes.CDLL = importlib.import_module("llama_cpp.llama_cpp")._lib  # noqa: SLF001
    declare_functions(ggml)
    check_tensor_layout(ggml)
    complaints: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
    log_callback = api.llama_log_callback(_collector(complaints))
    api.llama_log_set(log_callback, None)
    api.llama_backend_init()
    return Library(api, ggml, complaints, log_callback)


def _collector(complaints: collections.deque[str]) -> Any:
    """A log callback that keeps what is a warning or worse."""
    state = {"keeps": False}

    def collect(level: int, text: bytes, _: object) -> None:
        if level != _CONTINUED:
            state["keeps"] = level >= _WARNING
        line = text.decode("utf-8", "replace").strip()
        if state["keeps"] and line:
            complaints.append(line)

    return collect


def _listed(names: Iterable[str]) -> str:
    return " ".join(names) or "none"
