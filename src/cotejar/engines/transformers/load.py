"""A transformers model with the weights of our file, each of them held once.

Of a Hugging Face folder the safetensors library reads the tensors, and `config.json` decides
the class. Of a `.gguf` or an `.apr`, and of any model with a fault injected, the tensors are
what our own codecs decode: the weights are the same to the last bit, so what remains between
the engines is how they compute.

The model is made with parameters that have a shape and no memory. Each tensor then becomes
the parameter itself: at no time is more in memory than the weights and one tensor of them.
Code that lies beside weights is never run.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import safetensors
import torch
import transformers
from torch.nn.modules.module import register_module_parameter_registration_hook

from cotejar.engines.transformers.configuration import (
    configuration_from,
    configuration_of,
    refuse_values,
)
from cotejar.engines.transformers.widening import Float64Everywhere
from cotejar.errors import LeftoverTensorError, MissingTensorError, WeightShapeError
from cotejar.model.inventory import EMBEDDING, LM_HEAD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cotejar.model.config import DecoderConfig
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix

DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16}
"""Torch's type for each numerics."""

ATTENTION = "eager"
"""Written out in the modelling code: matrix product, softmax, matrix product."""

VALUES_AT_A_TIME = 1 << 18
"""A tensor is decoded in runs of rows of about so many values."""


def load_model(model: LanguageModel, numerics: str) -> Any:
    """Make transformers' model of these weights, ready to run.

    Raises:
        ArchitectureError, ConfigValueError: transformers cannot hold such a model.
        MissingTensorError, LeftoverTensorError, WeightShapeError: its parameters are not the
            tensors that there are.
    """
    dtype, where = DTYPES[numerics], str(model.file.path)
    if is_read_by_transformers(model):
        values: Mapping[str, Any] = model.file.metadata["config"]  # type: ignore[assignment]  # opening has read it
        config = configuration_from(values["model_type"], values, where=where)
        return build_model(config, dtype, _stored_tensors(model, dtype), where=where)
    config = configuration_of(model.config, where=where)
    tensors = _decoded_tensors(model, dtype)
    made = build_model(config, dtype, tensors, where=where)
    if len(set(model.config.rope.frequency_divisors)) > 1:  # not linear scaling
        divisors = torch.tensor(model.config.rope.frequency_divisors, dtype=torch.float64)
        table = made.model.rotary_emb.inv_freq
        table.copy_(table.double() / divisors)
    return made


def is_read_by_transformers(model: LanguageModel) -> bool:
    """Do the weights come from safetensors as they are, by none of our own code?"""
    unchanged = model.weights is model.declared.weights
    unchanged &= model.config is model.declared.config
    return model.file.format == "safetensors" and unchanged


def build_model(
    config: Any, dtype: torch.dtype, tensors: Iterable[tuple[str, torch.Tensor]], *, where: str
) -> Any:
    """A model of this configuration whose parameters are the tensors themselves.

    Args:
        config: transformers' configuration.
        dtype: of the parameters, and of what is computed with them.
        tensors: (name, tensor of that type), taken one at a time.
        where: the file, for errors.

    Raises:
        ConfigValueError: transformers cannot make such a model.
        MissingTensorError, LeftoverTensorError, WeightShapeError: see `load_model`.
    """
    try:
        with _parameters_without_memory(), arithmetic_of(dtype):
            model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=ATTENTION, trust_remote_code=False
            )
    except Exception as error:  # noqa: BLE001 - a stranger's values, another's checks
        refuse_values(error, where)
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    given: set[str] = set()
    for name, tensor in tensors:
        _set_parameter(model, name, tensor, shapes, where)
        given.add(name)
    if config.tie_word_embeddings and LM_HEAD not in given and EMBEDDING in given:
        model.lm_head.weight = model.model.embed_tokens.weight
        given.add(LM_HEAD)
    missing = [name for name in shapes if name not in given]
    if missing:
        raise MissingTensorError(
            f"{len(missing)} of {len(shapes)} parameters have no tensor; the first is "
            f"{missing[0]}",
            where=where,
            expected=f"the {len(shapes)} parameters of {type(model).__name__}",
            found=f"{len(given)} of them",
            hint="`apr tensors` lists what is there; fetch or convert the model again",
        )
    return model.eval()


def arithmetic_of(dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """What a model of this type is made and run under: see `widening`."""
    return Float64Everywhere() if dtype is torch.float64 else contextlib.nullcontext()


def _set_parameter(
    model: Any,
    name: str,
    tensor: torch.Tensor,
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> None:
    if name not in shapes:
        raise LeftoverTensorError(
            f"transformers has no use for the tensor {name}",
            where=where,
            expected=f"the {len(shapes)} parameters of {type(model).__name__}",
            found=name,
            hint="running without it would be another model",
        )
    if tuple(tensor.shape) != shapes[name]:
        raise WeightShapeError(
            f"tensor {name} has another shape than transformers' parameter",
            where=where,
            expected=f"{shapes[name]}",
            found=f"{tuple(tensor.shape)}",
            hint="does config.json belong to these weights?",
        )
    module, _, leaf = name.rpartition(".")
    parameter = torch.nn.Parameter(tensor, requires_grad=False)
    setattr(model.get_submodule(module), leaf, parameter)


@contextlib.contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Every parameter that is made has a shape and a type; buffers are real."""

    def drop(_module: torch.nn.Module, _name: str, parameter: Any) -> Any:
        return torch.nn.Parameter(parameter.to("meta"), requires_grad=False)

    hook = register_module_parameter_registration_hook(drop)
    try:
        yield
    finally:
        hook.remove()


def _stored_tensors(
    model: LanguageModel, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """What the safetensors library reads, brought to the type of the run."""
    parts = getattr(model.file, "part_paths", (model.file.path,))
    for path in parts:
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                if name in model.weights:
                    tensor = file.get_tensor(name)
                    if dtype is torch.float64 and _is_less_one(model, name):
                        # The model's weight is the sum with 1 in float32, as transformers
                        # takes it where nothing is widened.
                        tensor = (tensor.float() + 1).double() - 1
                    yield name, tensor.to(dtype)


def _decoded_tensors(
    model: LanguageModel, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """What our codecs decode, with q and k in half-split order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, matrix in model.weights.items():
            if _is_less_one(model, name):
                exact = decode_matrix(matrix, torch.float64, pool) - 1
                yield name, exact.to(dtype).reshape(-1)
                continue
            tensor = decode_matrix(matrix, dtype, pool)
            stem, _, kind = name.rpartition(".")
            rotated = stem.endswith(("self_attn.q_proj", "self_attn.k_proj"))
            if rotated and model.config.rope.pairing == "adjacent":
                tensor = _in_half_split_order(tensor, model.config, is_bias=kind == "bias")
            # A vector is a matrix of one row to us.
            is_vector = kind == "bias" or stem.endswith("norm")
            yield name, tensor.reshape(-1) if is_vector else tensor


def _is_less_one(model: LanguageModel, name: str) -> bool:
    """Does transformers hold this weight less 1? Gemma's norms multiply by `1 + weight`."""
    return model.config.architecture == "gemma3" and name.endswith("norm.weight")


def decode_matrix(
    matrix: BlockMatrix, dtype: torch.dtype, pool: ThreadPoolExecutor
) -> torch.Tensor:
    """A whole weight, (rows, columns), decoded to float32 and rounded to `dtype`."""
    decoded = torch.empty(matrix.rows, matrix.columns, dtype=dtype)
    rows_at_once = max(1, VALUES_AT_A_TIME // matrix.columns)

    def decode(start: int) -> None:
        stop = min(start + rows_at_once, matrix.rows)
        decoded[start:stop] = torch.from_numpy(matrix.decode_rows(start, stop))

    for _ in pool.map(decode, range(0, matrix.rows, rows_at_once)):
        pass
    return decoded


def _in_half_split_order(
    tensor: torch.Tensor, config: DecoderConfig, *, is_bias: bool
) -> torch.Tensor:
    """The outputs of each head from (pair, 2) to (2, pair), as transformers has them."""
    outputs = tensor.reshape(-1, 1) if is_bias else tensor
    pairs = outputs.reshape(-1, config.head_dim // 2, 2, outputs.shape[-1])
    return pairs.transpose(1, 2).reshape(tensor.shape)
