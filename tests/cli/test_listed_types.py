"""A model in a type without a codec is listed and compared by its bytes; it is not decoded."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

from cotejar.quant.block_type import BlockType, ListedType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOWN = "blk.1.ffn_down.weight"
ROWS, COLUMNS = 96, 160
CODECS = (
    "F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, BF16, APR_Q4, APR_Q8"
)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A tiny Q4_0 model, one tensor of which says that it is IQ4_NL: blocks as large."""
    path = write_tiny_gguf(tmp_path / "iq4.gguf", TinyDecoder(block_type=BlockType.Q4_0))
    as_q4_0, as_iq4_nl = (
        DOWN.encode() + struct.pack("<IQQI", 2, COLUMNS, ROWS, kind)
        for kind in (BlockType.Q4_0, ListedType.IQ4_NL)
    )
    data = path.read_bytes()
    assert data.count(as_q4_0) == 1
    path.write_bytes(data.replace(as_q4_0, as_iq4_nl))
    return path


def refusal(path: Path) -> str:
    return (
        "error[APR-F017]: a tensor has a type that cannot be decoded\n"
        f"  where     {path}, tensor '{DOWN}'\n"
        f"  expected  one of {CODECS}\n"
        "  found     IQ4_NL\n"
        "  try       quantize the model again to one of these types; `apr tensors` lists all\n"
    )


def test_inspect_counts_it(listed: Path, run_apr: Callable[..., object]) -> None:
    done = run_apr("inspect", listed, "--json")

    assert done.code == 0
    types = {share["type"]: share for share in json.loads(done.out)["block_types"]}
    assert types["IQ4_NL"] == {
        "type": "IQ4_NL",
        "tensor_count": 1,
        "value_count": ROWS * COLUMNS,
        "size_bytes": ROWS * COLUMNS // 32 * 18,
    }


def test_tensors_lists_it(listed: Path, run_apr: Callable[..., object]) -> None:
    done = run_apr("tensors", listed, "--filter", DOWN, "--json")

    assert done.code == 0
    (tensor,) = json.loads(done.out)["tensors"]
    assert (tensor["dtype"], tensor["shape"]) == ("IQ4_NL", [ROWS, COLUMNS])


@pytest.mark.parametrize(
    "words",
    [
        ("tensors", "--stats"),
        ("run", "hello"),
        ("trace", "--payload", "--tokens", "1,2"),
        ("import", "x.apr"),
    ],
    ids=lambda words: words[0],
)
def test_what_decodes_names_the_tensor_and_the_type(
    listed: Path,
    words: tuple[str, ...],
    run_apr: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(listed.parent)
    verb, *rest = words

    done = run_apr(verb, listed, *(["-o", *rest] if verb == "import" else rest))

    assert (done.code, done.err) == (2, refusal(listed))
    assert not (listed.parent / "x.apr").exists()


def test_diff_says_equal_of_equal_bytes(listed: Path, run_apr: Callable[..., object]) -> None:
    copy = listed.with_name("copy.gguf")
    copy.write_bytes(listed.read_bytes())

    done = run_apr("diff", listed, copy)

    assert (done.code, done.out.splitlines()[-1]) == (0, "SAME")


def test_diff_says_of_other_bytes_that_the_values_are_unknown(
    listed: Path, run_apr: Callable[..., object]
) -> None:
    """One bit of the last tensor but the norms is another; a threshold does not let it pass."""
    data = bytearray(listed.read_bytes())
    at = _place_of(listed)
    data[at] ^= 1
    other = listed.with_name("other.gguf")
    other.write_bytes(bytes(data))

    done = run_apr("diff", listed, other, "--threshold", "10")

    assert done.code == 1
    assert "     1  with other bytes, and of a type that cannot be decoded" in done.out
    row = next(line for line in done.out.splitlines() if "layers.1.mlp.down_proj" in line)
    assert row.split() == [
        "model.layers.1.mlp.down_proj.weight",
        "IQ4_NL",
        "IQ4_NL",
        "not",
        "decoded",
    ]
    assert done.out.splitlines()[-1] == "THEY DIFFER  in 1 of 21 tensors (limit: rel L2 10)"


def test_diff_does_not_compare_it_with_another_type(
    listed: Path, run_apr: Callable[..., object]
) -> None:
    """The same bytes as Q4_0 are other values."""
    plain = write_tiny_gguf(listed.with_name("q4.gguf"), TinyDecoder(block_type=BlockType.Q4_0))

    done = run_apr("diff", plain, listed, "--json", "--weights")

    assert done.code == 1
    found = json.loads(done.out)
    assert found["counts"]["not_decoded"] == 1
    assert found["counts"]["equal"] == 20
    (tensor,) = found["tensors"]
    assert (tensor["dtype_a"], tensor["dtype_b"]) == ("Q4_0", "IQ4_NL")


def _place_of(path: Path) -> int:
    from cotejar.formats.gguf.reader import open_gguf

    with open_gguf(path) as file:
        return file.tensors[DOWN].offset_bytes
