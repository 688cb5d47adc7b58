"""What was written is read back: the smallest difference is an error, none is a pass."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import ConfigValueError, MissingConfigError, ReadBackError
from cotejar.files import conversion
from cotejar.files.conversion import run_conversion
from cotejar.files.conversion_check import ConversionCheck, check_conversion
from cotejar.formats.convert import export_model, import_model
from cotejar.formats.open_model import open_model
from cotejar.quant.block_type import BlockType
from cotejar.report.conversion_text import conversion_lines
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_apr, write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.formats.convert.report import ConversionReport

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


@pytest.fixture
def imported(tmp_path: Path) -> ConversionReport:
    source = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(tied_embeddings=True))
    return import_model(source, tmp_path / "a.apr")


def flip(path: Path, offset: int) -> None:
    """Flip a bit, and write the footer that the file's bytes now ask for."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    data[-4:] = struct.pack("<I", zlib.crc32(data[:-4]))
    path.write_bytes(data)


def test_an_import_is_equal_tensor_by_tensor(imported: ConversionReport) -> None:
    check = check_conversion(imported)

    assert check.num_equal == imported.num_tensors  # the copy of the tied table included
    assert (check.num_reordered, check.num_reencoded) == (0, 0)


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_one_flipped_bit_is_an_error(imported: ConversionReport, name: str) -> None:
    with open_model(imported.target) as file:
        entry = file.tensors[name]
    flip(imported.target, entry.offset_bytes + entry.num_bytes - 1)

    with pytest.raises(ReadBackError) as caught:
        check_conversion(imported)

    source_name = "model.embed_tokens.weight" if name == "lm_head.weight" else name
    assert str(caught.value) == (
        f"error[APR-F007]: the file that was written does not hold the source's tensor "
        f"{source_name!r}\n"
        f"  where     {imported.target}\n"
        f"  expected  F32 {entry.shape}, {entry.num_bytes} bytes as in {imported.source}\n"
        f"  found     F32 {entry.shape}, other bytes\n"
        "  try       convert again, to another disk if this repeats; nothing was written"
    )


def test_a_disk_that_flips_a_bit_is_found_by_the_checksum(imported: ConversionReport) -> None:
    data = bytearray(imported.target.read_bytes())
    data[-100] ^= 1
    imported.target.write_bytes(data)

    with pytest.raises(ReadBackError) as caught:
        check_conversion(imported)

    assert caught.value.problem == (
        "the file that was written cannot be read back: the checksum of the file is wrong"
    )
    assert caught.value.parts["where"] == str(imported.target)


def test_a_tensor_that_is_missing_is_an_error(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(num_layers=2))
    report = import_model(source, tmp_path / "a.apr")
    write_tiny_apr(report.target, TinyDecoder(num_layers=1), pairing="adjacent", overwrite=True)

    with pytest.raises(ReadBackError) as caught:
        check_conversion(report)

    assert caught.value.parts["found"] == "no such tensor"


def test_types_that_nobody_asked_for_are_an_error(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf")
    report = import_model(source, tmp_path / "a.apr", quantize="q8_0")

    assert check_conversion(report).num_reencoded == report.num_reencoded == 16
    for wrong in (0, 1, 15, 17):
        with pytest.raises(ReadBackError) as caught:
            check_conversion(replace(report, num_reencoded=wrong))

        assert str(caught.value) == (
            "error[APR-F007]: the file that was written has other block types than were asked "
            "for\n"
            f"  where     {report.target}\n"
            f"  expected  tensors re-encoded: {wrong}\n"
            "  found     16\n"
            "  try       this is a defect of ours; please report it"
        )
    with pytest.raises(ReadBackError) as caught:
        check_conversion(replace(report, block_types={"Q8_0": 17, "F32": 4}))
    assert caught.value.parts["found"] == "{'Q8_0': 16, 'F32': 5}"


@pytest.mark.parametrize("tied", [False, True])
def test_a_reencoded_tensor_that_holds_another_is_found(tmp_path: Path, *, tied: bool) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(tied_embeddings=tied))
    report = import_model(source, tmp_path / "a.apr", quantize="q8_0")
    assert check_conversion(report).num_reencoded == report.num_reencoded
    with open_model(report.target) as file:
        entry = file.tensors["lm_head.weight"]
    data = bytearray(report.target.read_bytes())
    start = entry.offset_bytes + 34  # the second block takes the first one's bytes
    data[start : start + 34] = data[start - 34 : start]
    data[-4:] = struct.pack("<I", zlib.crc32(data[:-4]))
    report.target.write_bytes(data)

    with pytest.raises(ReadBackError) as caught:
        check_conversion(report)

    assert caught.value.parts["found"].startswith("block 1 of magnitude ")
    assert caught.value.parts["expected"].startswith("Q8_0 within ")


@pytest.mark.parametrize("tied", [False, True])
def test_a_round_trip_is_equal_both_ways(tmp_path: Path, *, tied: bool) -> None:
    decoder = TinyDecoder(tied_embeddings=tied, block_type=BlockType.Q8_0)
    source = write_tiny_gguf(tmp_path / "a.gguf", decoder)

    there = import_model(source, tmp_path / "a.apr")
    back = export_model(there.target, tmp_path / "b.gguf")

    assert check_conversion(back).num_equal == back.num_tensors


def test_rows_in_the_order_that_the_target_declares_are_equal(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "a")
    there = import_model(folder, tmp_path / "a.apr")  # halves
    back = export_model(there.target, tmp_path / "b.gguf")  # llama: adjacent

    check = check_conversion(back)

    assert check.num_reordered == 4  # q and k of two layers
    assert check.num_equal + check.num_reordered == back.num_tensors
    assert check.sentence.endswith("; 4 equal row for row, in the other RoPE order")


def test_the_text_and_the_json_say_what_was_done(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(block_type=BlockType.Q8_0))
    steps: list[str] = []

    done = run_conversion(
        source,
        lambda check: import_model(source, tmp_path / "a.apr", check=check),
        on_progress=steps.append,
    )

    assert steps == ["writing", "reading back"]
    text = "\n".join(conversion_lines(done))
    assert "tensors    21: 16 Q8_0, 5 F32" in text
    assert "own codes  Q8_0 as 64 + ggml's id" in text
    assert "verified   read back: 21 tensors (" in text
    facts = done.as_json()
    assert facts["verified"]["equal_count"] == facts["num_tensors"] == 21
    assert facts["block_types"] == {"Q8_0": 16, "F32": 5}


def test_without_reading_back_nothing_is_claimed(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "a.gguf")

    done = run_conversion(
        source,
        lambda check: import_model(source, tmp_path / "a.apr", check=check),
        verify=False,
    )

    assert done.as_json()["verified"] is None
    assert "verified  no (--no-verify)" in "\n".join(conversion_lines(done))


@pytest.mark.parametrize("older", [None, b"an older output"])
def test_a_file_that_fails_its_check_never_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bytes | None
) -> None:
    source, target = write_tiny_gguf(tmp_path / "a.gguf"), tmp_path / "a.apr"
    if older is not None:
        target.write_bytes(older)
    before = sorted(entry.name for entry in tmp_path.iterdir())

    def disk_flips_a_bit(report: ConversionReport, written: Path) -> ConversionCheck:
        assert (written.parent, report.num_bytes) == (tmp_path, written.stat().st_size)
        flip(written, -100)
        return check_conversion(report, written)

    monkeypatch.setattr(conversion, "check_conversion", disk_flips_a_bit)
    with pytest.raises(ReadBackError) as caught:
        run_conversion(
            source, lambda check: import_model(source, target, overwrite=True, check=check)
        )

    assert caught.value.parts["where"] == str(target)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before
    assert older is None or target.read_bytes() == older


def test_an_export_that_fails_its_check_never_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tiny_apr(tmp_path / "a.apr", pairing="adjacent")

    def cut_short(report: ConversionReport, written: Path) -> ConversionCheck:
        written.write_bytes(written.read_bytes()[:100])
        return check_conversion(report, written)

    monkeypatch.setattr(conversion, "check_conversion", cut_short)
    with pytest.raises(ReadBackError, match="cannot be read back"):
        run_conversion(
            source, lambda check: export_model(source, tmp_path / "b.gguf", check=check)
        )

    assert [entry.name for entry in tmp_path.iterdir()] == ["a.apr"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"rms_norm_eps": None}, MissingConfigError),
        (
            {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": True}},
            ConfigValueError,
        ),
    ],
)
def test_what_cannot_be_run_is_not_converted(
    tmp_path: Path, change: dict[str, object], kind: type[Exception]
) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(kind):
        run_conversion(folder, lambda check: import_model(folder, tmp_path / "a", check=check))

    assert not (tmp_path / "a").exists()
