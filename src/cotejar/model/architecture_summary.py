"""What a file says of its architecture, whatever the architecture.

`read_config` refuses a model that no engine here runs; this reads what is there and leaves
None where a file says nothing, or says it in a form that is not known. It decodes no
tensor and no list of tokens. Sources of the keys: as in `read_config`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cotejar.formats.tensor_names import EMBEDDING, to_gguf
from cotejar.model.config_keys import APR_KEYS, GGUF_KEYS

if TYPE_CHECKING:
    from cotejar.formats.model_file import ModelFile
    from cotejar.model.config import RopePairing


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchitectureSummary:
    """Sizes of a model, as far as its file says them."""

    architecture: str | None
    num_layers: int | None
    hidden_size: int | None
    num_heads: int | None
    num_kv_heads: int | None
    head_dim: int | None
    ffn_size: int | None
    vocab_size: int | None
    context_length: int | None
    rms_eps: float | None
    rope_theta: float | None
    rope_pairing: RopePairing | None
    """How the rows of q and k are ordered; None where the file leaves it open."""

    def facts(self) -> dict[str, object]:
        """Every field by its name."""
        return asdict(self)


_REALS = ("rms_eps", "rope_theta")
# One architecture, which Hugging Face calls otherwise than a GGUF.
_SPELLINGS = {"gemma3_text": "gemma3"}
# `.apr` says the pairing as ggml's rope type.
_PAIRING_OF_TYPE: dict[object, RopePairing] = {0: "adjacent", 2: "halves"}
# Architectures whose q and k rows llama.cpp's converter permutes, and some that it does not.
_PAIRING_OF_GGUF: dict[str, RopePairing] = {
    "llama": "adjacent",
    "qwen2": "halves",
    "qwen3": "halves",
    "gemma3": "halves",
}


def summarize_architecture(file: ModelFile) -> ArchitectureSummary:
    """Read what a file says; see the module. Errors are those of reading its metadata."""
    values: Mapping[str, object] = file.metadata
    pairing: RopePairing | None = None
    keys, prefix = APR_KEYS, ""
    if file.format == "gguf":
        name = _text(values.get("general.architecture"))
        keys, prefix = GGUF_KEYS, f"{name}."
        pairing = _PAIRING_OF_GGUF.get(name or "")
    elif file.format == "apr":
        name = _text(values.get("architecture")) or _text(values.get("model_type"))
        pairing = _PAIRING_OF_TYPE.get(_whole(values.get("rope_type")))
    else:
        config = values.get("config")
        values = config if isinstance(config, Mapping) else {}
        name = _text(values.get("model_type"))
        name = _SPELLINGS.get(name or "", name)
        pairing = "halves" if values else None
    found = {
        field: _first(values, [prefix + key for key in names], real=field in _REALS)
        for field, names in keys.items()
    }
    if found["rope_theta"] is None:
        found["rope_theta"] = _inner(values, "rope_parameters", "rope_theta")
    whole = {k: int(v) for k, v in found.items() if v is not None and k not in _REALS}
    whole.setdefault("vocab_size", _embedding_rows(file))
    _derive_heads(whole)
    return ArchitectureSummary(
        architecture=name,
        rms_eps=found["rms_eps"],
        rope_theta=found["rope_theta"],
        rope_pairing=pairing,
        **{key: whole.get(key) or None for key in keys if key not in _REALS},
    )


def _derive_heads(sizes: dict[str, int]) -> None:
    """Defaults that every reader of these formats has."""
    heads, width = sizes.get("num_heads", 0), sizes.get("hidden_size", 0)
    if heads:
        sizes.setdefault("num_kv_heads", heads)
        if width % heads == 0:
            sizes.setdefault("head_dim", width // heads)


def _embedding_rows(file: ModelFile) -> int:
    for name in (EMBEDDING, to_gguf(EMBEDDING) or EMBEDDING):
        if name in file.tensors:
            return file.tensors[name].shape[0]
    return 0


def _first(values: Mapping[str, object], names: list[str], *, real: bool) -> float | None:
    read = _real if real else _whole
    found = (read(values.get(name)) for name in names)
    return next((value for value in found if value is not None), None)


def _inner(values: Mapping[str, object], key: str, name: str) -> float | None:
    inner = values.get(key)
    return _real(inner.get(name)) if isinstance(inner, Mapping) else None


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < math.inf else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
