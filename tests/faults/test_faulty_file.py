"""A fault of bytes can be written into a GGUF, and nothing else in it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.oracle import OracleEngine
from cotejar.errors import OutputExistsError, UsageError
from cotejar.faults.catalogue import FAULTS, inject_fault
from cotejar.faults.faulty_file import write_faulty_gguf
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_models import write_tiny_apr
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel

    Models = Callable[[str], LanguageModel]

CAPTURE = Capture(array_slots=EVERY_ARRAY)


@pytest.mark.parametrize("fault", [f.id for f in FAULTS.values() if f.is_of_bytes])
def test_the_file_computes_what_the_injected_fault_computes(
    host: Models, tmp_path: Path, fault: str
) -> None:
    source, target = host(fault), tmp_path / "faulty.gguf"

    write_faulty_gguf(source.file.path, target, fault)

    traces = [
        OracleEngine(model).trace((3, 141, 59), capture=CAPTURE)
        for model in (inject_fault(source, fault).model, open_language_model(target))
    ]
    assert traces[0].arrays.keys() == traces[1].arrays.keys()
    for site, array in traces[0].arrays.items():
        assert np.array_equal(array, traces[1].arrays[site])


def test_keys_and_other_tensors_are_the_sources(model: Models, tmp_path: Path) -> None:
    source, target = model("llama"), tmp_path / "faulty.gguf"

    names = write_faulty_gguf(source.file.path, target, "nibble-order@1")

    written = open_language_model(target)
    assert names == ("blk.1.ffn_gate.weight",)
    assert written.file.metadata == source.file.metadata
    assert [*written.file.tensors] == [*source.file.tensors]
    changed = [
        name
        for name in source.file.tensors
        if not np.array_equal(written.file.read_bytes(name), source.file.read_bytes(name))
    ]
    assert changed == ["blk.1.ffn_gate.weight"]
    assert written.fingerprint != source.fingerprint


def test_a_fault_of_the_code_is_in_no_file(model: Models, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write_faulty_gguf(model("llama").file.path, tmp_path / "faulty.gguf", "rope-theta@1")

    assert str(caught.value) == (
        "error[APR-U001]: this fault is not one of bytes\n"
        "  where     --fault rope-theta@1\n"
        "  expected  a fault that alters weights: `apr faults` marks them\n"
        "  found     rope-theta: RoPE's theta is a tenth\n"
        "  try       `apr parity --fault` injects it into the native engine"
    )
    assert [*tmp_path.iterdir()] == []


def test_an_output_is_not_replaced_unasked(model: Models, tmp_path: Path) -> None:
    target = tmp_path / "faulty.gguf"
    target.write_bytes(b"mine")

    with pytest.raises(OutputExistsError):
        write_faulty_gguf(model("llama").file.path, target, "block-shift")

    assert target.read_bytes() == b"mine"
    write_faulty_gguf(model("llama").file.path, target, "block-shift", overwrite=True)
    assert open_language_model(target).config == model("llama").config


def test_the_source_is_never_replaced(model: Models) -> None:
    path = model("llama").file.path
    before = path.read_bytes()

    with pytest.raises(UsageError):
        write_faulty_gguf(path, path, "block-shift", overwrite=True)

    assert path.read_bytes() == before


def test_another_format_is_refused(tmp_path: Path) -> None:
    source = write_tiny_apr(tmp_path / "tiny.apr")

    with pytest.raises(UsageError) as caught:
        write_faulty_gguf(source, tmp_path / "faulty.gguf", "block-shift")

    assert str(caught.value) == (
        "error[APR-U001]: a faulty file is made from a GGUF\n"
        f"  where     {source}\n"
        "  expected  a .gguf\n"
        "  found     apr\n"
        "  try       `apr export` writes one from an .apr"
    )
