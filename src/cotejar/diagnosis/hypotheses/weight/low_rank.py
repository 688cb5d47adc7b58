"""A weight that differs by a matrix of low rank: an adapter (LoRA) lost, merged twice, scaled.

What such a difference adds to the outputs of T tokens lies in a space of as few dimensions as
its rank. It is named where each token's error lies in the space of the others' errors, so that
nothing is fitted to a token by that token itself.

Shape letters: T tokens, R rows (outputs), r rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.operations import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_MORE_TOKENS = 2
"""Than dimensions: fewer, and each token would lie in the space of the others by itself."""
_MOST = 64
_LEAST_SHARE = 1e-3
"""Of the furthest token's error: a matrix reaches every token."""
_SPREAD = 1 / 8
"""Share of the tokens, and of the outputs, that the difference reaches at the least. What
reaches few outputs is a row, a block or an element; what reaches few tokens is none of the
weight's."""
_ALIKE = 1e-3
"""So little do the tokens' shares of one dimension vary where it is a bias."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product; the least rank that explains it."""
    if not isinstance(case.operation.step, Project) or case.project.softcap is not None:
        return
    bias_R = 0.0 if case.bias is None else case.bias
    for product_TR in case.products:
        error_TR = case.recorded_rows - bias_R - product_TR
        if not np.isfinite(error_TR).all() or not _is_spread(error_TR):
            continue
        allowed_T = case.error.limits * case.error.output_norm
        rank = _rank(error_TR, allowed_T, case.inputs[0])
        if rank is None:
            continue
        by_block_TR = _by_block(case, error_TR)
        if by_block_TR is not None:
            yield Alternative(
                id="block-offset",
                title=f"{case.project.weight} differs by one number a block: another offset, "
                "minimum or centre of its codes",
                output=case.finish(product_TR + by_block_TR),
                parameters=rank * sum(error_TR.shape),
            )
            return
        fitted_TR = _from_others(error_TR, rank)
        yield Alternative(
            id="weight-low-rank",
            title=f"{case.project.weight} differs by a matrix of rank {rank}: an adapter "
            "(LoRA) is left out, merged twice or scaled in another way",
            output=case.finish(product_TR + fitted_TR),
            parameters=rank * sum(error_TR.shape),
        )
        return


def _by_block(
    case: Case, error_TR: Float64[np.ndarray, "T R"]
) -> Float64[np.ndarray, "T R"] | None:
    """What a number a block and output adds, if that is all: a low rank comes of it too."""
    width = case.matrix.block_type.elements_per_block
    x_TC = case.inputs[0]
    blocks = x_TC.shape[1] // max(width, 1)
    if width < _LEAST_BLOCK or x_TC.shape[1] % width or blocks + _MORE_TOKENS > len(x_TC):
        return None
    sums_TB = x_TC.reshape(len(x_TC), blocks, width).sum(axis=2)
    found_BR = np.linalg.lstsq(sums_TB, error_TR, rcond=None)[0]
    fitted_TR: np.ndarray = sums_TB @ found_BR
    left = np.linalg.norm(error_TR - fitted_TR)
    return fitted_TR if left <= _NOT_BLOCKS * np.linalg.norm(error_TR) else None


_LEAST_BLOCK = 16
_NOT_BLOCKS = 1e-3
"""Share of the error that numbers of blocks may leave."""


def _is_spread(error_TR: Float64[np.ndarray, "T R"]) -> bool:
    squares_TR = error_TR * error_TR
    by_token = np.sqrt(squares_TR.sum(axis=1))
    if by_token.min() <= _LEAST_SHARE * by_token.max():
        return False
    for axis in (0, 1):
        by_place = squares_TR.sum(axis=axis)
        total = by_place.sum()
        # As many places as, with equal shares, would have the same concentration.
        places = total**2 / max(float((by_place**2).sum()), 1e-300)
        if not total > 0 or places < max(2.0, _SPREAD * len(by_place)):
            return False
    return True


def _rank(
    error_TR: Float64[np.ndarray, "T R"],
    allowed_T: Float64[np.ndarray, "T"],
    x_TC: Float64[np.ndarray, "T C"],
) -> int | None:
    """The least rank that leaves no more than honest arithmetic does.

    Tokens that are given the same, and so err alike, count once.
    """
    left, sizes, _ = np.linalg.svd(error_TR, full_matrices=False)
    distinct = int(
        np.linalg.matrix_rank(x_TC, tol=1e-3 * float(np.linalg.norm(x_TC, axis=1).min()))
    )
    most = min(distinct - _MORE_TOKENS, _MOST)
    budget = 2.0 * float(np.linalg.norm(allowed_T))
    for rank in range(1, most + 1):
        if np.linalg.norm(sizes[rank:]) <= budget:
            first_T = left[:, 0]
            is_bias = rank == 1 and np.ptp(first_T) <= _ALIKE * np.abs(first_T).max()
            return None if is_bias else rank
    return None


def _from_others(error_TR: Float64[np.ndarray, "T R"], rank: int) -> Float64[np.ndarray, "T R"]:
    """Of each token the part that lies in the space of the other tokens' errors."""
    fitted_TR = np.empty_like(error_TR)
    for token in range(len(error_TR)):
        others = np.delete(error_TR, token, axis=0)
        _, _, basis_rR = np.linalg.svd(others, full_matrices=False)
        basis_rR = basis_rR[:rank]
        fitted_TR[token] = (error_TR[token] @ basis_rR.T) @ basis_rR
    return fitted_TR
