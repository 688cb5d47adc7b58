"""Traces that do not say what they must, and engines that fail."""

from __future__ import annotations

from cotejar.errors.error import CotejarError
from cotejar.verdict import Verdict


class TraceError(CotejarError):
    """A trace file that does not say what it must, or contradicts itself."""

    code = "APR-R001"


class TraceSchemaError(TraceError):
    """A trace of a schema version that we do not read."""

    code = "APR-R002"


class NoiseProfileError(TraceError):
    """A noise profile that does not say what it must, or is of another schema."""

    code = "APR-R003"


class EngineError(CotejarError):
    """An engine that is not ours failed: nothing was measured, so nothing passes."""

    code = "APR-E001"
    exit_code = Verdict.INCOMPARABLE.exit_code


class EngineCrashError(EngineError):
    """The process that the engine runs in ended: a signal, or an exit."""

    code = "APR-E002"


class EngineTimeoutError(EngineError):
    """The engine did not answer in time."""

    code = "APR-E003"


class EngineProtocolError(EngineError):
    """The engine's process answered with something that is no answer."""

    code = "APR-E004"


class EngineDataError(EngineError):
    """The engine answered with other data than it was asked for: short, or of another shape."""

    code = "APR-E005"


class EngineBuildError(EngineError):
    """A build of the engine's library that cannot be read here."""

    code = "APR-E006"
