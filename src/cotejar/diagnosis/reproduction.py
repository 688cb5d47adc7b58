"""The smallest piece that still shows a fault: one operation, one token, numpy alone.

A folder with `data.npz` (what went in, the weight's slice, what was recorded, what float64
makes of it with the cause, if one was found) and `show.py`, which computes the operation
again from `data.npz` and says how far off the recorded output is. It needs numpy and
nothing of ours.

Shape letters: T tokens, R rows (outputs), C columns (inputs), B blocks of a row.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.observed import embed, rounded_inputs
from cotejar.diagnosis.operations import Attend, Embed, Norm, Project, Rotate, key_heads, vector
from cotejar.diagnosis.reproduction_script import SCRIPTS, script_text
from cotejar.diagnosis.weight_variants import plain_rows
from cotejar.errors import NotAFileError, OutputExistsError
from cotejar.formats.atomic import atomic_write, atomic_write_text

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.search import Found

    Arrays = dict[str, np.ndarray]

MOST_ROWS = 32
"""Rows of a weight that are kept: those whose outputs are furthest off."""


def require_free_folder(folder: Path) -> None:
    """Refuse a folder that holds something, before anything is computed.

    Raises:
        OutputExistsError: it is there and not empty.
        NotAFileError: it is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise NotAFileError(
            "a reproduction is a folder",
            where=str(folder),
            expected="a folder, or nothing yet",
            found="a file",
            hint="name another folder with -o",
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputExistsError(
            "the folder for the reproduction is not empty",
            where=str(folder),
            expected="an empty folder, or none yet",
            found=f"{len(list(folder.iterdir()))} files",
            hint="name another folder with -o",
        )


def first_wrong_token(case: Case) -> int:
    """Index of the first token at which the operation is not explained."""
    return _first_wrong_row(case) + num_unrecorded(case)


def num_unrecorded(case: Case) -> int:
    """Tokens before the first of the case's: all but the last where no other was recorded."""
    if case.rows is not None:
        return int(case.rows[0])
    return len(case.observed.trace.token_ids) - len(case.recorded)


def _first_wrong_row(case: Case) -> int:
    return next(t for t, ratio in enumerate(case.error.ratios) if not ratio <= 1)


def write_reproduction(folder: Path, case: Case, found: Found) -> None:
    """Write the folder.

    Raises:
        FileError: it cannot be written.
    """
    token = _first_wrong_row(case)
    rows = _rows(case, token)
    arrays = _gather(case, token, rows)
    arrays["recorded"] = case.recorded[token, rows]
    arrays["allowed"] = np.array(case.error.limits[token] * case.error.output_norm[token])
    cause = found.causes[0].title if found.causes else ""
    if found.output is not None:
        arrays["with_the_cause"] = found.output[token, rows]
    facts = {
        "site": case.operation.name,
        "side": case.observed.side,
        "engine": case.observed.trace.engine.name,
        "numerics": case.observed.trace.engine.numerics,
        "token_ids": list(case.observed.trace.token_ids[: first_wrong_token(case) + 1]),
        "token": first_wrong_token(case),
        "cause": cause or None,
        "outputs": rows.tolist() if isinstance(rows, np.ndarray) else "all",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAFileError(
            "the folder for the reproduction cannot be made",
            where=str(folder),
            expected="a place where a folder can be made",
            found=error.strerror or "an error of the system",
            hint="name another folder with -o",
        ) from None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its stub mixes up keywords
    with atomic_write(folder / "data.npz") as file:
        file.write(buffer.getvalue())
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(folder / "reproduction.json", text)
    step = SCRIPTS[type(case.operation.step).__name__]
    atomic_write_text(folder / "show.py", script_text(step, facts))


def _rows(case: Case, token: int) -> slice | np.ndarray:
    """Outputs to keep: of a product a few, of everything else all."""
    if not isinstance(case.operation.step, Project):
        return slice(None)
    off_R = np.abs(case.recorded[token] - case.right[token])
    worst = np.argsort(-np.nan_to_num(off_R, nan=np.inf), kind="stable")[:MOST_ROWS]
    return np.sort(worst)


def _gather(case: Case, token: int, rows: slice | np.ndarray) -> Arrays:
    step, weights = case.operation.step, case.observed.truth.weights
    if isinstance(step, Embed):
        return {"row": embed(step, case.observed.truth, case.observed.trace.token_ids)[token]}
    if isinstance(step, Project) and isinstance(rows, np.ndarray):
        return _product_arrays(case, step, token, rows)
    given = rounded_inputs(step, case.inputs, case.observed.arithmetic)
    if isinstance(step, Attend):
        return _attention_arrays(step, given, token)
    arrays = {f"input_{i}": array[token] for i, array in enumerate(given)}
    if isinstance(step, Norm):
        arrays |= {"weight": vector(weights, step.weight), "eps": np.array(step.eps)}
    if isinstance(step, Rotate):
        arrays |= {
            "frequencies": np.array(step.frequencies),
            "position": np.array(token),
            "head_dim": np.array(step.head_dim),
        }
        if step.norm is not None:
            arrays["weight"] = vector(weights, step.norm.weight)
            arrays["eps"] = np.array(step.norm.eps)
    if hasattr(step, "function"):
        arrays["function"] = np.array(step.function)
    return arrays


def _product_arrays(case: Case, step: Project, token: int, rows: np.ndarray) -> Arrays:
    given = case.givens[0]
    stored = rows if step.row_order is None else np.array(step.row_order)[rows]
    slices = [plain_rows(case.matrix, int(r), int(r) + 1) for r in stored]
    arrays = {
        "input_0": case.inputs[0][token],
        "as_multiplied": given.values[token],
        "weight_rows": np.concatenate([s.rounded(given.weights) for s in slices]),
    }
    offsets = [s.offsets for s in slices if s.offsets is not None]
    if given.excess is not None and offsets:
        arrays["block_excess"] = given.excess[token]
        arrays["block_offsets"] = np.concatenate(offsets)
    if case.bias is not None:
        arrays["bias"] = case.bias[stored]
    if step.softcap is not None:
        arrays["softcap"] = np.array(step.softcap)
    return arrays


def _attention_arrays(
    step: Attend, given: tuple[Float64[np.ndarray, "T W"], ...], token: int
) -> Arrays:
    q_TW, k_TW, v_TW = given
    heads = q_TW.shape[1] // step.head_dim
    arrays = {
        "query": q_TW[token],
        "keys": k_TW[: token + 1],
        "values": v_TW[: token + 1],
        "scale": np.array(step.scale),
        "head_dim": np.array(step.head_dim),
        "key_heads": np.array(key_heads(step, heads)),
    }
    if step.window is not None:
        arrays["window"] = np.array(step.window)
    if step.softcap is not None:
        arrays["softcap"] = np.array(step.softcap)
    return arrays
