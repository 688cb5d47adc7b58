"""CrossHair itself: its search over the paths of a run, and what it says of each."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest import mock

from cotejar.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cotejar.contracts.prove.inputs import Drawn


MAX_PATHS = 100_000


def load_crosshair() -> Any:
    """Import CrossHair with its models of the standard library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import_module("crosshair.core_and_libs")
        return import_module("crosshair")
    except ImportError:
        raise MissingExtraError(
            "CrossHair is not installed",
            where="pv prove",
            expected="the package crosshair-tool",
            found="no such package in this Python",
            hint="pip install 'cotejar[prove]'",
        ) from None


class Engine:
    """CrossHair's search, as of the version that the extra pins."""

    def __init__(self, deadline: float) -> None:
        load_crosshair()
        self.deadline = deadline
        """On `time.monotonic`'s clock."""
        self.core = import_module("crosshair.core")
        self.statespace = import_module("crosshair.statespace")
        self.tracers = import_module("crosshair.tracers")
        self.num_paths = 0
        """Of the last search."""
        self.made_floats = False
        """A stand-in for a float was made, in any search."""
        self.drew_texts = False
        """A harness drew a text."""

    def explore(
        self, run: Callable[[], None], judge: Callable[[Exception | None], bool]
    ) -> bool:
        """Run every path; True where each one came to its end.

        Args:
            run: runs on stand-ins, traced.
            judge: is told what escaped from each run; True stops the search.
        """
        self.num_paths = num_left = 0
        status = self.statespace.VerificationStatus.CONFIRMED

        def run_path(_: object) -> Any:
            nonlocal num_left
            self.num_paths += 1
            num_left += 1  # until it comes to its end
            with self.core.ExceptionFilter() as kept, self.tracers.ResumedTracing():
                run()
            if kept.ignore:
                return self.core.PathOutcome(self.statespace.CallAnalysis())
            failure = kept.user_exc[0] if kept.user_exc else None
            stops = judge(failure) or time.monotonic() > self.deadline
            num_left -= 1
            return self.core.PathOutcome(self.statespace.CallAnalysis(status), stops)

        with self._noting_floats():
            root = self.statespace.RootNode()
            try:
                found = self.core.explore_loop(self._options(), root, run_path)
            except import_module("crosshair.util").NotDeterministic:
                return False
        return bool(found.exhausted) and num_left == 0

    def stand_in(self, kind: type, name: str) -> Any:
        """A value of a type, about which nothing is known yet."""
        return self.core.proxy_for_type(kind, name)

    def values_of(self, stand_ins: Mapping[str, object]) -> Drawn:
        """Plain values that lead down this path, after its end."""
        with self.tracers.ResumedTracing():
            self.statespace.context_statespace().detach_path()
        return {name: self.core.deep_realize(value) for name, value in stand_ins.items()}

    def _options(self) -> Any:
        # Its clock counts processor time and stands still in a wait: the parent ends us too.
        left = max(self.deadline - time.monotonic(), 0.0)
        options = import_module("crosshair.options").DEFAULT_OPTIONS
        return options.overlay(per_condition_timeout=left, max_iterations=MAX_PATHS)

    @contextmanager
    def _noting_floats(self) -> Iterator[None]:
        """Note every stand-in for a float, whatever operation makes it."""
        numbers = import_module("crosshair.libimpl.builtinslib")
        with ExitStack() as stack:
            for kind in (numbers.RealBasedSymbolicFloat, numbers.PreciseIeeeSymbolicFloat):
                stack.enter_context(mock.patch.object(kind, "__init__", self._noting(kind)))
            yield

    def _noting(self, kind: Any) -> Callable[..., None]:
        original = kind.__init__

        def init(stand_in: object, *args: object, **named: object) -> None:
            self.made_floats = True
            original(stand_in, *args, **named)

        return init
