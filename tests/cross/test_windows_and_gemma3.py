"""Layers that differ, and Gemma 3, against transformers in float64: logits of every token.

Folders alone: here it is `config.json` that is read, in the words of older and of today's
releases. transformers computes norms, the softmax and the rotary tables in float32, which its
modules spell `torch.float32`, `torch.float` and `x.float()`; here the three mean float64.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cotejar.engines.oracle import OracleEngine
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_hugging_face
from cotejar.trace.forward_trace import Capture

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.cross

TIGHT = 1e-11
"""Largest relative L2 error of a token's logits: both sides round to 53 bits, and a sum of
n = 160 terms errs by at most n u of their sizes, u = 1.1e-16, a layer. Measured: 5e-15."""
IDS = [5, 77, 300, 12, 9, 9, 250, 31, 4, 199, 2, 64]


class Float64Torch:
    """`torch`, but its float32 is float64."""

    def __getattr__(self, name: str) -> object:
        return torch.float64 if name in {"float32", "float"} else getattr(torch, name)


def their_logits(folder: Path) -> np.ndarray:
    """transformers' own model of the folder, every weight used, in float64 throughout."""
    from transformers.initialization import no_init_weights

    config = transformers.AutoConfig.from_pretrained(folder)
    family = config.model_type.removesuffix("_text")
    names = (
        f"transformers.models.{family}.modeling_{family}",
        "transformers.modeling_rope_utils",
    )
    default = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for name in names:
            patch.setattr(importlib.import_module(name), "torch", Float64Torch())
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            with no_init_weights():
                model = transformers.AutoModelForCausalLM.from_config(
                    config, dtype=torch.float64, attn_implementation="eager"
                )
            weights = load_file(folder / "model.safetensors")
            state = {n: torch.from_numpy(w.astype(np.float64)) for n, w in weights.items()}
            if config.tie_word_embeddings:
                state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
            model.load_state_dict(state, strict=True, assign=True)
            logits = model.eval()(torch.tensor([IDS]), use_cache=False).logits
        finally:
            torch.set_default_dtype(default)
    return logits[0].numpy()


def our_logits(folder: Path) -> np.ndarray:
    capture = Capture(array_slots=frozenset({"logits"}))
    return (
        OracleEngine(open_language_model(folder)).trace(IDS, capture=capture).arrays["logits"]
    )


def distance(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Relative L2 error of the worst token."""
    error = np.linalg.norm(candidate - reference, axis=1) / np.linalg.norm(reference, axis=1)
    return float(error.max())


GEMMA3 = TinyDecoder(
    architecture="gemma3",
    num_layers=3,
    sliding_window=5,
    sliding_window_pattern=2,
    rope_theta=1e6,
    tied_embeddings=True,
)
"""Layers 0 and 2 with a window and theta 10000, layer 1 global with theta 1000000."""
LINEAR = {"rope_type": "linear", "factor": 8.0}
GEMMAS = {
    "plain": GEMMA3,
    "linear": replace(GEMMA3, rope_scaling=LINEAR),
    "local theta": replace(GEMMA3, rope_local_theta=500.0),
    "a cap": replace(GEMMA3, final_softcap=3.0),
    "a scalar": replace(GEMMA3, query_scalar=20),
    "biases": replace(GEMMA3, attention_bias=True),
    "all local": replace(GEMMA3, sliding_window_pattern=6),
    "all global": replace(GEMMA3, sliding_window_pattern=1),
    "untied": replace(GEMMA3, tied_embeddings=False),
    "small heads": replace(GEMMA3, head_dim=16),
}


@pytest.mark.parametrize("name", GEMMAS)
def test_a_gemma3_gives_transformers_logits(name: str, tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny", GEMMAS[name])

    assert distance(their_logits(folder), our_logits(folder)) <= TIGHT


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_a_window_that_begins_at_a_later_layer_is_transformers(
    architecture: Any, tmp_path: Path
) -> None:
    decoder = TinyDecoder(architecture=architecture, num_layers=3, sliding_window=4)
    folder = write_tiny_hugging_face(tmp_path / "tiny", decoder)
    in_all = our_logits(folder)
    change_config(folder, max_window_layers=1)

    ours = our_logits(folder)

    assert open_language_model(folder).config.global_layers == (0,)
    assert distance(their_logits(folder), ours) <= TIGHT
    assert distance(in_all, ours) > TIGHT


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", [*GEMMAS, "qwen2"])
def test_a_config_as_transformers_writes_it_today_is_read_alike(
    name: str, tmp_path: Path
) -> None:
    """With `layer_types`, and theta and scaling for each of them in `rope_parameters`."""
    qwen2 = TinyDecoder(architecture="qwen2", num_layers=3, sliding_window=4)
    folder = write_tiny_hugging_face(tmp_path / "tiny", GEMMAS.get(name, qwen2))
    if name == "qwen2":
        change_config(folder, max_window_layers=1)
    before = open_language_model(folder).config

    transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)

    today = json.loads((folder / "config.json").read_text())
    assert "layer_types" in today
    assert "rope_theta" not in today
    assert open_language_model(folder).config == before


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_activation": "gelu"},
        {"query_pre_attn_scalar": 33},
        {"final_logit_softcapping": 1000.0},
        {"layer_types": ["sliding_attention"] * 3},
        {"sliding_window": 6},
        {"rope_local_base_freq": 10000.1},
        {"rope_theta": 1000001.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 1.000001}},
        {"rms_norm_eps": 2.0**-10 * (1 + 2.0**-20)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_gemma3_of_another_configuration_is_seen(
    change: dict[str, object], tmp_path: Path
) -> None:
    """The limit sees the smallest such defects."""
    folder = write_tiny_hugging_face(tmp_path / "tiny", GEMMA3)
    ours = our_logits(folder)
    change_config(folder, **change)

    assert distance(their_logits(folder), ours) > TIGHT
