"""Stage files keep every bit, and say when they are damaged."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cotejar.errors import (
    LimitError,
    OutputExistsError,
    TrailingDataError,
    TruncatedError,
    UsageError,
    WrongMagicError,
)
from cotejar.formats.apr import stage_file
from cotejar.formats.apr.stage_file import StageFile, read_stage_file, write_stage_file

if TYPE_CHECKING:
    from pathlib import Path


def refused(kind: type[Exception], message: str, path: Path, stage: StageFile | None = None):
    with pytest.raises(kind) as caught:
        read_stage_file(path) if stage is None else write_stage_file(path, stage)
    assert str(caught.value) == message.replace("FILE", str(path))


def test_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "ffn_gate.bin"
    write_stage_file(path, StageFile(layer=3, values=np.array([[1.0], [-0.5]], np.float32)))
    assert path.read_bytes() == b"APRT\x03\0\0\0\x02\0\0\0" + struct.pack("<2f", 1.0, -0.5)


@given(
    layer=st.one_of(st.none(), st.integers(0, 2**32 - 2)),
    bits=hnp.arrays(np.uint32, st.integers(0, 20)),
)
def test_bits_survive(tmp_path_factory, layer, bits) -> None:
    path = tmp_path_factory.mktemp("stage") / "stage.bin"
    write_stage_file(path, StageFile(layer=layer, values=bits.view(np.float32)))

    stage = read_stage_file(path)

    assert stage.layer == layer
    assert stage.values.view(np.uint32).tolist() == bits.tolist()


def test_another_magic(tmp_path: Path) -> None:
    path = tmp_path / "stage.bin"
    path.write_bytes(b"APRN" + bytes(8))
    refused(
        WrongMagicError,
        "error[APR-F011]: the file is no stage file\n"
        "  where     FILE\n"
        "  expected  b'APRT' in the first 4 bytes\n"
        "  found     b'APRN'\n"
        "  try       a stage file is what upstream's `apr trace --save-tensor` writes",
        path,
    )


@pytest.mark.parametrize("num_bytes", range(1, 20))
def test_every_truncation(tmp_path: Path, num_bytes) -> None:
    path = tmp_path / "stage.bin"
    path.write_bytes((b"APRT" + struct.pack("<II", 0, 2) + bytes(8))[:num_bytes])
    with pytest.raises(TruncatedError):
        read_stage_file(path)


def test_a_count_beyond_the_file(tmp_path: Path) -> None:
    path = tmp_path / "stage.bin"
    path.write_bytes(b"APRT" + struct.pack("<II", 0, 2**32 - 1) + bytes(8))
    refused(
        TruncatedError,
        "error[APR-F014]: the 4294967295 values runs past the end of the file\n"
        "  where     FILE, byte 12\n"
        "  expected  bytes 12..17179869192\n"
        "  found     the file ends at byte 20\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
        path,
    )


def test_a_file_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "stage.bin"
    path.write_bytes(b"APRT" + struct.pack("<II", 0, 1) + bytes(5))
    refused(
        TrailingDataError,
        "error[APR-F032]: the stage file goes on after its last value\n"
        "  where     FILE\n"
        "  expected  16 bytes, for 1 values\n"
        "  found     17 bytes\n"
        "  try       the file is damaged: save the stage again",
        path,
    )


@pytest.mark.parametrize("layer", [-1, 2**32 - 1])
def test_a_layer_that_cannot_be_named(tmp_path: Path, layer) -> None:
    path = tmp_path / "stage.bin"
    refused(
        UsageError,
        "error[APR-U001]: a stage file cannot name that layer\n"
        "  where     FILE\n"
        "  expected  0..4294967294, or none\n"
        f"  found     {layer}\n"
        "  try       count layers from 0",
        path,
        StageFile(layer=layer, values=np.zeros(1, np.float32)),
    )


def test_more_values_than_can_be_counted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stage_file, "_MAX_VALUES", 1)
    refused(
        LimitError,
        "error[APR-F015]: a stage file cannot hold so many values\n"
        "  where     FILE\n"
        "  expected  at most 1\n"
        "  found     2\n"
        "  try       save fewer tokens",
        tmp_path / "stage.bin",
        StageFile(layer=0, values=np.zeros(2, np.float32)),
    )


def test_a_stage_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "stage.bin"
    path.write_bytes(b"mine")
    stage = StageFile(layer=0, values=np.zeros(1, np.float32))
    with pytest.raises(OutputExistsError):
        write_stage_file(path, stage)
    write_stage_file(path, stage, overwrite=True)
    assert read_stage_file(path).values.tolist() == [0.0]
