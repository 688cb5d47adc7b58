"""The measurements of `generation.py`: each returns one line of results, as plain JSON.

A line has `bar`, what is promised, and `holds`, whether it was kept; None where nothing is
promised. Nothing holds that was not measured: NaN and an empty list do not.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from generation_prompts import PROMPTS, BenchPrompt

from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.evaluation.perplexity import measure_perplexity
from cotejar.generation.generate import generate
from cotejar.generation.open_native import open_native
from cotejar.generation.sampler import Sampler
from cotejar.generation.scheduler import Finish, Job, Scheduler
from cotejar.kernels.instruction_set import num_threads
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.parity.gates import default_gates
from cotejar.parity.self_check import check_engine
from cotejar.trace.forward_trace import Capture
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.engines.native.engine import NativeEngine
    from cotejar.engines.protocol import GeneratingEngine, Session

    Line = dict[str, Any]

ROOT = Path(__file__).parents[1]
TEXTS = {
    "English": ("README.md", "docs/parity.md", "docs/words.md"),
    "code": ("src/cotejar/generation/scheduler.py", "src/cotejar/kernels/numpy_operations.py"),
}
"""What perplexity is measured on: files of this repository."""
ORACLE_LIMIT = 1e-5
PERPLEXITY_LIMIT = 0.005
BATCH_RATIO = 3.0
LOGITS = Capture(array_slots=frozenset({"logits"}))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    prompts: int = 20
    max_tokens: int = 200
    oracle_steps: int = 64
    text_bytes: int = 10_000
    """Of each kind of text: 20 kB together."""
    chunk_tokens: int = 512
    batch_tokens: int = 64
    batch_rounds: int = 7
    soak_s: float = 300.0
    check_tokens: int = 0
    """0: all of the text that `apr check` brings."""


QUICK = Sizes(
    prompts=2,
    max_tokens=8,
    oracle_steps=4,
    text_bytes=1500,
    chunk_tokens=128,
    batch_tokens=8,
    batch_rounds=1,
    soak_s=10.0,
    check_tokens=12,
)


# --- one engine against itself ------------------------------------------------------


def measure_check(model: str, engine: str, sizes: Sizes) -> Line:
    """Every row of `apr check`; only `native+q8` promises equal bits."""
    ids = _model(model).tokenizer.encode(PROMPTS[0].text)[: sizes.check_tokens]
    check = check_engine(f"{engine}:{model}", token_ids=ids)
    rows = {row.id: row.rel_l2_max for row in check.rows}
    same = sum(row.bit_identical for row in check.rows)
    exact = engine == "native+q8"
    return {
        "bar": "every row bit-identical" if exact else f"rel L2 <= {check.limit:.3g}",
        "rows": rows,
        "positions": check.num_tokens,
        "found": f"{same} of {len(rows)} rows bit-identical, worst rel L2 "
        f"{max(rows.values(), default=math.nan):.3g}",
        "holds": same == len(rows) > 0 if exact else check.verdict is Verdict.PASS,
    }


# --- greedy texts ---------------------------------------------------------------------


def measure_texts(model: str, candidate: str, reference: str, sizes: Sizes) -> Line:
    """Greedy texts of both; up to the first difference both have seen the same tokens.

    The candidate decodes all prompts side by side over its caches. The reference is given
    what the candidate said, and at each token is asked for its own choice: llama.cpp token by
    token, transformers the whole text at once after the prompt, over its cache.
    """
    engine, opened = open_native(f"{candidate}:{model}"), _model(model)
    other = _open(f"{reference}:{model}")
    prompts = PROMPTS[: sizes.prompts]
    prompt_ids = [prompt.encode(opened.tokenizer) for prompt in prompts]
    texts = _greedy_texts(engine, prompt_ids, sizes.max_tokens, opened.tokenizer.eos_ids)
    limit = _margin_limit(other, engine, prompt_ids[0])
    step_by_step = not reference.startswith("transformers")
    lines = [
        _compare(prompt, ids, text, other.start(), opened, limit, step_by_step=step_by_step)
        for prompt, ids, text in zip(prompts, prompt_ids, texts, strict=True)
    ]
    counts = {kind: sum(line["outcome"] == kind for line in lines) for kind in OUTCOMES}
    return {
        "bar": f"{len(prompts)} prompts x {sizes.max_tokens} tokens: MATCH or TIE-FLIP",
        "limit": limit,
        "prompts": lines,
        "found": ", ".join(f"{number} {kind}" for kind, number in counts.items() if number),
        "holds": len(lines) > 0 and counts["WRONG"] == 0,
    }


OUTCOMES = ("MATCH", "TIE-FLIP", "WRONG")


def _greedy_texts(
    engine: NativeEngine,
    prompt_ids: Sequence[list[int]],
    max_tokens: int,
    end_ids: frozenset[int],
) -> list[Job]:
    scheduler, jobs = Scheduler(engine, slots=len(prompt_ids)), []
    for ids in prompt_ids:
        job = Job(
            prompt_ids=ids,
            sampler=Sampler(),
            max_tokens=max_tokens,
            end_ids=end_ids,
            on_token=lambda _token, _logits: False,
        )
        jobs.append(job)
        scheduler.add(job)
    scheduler.run_all()
    for job in jobs:
        if job.error is not None:
            raise job.error
    return jobs


def _margin_limit(
    reference: GeneratingEngine, candidate: NativeEngine, ids: Sequence[int]
) -> float:
    """What `apr parity` allows the lead of a token to be that is not chosen after all."""
    gates = default_gates(*(e.trace(ids, capture=LOGITS) for e in (reference, candidate)))
    return next(gate.limit for gate in gates if gate.metric == "top1_flip_margin")


def _compare(
    prompt: BenchPrompt,
    prompt_ids: list[int],
    text: Job,
    session: Session,
    model: LanguageModel,
    limit: float,
    *,
    step_by_step: bool,
) -> Line:
    ends = model.tokenizer.eos_ids
    said: list[int | None] = [*text.token_ids]
    if text.finish is Finish.STOP:
        said.append(None)  # an end token
    line: Line = {"kind": prompt.kind, "chat": prompt.chat, "tokens": len(said)}
    line |= {"outcome": "MATCH" if said else "WRONG", "step": None, "margin": None}
    if not said:
        return line
    for step, logits_V in enumerate(
        _logits(session, prompt_ids, text, step_by_step=step_by_step)
    ):
        choice = int(logits_V.argmax())
        chosen = None if choice in ends else choice
        if chosen != said[step]:
            second, first = np.partition(logits_V.astype(np.float64), -2)[-2:]
            margin = float(first - second)
            outcome = "TIE-FLIP" if margin <= limit else "WRONG"
            return line | {"outcome": outcome, "step": step, "margin": margin}
        if step == len(said) - 1:
            break
    return line


def _logits(session: Session, prompt_ids: list[int], text: Job, *, step_by_step: bool) -> Any:
    """The reference's logits before each token of a text, and at its end."""
    yield session.append(prompt_ids)
    if step_by_step:
        for token in text.token_ids:
            yield session.append([token])
    elif text.token_ids:
        yield from session.append_all(text.token_ids)


# --- cached against the oracle --------------------------------------------------------


def measure_oracle(model: str, sizes: Sizes) -> Line:
    """Logits of `native+f32` over its cache, against the oracle's one pass."""
    engine, oracle = open_native(f"native+f32:{model}"), _open(f"oracle:{model}")
    ids = _model(model).tokenizer.encode(PROMPTS[0].text)
    session = engine.start()
    rows, start = [session.append(ids)], len(ids) - 1
    for _ in range(sizes.oracle_steps):
        ids.append(int(rows[-1].argmax()))
        rows.append(session.append(ids[-1:]))
    exact_NV = oracle.trace(ids, capture=LOGITS).arrays["logits"][start:]
    error_N = np.linalg.norm(np.stack(rows) - exact_NV, axis=1)
    worst = float((error_N / np.linalg.norm(exact_NV, axis=1)).max())
    return {
        "bar": f"{sizes.oracle_steps} cached steps: rel L2 <= {ORACLE_LIMIT:g}",
        "worst_rel_l2": worst,
        "found": f"worst {worst:.2e}",
        "holds": worst <= ORACLE_LIMIT,
    }


# --- perplexity -------------------------------------------------------------------------


def measure_text(model: str, sizes: Sizes) -> Line:
    """Perplexity of `native+q8` and of llama.cpp over English and code, chunk for chunk."""
    size, path = sizes.chunk_tokens, str(_model(model).file.path)
    with tempfile.TemporaryDirectory() as folder:
        text, out = Path(folder) / "text.txt", Path(folder) / "nll.npy"
        parts = [_text_of(names)[: sizes.text_bytes] for names in TEXTS.values()]
        text.write_bytes(b"\n".join(part.decode(errors="ignore").encode() for part in parts))
        request = {"model": path, "text": str(text), "chunk_tokens": size, "out": str(out)}
        script = ROOT / "benchmarks" / "llamacpp_perplexity.py"
        command = [sys.executable, script, json.dumps(request | {"threads": num_threads()})]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        theirs = np.load(out)
        ours = measure_perplexity(f"native+q8:{model}", text, chunk_tokens=size)
    if ours.num_judged != theirs.size:
        raise SystemExit(f"{ours.num_judged} tokens judged, llama.cpp judged {theirs.size}")
    other = math.exp(theirs.mean())
    apart = abs(ours.perplexity / other - 1)
    return {
        "bar": f"perplexity within {PERPLEXITY_LIMIT:.1%} of llama.cpp's",
        "judged": ours.num_judged,
        "found": f"{ours.perplexity:.4f} +- {ours.standard_error:.3f} against {other:.4f}: "
        f"{apart:.3%} apart, {ours.num_chunks} chunks of {size}, {ours.num_judged} judged",
        "holds": apart <= PERPLEXITY_LIMIT,
    }


def _text_of(names: Sequence[str]) -> bytes:
    return b"\n".join((ROOT / name).read_bytes() for name in names)


# --- side by side -----------------------------------------------------------------------


def measure_batching(model: str, sizes: Sizes) -> Line:
    """Tokens a second of 8 requests side by side, over that of one after the other."""
    engine, tokenizer = open_native(f"native+q8:{model}"), _model(model).tokenizer
    prompt_ids = [prompt.encode(tokenizer) for prompt in PROMPTS[:8]]
    seconds: dict[str, list[float]] = {"together": [], "alone": []}
    for _ in range(sizes.batch_rounds):
        start = time.perf_counter()
        alone = [
            generate(
                engine, ids, sampler=Sampler(), max_tokens=sizes.batch_tokens, end_ids=set()
            ).token_ids
            for ids in prompt_ids
        ]
        middle = time.perf_counter()
        jobs = _greedy_texts(engine, prompt_ids, sizes.batch_tokens, frozenset())
        seconds["alone"].append(middle - start)
        seconds["together"].append(time.perf_counter() - middle)
        if alone != [job.token_ids for job in jobs]:
            raise SystemExit("8 texts side by side are not what they are alone")
    num_tokens = 8 * sizes.batch_tokens
    rates = {how: num_tokens / statistics.median(taken) for how, taken in seconds.items()}
    pairs = zip(seconds["alone"], seconds["together"], strict=True)
    ratios = [alone / together for alone, together in pairs]
    ratio = statistics.median(ratios)
    return {
        "bar": f"8 requests together / one at a time >= {BATCH_RATIO:g}",
        "found": f"{rates['together']:.1f} / {rates['alone']:.1f} tokens/s, {ratio:.2f} in the "
        f"middle of {len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}, "
        f"{num_threads()} threads, {sizes.batch_tokens} tokens each",
        "ratio": ratio,
        "holds": ratio >= BATCH_RATIO,
    }


@lru_cache(maxsize=1)
def _model(path: str) -> LanguageModel:
    return open_language_model(path)


def _open(source: str) -> GeneratingEngine:
    name = parse_engine_name(source)
    return cast("GeneratingEngine", create_engine(name, open_language_model(name.path)))
