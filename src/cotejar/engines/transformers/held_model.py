"""A model that the caller already holds in memory: what `cotejar.trace` is made of.

The model is run as it is, in its own type, on its own device, with its own attention. Its
identity is made of its own weights: two holders of the same numbers in the same type have
one fingerprint, and a folder that stores them so has it too. Weights in float64 count as
float32 where they all are float32 numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cotejar.engines.protocol import check_token_ids
from cotejar.engines.tracing import finish_trace
from cotejar.engines.transformers.engine import describe_build, float32_parts
from cotejar.engines.transformers.observation import observe
from cotejar.engines.transformers.structure import find_layers
from cotejar.errors import ArchitectureError, MissingTensorError, UsageError
from cotejar.formats.mapped_file import Closing
from cotejar.formats.model_file import TensorEntry
from cotejar.model.inventory import EMBEDDING
from cotejar.model.language_model import Declared, LanguageModel
from cotejar.model.read_config import read_config
from cotejar.model.weights import Weights, fingerprint_weights
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.trace.forward_trace import Capture, EngineInfo, TraceRecorder, parse_capture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.trace.forward_trace import ForwardTrace

BLOCK_TYPES = {
    torch.float32: BlockType.F32,
    torch.float16: BlockType.F16,
    torch.bfloat16: BlockType.BF16,
}
NUMERICS = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
}


def trace_held_model(
    model: Any,
    token_ids: Sequence[int],
    *,
    capture: Capture | str,
    prompt: str | None,
) -> ForwardTrace:
    """Run the tokens through a model in memory and record every site.

    See `cotejar.trace`, which this is behind.
    """
    find_layers(model)  # first of all: what has no layers has no configuration either
    ids = list_token_ids(token_ids)
    held = describe_model(model)
    check_token_ids(
        ids, vocab_size=held.config.vocab_size, context_length=held.config.context_length
    )
    asked = Capture(array_slots=parse_capture(capture)) if isinstance(capture, str) else capture
    recorder = TraceRecorder(asked)
    not_observed = observe(model, ids, recorder)
    return finish_trace(
        recorder,
        engine=_describe_engine(model),
        model=held,
        token_ids=ids,
        prompt=prompt,
        not_observed=not_observed,
    )


def list_token_ids(token_ids: Any) -> list[int]:
    """A list of ids; of a tensor or an array also one of a single row, as tokenizers give it.

    Raises:
        UsageError: it is no list of whole numbers.
    """
    values = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
    is_ordered = isinstance(values, Iterable) and not isinstance(values, _NO_LISTS)
    values = list(values) if is_ordered else [None]
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    # True would be an id: 1.
    if not all(
        isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in values
    ):
        raise UsageError(
            "these are no token ids",
            where="token_ids",
            expected="a list of whole numbers, or a tensor of (tokens,) or (1, tokens)",
            found=f"{token_ids!r:.80}",
            hint="one text is traced at a time, and without padding",
        )
    return [int(value) for value in values]


_NO_LISTS = (str, bytes, bytearray, Mapping, AbstractSet)
"""What can be walked through and is no list of ids: a text, or without an order."""


def describe_model(model: Any) -> LanguageModel:
    """The model as traces speak of it: configuration, identity, weights by canonical name.

    Raises:
        ArchitectureError: it has no configuration, or one of an architecture that is not known.
        MissingConfigError, ConfigValueError: a key is missing or cannot be.
    """
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    if to_dict is None:
        raise ArchitectureError(
            f"{type(model).__name__} has no configuration",
            where=type(model).__name__,
            expected="a transformers model with a config",
            found="no config.to_dict",
            hint="give the model that transformers made, not what wraps it",
        )
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    state = dict(model.state_dict())
    if EMBEDDING not in state:
        raise ArchitectureError(
            f"the parameters of {type(model).__name__} have names that are not known",
            where=f"{type(model).__module__}.{type(model).__name__}",
            expected=EMBEDDING,
            found=f"{len(state)} parameters, the first is {next(iter(state), 'none')}",
            hint="give the model that transformers made, not what wraps it: not what "
            "torch.compile returned",
        )
    file = HeldFile(path=Path(name), metadata={"config": to_dict()}, state=state)
    config = read_config(file, state.keys(), rope_divisors=(), embedding_rows=0)
    weights = HeldWeights(state, norms_less_one=config.architecture == "gemma3")
    return LanguageModel(file, config, weights, HeldDeclared(config, weights))


class HeldWeights(Weights):
    """Parameters as blocks of bytes, each taken from its device when it is asked for."""

    def __init__(self, state: Mapping[str, torch.Tensor], *, norms_less_one: bool) -> None:
        super().__init__({})
        self._state = state
        self._norms_less_one = norms_less_one

    def __getitem__(self, name: str) -> BlockMatrix:
        """The bytes of one parameter.

        Raises:
            MissingTensorError: they have no canonical form, or are not in memory.
        """
        tensor = in_canonical_type(self._state[name].detach())
        if tensor is None:
            found = self._state[name]
            raise MissingTensorError(
                f"the parameter {name} has no canonical form",
                where=name,
                expected="float32, float16 or bfloat16 in memory",
                found=f"{found.dtype} on {found.device}",
                hint="the model's fingerprint stays unknown",
            )
        if self._norms_less_one and name.endswith("norm.weight"):
            tensor = tensor.float() + 1  # as `formats.norm_offset` has it
        rows = tensor.shape[0] if tensor.dim() > 1 else 1
        return BlockMatrix(
            block_type=BLOCK_TYPES[tensor.dtype],
            rows=rows,
            columns=tensor.numel() // rows,
            raw=tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy(),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def in_canonical_type(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor in a type that files store, the same numbers; None where there is none."""
    if tensor.is_meta:
        return None
    if tensor.dtype is torch.float64:
        narrow = tensor.float()
        return narrow if torch.equal(narrow.double(), tensor) else None
    return tensor if tensor.dtype in BLOCK_TYPES else None


@dataclass(frozen=True, eq=False)
class HeldDeclared(Declared):
    """The model as its holder has it."""

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights; empty, which is unknown, where they have no canonical form."""
        try:
            return fingerprint_weights(self.weights, self.config)
        except MissingTensorError:
            return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldFile(Closing):
    """Stands where a model's file is: there is none, and the tensors are in memory."""

    path: Path
    """What transformers loaded, or the name of the class."""
    metadata: Mapping[str, object]
    state: Mapping[str, torch.Tensor]
    format: str = "transformers"
    format_version: str = ""

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """The parameters that have a canonical form."""
        return {
            name: TensorEntry(
                name=name,
                block_type=BLOCK_TYPES[tensor.dtype],
                shape=tuple(tensor.shape),
                part_index=0,
                offset_bytes=0,
                num_bytes=tensor.nbytes,
            )
            for name, tensor in self.state.items()
            if tensor.dtype in BLOCK_TYPES
        }

    def read_bytes(self, name: str) -> np.ndarray:
        """The bytes of one parameter."""
        return HeldWeights(self.state, norms_less_one=False)[name].raw

    def close(self) -> None:
        """There is nothing to close."""


def _describe_engine(model: Any) -> EngineInfo:
    types = {parameter.dtype for parameter in model.parameters()}
    device = model.get_input_embeddings().weight.device
    attention = str(getattr(model.config, "_attn_implementation", "unknown"))
    build = f"{describe_build(attention)}; {type(model).__name__} as its caller holds it"
    if torch.is_autocast_enabled(device.type):
        types.add(torch.get_autocast_dtype(device.type))
        build += " and under its autocast"
    numerics = "+".join(sorted(NUMERICS.get(dtype, str(dtype)) for dtype in types))
    if numerics != "f32":
        build += f"; {float32_parts(attention)} in float32"
    return EngineInfo(
        name="transformers",
        build=build,
        numerics=numerics,
        device=str(device),
    )
