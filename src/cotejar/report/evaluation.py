"""The text and the JSON of `apr eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.evaluation.divergence import QUANTILES
from cotejar.report.tables import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.evaluation.divergence import Divergence
    from cotejar.evaluation.perplexity import Perplexity
    from cotejar.evaluation.running_mean import RunningMean


def perplexity_lines(found: Perplexity) -> Iterator[str]:
    """Model, text, figure."""
    yield visible(f"model       {found.engine}+{found.numerics}  {found.model}")
    yield _text_line(found.num_chunks, found.chunk_tokens, found.num_judged)
    yield f"nll         {found.mean_nll:.5f} +- {found.standard_error_nll:.5f} nats a token"
    yield f"perplexity  {found.perplexity:.4f} +- {found.standard_error:.4f}"


def perplexity_json(found: Perplexity) -> dict[str, Any]:
    """The same facts."""
    return {
        "model": found.model,
        "engine": found.engine,
        "numerics": found.numerics,
        "chunks": found.num_chunks,
        "chunk_tokens": found.chunk_tokens,
        "tokens_judged": found.num_judged,
        "mean_nll": found.mean_nll,
        "mean_nll_standard_error": found.standard_error_nll,
        "perplexity": found.perplexity,
        "perplexity_standard_error": found.standard_error,
    }


def divergence_lines(found: Divergence) -> Iterator[str]:
    """Both sides, text, figures."""
    reference, candidate = found.perplexities
    yield visible(f"reference   {found.reference}")
    yield visible(f"candidate   {found.candidate}")
    yield _text_line(found.num_chunks, found.chunk_tokens, found.num_judged)
    yield f"KL          {_spread(found.kl)} nats"
    shares = ", ".join(
        f"{_quantile_name(q)} {value:.3g}"
        for q, value in zip(QUANTILES, found.kl_quantiles, strict=True)
    )
    yield f"            {shares}"
    yield f"top-1 same  {100 * found.top1_equal.mean:.2f} %"
    yield f"p of the token that came  {_spread(found.probability_change)} more"
    yield f"perplexity  {reference:.4f} and {candidate:.4f}, ratio {candidate / reference:.5f}"


def divergence_json(found: Divergence) -> dict[str, Any]:
    """The same facts."""
    reference, candidate = found.perplexities
    return {
        "reference": found.reference,
        "candidate": found.candidate,
        "chunks": found.num_chunks,
        "chunk_tokens": found.chunk_tokens,
        "tokens_judged": found.num_judged,
        "kl_mean": found.kl.mean,
        "kl_mean_standard_error": found.kl.standard_error,
        "kl_quantiles": {
            _quantile_name(q): value
            for q, value in zip(QUANTILES, found.kl_quantiles, strict=True)
        },
        "top1_agreement": found.top1_equal.mean,
        "top1_agreement_standard_error": found.top1_equal.standard_error,
        "probability_change_mean": found.probability_change.mean,
        "probability_change_standard_error": found.probability_change.standard_error,
        "reference_perplexity": reference,
        "candidate_perplexity": candidate,
    }


def _text_line(chunks: int, chunk_tokens: int, judged: int) -> str:
    return f"text        {chunks} x {chunk_tokens} tokens, {judged} predictions judged"


def _spread(mean: RunningMean) -> str:
    return f"{mean.mean:.3g} +- {mean.standard_error:.2g}"


def _quantile_name(quantile: float) -> str:
    names = {0.5: "median", 1.0: "max"}
    return names.get(quantile, f"p{100 * quantile:g}")
