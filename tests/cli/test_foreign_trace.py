"""`recorded:` traces of other programs: the documented example, and upstream's two kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines.run_trace import TraceRequest, run_trace
from cotejar.formats.apr.stage_file import StageFile, write_stage_file
from cotejar.trace.forward_trace import Capture
from cotejar.trace.site import CONTRACT_SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "write_trace.py"
SLOTS = frozenset({"embed", "final_norm", "logits", *CONTRACT_SLOTS})


@pytest.fixture(scope="module")
def activations(tiny_gguf: Path) -> Mapping[str, np.ndarray]:
    """What another program would have computed: here native's, in float32."""
    request = TraceRequest(
        source=f"native+f32:{tiny_gguf}",
        token_ids=(5, 6, 7),
        capture=Capture(array_slots=SLOTS),
    )
    return dict(run_trace(request).trace.arrays)


@pytest.fixture
def write_example(
    run_apr: Callable[..., Any], tiny_gguf: Path, tmp_path: Path
) -> Callable[[Mapping[str, np.ndarray]], Path]:
    """Run the example as its head says, in a process of its own."""

    def write(arrays: Mapping[str, np.ndarray]) -> Path:
        facts = run_apr("trace", tiny_gguf, "--payload", "--tokens", "5,6,7", "--json")
        (tmp_path / "model.json").write_text(facts.out)
        np.savez(tmp_path / "activations.npz", token_ids=np.array([5, 6, 7]), **arrays)
        files = ("activations.npz", "model.json", "theirs.trace")
        command = [sys.executable, str(EXAMPLE), *(str(tmp_path / name) for name in files)]
        subprocess.run(command, check=True, capture_output=True)
        return tmp_path / "theirs.trace"

    return write


def test_the_example_imports_nothing_of_ours() -> None:
    text = EXAMPLE.read_text()

    assert "cotejar" not in text.replace('"cotejar.trace"', "")
    assert len(text.splitlines()) <= 65


def test_what_the_example_writes_passes_against_the_oracle(
    run_apr: Callable[..., Any],
    write_example: Callable[..., Path],
    activations: Mapping[str, np.ndarray],
    tiny_gguf: Path,
) -> None:
    path = write_example(activations)

    done = run_apr("parity", f"oracle:{tiny_gguf}", f"recorded:{path}", "--json")

    facts = json.loads(done.out)
    assert (done.code, facts["verdict"]) == (0, "PASS")
    assert [p["id"] for p in facts["preconditions"] if not p["holds"]] == []
    assert facts["num_compared"] == sum(array.size for array in activations.values())


def test_a_fault_in_what_the_example_writes_is_seen(
    run_apr: Callable[..., Any],
    write_example: Callable[..., Path],
    activations: Mapping[str, np.ndarray],
    tiny_gguf: Path,
) -> None:
    wrong = {name: array.copy() for name, array in activations.items()}
    wrong["layer.1.ffn_up"][1] = np.roll(wrong["layer.1.ffn_up"][1], 1)
    path = write_example(wrong)

    done = run_apr("parity", f"oracle:{tiny_gguf}", f"recorded:{path}", "--json")

    facts = json.loads(done.out)
    assert (done.code, facts["first_divergence"]) == (1, "layer.1.ffn_up")


def test_the_document_shows_the_example_as_it_is() -> None:
    document = (REPOSITORY / "docs" / "write-a-trace.md").read_text()

    assert f"```python\n{EXAMPLE.read_text()}```" in document


@pytest.fixture
def stages(activations: Mapping[str, np.ndarray], tmp_path: Path) -> Path:
    """The same, as upstream saves stages."""
    names = {
        "embed": "embedding",
        "qkv": "qkv_bias",
        "ffn_silu_gate": "ffn_silu",
        "ffn_swiglu_inner": "ffn_swigl",
        "output": "post_ffn_residual",
        "logits": "lm_head",
    }
    folder = tmp_path / "stages"
    for site, array in activations.items():
        *layer, slot = site.split(".")
        name = f"{names.get(slot, slot)}.bin"
        path = folder / f"layer-{layer[1]}" / name if layer else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        number = int(layer[1]) if layer else None
        write_stage_file(path, StageFile(layer=number, values=array.astype("<f4").ravel()))
    return folder


def test_a_folder_of_stages_is_shown(run_apr: Callable[..., Any], stages: Path) -> None:
    done = run_apr("trace", f"recorded:{stages}")

    assert done.code == 0
    assert "Weights: unknown" in done.out
    assert "Encoded tokens: unknown" in done.out
    assert "    ffn_swiglu_inner: unknown n=480 " in done.out
    assert "scope unknown, an unknown number of tokens, std with ddof 1" in done.out


@pytest.mark.parametrize("name", ["x" * 5000, "none", "none/there"])
def test_a_path_of_nothing_is_bad_input(run_apr: Callable[..., Any], name: str) -> None:
    done = run_apr("trace", f"recorded:{name}")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error[APR-F00")


UNDECIDED_STAGES = ["token-ids", "positions", "shapes", "sample-count"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_folder_of_stages_is_judged_undecided(
    run_apr: Callable[..., Any], stages: Path, tiny_gguf: Path, order: int
) -> None:
    waived = [f"--waive={i}" for i in ("config", "weights-fingerprint", "capture-points")]
    sides = (f"recorded:{stages}", f"oracle:{tiny_gguf}")[::order]

    done = run_apr("parity", *sides, "--json", *waived)

    facts = json.loads(done.out)
    undecided = [p["id"] for p in facts["preconditions"] if p["is_undecided"]]
    assert (done.code, facts["verdict"]) == (3, "INCOMPARABLE")
    assert [i for i in undecided if i not in facts["waived"]] == UNDECIDED_STAGES
    assert {*facts["waived"]} <= {*undecided}


def test_stages_that_somebody_completes_are_judged(
    run_apr: Callable[..., Any],
    write_example: Callable[..., Path],
    activations: Mapping[str, np.ndarray],
    stages: Path,
    tiny_gguf: Path,
) -> None:
    """As the document says: 12 bytes, then float32, in the shape that only you know."""
    document = (REPOSITORY / "docs" / "write-a-trace.md").read_text()
    assert 'np.fromfile("stages/layer-3/ffn_swigl.bin", "<f4", offset=12)' in document
    arrays = dict(activations)
    values = np.fromfile(stages / "layer-1" / "ffn_swigl.bin", "<f4", offset=12)
    arrays["layer.1.ffn_swiglu_inner"] = values.reshape(3, -1)

    done = run_apr("parity", f"oracle:{tiny_gguf}", f"recorded:{write_example(arrays)}")

    assert done.code == 0


def test_two_folders_of_stages_are_no_more_comparable(
    run_apr: Callable[..., Any], stages: Path
) -> None:
    done = run_apr("parity", f"recorded:{stages}", f"recorded:{stages}", "--brief")

    assert done.code == 3
    assert "INCOMPARABLE  undecided: token-ids, positions, config, " in done.out


def test_our_json_read_back_says_all_but_the_elements(
    run_apr: Callable[..., Any], tiny_gguf: Path, tmp_path: Path
) -> None:
    traced = run_apr("trace", tiny_gguf, "--payload", "--tokens", "5,6,7", "--json")
    path = tmp_path / "trace.json"
    path.write_text(traced.out)

    done = run_apr("parity", f"recorded:{path}", tiny_gguf, "--json")

    facts = json.loads(done.out)
    assert [p["id"] for p in facts["preconditions"] if not p["holds"]] == ["arrays"]


def test_upstreams_json_is_undecided_where_it_says_nothing(
    run_apr: Callable[..., Any], tiny_gguf: Path, tmp_path: Path
) -> None:
    traced = run_apr("trace", tiny_gguf, "--payload", "--tokens", "5,6,7", "--json")
    facts = json.loads(traced.out)
    keys = ("min", "max", "mean", "std_dev", "nan_count", "inf_count", "zero_count", "count")

    def strip(value: Any) -> Any:
        if not isinstance(value, dict) or "count" not in value:
            return value
        return {key: value[key] for key in keys}

    del facts["manifest"]
    facts = {key: strip(value) for key, value in facts.items()}
    facts["layers"] = [{k: strip(v) for k, v in layer.items()} for layer in facts["layers"]]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(facts))

    done = run_apr("parity", f"recorded:{path}", f"oracle:{tiny_gguf}", "--json")

    judged = json.loads(done.out)
    undecided = [p["id"] for p in judged["preconditions"] if p["is_undecided"]]
    assert done.code == 3
    assert undecided == [
        "positions",
        "config",
        "weights-fingerprint",
        "capture-points",
        "shapes",
        "sample-count",
        "ddof",
    ]
