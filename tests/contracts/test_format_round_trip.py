"""contracts/format-round-trip-v1.yaml: a byte that changed inside the .apr is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.errors import CotejarError
from cotejar.formats.apr.reader import open_apr
from cotejar.formats.convert import export_model, import_model
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path


def returns_unchanged(apr_path: Path, source: Path) -> bool:
    """Is the GGUF exported from `apr_path` the one it was made from? A refusal is a no."""
    back = apr_path.with_suffix(".back.gguf")
    try:
        export_model(apr_path, back, overwrite=True)
    except CotejarError:
        return False
    return back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_falsify_002_one_changed_byte_does_not_come_back_unnoticed(
    tmp_path: Path, name: str
) -> None:
    source = write_tiny_gguf(tmp_path / "s.gguf")
    path = tmp_path / "m.apr"
    import_model(source, path)
    assert returns_unchanged(path, source)
    with open_apr(path) as file:
        data = file.read_bytes(name).tobytes()
    content = bytearray(path.read_bytes())
    offset = content.index(data)
    content[offset + len(data) // 2] ^= 1
    path.write_bytes(content)

    assert not returns_unchanged(path, source)
