"""Upstream's stage folders as recorded traces: what they say, and what they do not."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import CotejarError, TraceError, TruncatedError, WrongMagicError
from cotejar.formats.apr.stage_file import StageFile, write_stage_file
from cotejar.trace.forward_trace import UNKNOWN, Scope
from cotejar.trace.recorded_trace import read_recorded_trace
from cotejar.trace.stage_folder import STAGE_SLOTS, STAGES_WITHOUT_SLOT
from cotejar.trace.stats import measure_stats

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.array([1.5, -2.0, 0.0, 4.25], np.float32)
HINT = "save the stages again: `apr trace MODEL --save-tensor all --save-tensor-dir DIR`"


def write(folder: Path, name: str, layer: int | None, values: np.ndarray = VALUES) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_stage_file(path, StageFile(layer=layer, values=values), overwrite=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "stages"
    write(folder, "embedding.bin", None)
    write(folder, "layer-0/ffn_swigl.bin", 0, 2 * VALUES)
    write(folder, "layer-11/post_ffn_residual.bin", 11)
    return folder


def refusal(folder: Path) -> TraceError:
    with pytest.raises(TraceError) as caught:
        read_recorded_trace(folder)
    return caught.value


def test_every_stage_is_a_site_with_the_statistics_of_its_values(folder: Path) -> None:
    trace = read_recorded_trace(folder)

    assert list(trace.sites) == ["embed", "layer.0.ffn_swiglu_inner", "layer.11.output"]
    stats = trace.sites["layer.0.ffn_swiglu_inner"].stats
    assert stats == {Scope.UNKNOWN: measure_stats(2 * VALUES)}


def test_what_a_stage_does_not_say_is_unknown(folder: Path) -> None:
    trace = read_recorded_trace(folder)

    assert (trace.token_ids, trace.positions, trace.prompt) == ((), (), None)
    assert (trace.config, trace.model.fingerprint) == ({}, "")
    assert (trace.engine.build, trace.engine.numerics) == (UNKNOWN, UNKNOWN)
    assert {r.capture_point for r in trace.sites.values()} == {UNKNOWN}
    assert {r.shape for r in trace.sites.values()} == {(0, 0)}
    assert trace.ddof == 1  # of statistics that are taken here
    assert (dict(trace.arrays), trace.arithmetic) == ({}, None)


def test_a_stage_without_a_slot_is_left_out_and_named(folder: Path) -> None:
    write(folder, "layer-0/attn_scores.bin", 0)

    trace = read_recorded_trace(folder)

    assert len(trace.sites) == 3
    assert trace.host == {"stages without a slot": "layer-0/attn_scores.bin"}


def test_every_stage_of_upstreams_is_known() -> None:
    upstream = (
        "embedding attn_norm qkv_matmul qkv_bias q_post_rope k_post_rope attn_scores "
        "attn_softmax attention attn_out post_attn_residual ffn_norm ffn_gate ffn_up ffn_silu "
        "ffn_swigl ffn_out post_ffn_residual moe_router moe_ffn_out final_norm lm_head"
    )

    known = {*STAGE_SLOTS, *STAGES_WITHOUT_SLOT}
    assert known == {*upstream.split(), "layer_output"}


def test_nan_is_counted_and_kept_out_of_the_rest(folder: Path) -> None:
    write(folder, "lm_head.bin", None, np.array([1, np.nan, np.inf, 3], np.float32))

    stats = read_recorded_trace(folder).sites["logits"].stats[Scope.UNKNOWN]

    assert (stats.nan_count, stats.inf_count, stats.mean) == (1, 1, 2.0)


def test_a_file_of_another_layer_than_its_folder_is_refused(folder: Path) -> None:
    path = write(folder, "layer-3/ffn_up.bin", 4)

    assert str(refusal(folder)) == (
        "error[APR-R001]: this is no folder of stages: the file is of another layer than its "
        "folder\n"
        f"  where     {path}\n"
        "  expected  layer 3\n"
        "  found     layer 4\n"
        f"  try       {HINT}"
    )


def test_a_file_of_no_layer_in_a_layers_folder_is_refused(folder: Path) -> None:
    write(folder, "layer-3/ffn_up.bin", None)

    assert refusal(folder).parts["found"] == "no layer"


def test_one_site_twice_is_refused(folder: Path) -> None:
    write(folder, "layer-11/layer_output.bin", 11)

    error = refusal(folder)

    assert error.problem == "this is no folder of stages: one site twice"
    assert error.parts["found"] == "layer.11.output in layer_output.bin"


@pytest.mark.parametrize(
    ("name", "layer", "problem", "found"),
    [
        ("layer-0/ffn_gat.bin", 0, "a stage that nobody has named", "ffn_gat"),
        ("ffn_gate.bin", None, "a stage in the wrong folder", "outside"),
        ("layer-2/lm_head.bin", 2, "a stage in the wrong folder", "layer-2"),
        ("layer-02/ffn_gate.bin", 2, "a folder of no layer", "layer-02"),
        ("layer-x/ffn_gate.bin", 2, "a folder of no layer", "layer-x"),
    ],
)
def test_a_file_that_has_no_place_is_refused(
    folder: Path, name: str, layer: int | None, problem: str, found: str
) -> None:
    write(folder, name, layer)

    error = refusal(folder)

    assert error.problem == f"this is no folder of stages: {problem}"
    assert error.parts["found"] == found


def test_a_folder_without_a_stage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")

    error = refusal(tmp_path)

    assert error.problem == "this is no folder of stages: no stage"
    assert error.parts["where"] == str(tmp_path)


def test_a_stage_without_a_value_is_refused(folder: Path) -> None:
    write(folder, "final_norm.bin", None, np.zeros(0, np.float32))

    assert refusal(folder).problem == "this is no folder of stages: a stage without a value"


@pytest.mark.parametrize("where", ["file", "layer folder", "stage"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, where: str) -> None:
    outside = write(tmp_path / "outside", "layer-5/ffn_up.bin", 5)
    link = folder / "final_norm.bin"
    if where == "layer folder":
        link = folder / "layer-5"
        outside = outside.parent
    elif where == "stage":
        link = folder / "layer-0" / "ffn_up.bin"
    link.symlink_to(outside)

    error = refusal(folder)

    assert error.problem == "this is no folder of stages: a link out of the folder"
    assert (error.parts["where"], error.parts["found"]) == (str(link), str(outside))


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    write(folder, "kept/up.bin.0", 0)
    (folder / "layer-0" / "ffn_up.bin").symlink_to(folder / "kept" / "up.bin.0")

    assert "layer.0.ffn_up" in read_recorded_trace(folder).sites


@pytest.mark.parametrize("target", ["nowhere", "self.bin"])
def test_a_link_that_leads_nowhere_is_refused(folder: Path, target: str) -> None:
    (folder / "self.bin").symlink_to(folder / target)

    assert refusal(folder).problem == "this is no folder of stages: a link that leads nowhere"


DAMAGED = {
    "cut short": (lambda d: d[:-1], TruncatedError),
    "the header alone": (lambda d: d[:11], TruncatedError),
    "another magic": (lambda d: b"APRX" + d[4:], WrongMagicError),
    "a huge count": (lambda d: d[:8] + struct.pack("<I", 2**32 - 1) + d[12:], TruncatedError),
    "a count of too few": (lambda d: d[:8] + struct.pack("<I", 1) + d[12:], CotejarError),
    "nothing": (lambda d: b"", CotejarError),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_stage_file_is_refused_with_its_path(folder: Path, damage: str) -> None:
    change, kind = DAMAGED[damage]
    path = folder / "layer-0" / "ffn_swigl.bin"
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(kind) as caught:
        read_recorded_trace(folder)

    assert str(path) in caught.value.parts["where"]


def test_a_folder_of_too_many_files_is_refused_before_they_are_read(folder: Path) -> None:
    for number in range(70):
        (folder / "layer-0" / f"{number}.txt").touch()

    assert refusal(folder).problem == "this is no folder of stages: too many files"
