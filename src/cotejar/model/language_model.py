"""Open a model file as a model: configuration, weights by canonical name, identity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import LeftoverTensorError, MissingTensorError, WeightShapeError
from cotejar.formats.norm_offset import SUM_TYPE, add_one, is_less_one
from cotejar.formats.open_model import open_model, resolve_model_path
from cotejar.model.config import MAX_HEAD_DIM
from cotejar.model.inventory import EMBEDDING, LM_HEAD, ROPE_DIVISORS, tensor_shapes
from cotejar.model.names import canonical_names
from cotejar.model.read_config import read_config
from cotejar.model.weights import Weights, fingerprint_weights
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.tokenizer.read_spec import read_tokenizer_spec
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cotejar.formats.model_file import ModelFile, TensorEntry
    from cotejar.model.config import DecoderConfig


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model that engines can run.

    `declared` is what the file says; engines compute with `config` and `weights`. The two
    part only where a fault was injected on purpose, which must not show in a trace's
    identity, or a comparison would refuse what it is meant to find.
    """

    file: ModelFile
    config: DecoderConfig
    weights: Weights
    declared: Declared

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer, built when it is first asked for.

        Raises:
            NoTokenizerError: the file carries none; the model can be run from ids only.
            UnsupportedTokenizerError: one that is not known here.
        """
        return Tokenizer(read_tokenizer_spec(self.file.format, self.file.metadata))

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.file.path.name

    @property
    def fingerprint(self) -> str:
        """Of the weights in the file; `sha256:...`. Computed once, reads every byte."""
        return self.declared.fingerprint

    @cached_property
    def product_types(self) -> tuple[str, ...]:
        """Block types of the file's matrices that stand in a product, by label.

        A table of embeddings does only where it is the LM head too.
        """
        entries = canonical_names(self.file)
        unused = EMBEDDING if LM_HEAD in entries else ""
        matrices = {n: e for n, e in entries.items() if len(e.shape) > 1 and n != unused}
        return tuple(sorted({entry.block_type.label for entry in matrices.values()}))

    def altered(
        self, *, config: DecoderConfig | None = None, weights: Weights | None = None
    ) -> LanguageModel:
        """The same model, by identity, that computes with something else."""
        return replace(self, config=config or self.config, weights=weights or self.weights)


@dataclass(frozen=True, eq=False)
class Declared:
    """The model as its file has it."""

    config: DecoderConfig
    weights: Weights

    @cached_property
    def fingerprint(self) -> str:
        """`fingerprint_weights` of the file's weights."""
        return fingerprint_weights(self.weights, self.config)


def open_language_model(path: str | Path) -> LanguageModel:
    """Open a `.gguf`, an `.apr` or a Hugging Face folder as a model.

    Reads the configuration and the tensor table; weights stay in the mapped file.

    Raises:
        FileError: the file cannot be read, breaks its format's rules, or has a tensor that
            cannot be decoded.
        ArchitectureError, MissingConfigError, ConfigValueError: no model we can run.
        MissingTensorError, LeftoverTensorError, WeightShapeError: the tensors are not
            those that the configuration asks for.
    """
    file = open_model(resolve_model_path(str(path)))
    try:
        entries = canonical_names(file)
        config = read_config(
            file,
            entries.keys(),
            rope_divisors=_rope_divisors(file, entries),
            embedding_rows=_rows(entries.get(EMBEDDING)),
        )
        _check_inventory(file, config, entries)
        weights = Weights(
            {
                name: _open_canonical(file, name, entry)
                for name, entry in entries.items()
                if name != ROPE_DIVISORS
            }
        )
    except BaseException:
        file.close()
        raise
    return LanguageModel(file, config, weights, Declared(config, weights))


def _rows(entry: TensorEntry | None) -> int:
    return entry.shape[0] if entry is not None and entry.shape else 0


def _rope_divisors(file: ModelFile, entries: Mapping[str, TensorEntry]) -> tuple[float, ...]:
    entry = entries.get(ROPE_DIVISORS)
    if entry is None:
        return ()
    if entry.num_elements > MAX_HEAD_DIM:
        raise WeightShapeError(
            f"tensor {ROPE_DIVISORS} has the wrong shape",
            where=str(file.path),
            expected=f"one value a pair of a head, at most {MAX_HEAD_DIM}",
            found=f"{entry.shape}",
            hint="it holds something else; convert the model again",
        )
    matrix = _open_matrix(file, entry)
    return tuple(float(v) for v in matrix.decode_rows(0, matrix.rows).reshape(-1))


def _open_canonical(file: ModelFile, name: str, entry: TensorEntry) -> BlockMatrix:
    """The weight itself, where the file stores a norm's less 1."""
    if not is_less_one(file, name):
        return _open_matrix(file, entry)
    raw = add_one(file, entry)
    return BlockMatrix(block_type=SUM_TYPE, rows=1, columns=entry.num_elements, raw=raw)


def _open_matrix(file: ModelFile, entry: TensorEntry) -> BlockMatrix:
    rows = entry.shape[0] if len(entry.shape) > 1 else 1
    return BlockMatrix(
        block_type=entry.decodable_type(file.path),
        rows=rows,
        columns=entry.num_elements // rows,
        raw=np.asarray(file.read_bytes(entry.name)),
    )


def _check_inventory(
    file: ModelFile, config: DecoderConfig, entries: Mapping[str, TensorEntry]
) -> None:
    """Every tensor that is needed, none that is not, each of the right shape."""
    shapes = tensor_shapes(config)
    missing = [name for name in shapes if name not in entries]
    if missing:
        raise MissingTensorError(
            f"{len(missing)} of {len(shapes)} tensors are missing; the first is {missing[0]}",
            where=str(file.path),
            expected=f"{len(shapes)} tensors for {config.num_layers} layers of "
            f"{config.architecture}",
            found=f"{len(shapes) - len(missing)} of them",
            hint="`apr tensors` lists what is there; fetch or convert the model again",
        )
    # A tied table may be stored a second time; the head then is its own bytes.
    leftover = [n for n in entries if n not in shapes and n not in {ROPE_DIVISORS, LM_HEAD}]
    if leftover:
        raise LeftoverTensorError(
            f"{len(leftover)} tensors have no use here; the first is {leftover[0]}",
            where=str(file.path),
            expected=f"the {len(shapes)} tensors of {config.num_layers} layers of "
            f"{config.architecture}",
            found=f"{len(entries)} tensors",
            hint="running without them would be another model; is the layer count right?",
        )
    if LM_HEAD in entries:
        shapes.setdefault(LM_HEAD, shapes[EMBEDDING])
    for name, shape in shapes.items():
        if entries[name].shape != shape:
            raise WeightShapeError(
                f"tensor {name} has the wrong shape",
                where=str(file.path),
                expected=f"{shape}, row-major",
                found=f"{entries[name].shape}",
                hint="a transposed or resized tensor; convert the model again",
            )
