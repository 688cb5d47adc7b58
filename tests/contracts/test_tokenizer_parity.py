"""contracts/tokenizer-parity-v1.yaml: an .apr has the tokenizer of its GGUF."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from cotejar.formats.convert import import_model
from cotejar.formats.open_model import open_model
from cotejar.tokenizer.read_spec import read_tokenizer_spec

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.tokenizer.spec import TokenizerSpec


def differing(one: TokenizerSpec, other: TokenizerSpec) -> list[str]:
    """The names of the fields in which two tokenizers differ."""
    return [f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]


def spec_of(path: Path) -> TokenizerSpec:
    with open_model(path) as file:
        return read_tokenizer_spec(file.format, file.metadata)


def test_falsify_012_an_apr_has_the_tokenizer_of_its_gguf(
    demo_model: Path, tmp_path: Path
) -> None:
    import_model(demo_model, tmp_path / "smol.apr")
    gguf, apr = spec_of(demo_model), spec_of(tmp_path / "smol.apr")

    assert differing(gguf, apr) == []
    assert (len(apr.tokens), len(apr.token_types), len(apr.merges) > 40_000) == (
        *(49_152, 49_152),
        True,
    )
    types = (*apr.token_types[:-1], apr.token_types[-1] + 1)
    assert differing(gguf, replace(apr, token_types=types)) == ["token_types"]
