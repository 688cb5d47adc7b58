"""A file's tensors by canonical name: one name map a source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cotejar.errors import TensorNameError
from cotejar.formats.tensor_names import stated_architecture, to_hugging_face

if TYPE_CHECKING:
    from cotejar.formats.model_file import ModelFile, TensorEntry

# Old checkpoints store a table that follows from theta; it is no weight.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def canonical_names(file: ModelFile) -> dict[str, TensorEntry]:
    """Map canonical names to the file's tensors, in the file's order.

    A name that no map knows stays as it is; the inventory then reports it as left over.

    Raises:
        TensorNameError: two tensors of the file have one canonical name.
    """
    named: dict[str, TensorEntry] = {}
    architecture = stated_architecture(file)
    for name, entry in file.tensors.items():
        canonical = name
        if file.format in {"gguf", "apr"}:
            canonical = to_hugging_face(name, architecture) or name
        elif _DERIVED.fullmatch(name):
            continue
        if canonical in named:
            raise TensorNameError(
                f"two tensors are both {canonical}",
                where=str(file.path),
                expected="one tensor a name",
                found=f"{named[canonical].name} and {name}",
                hint="convert the model again",
            )
        named[canonical] = entry
    return named
