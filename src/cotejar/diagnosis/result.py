"""What a diagnosis says.

Everything that `apr diagnose` prints or writes as JSON is a field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cotejar.diagnosis.ladder import Ladder
    from cotejar.diagnosis.replay import LocalError
    from cotejar.diagnosis.search import Cause
    from cotejar.parity.compare import Comparison
    from cotejar.parity.preconditions import Precondition
    from cotejar.trace.forward_trace import ForwardTrace
    from cotejar.verdict import Verdict

WrongSide = Literal["reference", "candidate", "both", "neither"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """The smallest piece that still shows the fault."""

    site: str
    side: str
    token_ids: tuple[int, ...]
    """The shortest prompt whose last token shows it."""
    folder: str | None
    """Where it was written; None where nobody asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherFinding:
    """What is wrong first on the other side, where both are wrong."""

    site: str
    side: str
    causes: tuple[Cause, ...]
    """Best first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """Verdict, site, wrong side, cause, and what they rest on."""

    verdict: Verdict
    reference: ForwardTrace
    candidate: ForwardTrace
    """Both without arrays."""
    preconditions: tuple[Precondition, ...]
    summary: str
    """One sentence: what was found."""
    next_step: str
    """What to do now."""
    comparison: Comparison | None = None
    """How far the two lie apart; None where a precondition is broken."""
    errors: tuple[LocalError, ...] = ()
    """Of every operation that could be replayed, in forward order."""
    site: str | None = None
    """The first operation that is wrong given its own input."""
    wrong_side: WrongSide = "neither"
    causes: tuple[Cause, ...] = ()
    """Best first."""
    nearest: Cause | None = None
    """Where none explains it: what comes nearest."""
    looks_like: str | None = None
    """Where none explains it: of what kind the difference is, if that can be told."""
    num_tried: int = 0
    """Alternatives that were tried."""
    others: tuple[OtherFinding, ...] = ()
    """Where `wrong_side` is `both`: the side that `site` and `causes` are not of."""
    ladder: tuple[Ladder, ...] = ()
    reproduction: Reproduction | None = None
    naive_ratio: str | None = None
    """What a ratio over unequal samples would have claimed."""
    fault: str | None = None
    """What was injected into the candidate on purpose."""

    @property
    def finding(self) -> LocalError | None:
        """The local error at `site`, of the wrong side."""
        return next((e for e in self.errors if e.site == self.site and not e.explained), None)

    def as_json(self) -> dict[str, object]:
        """The object that `--json` prints."""
        return {
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "summary": self.summary,
            "site": self.site,
            "wrong_side": self.wrong_side,
            "causes": [_cause_json(cause) for cause in self.causes],
            "nearest": None if self.nearest is None else _cause_json(self.nearest),
            "looks_like": self.looks_like,
            "num_tried": self.num_tried,
            "others": [
                {
                    "site": other.site,
                    "side": other.side,
                    "causes": [_cause_json(cause) for cause in other.causes],
                }
                for other in self.others
            ],
            "local_errors": [_error_json(error) for error in self.errors],
            "ladder": [ladder.as_json() for ladder in self.ladder],
            "reproduction": None
            if self.reproduction is None
            else {
                "site": self.reproduction.site,
                "side": self.reproduction.side,
                "token_ids": list(self.reproduction.token_ids),
                "folder": self.reproduction.folder,
            },
            "next_step": self.next_step,
            "first_divergence": self._first_divergence(),
            "preconditions": [
                {"id": p.id, "holds": p.holds, "message": p.message} for p in self.preconditions
            ],
            "naive_ratio": self.naive_ratio,
            "tokens": list(self.reference.token_ids),
            "fault": self.fault,
            "reference": _side_json(self.reference),
            "candidate": _side_json(self.candidate),
        }

    def _first_divergence(self) -> str | None:
        if self.comparison is None or self.comparison.first_divergence is None:
            return None
        return self.comparison.first_divergence.site


def _cause_json(cause: Cause) -> dict[str, object]:
    return {
        "id": cause.id,
        "title": cause.title,
        "residual_before": cause.residual_before,
        "residual_after": cause.residual_after,
        "limit": cause.limit,
    }


def _error_json(error: LocalError) -> dict[str, object]:
    return {
        "site": error.site,
        "side": error.side,
        "rel_l2": error.rel_l2,
        "limit": error.limit,
        "exact_rel_l2": float(error.exact[error.worst_token]),
        "worst_token": error.worst_token,
        "explained": error.explained,
        "derived_inputs": list(error.derived),
    }


def _side_json(trace: ForwardTrace) -> dict[str, object]:
    return {
        "engine": trace.engine.name,
        "build": trace.engine.build,
        "numerics": trace.engine.numerics,
        "device": trace.engine.device,
        "model": trace.model.name,
        "fingerprint": trace.model.fingerprint,
        "passes": list(trace.passes),
    }
