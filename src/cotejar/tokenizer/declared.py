"""What a model's files declare of its tokenizer, whoever tokenizes: to name what differs.

The files are read by us, so this explains a difference between two tokenizers; whether
there is one, their ids alone say.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

from cotejar.errors import CotejarError
from cotejar.formats.convert.hugging_face_tokenizer import (
    UNKNOWN_PRE_TYPE,
    read_tokenizer_keys,
)
from cotejar.formats.open_model import open_model, resolve_model_path
from cotejar.formats.safetensors.folder import read_json_file, read_text_file
from cotejar.tokenizer.pre_tokenizer import find_pre_tokenizer
from cotejar.tokenizer.read_spec import read_tokenizer_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cotejar.tokenizer.spec import TokenizerSpec

_JSON_FILES = ("tokenizer.json", "tokenizer_config.json")
_TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, kw_only=True)
class DeclaredTokenizer:
    """The tables of one tokenizer."""

    spec: TokenizerSpec
    pre_tokenizer: str
    """As GGUF names it; what has no such name there is `unnamed`."""
    merges: tuple[str, ...]
    """`"Ġ t"`, best first; none for an SPM."""

    def cuts(self, text: str) -> frozenset[int] | None:
        """Where the pre-tokenizer cuts a text without special tokens: byte offsets in UTF-8.

        None where nothing cuts: an SPM merges across everything.
        """
        steps = self._steps
        if steps is None:
            return None
        cuts, at, last = set(), 0, 0
        for start in sorted({start for _, (start, _) in steps.pre_tokenize_str(text)}):
            at += len(text[last:start].encode())
            last = start
            cuts.add(at)
        return frozenset(cuts)

    @cached_property
    def _steps(self) -> pre_tokenizers.PreTokenizer | None:
        if self.spec.huggingface_json is not None:
            try:
                library: Any = Tokenizer.from_str(self.spec.huggingface_json)
            except Exception:  # noqa: BLE001 - the library raises plain Exception
                return None
            found: pre_tokenizers.PreTokenizer | None = library.pre_tokenizer
            return found
        if self.spec.kind != "bpe":
            return None
        family = find_pre_tokenizer(self.spec.pre_tokenizer, where="the tokenizer")
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(p), "isolated") for p in family.patterns]
        )


def read_declared_tokenizer(path: str) -> DeclaredTokenizer:
    """Read the tokenizer of a model file, or of a folder with `tokenizer.json`.

    Args:
        path: `demo:NAME` too. A folder needs no weights.

    Raises:
        CotejarError: the file cannot be read, or we do not know such a tokenizer.
    """
    found = resolve_model_path(path)
    if os.path.isdir(found):  # noqa: PTH112 - unlike Path.is_dir, it never raises
        metadata = _read_folder(found)
        spec = read_tokenizer_spec("safetensors", metadata)
        keys = read_tokenizer_keys(metadata)
        pre = str(keys.get("tokenizer.pre_type", ""))
        merges = keys.get("tokenizer.merges")
        return DeclaredTokenizer(
            spec=spec,
            pre_tokenizer="unnamed" if pre == UNKNOWN_PRE_TYPE else pre,
            merges=tuple(merges) if isinstance(merges, list) and spec.kind == "bpe" else (),
        )
    with open_model(found) as file:
        spec = read_tokenizer_spec(file.format, file.metadata)
    return DeclaredTokenizer(
        spec=spec,
        pre_tokenizer=(spec.pre_tokenizer or "default") if spec.kind == "bpe" else "",
        merges=spec.merges,
    )


def try_declared_tokenizer(path: str) -> DeclaredTokenizer | None:
    """The same; None where we cannot read it, though another program may."""
    try:
        return read_declared_tokenizer(path)
    except CotejarError:
        return None


def _read_folder(folder: Path) -> Mapping[str, object]:
    metadata: dict[str, object] = {}
    for name, key in (*((n, n) for n in _JSON_FILES), ("config.json", "config")):
        if name == "tokenizer.json" or (folder / name).is_file():
            metadata[key] = read_json_file(folder / name)
    if (folder / _TEMPLATE_FILE).is_file():
        metadata[_TEMPLATE_FILE] = read_text_file(folder / _TEMPLATE_FILE)
    return metadata
