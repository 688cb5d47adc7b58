"""What the published gates of others say of two traces, for a benchmark to hold ours against.

Each is what its project's documents or source say, on the arrays that we record: the sites
in order, and the logits of the last position, which is all that most of them look at.
A gate that cannot be computed, because the shapes differ, says nothing: None.

Shape letters: T tokens, W width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Float64

    Arrays = Mapping[str, np.ndarray]
    Last = Float64[np.ndarray, "V"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedGate:
    """One gate that is in use elsewhere."""

    id: str
    text: str
    """What it demands, and who has published it."""
    passes: Callable[[Arrays, Arrays], bool | None]
    """(reference, candidate) by site; None where it has nothing to say."""


def _at_every_site(
    passes: Callable[[np.ndarray, np.ndarray], bool],
) -> Callable[[Arrays, Arrays], bool | None]:
    def judge(reference: Arrays, candidate: Arrays) -> bool | None:
        common = [site for site in reference if site in candidate]
        pairs = [(reference[site], candidate[site]) for site in common]
        if not pairs or any(a.shape != b.shape for a, b in pairs):
            return None
        with np.errstate(all="ignore"):
            return all(passes(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs)

    return judge


def _on_last_logits(
    passes: Callable[[Last, Last], bool],
) -> Callable[[Arrays, Arrays], bool | None]:
    def judge(reference: Arrays, candidate: Arrays) -> bool | None:
        rows = [a["logits"][-1].astype(np.float64) for a in (reference, candidate)]
        if rows[0].shape != rows[1].shape:
            return None
        with np.errstate(all="ignore"):
            return bool(passes(rows[0], rows[1]))

    return judge


def _std_band(reference: Arrays, candidate: Arrays) -> bool | None:
    """A ratio needs no equal shapes: that is how it once compared 7 tokens with 1."""
    common = [site for site in reference if site in candidate]
    with np.errstate(all="ignore"):
        ratios = [candidate[s].std(ddof=1) / reference[s].std(ddof=1) for s in common]
    return all(0.5 <= ratio <= 2 for ratio in ratios) if ratios else None  # noqa: PLR2004


def _nmse(reference_V: Last, candidate_V: Last) -> bool:
    error = np.mean((candidate_V - reference_V) ** 2)
    return bool(error / np.var(reference_V) <= 1e-2)  # noqa: PLR2004


def _cosine(reference_V: Last, candidate_V: Last) -> bool:
    norms = np.linalg.norm(reference_V) * np.linalg.norm(candidate_V)
    return bool(reference_V @ candidate_V / norms >= 0.99)  # noqa: PLR2004


def _relative(reference_TW: np.ndarray, candidate_TW: np.ndarray) -> bool:
    both = (reference_TW**2).sum() + (candidate_TW**2).sum()
    distance = 1 - 2 * (reference_TW * candidate_TW).sum() / both
    return bool(distance <= 1e-3)  # noqa: PLR2004


def _allclose(relative: float, absolute: float) -> Callable[[np.ndarray, np.ndarray], bool]:
    def passes(reference_TW: np.ndarray, candidate_TW: np.ndarray) -> bool:
        return np.allclose(candidate_TW, reference_TW, rtol=relative, atol=absolute)

    return passes


def _kl(reference_V: Last, candidate_V: Last) -> bool:
    log_p, log_q = (
        v - v.max() - np.log(np.exp(v - v.max()).sum()) for v in (reference_V, candidate_V)
    )
    return bool((np.exp(log_p) * (log_p - log_q)).sum() <= 0.01)  # noqa: PLR2004


def _top1(reference_V: Last, candidate_V: Last) -> bool:
    return int(reference_V.argmax()) == int(candidate_V.argmax())


PUBLISHED_GATES = (
    PublishedGate(
        id="std-ratio",
        text="ratio of standard deviations in [0.5, 2] at every site (aprender)",
        passes=_std_band,
    ),
    PublishedGate(
        id="nmse",
        text="mean squared error over variance at most 1e-2, last logits (llama.cpp)",
        passes=_on_last_logits(_nmse),
    ),
    PublishedGate(
        id="cosine", text="cosine at least 0.99, last logits", passes=_on_last_logits(_cosine)
    ),
    PublishedGate(
        id="relative",
        text="1 - 2xy / (x^2 + y^2) at most 1e-3 at every site (SGLang)",
        passes=_at_every_site(_relative),
    ),
    PublishedGate(
        id="allclose",
        text="numpy's allclose at every site, rtol 1e-5 and atol 1e-8, its defaults",
        passes=_at_every_site(_allclose(1e-5, 1e-8)),
    ),
    PublishedGate(
        id="allclose-1e-3",
        text="allclose at every site, rtol 1e-3 and atol 1e-4 (aprender)",
        passes=_at_every_site(_allclose(1e-3, 1e-4)),
    ),
    PublishedGate(
        id="kl", text="KL at most 0.01 nats, last logits (ferrox)", passes=_on_last_logits(_kl)
    ),
    PublishedGate(
        id="top-1", text="the same most likely next token", passes=_on_last_logits(_top1)
    ),
)
