"""What a file says of itself: read whole, cut where long, and no weight touched."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import click
import numpy as np
import pytest

from cotejar.errors import FooterChecksumError, MissingFileError, TruncatedError
from cotejar.files.inspection import Inspection, StageInspection, TraceInspection, inspect_file
from cotejar.formats.apr.stage_file import StageFile, write_stage_file
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.quant.block_type import BlockType
from cotejar.report.inspection_text import inspection_lines
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import (
    write_tiny_apr,
    write_tiny_gguf,
    write_tiny_hugging_face,
)
from cotejar.trace.forward_trace import (
    Capture,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    TraceRecorder,
)
from cotejar.trace.trace_file import write_trace

if TYPE_CHECKING:
    from pathlib import Path

UPSTREAM_KEYS = [
    "file",
    "valid",
    "format",
    "version",
    "tensor_count",
    "size_bytes",
    "checksum_valid",
    "architecture",
    "num_layers",
    "num_heads",
    "hidden_size",
    "vocab_size",
    "flags",
    "metadata",
]


def inspect_model(path: Path, **options: bool) -> Inspection:
    found = inspect_file(path, **options)
    assert isinstance(found, Inspection)
    return found


def text_of(path: Path, **options: bool) -> str:
    with_vocab = options.get("whole_lists", False)
    lines = inspection_lines(inspect_file(path, **options), with_vocab=with_vocab)
    return click.unstyle("\n".join(lines))


def test_upstreams_keys_come_first(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(block_type=BlockType.Q8_0))

    facts = inspect_model(path).as_json()

    assert list(facts)[: len(UPSTREAM_KEYS)] == UPSTREAM_KEYS
    assert facts["valid"] is None  # until it is verified
    assert (facts["format"], facts["version"]) == ("gguf", "3")
    assert facts["size_bytes"] == path.stat().st_size
    assert (facts["architecture"], facts["num_layers"], facts["num_heads"]) == ("llama", 2, 6)
    assert (facts["hidden_size"], facts["vocab_size"]) == (96, 320)
    assert facts["flags"] == {"quantized": True, "sharded": False, "has_vocab": True}
    assert facts["tokenizer"] == {"kind": "gpt2", "pre_tokenizer": "gpt-2", "num_tokens": 320}
    assert facts["has_chat_template"] is True


def test_block_types_add_up(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf", TinyDecoder(block_type=BlockType.Q8_0))

    found = inspect_model(path)

    assert [share.label for share in found.block_types] == ["Q8_0", "F32"]
    assert sum(share.num_tensors for share in found.block_types) == found.num_tensors
    vectors = found.block_types[1]  # two norms a layer, and the last one, of 96 float32 each
    assert (vectors.num_tensors, vectors.num_values, vectors.num_bytes) == (5, 480, 1920)


@pytest.mark.parametrize("kind", ["gguf", "apr"])
def test_a_long_list_is_counted_and_not_shown(tmp_path: Path, kind: str) -> None:
    write = write_tiny_gguf if kind == "gguf" else write_tiny_apr
    name = "tokenizer.ggml.tokens" if kind == "gguf" else "tokenizer.vocabulary"
    path = write(tmp_path / f"a.{kind}")

    metadata = inspect_model(path).as_json()["metadata"]

    assert metadata[name] == {"omitted": "list", "count": 320, "of": "string"}
    whole = inspect_model(path, whole_lists=True).as_json()["metadata"]
    assert len(whole[name]) == 320


def test_a_long_list_of_a_gguf_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")
    decoded: list[int] = []
    decode = GgufValue.decode

    def spy(self: GgufValue, *, where: str = "") -> object:
        decoded.append(len(self.payload))
        return decode(self, where=where)

    monkeypatch.setattr(GgufValue, "decode", spy)

    inspect_file(path)

    assert max(decoded) < 1000  # the 320 tokens take 320 x 9 bytes or more


def test_the_files_of_a_folder_are_not_read(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "a")
    (folder / "tokenizer.json").write_text("{ broken")

    metadata = inspect_model(folder).as_json()["metadata"]

    assert metadata["tokenizer.json"] == {"omitted": "file", "count": 8}
    assert metadata["config"]["model_type"] == "llama"


def test_an_architecture_that_nobody_runs_can_be_inspected(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    tensor = GgufTensor(
        name="odd", block_type=BlockType.F32, shape=(1,), data=np.zeros(4, np.uint8)
    )
    metadata = {"general.architecture": GgufValue.encode(ValueType.STRING, "clip")}
    write_gguf(path, metadata=metadata, tensors=[tensor])

    facts = inspect_model(path).as_json()

    assert (facts["architecture"], facts["num_layers"], facts["tokenizer"]) == (
        "clip",
        None,
        None,
    )
    assert "architecture   clip" in text_of(path)


def test_an_apr_shows_its_headers_flags(tmp_path: Path) -> None:
    path = write_tiny_apr(tmp_path / "a.apr")

    flags = inspect_model(path).flags

    assert [name for name, is_set in flags.items() if is_set] == [
        "has_vocab",
        "layout_row_major",
    ]


# --- verification -------------------------------------------------------------------


def test_a_checksum_is_null_until_it_is_verified(tmp_path: Path) -> None:
    path = write_tiny_apr(tmp_path / "a.apr")

    assert inspect_model(path).checksum_valid is None
    verified = inspect_model(path, verify=True)
    assert verified.checksum_valid is True
    means = "the format's rules hold for header, metadata and tables"
    unread, read = inspect_model(path).as_json(), verified.as_json()
    assert unread["valid"] is None
    assert unread["valid_means"] == f"{means}; --verify reads the rest"
    assert read["valid"] is True
    assert read["valid_means"] == f"{means}, and the checksum of all bytes is right"
    assert verified.parts[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_flipped_bit_is_found_by_verifying_only(tmp_path: Path) -> None:
    path = write_tiny_apr(tmp_path / "a.apr")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)

    assert inspect_model(path).checksum_valid is None
    with pytest.raises(FooterChecksumError):
        inspect_file(path, verify=True)


def test_a_format_without_a_checksum_says_so(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")

    verified = inspect_model(path, verify=True)

    assert (verified.checksum_valid, verified.verified) == (None, True)
    assert "checksum  GGUF has none; every byte was read" in text_of(path, verify=True)
    facts = verified.as_json()
    assert facts["valid"] is True
    assert facts["valid_means"] == (
        "the format's rules hold for header, metadata and tables; every byte was read, and "
        "the format has no checksum to compare"
    )


def test_a_file_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:20])

    with pytest.raises(TruncatedError):
        inspect_file(path)


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        inspect_file(tmp_path / "none")


# --- the text -----------------------------------------------------------------------


def test_a_strangers_escapes_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    metadata = {"evil\x1b[2J": GgufValue.encode(ValueType.STRING, "\x1b]0;title\x07")}
    write_gguf(path, metadata=metadata, tensors=[])

    text = text_of(path)

    assert "\x1b" not in text
    assert r"evil\x1b[2J  \x1b]0;title\x07" in text


def test_the_number_1_is_not_true(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    metadata = {
        "one": GgufValue.encode(ValueType.UINT32, 1),
        "yes": GgufValue.encode(ValueType.BOOL, value=True),
    }
    write_gguf(path, metadata=metadata, tensors=[])

    lines = text_of(path).splitlines()

    assert lines[-2:] == ["  one  1", "  yes  true"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_text_fits_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)  # the path stands in a line of its own, and is never cut
    for path in (write_tiny_gguf(tmp_path / "a.gguf"), write_tiny_hugging_face(tmp_path / "b")):
        lines = text_of(path.relative_to(tmp_path), verify=True).splitlines()

        assert max(map(len, lines[1:])) <= width


def test_the_vocabulary_shows_the_special_tokens(tmp_path: Path) -> None:
    text = text_of(write_tiny_gguf(tmp_path / "a.gguf"), whole_lists=True)

    assert "Vocabulary (320 tokens)" in text
    assert "'<|endoftext|>'" in text
    assert "control" in text


# --- traces and stages --------------------------------------------------------------


@pytest.fixture
def trace_path(tmp_path: Path) -> Path:
    recorder = TraceRecorder(Capture())
    recorder.record("embed", np.ones((2, 3)), None)
    trace = ForwardTrace(
        engine=EngineInfo(name="native", build="1", numerics="f32"),
        model=ModelInfo(name="m", format="gguf", architecture="llama", fingerprint="sha256:1"),
        config={"num_layers": 1, "num_heads": 6, "hidden_size": 96, "vocab_size": 320},
        token_ids=(1, 2),
        positions=(0, 1),
        prompt="hi",
        sites=recorder.sites,
    )
    path = tmp_path / "run.trace"
    write_trace(path, trace)
    return path


def test_a_trace_has_the_same_keys(trace_path: Path) -> None:
    found = inspect_file(trace_path)

    assert isinstance(found, TraceInspection)
    facts = found.as_json()
    assert list(facts)[: len(UPSTREAM_KEYS)] == UPSTREAM_KEYS
    assert (facts["format"], facts["architecture"], facts["hidden_size"]) == (
        "trace",
        "llama",
        96,
    )
    assert facts["metadata"]["token_ids"] == [1, 2]


def test_a_traces_text_says_what_ran(trace_path: Path) -> None:
    text = text_of(trace_path)

    assert "engine       native+f32@cpu" in text
    assert "tokens       2: 1 2" in text
    assert "scopes       all, last" in text


def test_a_stage_file_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "stage.bin"
    values = np.array([1, 3, np.nan], np.float32)
    write_stage_file(path, StageFile(layer=2, values=values))

    found = inspect_file(path)

    assert isinstance(found, StageInspection)
    facts = found.as_json()
    assert (facts["layer"], facts["value_count"], facts["nan_count"]) == (2, 3, 1)
    assert (facts["mean"], facts["min"], facts["max"]) == (2.0, 1.0, 3.0)
    assert "not finite  1 NaN, 0 infinite" in text_of(path)


def test_a_split_model_lists_its_parts(tmp_path: Path) -> None:
    for number in (1, 2):
        keys = {
            "split.count": GgufValue.encode(ValueType.UINT16, 2),
            "split.no": GgufValue.encode(ValueType.UINT16, number - 1),
        }
        tensor = GgufTensor(
            name=f"t{number}", block_type=BlockType.F32, shape=(1,), data=np.zeros(4, np.uint8)
        )
        write_gguf(tmp_path / f"m-{number:05}-of-00002.gguf", metadata=keys, tensors=[tensor])
    path = tmp_path / "m-00001-of-00002.gguf"

    found = inspect_model(path)

    assert [part.path.name for part in found.parts] == [
        "m-00001-of-00002.gguf",
        "m-00002-of-00002.gguf",
    ]
    assert [part.num_tensors for part in found.parts] == [1, 1]
    assert found.size_bytes == sum(p.stat().st_size for p in tmp_path.glob("*.gguf"))
    assert found.flags["sharded"] is True
    assert "in 2 files" in text_of(path)
