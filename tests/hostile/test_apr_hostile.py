"""Whatever the bytes, an `.apr` opens or is refused: no other exception, no lost memory.

A small whole file is cut at every byte; each byte before the data is changed, and every 2,
4 and 8 bytes there are set to extremes, with the checksums left as they were and with
both mended, so that the checks behind them are reached too.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import CotejarError
from cotejar.formats.apr.reader import open_apr
from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.formats.convert import export_model, import_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from pathlib import Path

EXTREMES = [
    value.to_bytes(width, "little")
    for width, values in (
        (2, (0, 2**16 - 1)),
        (4, (0, 2**31, 2**32 - 1)),
        (8, (0, 2**32, 2**63, 2**64 - 64)),
    )
    for value in values
]
# Of every kind that JSON has, and nothing that any key may be.
WRONG_VALUES = [None, True, -1, 0, 2**70, 1e300, "x", "", [], [None], {}, {"a": [1]}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, int]:
    """A whole file, and where its data begin."""
    path = tmp_path_factory.mktemp("whole") / "whole.apr"
    layouts = [(BlockType.F32, (3, 4)), (BlockType.Q8_0, (2, 32)), (BlockType.APR_Q8, (7,))]
    tensors = [
        TensorToWrite(
            name=f"t{index}",
            block_type=kind,
            shape=shape,
            read=lambda data=data: [data],
        )
        for index, (kind, shape) in enumerate(layouts)
        for data in [np.full(kind.num_bytes(int(np.prod(shape))), index + 1, np.uint8)]
    ]
    write_apr(path, metadata={"model_type": "test", "list": [1, "ñ"]}, tensors=tensors)
    with open_apr(path) as file:
        return path.read_bytes(), file.header.data_offset


def mended(data: bytes) -> bytes:
    """The same bytes with right checksums."""
    changed = bytearray(data)
    if len(changed) >= 64 + 4:
        struct.pack_into("<I", changed, 40, zlib.crc32(changed[:40] + changed[44:64]))
        struct.pack_into("<I", changed, len(changed) - 4, zlib.crc32(changed[:-4]))
    return bytes(changed)


open_file = open_apr
"""What the fixture `outcome` reads with."""


def test_the_file_is_whole_to_begin_with(whole, outcome) -> None:
    assert outcome(whole[0]) == "whole"
    assert mended(whole[0]) == whole[0]


@pytest.mark.parametrize("mend", [False, True])
def test_a_file_cut_anywhere_is_refused(whole, outcome, mend) -> None:
    data, _ = whole
    outcomes = set()
    for size in range(len(data)):
        cut = mended(data[:size]) if mend else data[:size]
        outcomes.add(outcome(cut))
    # Past the end; or in the mended file the last 4 bytes that are left become a footer.
    assert outcomes >= {"APR-F014", "APR-F019"}
    assert "whole" not in outcomes


def test_any_changed_byte_is_noticed(whole, outcome) -> None:
    data, _ = whole
    for offset in range(len(data)):
        changed = bytearray(data)
        changed[offset] ^= 0x01
        assert outcome(bytes(changed)) != "whole", offset


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_changed_byte_behind_right_checksums_is_survived(whole, outcome, flip: int) -> None:
    data, end = whole
    outcomes = []
    for offset in range(end):
        changed = bytearray(data)
        changed[offset] ^= flip
        outcomes.append(outcome(mended(bytes(changed))))

    header = outcomes[:40] + outcomes[44:64]
    assert header.count("whole") <= 2  # a flag that changes nothing
    assert "APR-F023" not in outcomes
    assert "APR-F024" not in outcomes


@pytest.mark.parametrize("extreme", EXTREMES, ids=lambda extreme: extreme.hex())
@pytest.mark.parametrize("mend", [False, True])
def test_an_extreme_anywhere_before_the_data_is_survived(
    whole, outcome, extreme: bytes, mend
) -> None:
    data, end = whole
    outcomes = []
    for offset in range(end - len(extreme) + 1):
        changed = data[:offset] + extreme + data[offset + len(extreme) :]
        if mend:
            changed = mended(changed)
        outcomes.append(outcome(changed))
    assert len(outcomes) == end - len(extreme) + 1
    assert outcomes[12] != "whole"  # the offset of the metadata


def test_a_million_brackets_are_refused_in_little_memory(outcome) -> None:
    metadata = b'{"a":' + b"[" * (1 << 20)
    header = struct.pack("<4sBBHIQIQQ", b"APR\0", 2, 0, 0x400, 0, 64, len(metadata), 0, 0)
    assert outcome(mended(header + bytes(24) + metadata)) == "APR-F022"
    offset = -(-(64 + len(metadata)) // 64) * 64
    header = header[:24] + struct.pack("<QQ", offset, offset)
    body = header + bytes(24) + metadata + bytes(offset - 64 - len(metadata) + 4)
    assert outcome(mended(body)) == "APR-F016"


# --- values of the wrong kind, on the way to another format ------------------------


def convert(call) -> str:
    try:
        call()
    except CotejarError as error:
        return error.code
    return "whole"


@pytest.mark.parametrize("origin", ["gguf", "hugging_face"])
def test_metadata_of_the_wrong_kind_are_no_traceback(tmp_path: Path, origin) -> None:
    """Every key of an `.apr` in turn becomes something else, and is exported."""
    decoder = TinyDecoder(num_layers=1, rope_scaling={"rope_type": "linear", "factor": 2.0})
    if origin == "gguf":
        source = write_tiny_gguf(tmp_path / "s.gguf", decoder)
    else:
        source = write_tiny_hugging_face(tmp_path / "hf", decoder)
    import_model(source, tmp_path / "m.apr")
    with open_apr(tmp_path / "m.apr") as file:
        original = dict(file.metadata)
        tensors = [
            TensorToWrite(
                name=name,
                block_type=entry.block_type,
                shape=entry.shape,
                read=lambda data=data: [data],
            )
            for name, entry in file.tensors.items()
            for data in [file.read_bytes(name)]
        ]
        outcomes, path = set(), tmp_path / "wrong.apr"
        for key in original:
            for value in WRONG_VALUES:
                path = tmp_path / "wrong.apr"
                write_apr(
                    path, metadata=original | {key: value}, tensors=tensors, overwrite=True
                )
                outcomes.add(
                    convert(lambda p=path: export_model(p, tmp_path / "b.gguf", overwrite=True))
                )
    assert {"whole", "APR-M002", "APR-M004"} <= outcomes


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_of_a_folder_of_the_wrong_kind_are_no_traceback(tmp_path: Path, name) -> None:
    """Every value in the file in turn becomes something else, and the folder is imported."""
    decoder = TinyDecoder(num_layers=1, rope_scaling={"rope_type": "linear", "factor": 2.0})
    folder = write_tiny_hugging_face(tmp_path / "hf", decoder)
    original = (folder / name).read_text()
    outcomes = set()
    for place in range(sum(1 for _ in places(json.loads(original)))):
        for value in WRONG_VALUES:
            document = json.loads(original)
            holder, key = list(places(document))[place]
            holder[key] = value
            (folder / name).write_text(json.dumps(document))
            outcomes.add(
                convert(lambda: import_model(folder, tmp_path / "m.apr", overwrite=True))
            )
    assert "whole" in outcomes


def places(document: dict):
    """Every key of the object and of the objects in it; of a list its first two places."""
    pending = [document]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(min(2, len(holder)))
        for key in list(keys)[:12]:
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                pending.append(holder[key])
