"""What a diagnosis says as a whole: verdict, side, reasons, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from cotejar.cli.apr.group import apr
from cotejar.diagnosis.diagnose import diagnose, diagnose_traces, replay_trace
from cotejar.diagnosis.request import Request
from cotejar.engines.native.forward import Pass
from cotejar.engines.registry import parse_engine_name
from cotejar.errors import OutputExistsError, UsageError
from cotejar.faults.engine import faulty_engine
from cotejar.report.diagnosis import diagnosis_lines
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope
from cotejar.trace.stats import measure_stats
from cotejar.trace.trace_file import write_trace
from cotejar.verdict import Verdict

from .conftest import TOKENS, run

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.diagnosis.result import Diagnosis
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models


class NoRope(Pass):
    """Layer 1 does not turn its keys."""

    def rotate(self, layer: int, values_THE: np.ndarray, *, which: str) -> np.ndarray:
        if (layer, which) == (1, "k"):
            return values_THE
        return super().rotate(layer, values_THE, which=which)  # type: ignore[arg-type]


class HeadTransposed(Pass):
    """The head's memory read as if it were (width, vocabulary)."""

    def head(self, hidden_TD: np.ndarray) -> np.ndarray:
        head = self.model.weights.lm_head
        flat = head.decode_rows(0, head.rows).reshape(-1)
        return hidden_TD @ flat.reshape(head.columns, head.rows)


def saved(path: Path, trace: ForwardTrace) -> str:
    write_trace(path, trace)
    return f"recorded:{path}"


def only(trace: ForwardTrace, *sites: str) -> ForwardTrace:
    """A trace that recorded these sites alone."""
    return replace(
        trace,
        sites={name: record for name, record in trace.sites.items() if name in sites},
        arrays={name: array for name, array in trace.arrays.items() if name in sites},
    )


def judge(reference: str, candidate: str, **options: object) -> Diagnosis:
    return diagnose(Request(reference=reference, candidate=candidate, **options))  # type: ignore[arg-type]


PAIRS = [
    ("oracle", "native+f32"),
    ("oracle", "native+q8"),
    ("native+q8", "native+f32"),
    ("native+f32", "native+f32"),
    ("native+q8", "native+q8-kvf16"),
    ("oracle", "native+bf16"),
    ("native+bf16-kvq8", "native+q8"),
    ("oracle", "native+w8a8"),
    ("native+w8a8", "native+q8"),
    ("native+bf16", "native+w8a8-kvf16"),
    ("native+f32", "native+w8a8"),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_healthy_pair_passes(models: Models, name: str, pair: tuple[str, str]) -> None:
    sides = (f"{engine}:{models.path(name)}" for engine in pair)

    result = judge(*sides, token_ids=TOKENS)

    assert (result.verdict, result.site, result.wrong_side) == (Verdict.PASS, None, "neither")
    assert result.causes == ()


@pytest.mark.parametrize("swapped", [False, True])
def test_the_wrong_side_is_named_whichever_it_is(
    models: Models, tmp_path: Path, swapped: bool
) -> None:
    faulty = saved(tmp_path / "faulty.trace", run(models("llama"), "q8", NoRope))
    sides = [f"native+f32:{models.path('llama')}", faulty]

    result = judge(*(reversed(sides) if swapped else sides))

    assert result.verdict is Verdict.FAIL
    assert result.site == "layer.1.k_rope"
    assert result.wrong_side == ("reference" if swapped else "candidate")
    assert [cause.id for cause in result.causes] == ["rope-missing"]


def test_a_fault_is_named_under_the_rounding_of_bf16(models: Models, tmp_path: Path) -> None:
    faulty = saved(tmp_path / "faulty.trace", run(models("llama"), "bf16", NoRope))

    result = judge(f"oracle:{models.path('llama')}", faulty)

    assert (result.verdict, result.wrong_side) == (Verdict.FAIL, "candidate")
    assert result.site == "layer.1.k_rope"
    assert [cause.id for cause in result.causes] == ["rope-missing"]


def test_a_misread_weight_is_named_though_bf16_rounds_it(
    models: Models, tmp_path: Path
) -> None:
    path = models.path("llama")
    name = parse_engine_name(f"native+bf16:{path}")
    engine = faulty_engine(name, models("llama"), "nibble-order@1")
    trace = engine.trace(TOKENS, capture=Capture(array_slots=EVERY_ARRAY))

    result = judge(f"oracle:{path}", saved(tmp_path / "faulty.trace", trace))

    assert (result.verdict, result.site) == (Verdict.FAIL, "layer.1.ffn_gate")
    assert result.causes[0].id == "nibble-order"


def test_a_float32_run_that_says_bf16_is_not_believed(models: Models, tmp_path: Path) -> None:
    """It rounds no factor: the smallest defect that the numerics must not cover."""
    exact = run(models("llama"), "f32")
    liar = replace(exact, engine=replace(exact.engine, numerics="bf16"))
    sides = f"oracle:{models.path('llama')}", saved(tmp_path / "liar.trace", liar)

    result = judge(*sides)

    assert (result.verdict, result.wrong_side) == (Verdict.FAIL, "candidate")


def test_both_sides_can_be_wrong(models: Models, tmp_path: Path) -> None:
    sides = [
        saved(tmp_path / f"{n}.trace", run(models("llama"), numerics, NoRope))
        for n, numerics in enumerate(("f32", "q8"))
    ]

    result = judge(*sides, model=models.path("llama"))

    assert (result.verdict, result.wrong_side) == (Verdict.FAIL, "both")
    assert result.site == "layer.1.k_rope"
    assert result.summary.startswith("both sides are wrong at layer.1.k_rope: ")


def test_each_side_can_be_wrong_in_a_way_of_its_own(models: Models, tmp_path: Path) -> None:
    faults = ((NoRope, "reference"), (HeadTransposed, "candidate"))
    sides = [
        saved(tmp_path / f"{name}.trace", run(models("llama"), "f32", fault))
        for fault, name in faults
    ]

    result = judge(*sides, model=models.path("llama"))

    assert result.wrong_side == "both"
    assert result.summary == (
        "the reference is wrong at layer.1.k_rope: RoPE is left out; and the candidate is "
        "wrong at logits: lm_head.weight is read transposed"
    )
    assert [(o.side, o.site, o.causes[0].id) for o in result.others] == [
        ("candidate", "logits", "weight-transposed")
    ]
    text = " ".join(" ".join(diagnosis_lines(result)).split())
    assert "the candidate is wrong at logits; weight-transposed: lm_head.weight is read" in text


@pytest.mark.parametrize("numerics", ["f32", "q8"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_transposed_head_is_named_from_final_norm_and_logits_alone(
    models: Models, tmp_path: Path, name: str, numerics: str
) -> None:
    model = models(name)
    right = only(run(model, "q8"), "final_norm", "logits")
    wrong = only(run(model, numerics, HeadTransposed), "final_norm", "logits")
    sides = saved(tmp_path / "right.trace", right), saved(tmp_path / "wrong.trace", wrong)

    result = judge(*sides, model=models.path(name))

    assert (result.verdict, result.site, result.wrong_side) == (
        Verdict.FAIL, "logits", "candidate",
    )  # fmt: skip
    assert [(c.id, c.title) for c in result.causes] == [
        ("weight-transposed", "lm_head.weight is read transposed")
    ]
    assert [(e.site, e.side, e.explained) for e in result.errors] == [
        ("logits", "reference", True),
        ("logits", "candidate", False),
    ]


def last_only(trace: ForwardTrace) -> ForwardTrace:
    """What an engine records that keeps the last token alone."""
    sites = {
        name: replace(
            record,
            shape=(1, record.shape[1]),
            stats={Scope.LAST: record.stats[Scope.LAST]},
        )
        for name, record in trace.sites.items()
    }
    arrays = {name: array[-1:] for name, array in trace.arrays.items()}
    return replace(trace, sites=sites, arrays=arrays)


def test_all_tokens_against_the_last_token_is_incomparable(
    models: Models, tmp_path: Path
) -> None:
    trace = run(models("llama"), "f32")
    whole = replace(
        trace,
        sites={
            n: replace(r, stats={Scope.ALL: r.stats[Scope.ALL]}) for n, r in trace.sites.items()
        },
    )
    sides = (
        saved(tmp_path / "all.trace", whole),
        saved(tmp_path / "last.trace", last_only(trace)),
    )

    result = judge(*sides, model=models.path("llama"))

    assert result.verdict is Verdict.INCOMPARABLE
    assert result.summary.startswith("broken: sample-count; nothing was measured.")
    assert "1,152 values (all) against 96 (last), and no scope in common" in result.summary
    assert result.naive_ratio is not None
    assert result.naive_ratio.endswith("and it would mean nothing")
    assert (result.errors, result.comparison) == ((), None)


def test_weights_that_the_trace_was_not_recorded_of_are_incomparable(
    models: Models, tmp_path: Path
) -> None:
    trace = run(models("llama"), "f32")
    other = replace(trace, model=replace(trace.model, fingerprint="sha256:" + "0" * 64))
    recorded = saved(tmp_path / "other.trace", other)
    fingerprint = models("llama").fingerprint[:19]

    result = judge(f"oracle:{models.path('llama')}", recorded)

    assert result.verdict is Verdict.INCOMPARABLE
    assert result.summary == (
        "the candidate was recorded of other weights (sha256:000000000000) than those of "
        f"llama.gguf ({fingerprint})"
    )


def test_a_recorded_pair_needs_a_model(models: Models, tmp_path: Path) -> None:
    recorded = saved(tmp_path / "a.trace", run(models("llama"), "f32"))

    result = judge(recorded, recorded)

    assert (result.verdict, result.summary, result.next_step) == (
        Verdict.INCOMPARABLE,
        "the reference is a recorded trace, and nothing says which model it ran",
        "name the model that the trace was recorded of with --model",
    )


@pytest.mark.parametrize("silent", ["reference", "candidate"])
def test_missing_arrays_name_the_capture_to_make(
    models: Models, tmp_path: Path, silent: str
) -> None:
    trace = run(models("llama"), "f32")
    whole = saved(tmp_path / "whole.trace", trace)
    stats = saved(tmp_path / "stats.trace", replace(trace, arrays={}))
    sides = (stats, whole) if silent == "reference" else (whole, stats)

    result = judge(*sides, model=models.path("llama"))

    assert (result.verdict, result.summary) == (
        Verdict.INCOMPARABLE,
        f"no operation of the {silent} can be replayed: its inputs or its output were not "
        "captured",
    )
    ids = ",".join(map(str, TOKENS))
    assert result.next_step == (
        f"capture every array of the {silent}: `apr trace native+f32:PATH/llama.gguf "
        f"--tokens {ids} --capture all -o {silent}.trace`"
    )


def test_what_was_replayed_in_part_does_not_pass_for_the_rest(
    models: Models, tmp_path: Path
) -> None:
    right, wrong = run(models("llama"), "f32"), run(models("llama"), "f32", NoRope)
    late = [name for name in right.sites if name in {"final_norm", "logits"}]
    sides = (
        saved(tmp_path / "a.trace", only(right, *late)),
        saved(tmp_path / "b.trace", only(wrong, *late)),
    )

    result = judge(*sides, model=models.path("llama"))

    assert (result.verdict, result.wrong_side) == (Verdict.INCOMPARABLE, "neither")
    assert result.summary == (
        "2 operations could be replayed and are right; 34 of 35 of the reference were not "
        "seen: embed to final_norm; 34 of 35 of the candidate were not seen: embed to "
        "final_norm; the two part at final_norm"
    )
    assert result.next_step.startswith("capture every array of the reference: `apr trace ")


def test_the_first_site_that_is_not_finite_is_the_finding(
    models: Models, tmp_path: Path
) -> None:
    trace = run(models("llama"), "f32")
    sites, arrays = dict(trace.sites), dict(trace.arrays)
    for name in ("layer.1.ffn_norm", "layer.1.ffn_up", "layer.1.ffn_gate", "logits"):
        array = arrays[name].copy()
        array[3, 7] = np.nan
        arrays[name] = array
        stats = {Scope.ALL: measure_stats(array), Scope.LAST: measure_stats(array[-1:])}
        sites[name] = replace(sites[name], stats=stats)
    recorded = saved(tmp_path / "nan.trace", replace(trace, sites=sites, arrays=arrays))

    result = judge(f"oracle:{models.path('llama')}", recorded)

    assert (result.verdict, result.site, result.wrong_side) == (
        Verdict.FAIL, "layer.1.ffn_norm", "candidate",
    )  # fmt: skip
    assert result.summary == (
        "the first numbers that are not finite are in the candidate: 1 of 1,152 values at "
        "layer.1.ffn_norm are NaN or infinite"
    )


def test_tokens_given_twice_are_refused(models: Models, tmp_path: Path) -> None:
    recorded = saved(tmp_path / "a.trace", run(models("llama"), "f32"))

    with pytest.raises(UsageError, match="the tokens are given twice") as refused:
        judge(models.path("llama"), recorded, token_ids=TOKENS)

    assert refused.value.parts == {
        "where": "--tokens and a recorded trace",
        "expected": "one of them",
        "found": "both",
        "try": "a recorded trace has its tokens, and the other side runs them",
    }


@pytest.mark.parametrize("forward", [NoRope, HeadTransposed])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_reproduction_shows_the_fault_with_numpy_alone(
    models: Models, tmp_path: Path, name: str, forward: type[Pass]
) -> None:
    faulty = saved(tmp_path / "faulty.trace", run(models(name), "q8", forward))
    folder = tmp_path / "repro"

    result = judge(f"oracle:{models.path(name)}", faulty, output=folder)

    assert result.reproduction is not None
    assert result.reproduction.folder == str(folder)
    # A single token shows a wrong head; a missing turn needs a second one.
    assert len(result.reproduction.token_ids) == (2 if forward is NoRope else 1)
    alone = "import runpy, sys; sys.modules['cotejar'] = None; runpy.run_path(sys.argv[1])"
    shown = subprocess.run(
        [sys.executable, "-I", "-c", alone, str(folder / "show.py")],
        capture_output=True,
        check=False,
        text=True,
    )
    lines = shown.stdout.splitlines()
    assert (shown.returncode, shown.stderr) == (1, "")
    token = len(result.reproduction.token_ids) - 1
    assert lines[0] == f"{result.site} of the candidate, token {token}"
    assert lines[3] == f"  cause: {result.causes[0].title}"
    facts = json.loads((folder / "reproduction.json").read_text())
    assert facts["token_ids"] == list(result.reproduction.token_ids)


def test_a_healthy_output_makes_the_script_exit_0(models: Models, tmp_path: Path) -> None:
    faulty = saved(tmp_path / "faulty.trace", run(models("llama"), "q8", NoRope))
    folder = tmp_path / "repro"
    judge(f"oracle:{models.path('llama')}", faulty, output=folder)
    data = dict(np.load(folder / "data.npz"))
    data["recorded"] = data["recorded"] * 0 + _turned_by_hand(data)
    np.savez(folder / "data.npz", **data)

    shown = subprocess.run([sys.executable, folder / "show.py"], check=False)

    assert shown.returncode == 0


def _turned_by_hand(data: dict[str, np.ndarray]) -> np.ndarray:
    """Each pair as a complex number, times exp(i angle)."""
    heads = data["input_0"].reshape(-1, int(data["head_dim"]))
    pairs = heads.shape[1] // 2
    numbers = heads[:, :pairs] + 1j * heads[:, pairs:]
    numbers = numbers * np.exp(1j * data["position"] * data["frequencies"])
    return np.concatenate([numbers.real, numbers.imag], axis=1).reshape(-1)


def test_a_folder_that_holds_something_is_left_alone(models: Models, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    path = models.path("llama")

    with pytest.raises(OutputExistsError) as refused:
        judge(path, path, token_ids=TOKENS, output=tmp_path)

    assert refused.value.parts == {
        "where": str(tmp_path),
        "expected": "an empty folder, or none yet",
        "found": "1 files",
        "try": "name another folder with -o",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.txt"]


KEYS = ["verdict", "site", "wrong_side", "causes", "local_errors", "ladder", "reproduction"]


def test_json_has_the_keys_and_the_exit_code_is_the_verdicts(
    models: Models, tmp_path: Path
) -> None:
    faulty = saved(tmp_path / "faulty.trace", run(models("llama"), "q8", NoRope))
    reference = f"oracle:{models.path('llama')}"

    done = CliRunner().invoke(apr, ["diagnose", reference, faulty, "--json"])

    facts = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [key for key in KEYS if key not in facts] == []
    assert (facts["verdict"], facts["wrong_side"]) == ("FAIL", "candidate")
    assert set(facts["causes"][0]) == {
        "id", "title", "residual_before", "residual_after", "limit",
    }  # fmt: skip
    assert {"site", "side", "rel_l2", "limit"} <= set(facts["local_errors"][0])
    assert len(facts["local_errors"]) == 2 * (2 * 16 + 3)  # of 2 layers, and outside them
    assert facts["reproduction"]["token_ids"] == list(TOKENS[:2])


def test_the_text_fits_a_screen(models: Models, tmp_path: Path) -> None:
    faulty = saved(tmp_path / "faulty.trace", run(models("llama"), "q8", NoRope))
    reference = f"oracle:{models.path('llama')}"

    done = CliRunner().invoke(apr, ["diagnose", reference, faulty], env={"COLUMNS": "80"})

    lines = done.stdout.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines[6:])) <= 80
    assert "  wrong side        candidate" in lines
    assert any(
        line.startswith("FAIL  the candidate is wrong at layer.1.k_rope") for line in lines
    )


def test_the_ladder_says_what_rounding_explains(models: Models) -> None:
    path = models.path("llama")

    result = judge(f"oracle:{path}", f"native+q8:{path}", token_ids=TOKENS)

    (exact,) = [ladder for ladder in result.ladder if ladder.side == "reference"]
    (rounded,) = [ladder for ladder in result.ladder if ladder.side == "candidate"]
    assert [rung.name for rung in rounded.rungs] == [
        "8-bit activations",
        "f32 sums, in the engine's order",
    ]
    assert rounded.rungs[0].share > 0.999
    assert (exact.unexplained, rounded.unexplained) == (0.0, 0.0)


def test_arrays_of_another_shape_are_incomparable(models: Models, tmp_path: Path) -> None:
    trace = run(models("llama"), "f32")
    sites, arrays = dict(trace.sites), dict(trace.arrays)
    array = np.ascontiguousarray(arrays["layer.1.ffn_up"][:, :96])
    stats = {Scope.ALL: measure_stats(array), Scope.LAST: measure_stats(array[-1:])}
    sites["layer.1.ffn_up"] = replace(sites["layer.1.ffn_up"], shape=(12, 96), stats=stats)
    arrays["layer.1.ffn_up"] = array
    recorded = saved(tmp_path / "short.trace", replace(trace, sites=sites, arrays=arrays))

    result = judge(recorded, recorded, model=models.path("llama"))

    assert (result.verdict, result.summary) == (
        Verdict.INCOMPARABLE,
        "layer.1.ffn_up of the reference has shape (12, 96), and of this model over these "
        "tokens it has (12, 160)",
    )


def test_positions_that_do_not_begin_at_0_are_incomparable(
    models: Models, tmp_path: Path
) -> None:
    trace = replace(run(models("llama"), "f32"), positions=tuple(range(5, 17)))
    recorded = saved(tmp_path / "later.trace", trace)

    result = judge(recorded, recorded, model=models.path("llama"))

    assert (result.verdict, result.summary) == (
        Verdict.INCOMPARABLE,
        "the reference was recorded at positions 5..16; what came before its first token is "
        "not there to be replayed",
    )


def test_arrays_recorded_in_float16_raise_no_alarm(models: Models, tmp_path: Path) -> None:
    trace = run(models("llama"), "f32")
    arrays = {name: array.astype(np.float16) for name, array in trace.arrays.items()}
    sites = {
        name: replace(
            record,
            stats={
                Scope.ALL: measure_stats(arrays[name]),
                Scope.LAST: measure_stats(arrays[name][-1:]),
            },
        )
        for name, record in trace.sites.items()
    }
    recorded = saved(tmp_path / "half.trace", replace(trace, sites=sites, arrays=arrays))

    result = judge(f"oracle:{models.path('llama')}", recorded)

    assert (result.verdict, result.site) == (Verdict.PASS, None)


def test_traces_in_memory_give_what_their_files_give(models: Models, tmp_path: Path) -> None:
    model = models("llama")
    traces = [run(model, "f32"), run(model, "q8", NoRope)]
    files = [saved(tmp_path / f"{n}.trace", trace) for n, trace in enumerate(traces)]
    known = [replay_trace(run(model, numerics), model) for numerics in ("f32", "q8")]

    from_files = judge(*files, model=models.path("llama")).as_json()

    assert diagnose_traces(*traces, model).as_json() == from_files
    remembered = diagnose_traces(*traces, model, known=known).as_json()
    # A weight that is multiplied for one side alone is summed in another order (float64).
    errors = remembered.pop("local_errors"), from_files.pop("local_errors")
    assert [(e["site"], e["side"], e["explained"]) for e in errors[0]] == [
        (e["site"], e["side"], e["explained"]) for e in errors[1]
    ]
    remembered.pop("ladder")
    from_files.pop("ladder")
    assert remembered == from_files


def test_a_trace_of_another_model_is_not_replayed(models: Models) -> None:
    trace = run(models("llama"), "f32")

    with pytest.raises(UsageError) as caught:
        replay_trace(trace, models("qwen2"))

    ran, has = trace.model.fingerprint[:19], models("qwen2").fingerprint[:19]
    assert str(caught.value) == (
        "error[APR-U001]: the trace cannot be replayed\n"
        "  where     llama.gguf\n"
        "  expected  a trace of qwen2.gguf from position 0\n"
        f"  found     the reference was recorded of other weights ({ran}) than those of "
        f"qwen2.gguf ({has})\n"
        "  try       replay it with the model that it was recorded of"
    )
