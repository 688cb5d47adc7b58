"""The tensor table, and the statistics of what it lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np
import pytest

from cotejar.errors import NothingMeasuredError, UsageError
from cotejar.files.tensor_list import list_tensors
from cotejar.formats.apr.stage_file import StageFile, write_stage_file
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import open_model
from cotejar.kernels.moments import MEAN_ERROR, STD_ERROR
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode
from cotejar.report.tensor_list_text import tensor_list_lines
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(block_type=BlockType.Q8_0))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Two tensors; the second holds a NaN, an infinity and a zero."""
    path = tmp_path / "broken.gguf"
    values = {"good": [1.0, 2.0, 3.0, 4.0], "bad\x1b[31m": [np.nan, np.inf, 0.0, 5.0]}
    tensors = [
        GgufTensor(
            name=name,
            block_type=BlockType.F32,
            shape=(2, 2),
            data=np.array(row, "<f4").view(np.uint8),
        )
        for name, row in values.items()
    ]
    write_gguf(path, metadata={}, tensors=tensors)
    return path


def test_upstreams_keys_come_first(model: Path) -> None:
    facts = list_tensors(model).as_json()

    assert list(facts)[:5] == [
        "file",
        "format_version",
        "tensor_count",
        "total_size_bytes",
        "tensors",
    ]
    with open_model(model) as file:
        for tensor, entry in zip(facts["tensors"], file.tensors.values(), strict=True):
            assert tensor == {
                "name": entry.name,
                "shape": list(entry.shape),
                "dtype": entry.block_type.label,
                "size_bytes": entry.num_bytes,
                "offset_bytes": entry.offset_bytes,
            }
    assert facts["total_size_bytes"] == sum(t["size_bytes"] for t in facts["tensors"])


def test_statistics_are_of_the_decoded_values(model: Path) -> None:
    found = list_tensors(model, name_filter="ffn_down", with_stats=True)

    assert len(found.tensors) == 2
    with open_model(model) as file:
        for tensor in found.tensors:
            entry = tensor.entry
            raw = np.asarray(file.read_bytes(entry.name))
            values = decode(entry.block_type, raw, entry.num_elements).astype(np.float64)
            facts = tensor.as_json(is_split=False)
            assert (facts["min"], facts["max"]) == (values.min(), values.max())
            # A kernel's error; of 15,360 values numpy's own sums are within n * 2**-53.
            wide, rms = values.size * 2**-53, np.sqrt(np.mean(values**2))
            assert facts["mean"] == pytest.approx(values.mean(), abs=(MEAN_ERROR + wide) * rms)
            std = values.std(ddof=1)
            assert facts["std"] == pytest.approx(std, abs=(STD_ERROR + wide) * rms)


def test_what_is_not_finite_is_counted(broken: Path) -> None:
    good, bad = (
        t.as_json(is_split=False) for t in list_tensors(broken, with_stats=True).tensors
    )

    assert (good["nan_count"], good["inf_count"], good["zero_count"]) == (0, 0, 0)
    assert (bad["nan_count"], bad["inf_count"], bad["zero_count"]) == (1, 1, 1)
    assert (bad["mean"], bad["min"], bad["max"]) == (2.5, 0.0, 5.0)


def test_a_limit_is_said(model: Path) -> None:
    found = list_tensors(model, name_filter="blk.*", limit=2)

    assert (len(found.tensors), found.num_matched) == (2, 18)
    assert list(tensor_list_lines(found))[-1].endswith("; 16 more match (--limit)")


def test_a_filter_takes_either_spelling(model: Path) -> None:
    names = [
        t.entry.name for t in list_tensors(model, name_filter="model.layers.0.*q_proj*").tensors
    ]

    assert names == ["blk.0.attn_q.weight"]


def test_a_filter_that_matches_nothing_measures_nothing(model: Path) -> None:
    with pytest.raises(NothingMeasuredError) as caught:
        list_tensors(model, name_filter="NOPE")

    assert caught.value.exit_code == 3
    assert caught.value.parts["found"] == "'NOPE', which none of 21 has"


def test_a_file_without_tensors_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vocab.gguf"
    write_gguf(path, metadata={}, tensors=[])

    with pytest.raises(NothingMeasuredError) as caught:
        list_tensors(path)

    assert str(caught.value) == (
        "error[APR-U009]: the file holds no tensors\n"
        f"  where     {path}\n"
        "  expected  tensors\n"
        "  found     0\n"
        "  try       a GGUF of a vocabulary alone has none; `apr inspect` shows its keys"
    )


def test_a_stage_file_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "stage.bin"
    write_stage_file(path, StageFile(layer=0, values=np.ones(2, np.float32)))

    with pytest.raises(UsageError) as caught:
        list_tensors(path)

    assert str(caught.value) == (
        "error[APR-U001]: the file is no model\n"
        f"  where     {path}\n"
        "  expected  a GGUF, an .apr, safetensors, or a Hugging Face folder\n"
        "  found     a stage file\n"
        f"  try       see what it holds: `apr inspect {path}`"
    )


def test_a_strangers_name_is_shown_not_sent(broken: Path) -> None:
    text = click.unstyle("\n".join(tensor_list_lines(list_tensors(broken))))

    assert r"bad\x1b[31m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("with_stats", [False, True])
def test_the_text_fits_the_terminal(
    model: Path, monkeypatch: pytest.MonkeyPatch, width: int, *, with_stats: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(model.parent)

    lines = list(tensor_list_lines(list_tensors(model.name, with_stats=with_stats)))

    assert max(len(click.unstyle(line)) for line in lines) <= width


def test_progress_names_what_is_measured(broken: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    list_tensors(broken, limit=1, with_stats=True, on_tensor=lambda *facts: seen.append(facts))

    assert seen == [("good", 0, 1)]
