"""Every fault of the catalogue, put into every model: who sees it, and who names it.

    python benchmarks/faults.py [--model NAME] [--fault ID] [--jobs N] [--no-controls]
        [--numerics f32|q8|w8a8] [--places one|all]

Each fault is put into one side of a pair, in `native+f32` against the oracle and in
`native+q8` and `native+w8a8` against `native+f32`: a code fault in every layer and in the
middle one, a fault of one layer in the middle one; what is in the middle layer, into either
side in turn.
`--places one` leaves one pair a fault and numerics: the candidate's middle layer, or, of what
lies outside the layers, everywhere. What only decoding shows is given tokens one at a time,
over the KV cache; all else one pass. `apr parity` judges the pair by its default gates, `apr
diagnose` says site, side and cause, and the published gates of others say what they would
have said. Healthy pairs of all engines are the control: whoever sees a fault there is wrong.

One line a pair goes to `build/bench-faults.jsonl`; a run that was interrupted goes on where
it stopped (`--fresh` begins anew). The table is `benchmarks/results/faults.md`, of all lines
there are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from fault_models import OTHER_PROMPTS, PROMPT, BenchModel, find_models
from fault_table import write_table

import cotejar
from cotejar.diagnosis.diagnose import diagnose_traces, replay_trace
from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.engines.steps import MOST, choose_steps
from cotejar.errors import CotejarError, UsageError
from cotejar.faults.catalogue import FAULTS, find_place, parse_fault
from cotejar.faults.engine import faulty_engine
from cotejar.faults.fault import Extent
from cotejar.faults.published_gates import PUBLISHED_GATES
from cotejar.kernels.instruction_set import use_threads
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.parity.compare import compare_traces
from cotejar.parity.metrics import measure_distance
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, ForwardTrace

if TYPE_CHECKING:
    from cotejar.diagnosis.replay import Replayed
    from cotejar.engines.protocol import SteppingEngine

LINES = Path("build/bench-faults.jsonl")
TABLE = Path("benchmarks/results/faults.md")
CAPTURE = Capture(array_slots=EVERY_ARRAY)
REFERENCES = {"f32": "oracle", "q8": "native+f32", "w8a8": "native+f32"}
"""What a faulty `native` is held against, by its numerics."""
PLACES = ("all", "one")
CONTROLS = (
    ("oracle", "native+f32"),
    ("oracle", "native+q8"),
    ("native+f32", "native+q8"),
    ("native+q8", "native+f32"),
    ("native+q8", "native+q8"),
    ("oracle", "native+w8a8"),
    ("native+f32", "native+w8a8"),
    ("native+q8", "native+w8a8"),
    ("native+w8a8", "llamacpp"),
    ("native+q8-kvf16", "llamacpp"),
    ("oracle", "llamacpp"),
    ("oracle", "transformers+f64"),
    ("native+f32", "transformers+f32"),
    ("oracle", "transformers+bf16"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pair to run."""

    model: BenchModel
    reference: str
    """Engine and numerics."""
    candidate: str
    fault: str | None = None
    faulty_side: str = "candidate"
    prompt: str | None = None
    places: str = "all"
    """Of `PLACES`: what the pair is part of."""

    @property
    def in_steps(self) -> bool:
        """Are tokens fed one at a time, since one pass over all cannot show the fault?"""
        return self.fault is not None and parse_fault(self.fault).fault.only_decoding

    @property
    def key(self) -> str:
        """What a line of results is found by."""
        parts = (self.model.name, self.reference, self.candidate, self.fault or "healthy")
        return " ".join((*parts, self.faulty_side, repr(self.prompt)))


def main() -> None:
    options = _options()
    if options.fresh:
        LINES.unlink(missing_ok=True)
    LINES.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        models = find_models(tuple(options.model), Path(folder))
        done = {line["key"] for line in _lines() if "error" not in line}
        cases = [case for model in models for case in _cases(model, options)]
        left = [case for case in cases if case.key not in done]
        print(f"{len(cases)} pairs, {len(cases) - len(left)} of them done", file=sys.stderr)
        with ProcessPoolExecutor(max_workers=options.jobs) as pool, LINES.open("a") as out:
            commit = _commit()
            waiting = [pool.submit(_run, case, options.jobs, commit) for case in left]
            for number, future in enumerate(as_completed(waiting), 1):
                line = future.result()
                out.write(json.dumps(line) + "\n")
                out.flush()
                print(f"{number}/{len(left)}  {_in_short(line)}", file=sys.stderr)
    write_table(TABLE, _lines())
    print(f"wrote {TABLE}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model", action="append", default=[], help="tiny-llama, smollm2, qwen, ..."
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        choices=[*FAULTS],
        metavar="ID",
        help="`apr faults`",
    )
    parser.add_argument("--numerics", action="append", choices=[*REFERENCES])
    parser.add_argument(
        "--places",
        choices=PLACES,
        default="all",
        help="how many layers and sides a fault is put into",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--no-controls", action="store_true", help="no healthy pairs")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    return parser.parse_args()


def _commit() -> str:
    """What is run: the commit, and whether files differ from it, the tables written aside."""
    commit = _git("describe", "--always", "--abbrev=12")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
    return f"{commit}{', with changes' if changed else ''}" if commit else _NO_COMMIT


_NO_COMMIT = f"none: cotejar {cotejar.__version__}"


def _git(*arguments: str) -> str:
    """What git says of this file's folder, and nothing where there is no repository."""
    command = ("git", *arguments)
    folder = Path(__file__).parent
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return told.stdout.strip()


def _lines() -> list[dict]:
    """The last line of each pair; an interrupt may have cut the last of all."""
    if not LINES.exists():
        return []
    whole = [line for line in LINES.read_text().splitlines() if line.endswith("}")]
    return [*{line["key"]: line for line in map(json.loads, whole)}.values()]


# --- what is run --------------------------------------------------------------------


def _cases(model: BenchModel, options: argparse.Namespace) -> list[Case]:
    cases = [] if options.no_controls else _controls(model)
    prompt = None if model.token_ids else PROMPT
    for numerics in options.numerics or REFERENCES:
        for name in options.fault or [*FAULTS]:
            for fault in _doses(name, model.num_layers // 2, options.places):
                pair = Case(
                    model=model,
                    reference=REFERENCES[numerics],
                    candidate=f"native+{numerics}",
                    fault=fault,
                    prompt=prompt,
                    places=options.places,
                )
                cases.append(pair)
                if fault != name and options.places == "all":
                    cases.append(_turned(pair))
    return cases


def _turned(pair: Case) -> Case:
    """The same fault in the reference: whoever trusts the reference names the wrong side."""
    return replace(
        pair, reference=pair.candidate, candidate=pair.reference, faulty_side="reference"
    )


def _doses(name: str, middle: int, places: str) -> list[str]:
    extent = FAULTS[name].extent
    if extent is Extent.OUTSIDE:
        return [name]
    only_there = extent is Extent.ONE_LAYER or places == "one"
    return [f"{name}@{middle}"] if only_there else [name, f"{name}@{middle}"]


def _controls(model: BenchModel) -> list[Case]:
    prompts = (None,) if model.token_ids else (PROMPT, *OTHER_PROMPTS)
    return [
        Case(model=model, reference=reference, candidate=candidate, prompt=prompt)
        for reference, candidate in CONTROLS
        for prompt in prompts
        if model.llamacpp_runs_it or candidate != "llamacpp"
    ]


def _run(case: Case, jobs: int, commit: str) -> dict:
    """One pair, judged by everyone; an error of ours is a result, too."""
    if jobs > 1:
        use_threads(1)
    begun, key = time.perf_counter(), case.key
    if case.fault is not None:
        place = find_place(_model(case.model.path), parse_fault(case.fault))
        case = case if place is None else replace(case, fault=str(place))
    line = {"key": key, **asdict(case), "model": case.model.name, "commit": commit}
    try:
        line |= _judge(case)
    except UsageError as error:
        line["skipped"] = f"{error.problem}: {error.parts['expected']}"
    except CotejarError as error:
        line["error"] = f"{error.code} {error.problem}"
    return line | {"seconds": round(time.perf_counter() - begun, 2)}


def _judge(case: Case) -> dict:
    traces = {}
    for which, engine in (("reference", case.reference), ("candidate", case.candidate)):
        fault = case.fault if which == case.faulty_side else None
        traces[which] = _trace(case, engine, fault)
    found: dict = {}
    if case.fault is not None:
        found |= _effect(case, traces)
    arrays = [traces[which].arrays for which in ("reference", "candidate")]
    found["gates"] = {gate.id: gate.passes(*arrays) for gate in PUBLISHED_GATES}
    comparison = compare_traces(traces["reference"], traces["candidate"])
    first = comparison.first_divergence
    found["parity"] = {
        "verdict": comparison.verdict.name,
        "site": first and first.site,
        "judged": any(site.judged for site in comparison.sites),
    }
    return found | {"diagnosis": _diagnose(case, traces)}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a run without a fault is found by."""

    engine: str
    path: str
    prompt: str | None
    token_ids: tuple[int, ...]
    in_steps: bool

    def trace(self, fault: str | None = None) -> ForwardTrace:
        name, model = parse_engine_name(f"{self.engine}:{self.path}"), _model(self.path)
        engine = faulty_engine(name, model, fault) if fault else create_engine(name, model)
        ids = self.token_ids or model.tokenizer.encode(self.prompt or "")
        if not self.in_steps:
            return engine.trace(ids, capture=CAPTURE, prompt=self.prompt)
        return cast("SteppingEngine", engine).trace_steps(
            ids, num_steps=choose_steps(MOST, len(ids)), capture=CAPTURE, prompt=self.prompt
        )


def _trace(case: Case, engine: str, fault: str | None) -> ForwardTrace:
    run = _run_of(case, engine)
    return run.trace(fault) if fault else _sound_trace(run)


def _run_of(case: Case, engine: str) -> _Run:
    path = case.model.path
    if engine.startswith("transformers"):
        path = case.model.hugging_face or path
    return _Run(
        engine=engine,
        path=path,
        prompt=case.prompt,
        token_ids=case.model.token_ids,
        in_steps=case.in_steps and engine != "oracle",
    )


@lru_cache(maxsize=4)
def _sound_trace(run: _Run) -> ForwardTrace:
    """Cases come model by model and numerics by numerics: few are ever needed at once."""
    return run.trace()


@lru_cache(maxsize=4)
def _sound_replay(run: _Run) -> Replayed:
    return replay_trace(_sound_trace(run), _model(run.path))


@lru_cache(maxsize=2)
def _model(path: str) -> LanguageModel:
    return open_language_model(path)


def _effect(case: Case, traces: dict[str, ForwardTrace]) -> dict:
    """How much the fault does at its site, and how far apart the sound pair is there."""
    name = parse_fault(case.fault or "")
    sites = name.fault.guilty_sites(_model(case.model.path), name.dose)
    faulty = traces[case.faulty_side]
    other = traces["candidate" if case.faulty_side == "reference" else "reference"]
    found: dict = {"sites": sites, "expected": name.fault.verdict.name}
    if sites[0] == "tokens":
        return found | {"effect": None, "noise": None}
    numerics = case.candidate if case.faulty_side == "candidate" else case.reference
    sound = _trace(case, numerics, None)
    a, b, c = (trace.arrays[sites[0]] for trace in (sound, faulty, other))
    effect, noise = measure_distance(a, b).rel_l2_max, measure_distance(c, a).rel_l2_max
    return found | {"effect": _finite(effect), "noise": _finite(noise)}


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else 1e308


def _diagnose(case: Case, traces: dict[str, ForwardTrace]) -> dict:
    """`apr diagnose` of the two traces: it is told nothing of the fault.

    Both engines are replayed without one beforehand. Where the pair has the same bits around
    an operation, that local error is taken; it is the one that would be computed.
    """
    known: list[Replayed] = []
    if case.fault is not None:
        pair = (case.reference, case.candidate)
        known = [_sound_replay(_run_of(case, engine)) for engine in pair]
    begun = time.perf_counter()
    found = diagnose_traces(
        traces["reference"], traces["candidate"], _model(case.model.path), known=known
    )
    facts = found.as_json()
    return {
        "verdict": facts["verdict"],
        "site": facts["site"],
        "wrong_side": facts["wrong_side"],
        "causes": [[cause["id"], cause["title"]] for cause in facts["causes"]],
        "seconds": round(time.perf_counter() - begun, 2),
    }


def _in_short(line: dict) -> str:
    said = line.get("skipped") or line.get("error")
    if said is None:
        diagnosis, parity = line["diagnosis"], line["parity"]
        causes = ", ".join(id_ for id_, _ in diagnosis["causes"][:2])
        said = (
            f"{parity['verdict']} {parity['site'] or ''}  "
            f"{diagnosis['site']} {diagnosis['wrong_side']} {causes}"
        )
    return f"{line['key']}  {said}  {line['seconds']} s"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
